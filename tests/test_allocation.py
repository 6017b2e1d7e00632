"""keep_freed_memory: a second feature map of the same size brings no page faults."""

import json
import platform
import subprocess
import sys

import pytest

# minor page faults of making and filling 40 MiB eight times, after four times to get warm
_PROGRAM = """
import json, resource, sys
import torch
import pcsparse
from pcsparse.kernels.cpu.memory import aligned
took = pcsparse.keep_freed_memory() if sys.argv[1] == "keep" else None
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for i in range(12):
    if i == 4:
        before = faults()
    block = aligned((10 << 20,), torch.float32).fill_(1)
    del block
json.dump([took, faults() - before], sys.stdout)
"""


def _run(how: str) -> list[int | bool | None]:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, how], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc only")
def test_blocks_are_used_again():
    _, by_default = _run("leave")
    took, kept = _run("keep")

    assert took is True
    # 40 MiB are 10,240 pages of 4 KiB, or 20 huge ones where the system has them
    assert by_default >= 8 * 18
    assert kept < by_default / 8


def test_other_libraries_are_left_alone(monkeypatch):
    import pcsparse

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert pcsparse.keep_freed_memory() is False
