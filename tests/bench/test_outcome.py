"""Who is timed."""

import pytest

from pcsparse.bench.cases import Goal
from pcsparse.bench.outcome import Candidate, verified_then_timed
from pcsparse.bench.verify import Check

GOOD, BAD = Check("out", 1e-7, 1e-6), Check("out", 0.25, 1e-6)


def runner(calls, name):
    return lambda: calls.append(name)


def run(checks, refusal=None):
    calls = []
    candidates = [
        Candidate("pcsparse", runner(calls, "pcsparse"), checks["pcsparse"]),
        Candidate("torch", runner(calls, "torch"), checks["torch"]),
        Candidate("other", None, refusal=refusal),
    ]
    result = verified_then_timed("case", candidates, (), 3, (Goal(2.0, 10.0), 5.0))
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
