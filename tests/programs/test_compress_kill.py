"""A real process, killed by SIGKILL in its scan, its search and its fine-tuning, and run again."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pcsparse.compress.chosen import Choice
from pcsparse.compress.graph import ChannelGraph
from tests.programs.compress_case import AXES, SETTINGS, tiny_network, write_model

ROOT = Path(__file__).resolve().parents[2]
_PATIENCE_S = 600
BEGINS = "evaluation begins"


def start(folder, pause_ms, axis):
    command = [sys.executable, "-m", "tests.programs.compress_case", str(folder), str(pause_ms), axis]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def kill_at_evaluation(folder, number, axis):
    """SIGKILL while evaluation `number` of this process runs."""
    with start(folder, 30, axis) as process:
        for line in process.stdout:
            if line.startswith(BEGINS) and int(line.split()[-1]) == number:
                process.kill()
                break
        assert process.wait(_PATIENCE_S) == -signal.SIGKILL


def kill_in_tuning(folder, axis):
    """SIGKILL as soon as a step of the fine-tuning is logged."""
    log = folder / "run/tuned/log.csv"
    deadline = time.monotonic() + _PATIENCE_S
    with start(folder, 0, axis) as process:
        while not log.is_file() or log.read_bytes().count(b"\n") < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.kill()
        assert process.wait(_PATIENCE_S) == -signal.SIGKILL


def finish(folder, axis):
    """Run to the end; how many evaluations began."""
    with start(folder, 0, axis) as process:
        said, _ = process.communicate(timeout=_PATIENCE_S)
    assert process.returncode == 0
    return said.count(BEGINS)


def rows(path):
    return len(path.read_bytes().splitlines()) - 1 if path.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.skipif(sys.platform != "linux", reason="SIGKILL")
def test_killed_in_every_step_it_loses_one_evaluation_each_and_ends_with_the_same_network(tmp_path, axis):
    for name in ("whole", "broken"):
        write_model(tmp_path / name / "dense.safetensors")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    graph = ChannelGraph.of(tiny_network())
    # only one of its maps keeps the stride
    n_scan = 1 + len(graph.free) + (axis == "joint")
    assert finish(whole, axis) == n_scan + SETTINGS.evaluations

    kill_at_evaluation(broken, 5, axis)
    # four are on the disk, the fifth had begun
    assert rows(broken / "run/sensitivity.jsonl") == 4
    kill_at_evaluation(broken, n_scan - 4 + 2, axis)
    assert rows(broken / "run/sensitivity.jsonl") == n_scan
    assert rows(broken / "run/search.jsonl") == 1
    kill_in_tuning(broken, axis)
    assert rows(broken / "run/search.jsonl") == SETTINGS.evaluations
    assert finish(broken, axis) == 0

    assert Choice.load(broken / "run/chosen.json") == Choice.load(whole / "run/chosen.json")
    for name in ("pruned", "model"):
        own, theirs = ((folder / f"run/{name}.safetensors").read_bytes() for folder in (broken, whole))
        assert own == theirs, name
    record = json.loads((broken / "run/steps.json").read_text())
    assert all(entry["done"] for entry in record["steps"].values())
    assert (broken / "run/report.html").is_file()
