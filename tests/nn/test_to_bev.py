"""ToBEV against loops over voxels, its gradient, and voxels that its grid does not hold."""

import pytest
import torch

from pcsparse import SparseTensor
from pcsparse.errors import RangeError
from pcsparse.nn import SparseConv3d, ToBEV, prepare

LOWER, SHAPE = (-2, 3, -1), (5, 4, 3)


def _voxels(rng: torch.Generator, n: int = 20, clouds: int = 3) -> SparseTensor:
    """Voxels inside the grid, in any order; the last cloud is empty."""
    cells = torch.randperm((clouds - 1) * 5 * 4 * 3, generator=rng)[:n]
    coords = torch.stack([cells // 60, cells // 12 % 5 - 2, cells // 3 % 4 + 3, cells % 3 - 1], dim=1)
    feats = torch.randn(n, 2, generator=rng, dtype=torch.float64)
    return SparseTensor(feats, coords.int(), stride=4, batch_size=clouds)


def test_a_height_is_a_channel(rng, device):
    x = _voxels(rng)
    out = ToBEV(LOWER, SHAPE)(x.to(device)).cpu()
    # (batch, c * d + z, y, x), as a detector's first 2-D convolution reads it
    expected = torch.zeros(3, 2 * 3, 4, 5, dtype=torch.float64)
    for (cloud, i, j, k), row in zip(x.coords.tolist(), x.feats.tolist(), strict=True):
        for c, value in enumerate(row):
            expected[cloud, 3 * c + k + 1, j - 3, i + 2] = value
    assert torch.equal(out, expected)
    assert not out[2].any()


def test_the_order_of_voxels_does_not_show(rng):
    x = _voxels(rng)
    order = torch.randperm(len(x), generator=rng)
    other = SparseTensor(x.feats[order], x.coords[order], stride=4, batch_size=3)
    assert torch.equal(ToBEV(LOWER, SHAPE)(x), ToBEV(LOWER, SHAPE)(other))


@pytest.mark.parametrize("outside", ["error", "crop"])
def test_gradients_come_back_to_their_voxels(rng, outside):
    x = _voxels(rng)
    lower, shape = (LOWER, SHAPE) if outside == "error" else ((-1, 3, -1), (4, 2, 3))
    bev = ToBEV(lower, shape, outside=outside)

    def mapped(feats):
        return bev(SparseTensor(feats, x.coords, stride=4, batch_size=3))

    assert torch.autograd.gradcheck(mapped, (x.feats.clone().requires_grad_(),))


def test_voxels_outside_are_an_error_or_cropped(rng):
    x = _voxels(rng)
    coords = x.coords.clone()
    coords[4, 3], coords[7, 1], coords[9, 2] = 2, -3, 7
    moved = SparseTensor(x.feats, coords, stride=4, batch_size=3)
    with pytest.raises(RangeError, match="3 of 20 voxels lie outside the box"):
        ToBEV(LOWER, SHAPE)(moved)
    inside = [i for i in range(20) if i not in (4, 7, 9)]
    rest = SparseTensor(x.feats[inside], x.coords[inside], stride=4, batch_size=3)
    assert torch.equal(ToBEV(LOWER, SHAPE, outside="crop")(moved), ToBEV(LOWER, SHAPE)(rest))
    # a cloud that is all outside, and none at all
    far = ToBEV((90, 90, 90), (2, 2, 2), outside="crop")
    assert far(x).shape == (3, 4, 2, 2)
    assert not far(x).any()
    nothing = SparseTensor(torch.zeros(0, 2), torch.zeros(0, 4, dtype=torch.int32), batch_size=1)
    assert ToBEV(LOWER, SHAPE)(nothing).shape == (1, 6, 4, 5)


def test_two_voxels_in_a_cell_are_an_error():
    x = SparseTensor(torch.ones(2, 1), torch.tensor([[0, 0, 3, 0]] * 2, dtype=torch.int32))
    with pytest.raises(RangeError):
        ToBEV(LOWER, SHAPE)(x)


@pytest.mark.parametrize("outside", ["error", "crop"])
def test_maps_are_prepared_through_it(rng, outside):
    net = torch.nn.Sequential(
        SparseConv3d(2, 4, 2, 2), ToBEV((-1, 1, -1), (3, 3, 2), outside=outside)
    ).double()
    x = _voxels(rng)
    if outside == "crop":
        x.coords[0, 1] = 40
    assert len(prepare(net, x).cache) == 1
    assert net(x).shape == (3, 8, 3, 3)


def test_grids_without_cells_are_refused():
    with pytest.raises(RangeError, match=r"shape=\(0, 1, 1\)"):
        ToBEV((0, 0, 0), (0, 1, 1))
    with pytest.raises(RangeError, match="outside='drop'"):
        ToBEV((0, 0, 0), (1, 1, 1), outside="drop")
    assert repr(ToBEV(LOWER, SHAPE)) == "ToBEV(lower=(-2, 3, -1), shape=(5, 4, 3), outside='error')"
