"""A search as its method sees it: a space, a budget, random numbers, and a way to ask."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pcsparse.compress.search.executor import Evaluate, Executor
from pcsparse.compress.search.log import TrialLog
from pcsparse.compress.search.space import Assignment, Space
from pcsparse.compress.search.trials import WORST_SCORE, Trial
from pcsparse.errors import FormatError, RangeError

if TYPE_CHECKING:
    from pcsparse.compress.search.curves import SensitivityCurves


class Method(Protocol):
    """A way to search. Frozen settings; whatever changes lives in `run`.

    Methods inherit from it: what it needs beyond a budget is nothing, unless one says otherwise.
    """

    @property
    def name(self) -> str:
        """For logs and figures."""

    def reward(self, error: float, cost: float) -> float:
        """What to make as large as can be, of an error in [0, 1] and a cost."""

    def run(self, task: "Task") -> str:
        """Ask until satisfied, or until nothing is left to ask; returns a note on the answer."""

    @property
    def facts(self) -> dict[str, str]:
        """What tells logs of this search from those of others."""
        return {"method": repr(self)}

    def fitted(self, evaluations: int) -> "Method":
        """The same method, a schedule that it has laid over so many evaluations.

        Raises:
            RangeError: they are too few.
        """
        return self

    @property
    def wants_curves(self) -> bool:
        """Whether it decides by sensitivity curves and has none."""
        return False

    def with_curves(self, curves: "SensitivityCurves") -> "Method":
        """The same method, by these curves where it decides by any."""
        return self

    def takes(self, evaluations: int) -> int:
        """How many of so many evaluations it may take."""
        return evaluations


class Task:
    """What a method may use.

    Equal widths are evaluated once; a rollout counts also when it was answered from memory, so that every
    method ends. What a log of an earlier process holds is taken from there.

    Attributes:
        space: of choices.
        budget: met by every rollout that is no probe.
        rng: seeded; a method draws from nothing else.
        seed: for other generators.
    """

    def __init__(
        self,
        space: Space,
        evaluate: Evaluate,
        budget: float,
        evaluations: int,
        seed: int,
        *,
        reward: Callable[[float, float], float],
        executor: Executor[Assignment, float],
        log: TrialLog,
    ) -> None:
        self.space, self.budget, self.seed = space, budget, seed
        self.rng = np.random.default_rng(seed)
        self.trials: list[Trial] = []
        self._evaluate, self._executor, self._log, self._reward = evaluate, executor, log, reward
        self._evaluations = evaluations
        self._known: dict[Assignment, float | None] = {}

    @property
    def left(self) -> int:
        """Rollouts that may still be asked for."""
        return self._evaluations - len(self.trials)

    def knows(self, widths: Assignment) -> bool:
        """Whether these widths were evaluated before."""
        return widths in self._known

    def ask(self, assignments: Sequence[Assignment], *, probe: bool = False) -> list[Trial]:
        """Evaluate, at most as many as are left.

        Args:
            assignments: widths.
            probe: they need not meet the budget, and cannot be the best.

        Returns:
            The trials in order; fewer than asked for where the search ends.

        Raises:
            RangeError: an assignment that costs more than the budget, or a score outside [0, 1].
            FormatError: the log of an earlier process has other widths here.
        """
        batch, first = list(assignments[: self.left]), len(self.trials)
        fresh: dict[Assignment, int] = {}
        for place, widths in enumerate(batch):
            self._check(widths, probe=probe)
            if widths not in self._known:
                fresh.setdefault(widths, place)
        done = {
            place: old for place in range(len(batch)) if (old := self._replay(first + place, batch[place]))
        }
        missing = [place for place in fresh.values() if place not in done]
        for finished in self._executor.run(self._evaluate, [batch[place] for place in missing]):
            place = missing[finished.position]
            score = _checked_score(float(finished.score), batch[place])
            done[place] = self._trial(
                first + place, batch[place], score, probe=probe, seconds=finished.seconds
            )
            self._log.write(done[place])
        self._known |= {widths: done[place].score for widths, place in fresh.items()}
        for place, widths in enumerate(batch):
            if place not in done:
                done[place] = self._trial(
                    first + place, widths, self._known[widths], probe=probe, cached=True
                )
                self._log.write(done[place])
        self.trials += [done[place] for place in range(len(batch))]
        return self.trials[first:]

    def _check(self, widths: Assignment, *, probe: bool) -> None:
        cost = self.space.cost(widths)
        if not probe and cost > self.budget:
            raise RangeError(
                f"{widths} costs {cost:.6g} {self.space.unit}, above the budget of {self.budget:.6g}: a "
                "method asks for what is within it, see budget.fitting"
            )

    def _replay(self, index: int, widths: Assignment) -> Trial | None:
        old = self._log.replayed.get(index)
        if old is not None and old.widths != widths:
            raise FormatError(
                f"the log has {old.widths} as rollout {index}, this process came to {widths}: a score "
                "differed at the same widths, or the log comes from another machine or torch; start a new log"
            )
        return old

    def _trial(
        self,
        index: int,
        widths: Assignment,
        score: float | None,
        *,
        probe: bool,
        seconds: float = 0.0,
        cached: bool = False,
    ) -> Trial:
        cost = self.space.cost(widths)
        error = 1.0 - (WORST_SCORE if score is None else score)
        return Trial(index, widths, cost, score, self._reward(error, cost), seconds, probe, cached)


def _checked_score(score: float, widths: Assignment) -> float | None:
    """None for what is not finite."""
    if not math.isfinite(score):
        return None
    if not 0.0 <= score <= 1.0:
        raise RangeError(
            f"evaluate returned {score} for {widths}; a score is a share from 0 to 1, higher is better: "
            "divide percent by 100"
        )
    return score
