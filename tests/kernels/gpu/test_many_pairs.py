"""Lists of the weight gradient where the number of pairs comes near 2^31."""

import sys

import pytest
import torch

pytest.importorskip("triton")

from pcsparse.kernels import reference
from pcsparse.kernels.select import backend_of
from tests.emulation import emulate, gpu_kernels
from tests.tolerance import tolerance


def _module():
    gpu_kernels()
    # the package has a function of this module's name, or may have one
    return sys.modules["pcsparse.kernels.gpu.weight_gradient"]


@pytest.mark.parametrize(
    ("k", "n_out", "kind"),
    [(27, 1 << 20, torch.int32), (343, 1 << 23, torch.int64), (128, (1 << 24) - 1, torch.int64)],
    ids=["few", "too many", "hardly fewer"],
)
def test_places_beyond_32_bits_are_counted_in_64(monkeypatch, k, n_out, kind):
    module, given = _module(), []
    monkeypatch.setattr(module, "_COUNT", lambda *launch: None)
    monkeypatch.setattr(module, "_PACK", lambda grid, tensors, *rest: given.extend(tensors))
    # without memory
    layout = module.grad_weight_layout(torch.empty(k, n_out, dtype=torch.int32, device="meta"))

    ends, starts = given[2], given[5]
    assert (ends.dtype, starts.dtype) == (kind, kind)
    assert layout[2] is starts


@pytest.mark.parametrize("partials", [0, 5])
def test_long_lists_are_those_of_short_ones(device, monkeypatch, rng, partials):
    if device.type == "cpu":
        emulate(monkeypatch)
    backend = backend_of(torch.zeros(1, device=device))
    monkeypatch.setattr(_module(), "_SHORT", 0)
    table = torch.randint(-20, 30, (5, 1100), generator=rng, dtype=torch.int32).clamp(min=-1)
    feats, grad_out = torch.randn(30, 4, generator=rng), torch.randn(1100, 8, generator=rng)
    layout = backend.grad_weight_layout(table.to(device))
    assert layout[2].dtype == torch.int64
    actual = backend.implicit_gemm_grad_weight(
        feats.to(device), grad_out.to(device), table.to(device), layout, partials=partials
    ).cpu()

    expected = reference.implicit_gemm_grad_weight(feats.double(), grad_out.double(), table, [table]).float()
    torch.testing.assert_close(actual, expected, **tolerance(torch.float32, terms=1100, factor=64))


@pytest.mark.parametrize(("k", "n_out"), [(27, 1 << 27), (70_000, 3)], ids=["rows", "offsets"])
def test_only_the_first_axis_of_a_grid_is_long(monkeypatch, k, n_out):
    """The others end at 65,535, and a driver says no more than that an argument is wrong."""
    module, grids = _module(), []
    for name in ("_COUNT", "_PACK"):
        monkeypatch.setattr(module, name, lambda grid, *rest: grids.append(grid))
    module.grad_weight_layout(torch.empty(k, n_out, dtype=torch.int32, device="meta"))

    assert len(grids) == 2
    assert all(0 < grid[0] < 2**31 and max(grid[1:]) <= 65_535 for grid in grids)


def test_the_lists_of_many_offsets_are_those_of_the_table(gpu_or_emulated, rng):
    table = torch.randint(-9, 4, (37, 1030), generator=rng, dtype=torch.int32).clamp(min=-1)
    backend = backend_of(torch.zeros(1, device=gpu_or_emulated))
    rows_in, rows_out, starts = (part.cpu() for part in backend.grad_weight_layout(table.to(gpu_or_emulated)))

    offset, row = (table >= 0).nonzero(as_tuple=True)
    total = int(starts[-1])
    assert torch.equal(starts.diff().long(), (table >= 0).sum(dim=1))
    assert torch.equal(rows_out[:total].long(), row)
    assert torch.equal(rows_in[:total], table[offset, row])
