"""Who is timed."""

from dataclasses import replace

import pytest

from pcsparse.bench.cases import Goal
from pcsparse.bench.limits import REFERENCE_LIMITS, Work
from pcsparse.bench.outcome import Candidate, Outcome, Result, verified_then_timed
from pcsparse.bench.verify import Check

GOOD, BAD = Check("out", 1e-7, 1e-6), Check("out", 0.25, 1e-6)


def runner(calls, name):
    return lambda: calls.append(name)


def run(checks, refusal=None, **options):
    calls = []
    candidates = [
        Candidate("pcsparse", runner(calls, "pcsparse"), checks["pcsparse"]),
        Candidate("torch", runner(calls, "torch"), checks["torch"]),
        Candidate("other", None, refusal=refusal),
    ]
    result = verified_then_timed("case", candidates, (), 3, (Goal(2.0, 10.0), 5.0), **options)
    return calls, result


def test_all_that_are_right_are_timed():
    calls, result = run({"pcsparse": (GOOD,), "torch": (GOOD,)}, "cannot")
    # two warm-up runs each
    assert calls.count("pcsparse") == calls.count("torch") == 5
    assert result.ours.time.runs == 3
    assert result.peer("torch").time.runs == 3
    assert result.peer("other").refusal == "cannot"
    assert result.peer("other").time is None
    assert result.peer("nobody") is None
    assert (result.goal, result.scaled_goal) == (2.0, pytest.approx(1.0))


def test_every_timed_run_settles_as_often_as_asked():
    calls, result = run({"pcsparse": (GOOD,), "torch": (GOOD,)}, settle=2)
    assert calls.count("pcsparse") == calls.count("torch") == 2 + 3 * 3
    assert result.ours.time.runs == 3


def test_a_goal_at_other_peaks_moves_as_the_floor_does():
    # two pieces: 1 s of arithmetic and 2 s of movement where goals were set
    works = (Work(REFERENCE_LIMITS.fma, 0.0), Work(0.0, 2 * REFERENCE_LIMITS.bandwidth))
    result = Result("case", Outcome("pcsparse", (GOOD,), None), (), works, 5.0, 6.0)
    assert result.goal_at(REFERENCE_LIMITS) == pytest.approx(6.0)
    # a machine with twice the arithmetic and the same memory: 2.5 s instead of 3
    faster = replace(REFERENCE_LIMITS, fma=2 * REFERENCE_LIMITS.fma)
    assert result.goal_at(faster) == pytest.approx(6.0 * 2.5 / 3)
    slower = replace(REFERENCE_LIMITS, bandwidth=REFERENCE_LIMITS.bandwidth / 2)
    assert result.goal_at(slower) == pytest.approx(6.0 * 5 / 3)
    assert replace(result, scaled_goal=None).goal_at(faster) is None
    assert replace(result, works=()).goal_at(faster) is None


def test_a_wrong_peer_is_never_run():
    calls, result = run({"pcsparse": (GOOD,), "torch": (GOOD, BAD)})
    assert set(calls) == {"pcsparse"}
    assert result.peer("torch").failed == (BAD,)
    assert result.passed


def test_where_the_package_is_wrong_nothing_is_run():
    calls, result = run({"pcsparse": (BAD,), "torch": (GOOD,)})
    assert calls == []
    assert not result.passed
    assert result.ours.time is None
    assert result.peer("torch").time is None
