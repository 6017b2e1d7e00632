"""Trilinear interpolation between levels: against loops, its gradient, and what its operator refuses."""

import pytest
import torch

from pcsparse.coords.cache import CoordCache
from pcsparse.coords.corner_map import CornerMap
from pcsparse.coords.relation import Relation
from pcsparse.errors import DtypeError, RangeError, ShapeError, UnsupportedError
from pcsparse.ops import trilinear
from tests.clouds import CLUMPED, TWO_BATCHES
from tests.tolerance import tolerance


def _corners(coords, ratio: int = 2) -> CornerMap:
    cache = CoordCache()
    return cache.corner_map(coords, cache.coarser(coords, Relation.of(ratio, ratio)), (ratio,) * 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_values_are_those_of_a_loop(rng, dtype):
    corners = _corners(TWO_BATCHES.coords)
    feats = torch.randn(corners.n_in, 5, generator=rng).to(dtype)
    out = trilinear(feats, corners)
    starts = corners.starts.tolist()
    for i in range(corners.n_out):
        expected = torch.zeros(5, dtype=torch.float64)
        for j in range(starts[i], starts[i + 1]):
            expected += corners.weights[j] * feats[corners.rows[j]].double()
        torch.testing.assert_close(out[i], expected.to(dtype), **tolerance(dtype, terms=16))
    assert out.dtype == dtype


def test_gradients(rng):
    corners = _corners(CLUMPED.coords)
    feats = torch.randn(corners.n_in, 2, generator=rng, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: trilinear(values, corners), (feats,))


def test_bits_do_not_depend_on_the_threads(rng):
    corners = _corners(CLUMPED.coords, 4)
    feats = torch.randn(corners.n_in, 33, generator=rng, requires_grad=True)
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            out = trilinear(feats, corners)
            found.append((out, *torch.autograd.grad(out.square().sum(), feats)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_torch_knows_its_shapes(rng):
    corners = _corners(TWO_BATCHES.coords)
    feats = torch.randn(corners.n_in, 3, generator=rng, requires_grad=True)
    arguments = (feats, corners.rows, corners.weights, corners.starts)
    torch.library.opcheck(torch.ops.pcsparse.trilinear.default, arguments)
    assert trilinear(feats.to("meta"), corners).shape == (corners.n_out, 3)
    (grad,) = torch.autograd.grad(trilinear(feats, corners).square().sum(), feats, create_graph=True)
    with pytest.raises(UnsupportedError, match="no second derivatives"):
        grad.sum().backward()


def test_wrong_operands_are_refused(rng):
    corners = _corners(TWO_BATCHES.coords)
    with pytest.raises(ShapeError, match="feats"):
        trilinear(torch.zeros(corners.n_in + 1, 3), corners)
    run = torch.ops.pcsparse.trilinear.default
    feats, weights = torch.zeros(2, 3), torch.ones(2)
    starts, rows = torch.tensor([0, 1, 2]), torch.tensor([0, 1], dtype=torch.int32)
    assert run(feats, rows, weights, starts).shape == (2, 3)
    for wrong in (torch.tensor([0, 2], dtype=torch.int32), torch.tensor([-1, 0], dtype=torch.int32)):
        with pytest.raises(RangeError, match="must lead to the 2 rows of feats"):
            run(feats, wrong, weights, starts)
    for wrong in (torch.tensor([0, 3, 2]), torch.tensor([0, 1, 3]), torch.tensor([1, 1, 2])):
        with pytest.raises(RangeError, match="must lead to"):
            run(feats, rows, weights, wrong)
    with pytest.raises(ShapeError, match="weights"):
        run(feats, rows, torch.ones(3), starts)
    with pytest.raises(ShapeError, match="starts must be"):
        run(feats, rows, weights, torch.zeros(0, dtype=torch.int64))
    with pytest.raises(DtypeError, match="feats"):
        run(feats.int(), rows, weights, starts)
    with pytest.raises(DtypeError, match="rows"):
        run(feats, rows.long(), weights, starts)
