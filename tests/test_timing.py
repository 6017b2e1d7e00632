"""The clock: order of runs, what is summed up, what the header says. No real time is asserted."""

import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from pcsparse import timing
from pcsparse.errors import RangeError
from pcsparse.timing import Timing, environment, time_in_turns, time_one


def test_quartiles_of_known_seconds():
    assert Timing.of([5.0, 1.0, 3.0, 2.0, 4.0]) == Timing(median=3.0, q1=2.0, q3=4.0, runs=5)
    with pytest.raises(RangeError, match="at least one run"):
        Timing.of([])


def test_candidates_take_turns_and_warm_up_first():
    calls: list[str] = []
    candidates = {name: lambda name=name: calls.append(name) for name in "abc"}

    timings = time_in_turns(candidates, runs=3, warmup=2)

    assert "".join(calls) == "aabbcc" + "abc" + "bac" + "abc"
    assert {name: timing.runs for name, timing in timings.items()} == {"a": 3, "b": 3, "c": 3}


@pytest.mark.parametrize("names", ["ab", "abc", "abcd", "abcde"])
def test_no_measured_run_follows_one_of_the_same_candidate(names):
    calls: list[str] = []
    time_in_turns({name: lambda name=name: calls.append(name) for name in names}, runs=4, warmup=0)
    before: dict[str, set[str]] = {name: set() for name in names}
    for first, second in pairwise(calls):
        before[second].add(first)
    for name, others in before.items():
        assert name not in others
        # and with three or more not always the same one
        assert len(others) == min(2, len(names) - 1)


def test_one_candidate_alone_runs_as_often_as_asked():
    calls: list[str] = []
    time_one(lambda: calls.append("a"), runs=3, warmup=0)
    assert calls == ["a"] * 3


def test_a_candidate_settles_right_before_each_of_its_own_measured_runs():
    calls: list[str] = []
    candidates = {name: lambda name=name: calls.append(name) for name in "ab"}

    timings = time_in_turns(candidates, runs=2, warmup=1, settle=2)

    assert "".join(calls) == "ab" + "aaabbb" + "aaabbb"
    assert timings["a"].runs == 2


def clock_of(monkeypatch, costs):
    """A run that takes each of `costs` in turn."""
    now, left = [0.0], iter(costs)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def run() -> None:
        now[0] += next(left)

    return run


def test_only_measured_runs_count(monkeypatch):
    assert time_one(clock_of(monkeypatch, [100.0, 1.0, 2.0, 9.0]), runs=3, warmup=1).median == 2.0


def test_the_runs_that_settle_do_not_count(monkeypatch):
    # a cold run takes 50 s, the one after it 1 to 3
    run = clock_of(monkeypatch, [50.0, 1.0, 50.0, 2.0, 50.0, 3.0])
    assert time_in_turns({"a": run}, runs=3, warmup=0, settle=1)["a"] == Timing(2.0, 1.5, 2.5, 3)


def test_a_gpu_is_synchronised_before_and_after(monkeypatch):
    events: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: events.append(str(device)))

    time_one(lambda: events.append("run"), runs=1, warmup=0, device="cuda:1")

    assert events == ["cuda:1", "run", "cuda:1"]


@pytest.mark.parametrize(("runs", "warmup", "settle"), [(0, 1, 0), (1, -1, 0), (1, 1, -1)])
def test_senseless_counts_are_refused(runs, warmup, settle):
    with pytest.raises(RangeError, match=f"runs={runs}, warmup={warmup}, settle={settle}"):
        time_in_turns({"a": int}, runs=runs, warmup=warmup, settle=settle)


def test_environment_names_machine_and_versions():
    found = environment()

    assert found.threads == torch.get_num_threads()
    # PyPI's builds for CUDA are told by a suffix that their metadata lack
    told = dict(found.versions)["torch"]
    assert told in (torch.__version__, torch.__version__.partition("+")[0])
    assert re.fullmatch(r"none|unknown|[0-9a-f]{10,}(\+changes)?", found.commit)
    header = found.header()
    for part in (found.cpu, found.commit, found.date, f"{found.threads} threads", f"torch {told}"):
        assert part in header


@pytest.mark.parametrize(("others", "busy"), [(None, False), (0.1, False), (0.3, True)])
def test_a_busy_machine_says_so(others, busy):
    found = replace(environment(), others=others)
    assert found.busy == busy
    assert ("do not quote" in found.header()) == busy


@pytest.mark.parametrize(
    ("later", "share"),
    [("60 0 0 140 0 0 0 0", 0.5), ("10 0 0 190 0 0 0 0", 0.0), ("10 5 5 145 5 0 0 30", 0.4)],
    ids=["half", "idle", "stolen"],
)
def test_share_of_busy_cores_by_hand(monkeypatch, tmp_path, later, share):
    texts = iter([f"cpu  {ticks} 0 0\ncpu0 1 1\n" for ticks in ("10 0 0 90 0 0 0 0", later)])
    stat = tmp_path / "stat"

    def path(name: str):
        if name == "/proc/stat":
            stat.write_text(next(texts))
        return stat

    monkeypatch.setattr(timing, "Path", path)
    monkeypatch.setattr(timing.time, "sleep", lambda seconds: None)
    assert timing._busy_share() == pytest.approx(share)


def test_an_installed_package_does_not_borrow_a_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(timing, "_ROOT", tmp_path)
    assert environment().commit == "none"
