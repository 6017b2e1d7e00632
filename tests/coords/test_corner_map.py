"""The corners around fine voxels, against dictionaries and loops."""

import itertools

import pytest
import torch

from pcsparse.coords.cache import CoordCache
from pcsparse.coords.corner_map import CornerMap
from pcsparse.coords.relation import Relation
from pcsparse.errors import RangeError
from tests.clouds import CLOUDS


def _oracle(fine, coarse, ratio) -> list[dict[int, float]]:
    """Weight by coarse row, for each fine voxel; from the definition."""
    rows = {tuple(voxel): row for row, voxel in enumerate(coarse.tolist())}
    found = []
    for cloud, *cell in fine.tolist():
        weights = {}
        for corner in itertools.product((0, 1), repeat=3):
            weight, place = 1.0, [cloud]
            for i in range(3):
                # a coarse voxel stands where its first fine cell is, and reaches one voxel far
                at = cell[i] // ratio[i] + corner[i]
                weight *= max(0.0, 1.0 - abs(cell[i] - ratio[i] * at) / ratio[i])
                place.append(at)
            row = rows.get(tuple(place))
            if row is not None and weight > 0:
                weights[row] = weight
        total = sum(weights.values())
        found.append({row: weight / total for row, weight in weights.items()})
    return found


def _dict(corners: CornerMap) -> list[dict[int, float]]:
    ends = zip(corners.starts[:-1].tolist(), corners.starts[1:].tolist(), strict=True)
    return [
        dict(zip(corners.rows[a:b].tolist(), corners.weights[a:b].tolist(), strict=True)) for a, b in ends
    ]


@pytest.mark.parametrize("ratio", [(2, 2, 2), (4, 4, 4), (3, 2, 1)], ids=str)
@pytest.mark.parametrize("cloud", CLOUDS.values(), ids=CLOUDS.keys())
def test_corners_and_weights_are_those_of_a_loop(rng, cloud, ratio):
    fine = cloud.coords
    coarse = torch.unique(torch.div(fine, torch.tensor((1, *ratio)), rounding_mode="floor"), dim=0).int()
    # rows of a level may stand in any order
    coarse = coarse[torch.randperm(len(coarse), generator=rng)]
    corners = CoordCache().corner_map(fine, coarse, ratio)

    assert (corners.n_in, corners.n_out) == (len(coarse), len(fine))
    expected = _oracle(fine, coarse, ratio)
    assert [sorted(found) for found in _dict(corners)] == [sorted(found) for found in expected]
    for found, wanted in zip(_dict(corners), expected, strict=True):
        for row, weight in wanted.items():
            assert found[row] == pytest.approx(weight, rel=1e-12)
    held = corners.cells.pairs
    for voxel, row in zip(held.rows_in.tolist(), held.rows_out.tolist(), strict=True):
        cell = [a // b for a, b in zip(fine[voxel].tolist(), (1, *ratio), strict=True)]
        assert coarse[row].tolist() == cell


def test_it_is_built_once_and_can_be_rebuilt():
    cache, fine = CoordCache(), CLOUDS["unsorted"].coords
    coarse = cache.coarser(fine, Relation.of(2, 2))
    corners = cache.corner_map(fine, coarse, (2, 2, 2))
    assert cache.corner_map(fine, coarse, (2, 2, 2)) is corners
    again = cache.rebuilt()
    (rebuilt,) = again._corners.values()
    assert rebuilt is not corners
    assert torch.equal(rebuilt.rows, corners.rows)
    assert torch.equal(rebuilt.weights, corners.weights)


def test_a_voxel_without_a_coarse_one_is_named():
    fine = torch.tensor([[0, 0, 0, 0], [0, 9, 0, 0], [1, 0, 0, 0]], dtype=torch.int32)
    coarse = torch.tensor([[0, 0, 0, 0]], dtype=torch.int32)
    with pytest.raises(RangeError, match=r"2 of 3 voxels lie in no voxel .* row 1: \[0, 9, 0, 0\]"):
        CoordCache().corner_map(fine, coarse, (2, 2, 2))
    with pytest.raises(RangeError, match="3 of 3 voxels"):
        CoordCache().corner_map(fine, coarse[:0], (2, 2, 2))
