"""What holds for every search: the budget, the cache, the log, resuming, and bad input."""

import json
import math

import pytest

from pcsparse.compress.search.amc import AMC
from pcsparse.compress.search.amc_settings import AMCSettings
from pcsparse.compress.search.bisect import Bisection
from pcsparse.compress.search.ddpg import DDPGSettings
from pcsparse.compress.search.dynamic_programming import DynamicProgramming
from pcsparse.compress.search.evolution import Evolution
from pcsparse.compress.search.interface import search
from pcsparse.compress.search.random_search import RandomSearch
from pcsparse.compress.search.task import Method, Task
from pcsparse.compress.search.uniform import FilledUniform, Uniform
from pcsparse.errors import FormatError, PcsparseError, RangeError
from tests.compress.search.spaces import Counted, additive, chain, curves_of, everything, unet

SPACE = chain(4)
HALF = SPACE.cost(SPACE.largest) / 2
SCORE = additive(SPACE, [0.05, 0.3, 0.02, 0.4])
METHODS = {
    "uniform": Uniform(),
    "uniform, filled": FilledUniform(),
    "random": RandomSearch(),
    "bisection": Bisection(),
    "dynamic programming": DynamicProgramming(),
    "evolution": Evolution(population=6, tournament=3),
    "amc": AMC(AMCSettings(warm_up=5, agent=DDPGSettings(hidden=(16, 16), batch=8))),
}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


class Listed(Method):
    """A method that asks for what it is told."""

    name = "listed"

    def __init__(self, *batches):
        self.batches = batches

    def __repr__(self):
        return f"Listed({self.batches})"

    def reward(self, error, cost):
        return -error

    def run(self, task: Task) -> str:
        for batch in self.batches:
            task.ask(batch)
        return "as listed"


@every_method
@pytest.mark.parametrize("share", [0.15, 0.5, 1.0])
def test_every_rollout_meets_the_budget(method, share):
    for space in (SPACE, unet()):
        budget = share * space.cost(space.largest) + 1
        score = additive(space, [0.1] * len(space.steps))
        result = search(space, score, budget, 30, method=method)
        assert 1 <= len(result.trials) <= 30
        for trial in result.trials:
            assert trial.cost == space.cost(trial.widths)
            assert trial.cost <= budget or trial.probe
            assert trial.score == score(trial.widths)
            assert trial.reward == -(1 - trial.score)
        assert result.best.cost <= budget


def test_a_log_of_a_bisection_that_took_the_narrowest_widths_is_told_from_others(tmp_path):
    log = tmp_path / "search.jsonl"
    search(SPACE, SCORE, HALF, 9, method=Bisection(), log=log)
    header, *lines = log.read_text().splitlines()
    # as before it took cheaper ones
    old = {key: value for key, value in json.loads(header).items() if key != "widths"}
    log.write_text("\n".join((json.dumps(old), *lines, "")))
    with pytest.raises(FormatError, match=r"another search \(widths None, now 'the cheapest .* narrowest'\)"):
        search(SPACE, SCORE, HALF, 9, method=Bisection(), log=log)
    # as before it cut no more than it had to
    old["widths"] = "the cheapest that lose no more; a log without this word took the narrowest"
    log.write_text("\n".join((json.dumps(old), *lines, "")))
    with pytest.raises(FormatError, match=r"another search .*'the cheapest .*, now 'the cheapest .*'"):
        search(SPACE, SCORE, HALF, 9, method=Bisection(), log=log)


@every_method
def test_logs_of_other_methods_are_as_they_were(method):
    facts = method.facts
    assert facts.pop("method") == repr(method)
    assert tuple(facts) == (("widths",) if method.name == "bisection" else ())


@pytest.mark.parametrize("name", ["bisection", "dynamic programming"])
def test_a_method_says_what_it_needs(name):
    curves = curves_of(SPACE, SCORE)
    assert METHODS[name].wants_curves
    given = METHODS[name].with_curves(curves)
    assert (given.curves, given.wants_curves) == (curves, False)
    assert (METHODS[name].takes(30), given.takes(30)) == (30, 1)
    for other in METHODS.values():
        if other.name != name and not other.wants_curves:
            assert other.with_curves(curves) is other
    asked = {name: METHODS[name].takes(30) for name in ("uniform", "uniform, filled", "random", "amc")}
    assert asked == {"uniform": 1, "uniform, filled": 1, "random": 30, "amc": 30}


def test_a_method_with_a_schedule_fits_it_to_the_evaluations():
    assert METHODS["evolution"].fitted(7) is METHODS["evolution"]
    amc = AMC(rollouts=3)
    assert amc.fitted(100) == AMC(amc.settings.scaled_to(100), 3)
    with pytest.raises(RangeError, match="amc needs a rollout to warm up and one to act, got evaluations=1;"):
        amc.fitted(1)


@every_method
def test_the_seed_decides(method):
    first, again, other = (search(SPACE, SCORE, HALF, 25, seed, method=method) for seed in (3, 3, 4))

    def widths(result):
        return [trial.widths for trial in result.trials]

    assert widths(first) == widths(again)
    # what draws nothing is the same at any seed
    assert (widths(first) == widths(other)) == (
        method.name in ("uniform", "uniform, filled", "bisection", "dynamic programming")
    )


def test_equal_widths_are_evaluated_once():
    count = Counted(SCORE)
    small, large = (8, 8, 8, 8), (16, 8, 8, 8)
    method = Listed([small, large, small], [large, (8, 16, 8, 8)])
    result = search(SPACE, count, HALF, 10, method=method)
    assert count.asked == [small, large, (8, 16, 8, 8)]
    assert [trial.cached for trial in result.trials] == [False, False, True, True, False]
    assert [trial.index for trial in result.trials] == [0, 1, 2, 3, 4]
    assert result.trials[2].score == result.trials[0].score
    assert result.evaluations == 3


def test_no_more_is_asked_than_was_allowed():
    count = Counted(SCORE)
    result = search(SPACE, count, HALF, 2, method=Listed(everything(SPACE)[:5], [(8, 8, 8, 8)]))
    assert (len(count.asked), len(result.trials)) == (2, 2)
    assert result.note == "as listed"


def test_a_method_cannot_leave_the_budget():
    with pytest.raises(RangeError, match="above the budget"):
        search(SPACE, SCORE, HALF, 2, method=Listed([SPACE.largest]))


@every_method
def test_a_budget_that_cannot_be_met(method):
    with pytest.raises(RangeError, match="smallest reachable cost is 368"):
        search(SPACE, SCORE, 300.0, 10, method=method)


@every_method
def test_nan_is_logged_and_never_the_answer(method, tmp_path):
    count = Counted(SCORE)

    def evaluate(widths):
        # every third, and never the last of those that ask once
        score = count(widths)
        return math.nan if len(count.asked) % 3 == 0 else score

    log = tmp_path / "log.jsonl"
    result = search(SPACE, evaluate, HALF, 21, 1, method=method, log=log)
    failed = [trial for trial in result.trials if trial.score is None]
    assert failed or method.name.startswith("uniform")
    assert all(trial.reward == -1.0 for trial in failed)
    assert result.best.score == SCORE(result.best.widths)
    lines = [json.loads(line) for line in log.read_text().splitlines()[1:]]
    assert [line["score"] for line in lines] == [trial.score for trial in result.trials]


def test_nothing_but_nan_is_no_answer(tmp_path):
    log = tmp_path / "log.jsonl"
    with pytest.raises(PcsparseError, match="none of 1 evaluations of uniform"):
        search(SPACE, lambda _: math.nan, HALF, 30, method=Uniform(), log=log)
    assert json.loads(log.read_text().splitlines()[1])["score"] is None


@pytest.mark.parametrize("score", [57.3, -0.1])
def test_a_score_that_is_no_share_is_refused(score):
    with pytest.raises(RangeError, match="divide percent by 100"):
        search(SPACE, lambda _: score, HALF, 5, method=Uniform())


def test_at_least_one_evaluation():
    with pytest.raises(RangeError, match="at least one evaluation, got 0"):
        search(SPACE, SCORE, HALF, 0, method=Uniform())


# ---- log and resume


@every_method
@pytest.mark.parametrize("kept", [0, 7, 19])
def test_a_search_that_was_cut_off_goes_on(method, kept, tmp_path):
    log = tmp_path / "new" / "log.jsonl"
    whole = search(SPACE, SCORE, HALF, 20, 5, method=method, log=log)
    lines = log.read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + len(whole.trials)
    log.write_bytes(b"".join(lines[: 1 + kept]) + b'{"index": 3, "wid')

    count = Counted(SCORE)
    resumed = search(SPACE, count, HALF, 20, 5, method=method, log=log)
    assert without_clock(resumed) == without_clock(whole)
    assert len(count.asked) == sum(not trial.cached for trial in whole.trials[kept:])
    assert [line["widths"] for line in map(json.loads, log.read_text().splitlines()[1:])] == [
        list(trial.widths) for trial in whole.trials
    ]


def without_clock(result):
    return [(t.index, t.widths, t.cost, t.score, t.reward, t.probe, t.cached) for t in result.trials]


def test_lines_in_any_order_are_taken(tmp_path):
    log = tmp_path / "log.jsonl"
    whole = search(SPACE, SCORE, HALF, 20, method=RandomSearch(), log=log)
    header, *lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(header + b"".join(lines[15:4:-1]))
    count = Counted(SCORE)
    assert without_clock(search(SPACE, count, HALF, 20, method=RandomSearch(), log=log)) == without_clock(
        whole
    )
    assert len(count.asked) == 9


@pytest.mark.parametrize("torn", [b"", b'{"format": 1, "met'])
def test_a_log_without_a_whole_line_is_begun_again(torn, tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_bytes(torn)
    search(SPACE, SCORE, HALF, 3, method=RandomSearch(), log=log)
    assert len(log.read_text().splitlines()) == 4


def test_a_log_of_another_search_is_refused(tmp_path):
    log = tmp_path / "log.jsonl"
    search(SPACE, SCORE, HALF, 5, 1, method=RandomSearch(), log=log)
    before = log.read_bytes()
    with pytest.raises(FormatError, match=r"another search \(seed 1, now 2\)"):
        search(SPACE, SCORE, HALF, 5, 2, method=RandomSearch(), log=log)
    with pytest.raises(FormatError, match=r"method 'RandomSearch\(\)', now 'Uniform\(\)'"):
        search(SPACE, SCORE, HALF, 5, 1, method=Uniform(), log=log)
    # what is evaluated cannot be seen from here: the caller names it
    with pytest.raises(FormatError, match=r"another search \(tag None, now 'retrained'\)"):
        search(SPACE, SCORE, HALF, 5, 1, method=RandomSearch(), log=log, tag="retrained")
    other = chain(4, pairs=[1, 1, 1, 1, 2])
    with pytest.raises(FormatError, match="another search"):
        search(other, SCORE, HALF, 5, 1, method=RandomSearch(), log=log)
    assert log.read_bytes() == before


def test_a_file_that_is_no_log_is_left_alone(tmp_path):
    log = tmp_path / "notes.txt"
    for content in (b"my notes\n", b"my notes", b"[1, 2]\n"):
        log.write_bytes(content)
        with pytest.raises(FormatError, match="no log of a search"):
            search(SPACE, SCORE, HALF, 5, method=RandomSearch(), log=log)
        assert log.read_bytes() == content


def test_a_damaged_line_is_named(tmp_path):
    log = tmp_path / "log.jsonl"
    search(SPACE, SCORE, HALF, 5, method=RandomSearch(), log=log)
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines[:3], b"{}\n", *lines[3:]]))
    with pytest.raises(FormatError, match="line 4 is no rollout"):
        search(SPACE, SCORE, HALF, 5, method=RandomSearch(), log=log)
    twice = json.loads(lines[2]) | {"score": 0.123}
    log.write_bytes(b"".join([*lines, json.dumps(twice).encode() + b"\n"]))
    with pytest.raises(FormatError, match="rollout 1 twice"):
        search(SPACE, SCORE, HALF, 5, method=RandomSearch(), log=log)


def test_a_log_that_does_not_fit_what_the_method_asks(tmp_path):
    log = tmp_path / "log.jsonl"
    search(SPACE, SCORE, HALF, 5, method=RandomSearch(), log=log)
    lines = log.read_bytes().splitlines(keepends=True)
    changed = json.loads(lines[3]) | {"widths": [8, 8, 8, 8]}
    log.write_bytes(b"".join([*lines[:3], json.dumps(changed).encode() + b"\n"]))
    with pytest.raises(FormatError, match=r"has \(8, 8, 8, 8\) as rollout 2, this process came to"):
        search(SPACE, SCORE, HALF, 5, method=RandomSearch(), log=log)


def test_what_evaluate_raises_ends_the_search_and_keeps_the_log(tmp_path):
    log = tmp_path / "log.jsonl"
    count = Counted(SCORE)

    def evaluate(widths):
        if len(count.asked) == 4:
            raise KeyboardInterrupt
        return count(widths)

    with pytest.raises(KeyboardInterrupt):
        search(SPACE, evaluate, HALF, 8, method=RandomSearch(), log=log)
    assert len(log.read_text().splitlines()) == 5
    search(SPACE, SCORE, HALF, 8, method=RandomSearch(), log=log)
    assert len(log.read_text().splitlines()) == 9


# ---- what comes out


def test_the_front_and_the_best():
    table = {
        (8, 8, 8, 8): 0.5,
        (16, 8, 8, 8): 0.4,
        (8, 16, 8, 8): 0.7,
        (8, 8, 16, 8): 0.7,
        (8, 8, 8, 16): 0.9,
    }
    result = search(SPACE, table.__getitem__, HALF, 9, method=Listed(list(table)))
    assert result.best.score == 0.9
    # the second is beaten by the first; the fourth costs what the third does
    assert [trial.index for trial in result.pareto()] == [0, 2, 4]
    tied = search(SPACE, lambda _: 0.5, HALF, 9, method=Listed(list(table)))
    assert tied.best.index == 0
    wide_first = search(SPACE, lambda _: 0.5, HALF, 9, method=Listed([(16, 8, 8, 8), (8, 8, 8, 8)]))
    assert wide_first.best.index == 1
    assert (tied.full_cost, tied.unit, tied.budget) == (SPACE.cost(SPACE.largest), "MACs", HALF)


def test_uniform_takes_the_largest_common_ratio():
    for share in (0.1, 0.2, 0.3, 0.6, 1.0):
        budget = share * SPACE.cost(SPACE.largest)
        fits = [w for w in (8, 16, 24, 32) if SPACE.cost((w,) * 4) <= budget]
        result = search(SPACE, SCORE, budget, 5, method=Uniform())
        assert [trial.widths for trial in result.trials] == [(max(fits),) * 4]


def test_filled_uniform_widths_use_the_budget_and_stay_level():
    for share in (0.1, 0.2, 0.3, 0.45, 0.6, 1.0):
        budget = share * SPACE.cost(SPACE.largest)
        plain, filled = (
            search(SPACE, SCORE, budget, 5, method=method()).best for method in (Uniform, FilledUniform)
        )
        assert plain.cost <= filled.cost <= budget
        assert all(a <= b for a, b in zip(plain.widths, filled.widths, strict=True))
        # no step could be a place wider
        for i, width in enumerate(filled.widths):
            wider = (*filled.widths[:i], width + 8, *filled.widths[i + 1 :])
            assert width == 32 or SPACE.cost(wider) > budget
    # the first of equally narrow steps goes first
    first_fits = SPACE.cost((16, 8, 8, 8))
    assert search(SPACE, SCORE, first_fits, 1, method=FilledUniform()).best.widths == (16, 8, 8, 8)


def test_random_draws_are_new_each_time():
    result = search(SPACE, SCORE, HALF, 20, method=RandomSearch())
    assert len({trial.widths for trial in result.trials}) == 20
    # a space runs out
    tiny = chain(1, (8, 16))
    result = search(tiny, additive(tiny, [0.5]), 1e9, 30, method=RandomSearch())
    assert [trial.widths for trial in result.trials] == [(16,)]
