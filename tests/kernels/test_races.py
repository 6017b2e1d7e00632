"""Kernels whose threads meet in memory, with real threads: no race, and the table of the twin."""

from dataclasses import replace

import pytest
import torch

from pcsparse.coords.relation import Relation
from pcsparse.kernels import reference
from pcsparse.kernels.jobs import Search
from tests.emulation import gpu_kernels

gpu = gpu_kernels()
# the package of the GPU kernels asks for cupy, for which there is a stand-in now
from pcsparse.kernels.gpu import cuda_text, lookup  # noqa: E402
from tests.kernels import cuda_shim  # noqa: E402
from tests.kernels.cuda_shim import threads  # noqa: E402
from tests.kernels.test_implicit_gemm import _epilogue, _operands, _table  # noqa: E402


@pytest.fixture
def threaded(monkeypatch):
    monkeypatch.setattr(cuda_text, "launch", threads.launch)
    # several blocks of few threads
    monkeypatch.setattr(lookup, "_THREADS", 32)


RACES = """
extern "C" __global__ void both(int *out) { out[0] = 7; }
extern "C" __global__ void counted(int *out) { atomicAdd(out, 1); }
__device__ static int4 four(int v) {
    int4 all = {v, v, v, v};
    for (int i = 0; i < v; i++) all.x ^= all.w << (i & 15), all.w ^= all.x >> 3;
    return all;
}
extern "C" __global__ void returned(int4 *out) { out[0] = four(threadIdx.x), out[1] = four(blockIdx.x); }
extern "C" __global__ void told(int *out) {
    out[threadIdx.x] = 1;
    SYNC;
    if (threadIdx.x == 0) out[31] = 2;
}
"""


@pytest.mark.parametrize(
    ("name", "sync", "races"),
    [
        ("both", "", True),
        ("returned", "", True),
        ("counted", "", False),
        ("told", "__syncwarp()", False),
        ("told", "__syncthreads()", False),
        # a shuffle does not order memory
        ("told", "__shfl_sync(0xffffffffu, 1, 0)", True),
    ],
)
def test_the_threads_show_a_race(name, sync, races):
    out = torch.zeros(32, dtype=torch.int32)
    text = RACES.replace("SYNC", sync)
    if races:
        with pytest.raises(AssertionError, match=f"kernel {name} races"):
            threads.run_text(text, name, 1, 32, out)
    else:
        threads.run_text(text, name, 1, 32, out)
        assert out[31] == {"counted": 0, "told": 2}[name]


def _search(way: str) -> Search:
    """Some blocks of queries in each of two columns, the other half of the offsets mirrored."""
    rng = torch.Generator().manual_seed(3)
    rows = torch.unique(torch.randint(-3, 4, (150, 3), generator=rng), dim=0)
    rows = torch.cat([torch.ones(len(rows), 1, dtype=torch.int64), rows], dim=1).int()
    keys, low, high, _ = reference.pack_rows(rows)
    order = torch.randperm(len(keys), generator=rng).int()
    relation = Relation.of((1, 3, 3))
    room = torch.full((9, len(keys) + 9), 7, dtype=torch.int32)
    return Search(
        keys, keys, relation.key_steps(), order_in=order, order_out=order, symmetric=relation.is_symmetric,
        out=room, bounds=(low, high), how=way,
    )  # fmt: skip


@pytest.mark.parametrize("way", ["grid", "hash", "runs"])
def test_keys_are_let_in_and_found_without_a_race(threaded, way):
    search = _search(way)
    (expected,) = reference.match_tables([replace(search, out=None)])
    (found,) = gpu.match_tables([search])
    assert torch.equal(found[:, :-9], expected)
    assert bool((found[:, -9:] == -1).all())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_rows_are_listed_and_fetched_without_a_race(threaded, monkeypatch, rng, dtype):
    """The same bits as one thread after the other, too."""
    table = _table(rng, 5, 61, 44)
    operands = _operands(rng, dtype, table, 61, 16, 24)
    extra = _epilogue(rng, "everything", 44, 24, dtype)
    found = []
    for run in (threads.launch, cuda_shim.launch):
        monkeypatch.setattr(cuda_text, "launch", run)
        layout = gpu.fetch_layout(table)
        found.append([gpu.fetch_on_demand(*operands, layout, 44, lanes, 64, **extra) for lanes in (2, 8)])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
