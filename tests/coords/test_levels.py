"""Coordinates of coarser and finer levels against sets of coordinates."""

import pytest
import torch

from pcsparse.coords import build
from pcsparse.coords.cache import CoordCache
from pcsparse.coords.keys import COORD_MAX
from pcsparse.coords.relation import Relation
from pcsparse.errors import RangeError
from tests import oracle
from tests.clouds import CLOUDS, LINE
from tests.coords.test_kernel_map import GEOMETRIES, relation_of
from tests.oracle import Geometry

MORE = {
    "k3-partition": Geometry((3, 3, 3), (3, 3, 3)),
    "k5-partition": Geometry((5, 5, 5), (5, 5, 5)),
    "k4-partition": Geometry((4, 4, 4), (4, 4, 4)),
    "k2-partition-padding": Geometry((2, 2, 2), (2, 2, 2), padding=(1, 0, 1)),
    "k3-partition-padding": Geometry((3, 3, 3), (3, 3, 3), padding=(2, 1, 0)),
    "k124-partition": Geometry((1, 2, 4), (1, 2, 4)),
    "k123-partition": Geometry((1, 2, 3), (1, 2, 3)),
}


# the oracle is slow for kernels of hundreds of offsets
SMALL = {name: geometry for name, geometry in (GEOMETRIES | MORE).items() if len(geometry.offsets) < 100}


def _rows(coords: torch.Tensor) -> list[tuple[int, ...]]:
    assert coords.dtype == torch.int32
    return list(map(tuple, coords.tolist()))


@pytest.mark.parametrize("cloud", CLOUDS.values(), ids=CLOUDS.keys())
@pytest.mark.parametrize("geometry", [*GEOMETRIES.values(), *MORE.values()], ids=[*GEOMETRIES, *MORE])
def test_touched_is_the_support_of_the_dense_convolution(device, cloud, geometry):
    coarse = CoordCache().coarser(cloud.coords.to(device), relation_of(geometry))

    assert _rows(coarse) == sorted(oracle.touched(cloud.coords, geometry))


def test_touched_is_what_a_dense_convolution_of_ones_fills():
    geometry, coords = Geometry((3, 2, 3), (2, 2, 1), (1, 2, 1), (1, 0, 0)), CLOUDS["clumped"].coords
    box_in, box_out = oracle.Box.around(coords), oracle.Box.around(coords, margin=12)
    grid = oracle.to_grid(torch.ones(len(coords), 1), coords, box_in, 1)
    filled = oracle.dense_conv(grid, box_in, torch.ones(18, 1, 1), box_out, geometry)[..., 0]
    cells = torch.nonzero(filled) + torch.tensor([0, *box_out.lower])

    coarse = CoordCache().coarser(coords, relation_of(geometry))
    assert _rows(coarse) == _rows(cells.int())


@pytest.mark.parametrize("cloud", CLOUDS.values(), ids=CLOUDS.keys())
@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 2), (3, 3, 3), (1, 2, 4), (5, 2, 3)], ids=str)
def test_floor_is_floor_division(cloud, stride):
    coarse = CoordCache().coarser(cloud.coords, Relation.of(3, stride), "floor")

    expected = {(b, x // stride[0], y // stride[1], z // stride[2]) for b, x, y, z in cloud.coords.tolist()}
    assert _rows(coarse) == sorted(expected)


@pytest.mark.parametrize("cloud", CLOUDS.values(), ids=CLOUDS.keys())
@pytest.mark.parametrize("geometry", SMALL.values(), ids=SMALL.keys())
def test_expanded_is_what_a_transposed_convolution_writes(cloud, geometry):
    fine = CoordCache().expanded(cloud.coords, relation_of(geometry))

    assert _rows(fine) == sorted(oracle.written(cloud.coords, geometry))


def test_a_kernel_of_one_with_stride_two_keeps_every_other_voxel():
    coarse = CoordCache().coarser(LINE.coords, Relation.of(1, 2))

    assert _rows(coarse) == [(0, 0, 0, z // 2) for z in range(-4, 12, 2)]


def test_unknown_coverage_is_refused():
    with pytest.raises(RangeError, match="coverage must be 'touched' or 'floor', got 'all'"):
        CoordCache().coarser(LINE.coords, Relation.of(2, 2), "all")


def test_new_voxels_stop_at_the_range_and_do_not_wrap():
    edge = torch.tensor([[0, 0, 0, COORD_MAX[2]]], dtype=torch.int32)
    for make in (CoordCache().expanded, CoordCache().coarser):
        with pytest.raises(RangeError, match=f"z of the coordinates spans .* to {COORD_MAX[2] + 1}"):
            make(edge, Relation.of(3))
    assert (
        len(CoordCache().expanded(edge - torch.tensor([0, 0, 0, 1], dtype=torch.int32), Relation.of(3))) == 27
    )


@pytest.mark.parametrize("at_once", [1, 26, 27, 100, 1000])
def test_an_expanded_level_does_not_depend_on_how_much_is_made_at_once(monkeypatch, at_once):
    coords, relation = CLOUDS["clumped"].coords, Relation.of(3, 2)
    whole = CoordCache().expanded(coords, relation)
    most = []
    real = build.backend_of(coords).distinct_keys

    def spy(keys):
        most.append(keys.numel())
        return real(keys)

    monkeypatch.setattr(build, "_MOST_CANDIDATES", at_once)
    monkeypatch.setattr(build.backend_of(coords), "distinct_keys", spy)
    assert torch.equal(CoordCache().expanded(coords, relation), whole)
    assert max(most[:-1]) <= max(at_once, 27)
    assert len(most) == -(-len(coords) // max(1, at_once // 27)) + 1
