"""keep_freed_memory: a second feature map of the same size brings no page faults; torch takes huge pages."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pcsparse.bench.scaling import free_bytes

# minor page faults of making and filling a tensor eight times, after four times to get warm
_PROGRAM = """
import json, resource, sys
import torch
import pcsparse
from pcsparse.kernels.cpu.memory import aligned
took = None
if sys.argv[1] != "leave":
    took = pcsparse.keep_freed_memory(everything=sys.argv[1] == "everything")
size = int(sys.argv[2])
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for i in range(12):
    if i == 4:
        before = faults()
    block = aligned((size,), torch.uint8).fill_(1)
    del block
json.dump([took, faults() - before], sys.stdout)
"""


# bytes in huge pages, of 64 MiB that torch allocated after the call
_HUGE = """
import re, sys
from pathlib import Path
import torch
import pcsparse
if sys.argv[1] == "keep":
    pcsparse.keep_freed_memory()
block = torch.ones(16 << 20)
print(re.search(r"AnonHugePages:\\s+(\\d+) kB", Path("/proc/self/smaps_rollup").read_text()).group(1))
"""


def _run(program: str, *arguments: str, **variables: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**{k: v for k, v in os.environ.items() if k != "THP_MEM_ALLOC_ENABLE"}, **variables},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


_GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc only")


@_GLIBC
def test_blocks_are_used_again():
    size = str(40 << 20)
    _, by_default = _run(_PROGRAM, "leave", size)
    took, kept = _run(_PROGRAM, "keep", size)

    assert took is True
    # 40 MiB are 10,240 pages of 4 KiB, or 20 huge ones where the system has them
    assert by_default >= 8 * 18
    assert kept < by_default / 8


@pytest.mark.slow
@_GLIBC
@pytest.mark.skipif((free_bytes() or 0.0) < 4 << 30, reason="needs 4 GB of free memory")
def test_blocks_above_a_gibibyte_are_kept_on_demand():
    size = str((1 << 30) + (1 << 20))
    _, returned = _run(_PROGRAM, "keep", size)
    took, kept = _run(_PROGRAM, "everything", size)

    assert took is True
    # 512 huge pages each time, or 512 times as many small ones
    assert returned >= 8 * 500
    assert kept < returned / 8


_MODE = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(
    not _MODE.is_file() or "[madvise]" not in _MODE.read_text(), reason="huge pages only on demand"
)
def test_torch_asks_for_huge_pages_unless_the_environment_decides():
    # 64 MiB, of which the ends may lie in small pages
    assert _run(_HUGE, "keep") >= 60 << 10
    assert _run(_HUGE, "leave") < 16 << 10
    assert _run(_HUGE, "keep", THP_MEM_ALLOC_ENABLE="0") < 16 << 10


def test_other_libraries_are_left_alone(monkeypatch):
    import pcsparse

    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert pcsparse.keep_freed_memory() is False
