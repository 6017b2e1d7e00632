"""One process at a time in a folder."""

import subprocess
import sys
import time

import pytest

from pcsparse.errors import PcsparseError
from pcsparse.programs.folder_lock import sole_user

# without this package, so that it begins at once
HOLDS = (
    "import fcntl, os, sys, time\n"
    "fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)\n"
    "print('held', flush=True)\n"
    "time.sleep(float(sys.argv[2]))\n"
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock")


def other(folder, seconds):
    """Another process that has the folder for so long."""
    folder.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(folder), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_until_the_first_one_ends_even_by_a_kill(tmp_path):
    folder = tmp_path / "runs" / "small"
    process = other(folder, 60)
    said = r"another process is at work in .*small.*choose another name="
    with pytest.raises(PcsparseError, match=said), sole_user(folder, patience=0.0):
        pytest.fail("two at once")
    process.kill()
    process.wait()
    process.stdout.close()
    with sole_user(folder, patience=0.0):
        # nothing is left behind in it
        assert list(folder.iterdir()) == []


def test_one_that_is_about_to_end_is_waited_for(tmp_path):
    process = other(tmp_path, 0.4)
    began = time.monotonic()
    with sole_user(tmp_path, patience=30.0):
        assert 0.1 < time.monotonic() - began < 30.0
    process.communicate()


def test_one_folder_is_nothing_to_another_and_an_error_lets_go(tmp_path):
    with sole_user(tmp_path / "a"), sole_user(tmp_path / "b", patience=0.0):
        pass
    with pytest.raises(KeyboardInterrupt), sole_user(tmp_path / "a", patience=0.0):
        raise KeyboardInterrupt
    with (
        sole_user(tmp_path / "a", patience=0.0),
        pytest.raises(PcsparseError, match="at work"),
        sole_user(tmp_path / "a", patience=0.0),
    ):
        pytest.fail("two at once")
