"""Scans in other processes: the same points as in one, whatever is killed and whoever goes on."""

import json
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pcsparse.compress.search.executor import Finished, SpawnedProcesses
from pcsparse.compress.sensitivity import ChannelsAxis, WeightsAxis, fingerprint, scan
from pcsparse.compress.sensitivity_evaluation import PrunedScore
from pcsparse.compress.sensitivity_offsets import OffsetsAxis
from pcsparse.compress.sensitivity_table import SensitivityTable
from pcsparse.errors import RangeError, UnsupportedError
from tests.compress.scan_cases import NAMES, RATIOS, Closeness, network

ROOT = Path(__file__).resolve().parents[2]


def _facts(table: SensitivityTable) -> SensitivityTable:
    """Without what a clock said."""
    return replace(table, points=tuple(replace(point, seconds=0.0) for point in table.points))


def _lines(log: Path) -> list[dict]:
    entries = [json.loads(line) for line in log.read_bytes().splitlines()]
    return sorted(({**entry, "seconds": 0} for entry in entries), key=str)


class Backwards:
    """An executor that has the last evaluation first, and counts."""

    def __init__(self) -> None:
        self.batches: list[list[object]] = []

    def run(self, evaluate, items):
        self.batches.append(list(items))
        for position, item in reversed(list(enumerate(items))):
            yield Finished(position, evaluate(item), 0.0)


def test_the_order_in_which_evaluations_end_changes_no_point(tmp_path):
    model, executor = network(), Backwards()
    before = fingerprint(model)
    options = {"names": NAMES, "ratios": RATIOS}
    here = scan(model, Closeness(model), log=tmp_path / "a.jsonl", **options)
    seen = []
    there = scan(
        model, Closeness(model), log=tmp_path / "b.jsonl", executor=executor,
        on_point=lambda point: seen.append((point.name, point.kept)), **options,
    )  # fmt: skip
    assert _facts(there) == _facts(here)
    assert len(here.points) == 9
    assert _lines(tmp_path / "a.jsonl") == _lines(tmp_path / "b.jsonl")
    # each is told as it is there; all may run side by side
    assert seen == [(point.name, point.kept) for point in reversed(here.points)]
    assert [len(batch) for batch in executor.batches] == [1, 9]
    assert fingerprint(model) == before


def test_a_curve_that_fell_is_left_by_all_executors_at_the_same_point():
    model, executor = network(), Backwards()
    dense = scan(model, Closeness(model), names=NAMES, ratios=RATIOS)
    drops = sorted(dense.dense.metric - point.metric for point in dense.points)
    options = {"names": NAMES, "ratios": RATIOS, "stop_after": drops[3]}
    here = scan(model, Closeness(model), **options)
    there = scan(model, Closeness(model), executor=executor, **options)
    assert _facts(there) == _facts(here)
    assert len(NAMES) < len(here.points) < len(dense.points)
    # layers side by side, ratio by ratio
    assert [len({name for name, _ in batch}) == len(batch) for batch in executor.batches[1:]] == [True] * 3
    assert executor.batches[1] == [(name, here.curves[name][0].kept) for name in NAMES]


def test_what_the_log_has_is_told_first_and_not_sent(tmp_path):
    model, executor = network(), Backwards()
    log = tmp_path / "scan.jsonl"
    options = {"names": NAMES, "ratios": RATIOS, "log": log}
    whole = scan(model, Closeness(model), **options)
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines[:3], *lines[6:]]))
    again = scan(model, Closeness(model), executor=executor, **options)
    assert _facts(again) == _facts(whole)
    assert executor.batches == [[(point.name, point.kept) for point in whole.points[1:4]]]


@pytest.mark.parametrize("axis", ["weights", "channels", "offsets"])
def test_what_is_sent_scores_as_what_stays(axis):
    model = network()
    how = {"channels": ChannelsAxis(model, multiple=1), "offsets": OffsetsAxis(model)}.get(
        axis, WeightsAxis(model)
    )
    score = PrunedScore(model, how, Closeness(model))
    sent = pickle.loads(pickle.dumps(score))
    for cut in (None, ("stem.0", how.kept("stem.0", 0.6))):
        assert sent(cut) == score(cut)
    assert sent(None).metric == 1.0 > score(cut).metric


@pytest.mark.slow
def test_spawned_processes_find_what_this_one_finds(tmp_path):
    model = network()
    axes = {"weights": {"names": NAMES}, "offsets": {"names": ("stem.0",)}}
    with SpawnedProcesses(2, threads=1) as executor:
        for axis, options in axes.items():
            how = OffsetsAxis(model, [Closeness(model).x]) if axis == "offsets" else axis
            options = {"axis": how, "ratios": RATIOS, **options}
            here = scan(model, Closeness(model), log=tmp_path / f"{axis}-a.jsonl", **options)
            log = tmp_path / f"{axis}-b.jsonl"
            there = scan(model, Closeness(model), log=log, executor=executor, **options)
            assert _facts(there) == _facts(here)
            assert _lines(log) == _lines(tmp_path / f"{axis}-a.jsonl")
        with pytest.raises(UnsupportedError, match="evaluate cannot be sent to another process"):
            scan(model, lambda net: 1.0, executor=executor)
        # a network whose metric is not finite is refused there as here
        bad = network()
        bad.classifier.weight.data.fill_(float("nan"))
        with pytest.raises(RangeError, match="is nan; there is nothing to scan"):
            scan(bad, Closeness(model), executor=executor)


@pytest.mark.slow
def test_a_kill_loses_what_is_running_and_any_number_of_workers_goes_on(tmp_path):
    log = tmp_path / "scan.jsonl"
    command = [sys.executable, "-m", "tests.compress.scan_cases", str(log), "2"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(5)]
        os.kill(process.pid, signal.SIGKILL)
        told += process.stdout.readlines()
        assert process.wait() < 0
    stored = log.read_bytes().count(b"\n") - 2
    assert len(told) <= stored <= len(told) + 2
    # the workers are gone, too: they would have held the pipe open
    assert stored < 80
    model, executor = network(), Backwards()
    options = {"names": NAMES[:2], "ratios": [i / 40 for i in range(40)]}
    with SpawnedProcesses(1, threads=1) as one:
        resumed = scan(model, Closeness(model), log=log, executor=one, **options)
    assert _facts(resumed) == _facts(scan(model, Closeness(model), **options))
    # all of it is there now
    assert _facts(scan(model, Closeness(model), log=log, executor=executor, **options)) == _facts(resumed)
    assert executor.batches == [[]]
