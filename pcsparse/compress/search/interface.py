"""One way in to all searches."""

from pathlib import Path

from pcsparse.compress.search.budget import check_budget
from pcsparse.compress.search.executor import Evaluate, Executor, InProcess
from pcsparse.compress.search.log import TrialLog
from pcsparse.compress.search.space import Assignment, Space
from pcsparse.compress.search.task import Method, Task
from pcsparse.compress.search.trials import SearchResult
from pcsparse.errors import RangeError


def search(
    space: Space,
    evaluate: Evaluate,
    budget: float,
    evaluations: int,
    seed: int = 0,
    *,
    method: Method,
    executor: Executor[Assignment, float] | None = None,
    log: Path | None = None,
    tag: str = "",
) -> SearchResult:
    """Look for the widths with the best score within a budget.

    The result depends on the arguments only, not on the executor, nor on whether the search was cut off and
    run again with its log: then what the log holds is not evaluated again, and the method takes every
    decision as it took it the first time.

    Args:
        space: the choices and their cost.
        evaluate: the score of a network with given widths, 0 to 1, higher is better, the same for the same
            widths. NaN is logged, counts as the worst, and is never the answer. What it raises ends the
            search; the log keeps what was finished.
        budget: most cost, in the unit of the space. Every rollout meets it, except probes of single steps.
        evaluations: rollouts; those with widths seen before count too but cost nothing. A method may need
            fewer.
        seed: of all random numbers.
        method: `Uniform()`, `FilledUniform()`, `RandomSearch()`, `Bisection()`, `DynamicProgramming()`,
            `Evolution()` or `AMC()`.
        executor: where evaluations run, by default in this process.
        log: a file of JSON lines, made or resumed. A kill loses the evaluations that were running.
        tag: says what `evaluate` does, its weights and sweeps above all; a log with another tag is refused.

    Raises:
        RangeError: a budget that cannot be met, with the smallest reachable cost; fewer than one evaluation,
            or fewer than the method needs; a score outside [0, 1].
        FormatError: `log` belongs to another search.
        PcsparseError: all evaluations failed.
    """
    check_budget(space, budget)
    if evaluations < 1:
        raise RangeError(f"a search needs at least one evaluation, got {evaluations}")
    facts = {
        **method.facts, "seed": seed, "budget": float(budget), "evaluations": evaluations,
        "unit": space.unit, "space": space.fingerprint,
    }  # fmt: skip
    if tag:
        facts["tag"] = tag
    with TrialLog(log, facts) as trial_log:
        task = Task(
            space,
            evaluate,
            budget,
            evaluations,
            seed,
            reward=method.reward,
            executor=executor or InProcess(),
            log=trial_log,
        )
        note = method.run(task)
    full = space.cost(space.largest)
    result = SearchResult(method.name, seed, budget, full, space.unit, tuple(task.trials), note)
    # raises where nothing can be answered
    _ = result.best
    return result
