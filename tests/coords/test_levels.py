"""Coordinates of coarser and finer levels against sets of coordinates."""

import pytest
import torch

from pcsparse.coords import build
from pcsparse.coords import cache as cache_module
from pcsparse.coords.build import expanded_level, strided_level
from pcsparse.coords.cache import CoordCache
from pcsparse.coords.keys import COORD_MAX
from pcsparse.coords.relation import Relation
from pcsparse.coords.sorted_keys import SortedKeys
from pcsparse.errors import RangeError
from pcsparse.kernels.select import backend_of
from tests import oracle
from tests.clouds import CLOUDS, LINE
from tests.coords.test_kernel_map import GEOMETRIES, check_map, relation_of
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
@pytest.mark.parametrize(
    "stride", [(1, 1, 1), (2, 2, 2), (3, 3, 3), (1, 2, 4), (5, 2, 3), (17, 17, 17)], ids=str
)
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


def _no_search(monkeypatch, coords) -> None:
    """Lists come with their level; a table that no partition made is searched when somebody asks."""
    if not backend_of(coords).TABLES:
        monkeypatch.setattr(cache_module, "build_kernel_map", None)


@pytest.mark.parametrize("geometry", SMALL.values(), ids=SMALL.keys())
@pytest.mark.parametrize("cloud", CLOUDS.values(), ids=CLOUDS.keys())
@pytest.mark.parametrize("expand", [False, True])
def test_the_map_that_comes_with_a_level_is_the_one_that_a_search_finds(
    device, monkeypatch, cloud, geometry, expand
):
    given, relation = cloud.coords.to(device), relation_of(geometry)
    cache = CoordCache()
    made = cache.expanded(given, relation) if expand else cache.coarser(given, relation)
    fine, coarse = (made, given) if expand else (given, made)
    # a cache that has not seen the level made searches
    searched = CoordCache().kernel_map(fine, coarse, relation)

    _no_search(monkeypatch, given)
    kmap = cache.kernel_map(fine, coarse, relation)
    # searched maps are held against the oracle elsewhere, cloud by cloud; here once a geometry
    if cloud is CLOUDS["clumped"]:
        check_map(kmap, oracle.kernel_map(fine, coarse, geometry), len(fine), len(coarse))
    assert kmap.monotone == searched.monotone
    for got, want in zip(kmap.tensors(), searched.tensors(), strict=True):
        assert got.dtype == want.dtype
        assert torch.equal(got, want)


def test_a_level_of_more_offsets_than_a_partition_counts_comes_with_its_map_too(monkeypatch):
    coords, relation = CLOUDS["unsorted"].coords, Relation.of(17, 17)
    assert relation.volume > build._MOST_OFFSETS
    cache = CoordCache()
    coarse = cache.coarser(coords, relation)

    _no_search(monkeypatch, coords)
    expected = oracle.kernel_map(coords, coarse, Geometry((17, 17, 17), (17, 17, 17)))
    check_map(cache.kernel_map(coords, coarse, relation), expected, len(coords), len(coarse))


def test_a_stride_that_would_wrap_is_refused():
    coords = torch.tensor([[0, 4, 0, 0]], dtype=torch.int32)
    with pytest.raises(RangeError):
        CoordCache().expanded(coords, Relation.of(2, (1 << 62, 1, 1)))


@pytest.mark.parametrize("geometry", SMALL.values(), ids=SMALL.keys())
@pytest.mark.parametrize("cloud", ["unsorted", "two-batches", "one"])
def test_the_bounds_of_a_level_hold_its_voxels(device, cloud, geometry):
    fine, relation = SortedKeys.of(CLOUDS[cloud].coords.to(device)), relation_of(geometry)
    levels = {
        "touched": strided_level(fine, relation, "touched"),
        "floor": strided_level(fine, relation, "floor"),
        "grown": expanded_level(fine, relation),
    }
    for name, level in levels.items():
        bounds, exact = level.keys.extent, level.keys.exact_extent()
        if not len(level.coords):
            continue
        assert bounds.within(bounds.low[1:], bounds.high[1:])
        for low, high, below, above in zip(bounds.low, bounds.high, exact.low, exact.high, strict=True):
            assert low <= below <= above <= high, name
        # as tight as they can be where every cell is reached
        if name == "grown" or (name == "floor" and relation.stride != (1, 1, 1)):
            assert bounds == exact, name
        inside = level.within(exact.low[1:], exact.high[1:])
        assert len(inside.coords) == len(level.coords)
        last = (*exact.high[1:3], exact.high[3] - 1)
        fewer = level.within(exact.low[1:], last)
        assert len(fewer.coords) == int((level.coords[:, 3] < exact.high[3]).sum())
        assert fewer.keys.extent.high[3] <= last[2]
