"""Kernels whose threads meet in memory, with real threads: no race, and the table of the twin."""

import math
from dataclasses import replace

import pytest
import torch

from pcsparse.coords.relation import Relation
from pcsparse.kernels import reference
from pcsparse.kernels.jobs import LevelStep, Search
from tests.emulation import gpu_kernels

gpu = gpu_kernels()
# the package of the GPU kernels asks for cupy, for which there is a stand-in now
from pcsparse.kernels.gpu import (  # noqa: E402
    cuda_text,
    first_levels,
    grid,
    keys,
    lookup,
    mailbox,
    match,
    tables,
)
from tests.kernels import cuda_shim  # noqa: E402
from tests.kernels.cuda_shim import threads  # noqa: E402
from tests.kernels.test_implicit_gemm import _epilogue, _operands, _table  # noqa: E402


def _launch(file, name, blocks, n_threads, *args, shared=0):
    """As `threads.launch`; the place of a letter is an address, and stands for the words there."""
    box = mailbox._HERE.boxes.get(torch.device("cpu"))
    words = {} if box is None else {box.address + 8 * i: box._memory[i:] for i in range(mailbox.WORDS)}
    args = [words.get(arg, arg) if type(arg) is int else arg for arg in args]
    threads.launch(file, name, blocks, n_threads, *args, shared=shared)


@pytest.fixture
def threaded(monkeypatch):
    monkeypatch.setattr(mailbox, "_HERE", mailbox._Boxes())
    monkeypatch.setattr(cuda_text, "launch", _launch)
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
extern "C" __global__ void turned(int *out) {
    __shared__ int mine[32], more;
    mine[threadIdx.x] = threadIdx.x;
    if (threadIdx.x == 0) more = blockIdx.x;
    SYNC;
    out[32 * blockIdx.x + threadIdx.x] = mine[31 - threadIdx.x] + 100 * more;
}
extern "C" __global__ void counted_all(int *out) {
    int n = 0;
    for (int i = 0; i < 3; i++) n += __syncthreads_count((int)threadIdx.x > i);
    out[threadIdx.x] = n;
}
extern "C" __global__ void over_lanes(unsigned *out) {
    unsigned lane = threadIdx.x;
    out[lane] = __reduce_max_sync(0xffffffffu, lane ^ 5) + (__ballot_sync(0xffffffffu, lane & 1) & 255) +
                __shfl_up_sync(0xffffffffu, lane, 3) + __shfl_xor_sync(0xffffffffu, lane, 1);
    __syncwarp();
    atomicMax(out, 1000u + lane);
}
extern "C" __global__ void last_of_all(int *out) {
    __shared__ int ticket;
    if (threadIdx.x == 0) {
        out[2 + blockIdx.x] = 5;
        BEFORE;
        ticket = atomicAdd(out, 1);
    }
    __syncthreads();
    if (ticket != (int)gridDim.x - 1) return;
    AFTER;
    if (threadIdx.x == 0)
        for (int i = 0; i < (int)gridDim.x; i++) out[1] += out[2 + i];
}
extern "C" __global__ void flagged(unsigned *out) { if (!(*(volatile unsigned *)out & 1)) atomicOr(out, 1u); }
extern "C" __global__ void flagged_by_all(unsigned *out) {
    if (!(*(volatile unsigned *)out & 1)) *(volatile unsigned *)out = 1;
}
"""


def _run(name, blocks, n_threads, **words) -> torch.Tensor:
    out, text = torch.zeros(blocks * n_threads, dtype=torch.int32), RACES
    for word, meant in {"SYNC": "", "BEFORE": "", "AFTER": "", **words}.items():
        text = text.replace(word, meant)
    threads.run_text(text, name, blocks, n_threads, out)
    return out


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
    if races:
        with pytest.raises(AssertionError, match=f"kernel {name} races"):
            _run(name, 1, 32, SYNC=sync)
    else:
        assert _run(name, 1, 32, SYNC=sync)[31] == {"counted": 0, "told": 2}[name]


@pytest.mark.parametrize(("sync", "races"), [("__syncthreads()", False), ("__syncwarp()", False), ("", True)])
def test_the_threads_share_the_memory_of_their_block_alone(sync, races):
    if races:
        with pytest.raises(AssertionError, match="kernel turned races"):
            _run("turned", 3, 32, SYNC=sync)
    else:
        out = _run("turned", 3, 32, SYNC=sync)
        assert out.tolist() == [31 - i % 32 + 100 * (i // 32) for i in range(96)]


def test_the_threads_count_and_reduce():
    assert _run("counted_all", 1, 64).tolist() == [63 + 62 + 61] * 64
    out = _run("over_lanes", 1, 32)
    assert out[0] == 1031
    found = [31 + 170 + (i - 3 if i >= 3 else i) + (i ^ 1) for i in range(1, 32)]
    assert out[1:].tolist() == found


FENCE = "__threadfence()"


@pytest.mark.parametrize(("before", "after"), [(FENCE, FENCE), (FENCE, ""), ("", FENCE)])
def test_the_threads_show_a_missing_fence(before, after):
    if before and after:
        assert _run("last_of_all", 4, 32, BEFORE=before, AFTER=after)[1] == 20
    else:
        with pytest.raises(AssertionError, match="kernel last_of_all races"):
            _run("last_of_all", 4, 32, BEFORE=before, AFTER=after)


def test_a_volatile_load_beside_an_atomic_is_no_race():
    assert _run("flagged", 2, 32)[0] == 1
    with pytest.raises(AssertionError, match="kernel flagged_by_all races"):
        _run("flagged_by_all", 2, 32)


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


def _cells(n: int, spread: int) -> torch.Tensor:
    """Rows whose keys ascend."""
    rng = torch.Generator().manual_seed(5)
    rows = torch.unique(torch.randint(spread, (n, 3), generator=rng), dim=0)
    return torch.cat([torch.zeros(len(rows), 1, dtype=torch.int64), rows], dim=1).int()


HALF = LevelStep((2, 2, 2), (2, 2, 2), (1, 1, 1), (0, 0, 0), ((0, 0, 0, 0), (3, 20, 20, 20)))


def test_rows_are_packed_and_told_of_without_a_race(threaded, monkeypatch):
    monkeypatch.setattr(keys, "THREADS", 64)
    rows = _cells(300, 9)
    expected = reference.pack_rows(rows)
    packed = gpu.pack_rows(rows)
    assert torch.equal(packed[0], expected[0])
    assert packed[1:] == expected[1:]
    assert gpu.key_extent(packed[0]) == expected[1:3]
    assert gpu.ascend(packed[0])


def test_levels_of_known_bounds_are_counted_and_listed_without_a_race(threaded, monkeypatch):
    monkeypatch.setattr(grid, "_THREADS", 32)
    monkeypatch.setattr(grid, "_CHUNK", 32 * 128)
    rows = _cells(300, 39)
    low, high = reference.pack_rows(rows)[1:3]
    ends = (0, *[end // 2 for end in high[1:]])
    packed, steps = reference.pack_rows(rows)[0], [replace(HALF, bounds=(low, ends))] * 2
    expected = reference.reached_levels(packed, steps)
    for got, want in zip(gpu.reached_levels(packed, steps), expected, strict=True):
        assert all(map(torch.equal, got, want))


@pytest.mark.parametrize("n", [1, 2])
def test_first_levels_are_planned_counted_and_listed_without_a_race(threaded, monkeypatch, n):
    monkeypatch.setattr(first_levels, "_MOST_BLOCKS", 2)
    rows = _cells(200, 39)
    # a level of 5 chunks, so that a block reads several, and one of 1
    rows = torch.cat([rows, torch.tensor([[0, 103, 103, 103]], dtype=torch.int32)])
    steps = [replace(HALF, bounds=((0, 0, 0, 0), (3, 60, 60, 60)))] * n
    *_, expected, _ = reference.pack_and_reach(rows, steps)
    *_, levels, _ = gpu.pack_and_reach(rows, steps)
    for got, want in zip(levels, expected, strict=True):
        assert all(map(torch.equal, got, want))


def test_pairs_are_counted_and_listed_without_a_race(threaded, monkeypatch, rng):
    monkeypatch.setattr(tables, "_THREADS", 64)
    monkeypatch.setattr(tables, "_CHUNK", 4 * 64)
    table = torch.randint(-20, 40, (5, 131), generator=rng).clamp(min=-1).int()
    for got, want in zip(gpu.table_to_pairs(table), reference.table_to_pairs(table), strict=True):
        assert torch.equal(got, want)


def test_a_block_searches_without_a_race(threaded, monkeypatch):
    monkeypatch.setattr(match, "_THREADS", 32)
    search = replace(_search("search"), symmetric=False)
    (expected,) = reference.match_tables([replace(search, out=None)])
    (found,) = gpu.match_tables([search])
    assert torch.equal(found[:, :-9], expected)


def _eie(rng, n_out, n_in, item):
    codes = torch.randint(16, (n_out, n_in), generator=rng, dtype=torch.uint8)
    codes[torch.rand(n_out, n_in, generator=rng) < 0.7] = 0
    codebook = torch.cat([torch.zeros(1), torch.randn(15, generator=rng)])
    x = torch.randn(item, n_in, generator=rng)
    x[torch.rand(item, n_in, generator=rng) < 0.4] = 0
    return codes, codebook, x, x @ codebook[codes.long()].T


def test_eie_by_columns_adds_without_a_race(threaded, rng):
    codes, codebook, x, expected = _eie(rng, 270, 70, 1)
    columns, rows = codes.T.nonzero(as_tuple=True)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), (codes != 0).sum(dim=0).cumsum(0)])
    layout = gpu.eie_layout(starts, rows, codes[rows, columns], codebook, 270)
    out = gpu.eie_linear(x, layout, None, 270)
    torch.testing.assert_close(out, expected)


def test_eie_by_rows_adds_without_a_race(threaded, rng):
    codes, codebook, x, expected = _eie(rng, 20, 8200, 1)
    rows, columns = codes.nonzero(as_tuple=True)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), (codes != 0).sum(dim=1).cumsum(0)])
    layout = gpu.eie_row_layout(starts, columns.int(), codes[rows, columns], codebook, 8200)
    out = gpu.eie_row_linear(x, layout, None, 20)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


def test_a_product_with_2_of_4_adds_without_a_race(threaded, rng):
    values = torch.randn(12, 24, generator=rng)
    # of a byte the first and the second of four, twice
    positions = torch.full((12, 6), 0x44, dtype=torch.uint8)
    x = torch.randn(5, 48, generator=rng)
    expected = reference.two_four_matvec(x, values, positions, None, False)
    torch.testing.assert_close(gpu.two_four_matvec(x, values, positions, None, False), expected)


def test_the_farthest_points_are_found_without_a_race(threaded, rng):
    points = torch.rand(700, 3, generator=rng)
    starts, first = torch.tensor([0, 300, 700]), torch.tensor([5, 310])
    counts = torch.tensor([6, 6])
    expected = reference.farthest_points(points, starts, first, counts)
    assert torch.equal(gpu.farthest_points(points, starts, first, counts), expected)


def test_neighbours_are_found_without_a_race(threaded, rng):
    points, queries = torch.rand(200, 3, generator=rng), torch.rand(40, 3, generator=rng)
    given = points, torch.tensor([0, 200]), queries, torch.tensor([0, 40]), 4, math.inf
    for got, want in zip(gpu.k_nearest(*given), reference.k_nearest(*given), strict=True):
        assert torch.equal(got, want)


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
