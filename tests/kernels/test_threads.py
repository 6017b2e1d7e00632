"""Kernels called from several Python threads, and the number of threads they use."""

import os
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from pcsparse.coords.cache import CoordCache
from pcsparse.coords.relation import Relation
from pcsparse.kernels.cpu.launch import _Cores
from pcsparse.ops.conv import sparse_conv
from tests.clouds import lidar_like


def _layer(seed: int) -> list[torch.Tensor]:
    """Levels, maps, a convolution and its gradients, of a cloud of its own."""
    rng = torch.Generator().manual_seed(seed)
    coords = lidar_like(1500 + 100 * seed, batch_size=2)
    cache = CoordCache()
    coarse = cache.coarser(coords, Relation.of(2, 2))
    results = [coarse]
    for target, relation in ((coords, Relation.of(3)), (coarse, Relation.of(2, 2))):
        kmap = cache.kernel_map(coords, target, relation)
        feats = torch.randn(kmap.n_in, 24, generator=rng).requires_grad_()
        weight = torch.randn(kmap.volume, 24, 33, generator=rng).requires_grad_()
        out = sparse_conv(feats, weight, kmap)
        out.backward(torch.randn(out.shape, generator=rng))
        results += [*kmap.tensors(), out.detach(), feats.grad, weight.grad]
    return results


def _check_concurrent_calls() -> None:
    seeds = [0, 1, 2, 3] * 6
    alone = {seed: _layer(seed) for seed in set(seeds)}
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(_layer, seeds))
    for seed, results in zip(seeds, together, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(results, alone[seed], strict=True)), seed


def test_concurrent_calls_give_the_bits_of_calls_one_by_one():
    _check_concurrent_calls()


def _run(program: str, **environment: str) -> str:
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | paths | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_concurrent_calls_on_the_pool_that_does_not_take_them():
    # numba's own pool, all there is where neither OpenMP nor TBB can be loaded, aborts on concurrent calls
    program = """
import numba
from tests.kernels.test_threads import _check_concurrent_calls
_check_concurrent_calls()
print(numba.threading_layer())
"""
    assert _run(program, NUMBA_THREADING_LAYER="workqueue", NUMBA_NUM_THREADS="2") == "workqueue\n"


_COUNT = """
import os, sys
import torch
from pcsparse.kernels import cpu

# torch fills large tensors with threads of the same pool
torch.set_num_threads(1)
table = torch.zeros(27, 300_000, dtype=torch.int32)

def tasks():
    return len(os.listdir("/proc/self/task"))

def use(threads):
    torch.set_num_threads(threads)
    before = tasks()
    masks = cpu.row_masks(table, 1)
    grown = tasks() - before
    assert torch.get_num_threads() == threads
    assert bool((masks == 2**27 - 1).all())
    return grown

cpu.row_masks(table[:, :2000].contiguous(), 1)
# the calling thread works too, and OpenMP keeps or ends the others
print(use(1), use(2), use(4), use(3) <= 0, use(1) <= 0)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads in /proc")
@pytest.mark.parametrize(("most", "grown"), [("4", "0 1 2 True True"), ("2", "0 1 0 True True")])
def test_kernels_use_as_many_threads_as_torch_but_no_more_than_numba_has(most, grown):
    assert _run(_COUNT, NUMBA_NUM_THREADS=most, NUMBA_THREADING_LAYER="omp").strip() == grown


_CROWD = """
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import torch
from numba import prange
from pcsparse.kernels.cpu.launch import jit_parallel
from pcsparse.kernels.cpu.microkernel import next_item

@jit_parallel()
def work(running, seen, sums):
    for item in prange(sums.size):
        # how many were at work before this one, in all calls together
        seen[item] = next_item(running.ctypes.data) + 1
        for i in range(3_000_000):
            sums[item] += i % 7
        leave(running.ctypes.data)

running = np.zeros(1, np.int64)
most = []

def call(_):
    # torch's number of threads belongs to the calling thread
    torch.set_num_threads(THREADS)
    seen = np.zeros(THREADS, np.int64)
    work(running, seen, np.zeros(THREADS, np.int64))
    most.append(int(seen.max()))

call(0)
with ThreadPoolExecutor(4) as pool:
    list(pool.map(call, range(12)))
assert running[0] == 0
print(max(most))
"""

_LEAVE = """
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

@intrinsic
def leave(typing_context, counter):
    def codegen(context, builder, signature, args):
        place = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("sub", place, ir.IntType(64)(1), "monotonic")
    return types.int64(types.int64), codegen
"""


@pytest.mark.parametrize(("threads", "most"), [(2, 2), (1, 2), (3, 3)])
def test_calls_from_many_python_threads_take_no_more_threads_than_there_are(tmp_path, threads, most):
    # a file, because the cache of compiled code wants one
    program = tmp_path / "crowd.py"
    program.write_text(_LEAVE + _CROWD.replace("THREADS", str(threads)))
    found = _run(f"import runpy; runpy.run_path({str(program)!r})", NUMBA_NUM_THREADS=str(most))
    assert 1 <= int(found) <= most


def test_a_wide_call_gets_its_turn_among_narrow_ones():
    cores, stop, turns = _Cores(2), threading.Event(), []

    def narrow():
        while not stop.is_set():
            cores.run(1, time.sleep, (0.001,))

    crowd = [threading.Thread(target=narrow) for _ in range(3)]
    for thread in crowd:
        thread.start()
    wide = threading.Thread(target=lambda: [turns.append(cores.run(2, len, ((),))) for _ in range(5)])
    wide.start()
    wide.join(timeout=20)
    # when the narrow ones end, anybody gets a turn
    in_time = len(turns)
    stop.set()
    for thread in [*crowd, wide]:
        thread.join(timeout=20)
    assert in_time == 5


def test_calls_of_all_widths_never_take_more_cores_than_there_are():
    cores, lock, busy, most = _Cores(3), threading.Lock(), [0], [0]

    def work(wanted):
        with lock:
            busy[0] += wanted
            most[0] = max(most[0], busy[0])
        time.sleep(0.0005)
        with lock:
            busy[0] -= wanted

    def call(seed):
        widths = random.Random(seed)
        for _ in range(30):
            wanted = widths.randint(1, 5)
            cores.run(wanted, work, (min(wanted, 3),))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(call, range(6)))
    assert most[0] == 3


def test_cores_come_back_from_a_kernel_that_raises():
    cores = _Cores(2)

    def fail():
        raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            cores.run(2, fail, ())
    assert cores.run(2, len, ((),)) == 0


def test_a_thread_that_was_interrupted_at_the_wrong_moment_goes_on():
    cores = _Cores(2)
    # what an interrupt between the end of a kernel and its clean-up leaves
    cores._running[threading.get_ident()] = 2
    assert cores.run(2, len, ((),)) == 0
    assert not cores._running
