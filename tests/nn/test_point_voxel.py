"""Between points and voxels: means by loops, planes that interpolation keeps, and levels that do not fit."""

import pytest
import torch

from pcsparse import SparseTensor
from pcsparse.coords.relation import Relation
from pcsparse.errors import RangeError
from pcsparse.nn import PointsToVoxels, VoxelsToPoints
from tests.clouds import UNSORTED


def _levels(coords: torch.Tensor, feats: torch.Tensor, ratio: int) -> tuple[SparseTensor, SparseTensor]:
    points = SparseTensor(feats, coords, stride=2)
    coarse = points.cache.coarser(coords, Relation.of(ratio, ratio))
    return points, points.at(torch.zeros(len(coarse), feats.shape[1]), coarse, (2 * ratio,) * 3)


def test_voxels_get_the_mean_of_their_points(rng):
    points, x = _levels(UNSORTED.coords, torch.randn(len(UNSORTED.coords), 3, generator=rng), 2)
    out = PointsToVoxels()(points, x)
    assert (out.coords is x.coords, out.stride) == (True, (4, 4, 4))
    cells = [[i // 2 for i in cell] for _, *cell in UNSORTED.coords.tolist()]
    for (_, *cell), value in zip(x.coords.tolist(), out.feats, strict=True):
        mine = [row for row, found in enumerate(cells) if found == cell]
        torch.testing.assert_close(value, points.feats[mine].mean(dim=0))


def test_a_plane_is_kept_where_all_corners_are_there():
    cells = torch.cartesian_prod(*[torch.arange(-6, 6)] * 3)
    coords = torch.cat([torch.zeros(len(cells), 1), cells], dim=1).int()
    points, x = _levels(coords, torch.zeros(len(coords), 1), 4)
    slope = torch.tensor([[2.0], [-1.0], [0.5]])
    # a coarse voxel stands at its first fine cell
    x = x.replace(4.0 * x.coords[:, 1:].float() @ slope + 3.0)
    out = VoxelsToPoints()(x, points)
    inner = (cells < 4).all(dim=1)
    torch.testing.assert_close(out.feats[inner], (cells.float() @ slope + 3.0)[inner])
    # at the rim the last voxels are all there is
    assert torch.equal(out.feats[-1], x.feats[-1])


def test_one_level_is_left_as_it_is(rng):
    points = SparseTensor(torch.randn(len(UNSORTED.coords), 3, generator=rng), UNSORTED.coords)
    assert VoxelsToPoints()(points, points) is points
    assert PointsToVoxels()(points, points) is points


def test_levels_that_do_not_fit_are_refused():
    points, x = _levels(UNSORTED.coords, torch.zeros(len(UNSORTED.coords), 1), 2)
    odd = x.at(x.feats, x.coords, (3, 4, 4))
    for module, arguments in ((VoxelsToPoints(), (odd, points)), (PointsToVoxels(), (points, odd))):
        with pytest.raises(RangeError, match=r"stride \(3, 4, 4\) do not hold whole points of stride"):
            module(*arguments)
