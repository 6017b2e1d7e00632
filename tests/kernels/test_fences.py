"""Fences of kernels that must stand, and why, and barriers between atomics: no run on a host misses them.

`test_races.py` misses some fences and every other barrier.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.emulation import gpu_kernels

gpu_kernels()
# the package of the GPU kernels asks for cupy, for which there is a stand-in now
from pcsparse.kernels.gpu import cuda_text  # noqa: E402


@dataclass(frozen=True)
class Fence:
    """A fence or barrier of a function: what stands before and behind it, and what would go wrong without."""

    file: str
    function: str
    before: str
    fence: str
    after: str
    reason: str


DEVICE, SYSTEM, BARRIER = "__threadfence();", "__threadfence_system();", "__syncthreads();"
HOST = "the host, woken by the letter, may launch on another stream, which would find counters that are not 0"
FENCES = [
    Fence(
        "keys.cu", "send_facts", "atomicMax(counters + threadIdx.x, value); __threadfence(); }", BARRIER,
        "if (threadIdx.x == 0) ticket = atomicAdd(counters + SLOTS, 1u);",
        "the block might have its ticket before its other threads have widened their slots",
    ),
    Fence(
        "keys.cu", "send_facts", "} else if (threadIdx.x == SLOTS) atomicExch(counters + SLOTS, 0u);",
        BARRIER, "if (threadIdx.x < SLOTS) { __threadfence_system(); *(volatile u64 *)(letter", HOST,
    ),
    Fence(
        "keys.cu", "send_facts", "atomicMax(counters + threadIdx.x, value);", DEVICE,
        "} __syncthreads(); if (threadIdx.x == 0) ticket = atomicAdd(counters + SLOTS, 1u);",
        "the last block, known by its ticket, would take slots that this block has not widened yet",
    ),
    Fence(
        "keys.cu", "send_facts",
        "if (ticket != gridDim.x - 1) return false; u64 value = 0; if (threadIdx.x < SLOTS) {", DEVICE,
        "value = atomicExch(counters + threadIdx.x, 0u);",
        "the last block might take the slots before it has its ticket",
    ),
    Fence(
        "keys.cu", "send_facts",
        "atomicExch(counters + SLOTS, 0u); __syncthreads(); if (threadIdx.x < SLOTS) {", SYSTEM,
        "*(volatile u64 *)(letter + threadIdx.x) = (u64)stamp << 32 | value;",
        HOST,
    ),
    Fence(
        "keys.cu", "send_facts", "*(volatile u64 *)(letter + threadIdx.x) = (u64)stamp << 32 | value;",
        SYSTEM, "} return true;",
        "the letter might lie until the kernel ends, which plans levels first, while the host waits for it",
    ),
    Fence(
        "levels.cu", "send_count", "atomicExch(counters, 0u);", SYSTEM,
        "*(volatile u64 *)letter = (u64)stamp << 32 | count;",
        HOST,
    ),
    Fence(
        "levels.cu", "send_count", "*(volatile u64 *)letter = (u64)stamp << 32 | count;", SYSTEM, "}",
        "the letter might lie until the kernel ends while the host waits for it",
    ),
    Fence(
        "levels.cu", "count_cells", "ends[blockIdx.x] = total;", DEVICE, "ticket = atomicAdd(counters, 1u);",
        "the last block, known by its ticket, would add up an end that this block has not written yet",
    ),
    Fence(
        "levels.cu", "count_cells", "__syncthreads(); if (ticket != gridDim.x - 1) return;", DEVICE,
        "i64 share =", "the last block might read the ends of others before it has its ticket",
    ),
    Fence(
        "levels.cu", "count_planned", "*(volatile i64 *)(ends + blockIdx.x) = sum;", DEVICE,
        "ticket = atomicAdd(counters, 1u);",
        "the last block, known by its ticket, would add up an end that this block has not written yet",
    ),
    Fence(
        "levels.cu", "count_planned", "__syncthreads(); if (ticket != gridDim.x - 1) return;", DEVICE,
        "i64 share =", "the last block might read the ends of others before it has its ticket",
    ),
]  # fmt: skip


def _code(file: str) -> str:
    """The text without comments, its spaces alike."""
    return " ".join(re.sub(r"//[^\n]*", "", cuda_text.source(file)).split())


def _body(code: str, function: str) -> str:
    """A function from its name to the end of its braces."""
    begin = re.search(rf"\b{function}\([^)]*\) \{{", code)
    assert begin is not None, f"no function {function}"
    depth = 0
    for end in range(begin.end() - 1, len(code)):
        depth += {"{": 1, "}": -1}.get(code[end], 0)
        if depth == 0:
            break
    return code[begin.start() : end + 1]


@pytest.mark.parametrize("fence", FENCES, ids=lambda f: f"{f.function}-{f.after.split('(')[0][:24]}")
def test_it_stands(fence):
    wanted = f"{fence.before} {fence.fence} {fence.after}"
    found = _body(_code(fence.file), fence.function).count(wanted)
    assert found == 1, f"{fence.file}, {fence.function}: {wanted!r} is gone; without it {fence.reason}"


def test_every_fence_has_a_reason():
    files = sorted(path.name for path in Path(cuda_text.__file__).parent.glob("*.cu"))
    there = {file: len(re.findall(r"__threadfence\w*\(\)", _code(file))) for file in files}
    named = {file: sum(one.file == file and one.fence != BARRIER for one in FENCES) for file in files}
    assert there == named
