"""A real process, killed by SIGKILL with two loader workers, resumed: the same losses, byte for byte."""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.train.killed_run import N_STEPS

REPOSITORY = Path(__file__).parents[2]
_PATIENCE_S = 240


def start(folder, pause_ms):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.train.killed_run", str(folder), str(pause_ms)],
        cwd=REPOSITORY,
        start_new_session=True,
        stderr=subprocess.PIPE,
    )


def finish(process):
    _, errors = process.communicate(timeout=_PATIENCE_S)
    assert process.returncode == 0, errors.decode()


def losses(folder):
    with (folder / "log.csv").open() as rows:
        return [(row["step"], row["loss"]) for row in csv.DictReader(rows)]


def kill_at(folder, process, step):
    """SIGKILL the trainer alone (its workers must notice by themselves) once `step` rows are logged."""
    deadline = time.monotonic() + _PATIENCE_S
    log = folder / "log.csv"
    while not log.is_file() or log.read_bytes().count(b"\n") <= step:
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def session_members(leader):
    """Live processes of a session: the workers of a trainer that is gone."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        # state, parent, group, session
        if int(fields[3]) == leader and fields[0] != "Z":
            members.append(int(stat.parent.name))
    return members


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="SIGKILL and /proc")
def test_killed_at_random_steps_and_resumed_the_losses_are_those_of_the_unbroken_run(tmp_path):
    seed = random.SystemRandom().randrange(10**6)
    draw = random.Random(seed)
    first, second = draw.randint(1, N_STEPS // 2), draw.randint(N_STEPS // 2 + 1, N_STEPS - 2)
    print(f"seed {seed}: killed at steps {first} and {second}")

    finish(start(tmp_path / "whole", 0))
    whole = losses(tmp_path / "whole")
    assert [int(step) for step, _ in whole] == list(range(1, N_STEPS + 1))

    for step in (first, second):
        process = start(tmp_path / "broken", 30)
        kill_at(tmp_path / "broken", process, step)
        assert len(losses(tmp_path / "broken")) < N_STEPS
    finish(start(tmp_path / "broken", 0))
    assert losses(tmp_path / "broken") == whole
    assert (tmp_path / "broken/val.csv").read_bytes() == (tmp_path / "whole/val.csv").read_bytes()
    # orphaned workers look for their parent every few seconds
    deadline = time.monotonic() + 30
    while session_members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not session_members(process.pid)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="process groups")
def test_a_sigterm_to_the_whole_group_ends_in_a_checkpoint_and_no_orphan(tmp_path):
    process = start(tmp_path, 30)
    deadline = time.monotonic() + _PATIENCE_S
    log = tmp_path / "log.csv"
    while not log.is_file() or log.read_bytes().count(b"\n") <= 4:
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGTERM)
    finish(process)
    assert (tmp_path / "last.pt").is_file()
    n_done = len(losses(tmp_path))
    assert n_done < N_STEPS
    assert not session_members(process.pid)
    finish(start(tmp_path, 0))
    assert [int(step) for step, _ in losses(tmp_path)] == list(range(1, N_STEPS + 1))
