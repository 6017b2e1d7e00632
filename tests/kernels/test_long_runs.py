"""Loops of kernels that run once on small clouds: here a thread takes several rows, a block many bits."""

import pytest
import torch

from pcsparse.kernels import reference
from pcsparse.kernels.jobs import LevelStep
from pcsparse.kernels.select import backend_of
from tests.emulation import gpu_kernels

gpu = gpu_kernels()
# the package of the GPU kernels asks for cupy, for which there is a stand-in now
from pcsparse.kernels.gpu import first_levels, grid, keys  # noqa: E402

EVERYWHERE = ((0, -130_000, -130_000, -32_000), (2046, 130_000, 130_000, 32_000))
HALF = LevelStep((2, 2, 2), (2, 2, 2), (1, 1, 1), (0, 0, 0), EVERYWHERE)
# cells of its first level: those of one chunk of bits
BLOCK = (16, 16, 16)


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    """Rows whose first level has 8 chunks of 16 x 16 x 128 cells: 4,096 in one, some 60 in each other."""
    solid = torch.cartesian_prod(*map(torch.arange, BLOCK))
    draw = torch.Generator().manual_seed(5)
    others = [torch.rand(60, 3, generator=draw) * torch.tensor([16, 16, 128]) for _ in range(7)]
    thin = [part.int() + torch.tensor([16 * (i + 1), 0, 0]) for i, part in enumerate(others)]
    # the far corner, so that all of them are there
    cells = torch.cat([solid, *thin, torch.tensor([[127, 15, 127]])]).unique(dim=0)
    return torch.cat([torch.zeros(len(cells), 1, dtype=torch.int64), 2 * cells], dim=1).int()


def test_the_cloud_is_what_it_should_be(rows):
    cells = reference.reached_levels(reference.pack_rows(rows)[0], [HALF])[0][1][:, 1:].long()
    bits = (cells[:, 0] * 16 + cells[:, 1]) * 128 + cells[:, 2]
    counts = torch.bincount(bits // (32 * first_levels._CHUNK))
    assert counts.tolist()[0] == 4096
    assert len(counts) == 8
    assert int(counts.min()) > 40


@pytest.mark.parametrize("blocks", [1, 2])
def test_threads_that_pack_several_rows_each(gpu_or_emulated, monkeypatch, rows, blocks):
    monkeypatch.setattr(keys, "_MOST_BLOCKS", blocks)
    expected = reference.pack_rows(rows)
    got = backend_of(rows.to(gpu_or_emulated)).pack_rows(rows.to(gpu_or_emulated))
    assert torch.equal(got[0].cpu(), expected[0])
    assert got[1:] == expected[1:]
    # what each fact comes from, in every round
    for row in range(100, len(rows), 997):
        odd = rows.clone()
        odd[row] = torch.tensor([1, 400, -400, 400])
        packed = gpu.pack_rows(odd.to(gpu_or_emulated))
        want = reference.pack_rows(odd)
        assert packed[1:] == want[1:]
        assert not packed[3]
        assert gpu.key_extent(packed[0]) == want[1:3]
        assert not gpu.ascend(packed[0])


# of the most, 572 have a run, and a thread of the last block adds up three
@pytest.mark.parametrize("blocks", [1, 2, 1024])
def test_blocks_that_read_several_chunks_and_list_in_rounds(gpu_or_emulated, monkeypatch, rows, blocks):
    monkeypatch.setattr(first_levels, "_MOST_BLOCKS", blocks)
    steps = [HALF, HALF, HALF]
    *_, expected, _ = reference.pack_and_reach(rows, steps)
    *_, levels, _ = gpu.pack_and_reach(rows.to(gpu_or_emulated), steps)
    assert levels is not None
    for got, want in zip(levels, expected, strict=True):
        assert all(torch.equal(a.cpu(), b) for a, b in zip(got, want, strict=True))


def test_the_last_block_adds_up_several_blocks_a_thread(gpu_or_emulated, monkeypatch, rows):
    # 64 blocks, and 256
    monkeypatch.setattr(grid, "_THREADS", 32)
    monkeypatch.setattr(grid, "_CHUNK", 32 * 128)
    packed = reference.pack_rows(rows)[0]
    bounds = ((0, 0, 0, 0), (0, 127, 15, 127))
    steps = [LevelStep(HALF.size, HALF.stride, HALF.dilation, HALF.first, bounds)] * 2
    expected = reference.reached_levels(packed, steps)
    levels = gpu.reached_levels(packed.to(gpu_or_emulated), steps)
    for got, want in zip(levels, expected, strict=True):
        assert all(torch.equal(a.cpu(), b) for a, b in zip(got, want, strict=True))
