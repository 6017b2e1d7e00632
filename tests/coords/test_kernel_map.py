"""Kernel maps in both directions: every listed pair is right, and every right pair is listed once."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pcsparse.coords.build import SortedKeys, build_kernel_map
from pcsparse.coords.cache import CoordCache
from pcsparse.coords.kernel_map import KernelMap
from pcsparse.coords.keys import COORD_MAX, COORD_MIN
from pcsparse.coords.relation import Relation
from pcsparse.errors import RangeError
from tests import oracle
from tests.clouds import CLOUDS, DUPLICATES, UNSORTED, lidar_like
from tests.oracle import Geometry

GEOMETRIES = {
    "k1": Geometry((1, 1, 1)),
    "k2": Geometry((2, 2, 2)),
    "k3": Geometry((3, 3, 3)),
    "k4": Geometry((4, 4, 4)),
    "k5": Geometry((5, 5, 5)),
    "k6": Geometry((6, 6, 6)),
    "k7": Geometry((7, 7, 7)),
    "k135": Geometry((1, 3, 5)),
    "k3-dilation-2": Geometry((3, 3, 3), dilation=(2, 2, 2)),
    "k3-dilation-123": Geometry((3, 3, 3), dilation=(1, 2, 3)),
    "k1-stride-2": Geometry((1, 1, 1), (2, 2, 2)),
    "k2-stride-2": Geometry((2, 2, 2), (2, 2, 2)),
    "k3-stride-2": Geometry((3, 3, 3), (2, 2, 2)),
    "k3-stride-3": Geometry((3, 3, 3), (3, 3, 3)),
    "k2-stride-3": Geometry((2, 2, 2), (3, 3, 3)),
    "k4-stride-2-padding": Geometry((4, 4, 4), (2, 2, 2), padding=(1, 1, 1)),
    "k3-stride-123": Geometry((3, 3, 3), (1, 2, 3)),
    "k3-stride-2-dilation-3-padding": Geometry((3, 3, 3), (2, 2, 2), (3, 3, 3), (1, 2, 0)),
}


def relation_of(geometry: Geometry) -> Relation:
    return Relation(geometry.kernel_size, geometry.stride, geometry.dilation, geometry.padding)


def coarse_of(fine: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """The voxels that a layer of this geometry writes, by the oracle."""
    if relation_of(geometry).is_submanifold:
        return fine
    return torch.tensor(sorted(oracle.touched(fine, geometry)), dtype=torch.int32).view(-1, 4)


def check_map(kmap: KernelMap, expected: set[tuple[int, int, int]], n_in: int, n_out: int) -> None:
    """`expected` holds (row_in, row_out, k)."""
    pairs = kmap.pairs
    numbers = torch.arange(kmap.volume, device=pairs.starts.device)
    assert (kmap.n_in, kmap.n_out) == (n_in, n_out)
    assert pairs.rows_in.dtype == pairs.rows_out.dtype == torch.int32
    assert pairs.starts.dtype == torch.int64
    assert pairs.starts[0] == 0
    assert pairs.starts[-1] == kmap.n_pairs == pairs.rows_out.numel() == len(expected)
    offset = torch.repeat_interleave(numbers, pairs.starts.diff())
    listed = list(zip(pairs.rows_in.tolist(), pairs.rows_out.tolist(), offset.tolist(), strict=True))
    assert len(set(listed)) == len(listed)
    assert set(listed) == expected
    within = offset[1:] == offset[:-1]
    assert bool((pairs.rows_out.diff() > 0)[within].all())
    if kmap.monotone:
        assert bool((pairs.rows_in.diff() > 0)[within].all())


@pytest.mark.parametrize("cloud", CLOUDS.values(), ids=CLOUDS.keys())
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_map_is_exactly_the_equation(device, cloud, geometry):
    fine, coarse = cloud.coords.to(device), coarse_of(cloud.coords, geometry).to(device)
    coarse = fine if relation_of(geometry).is_submanifold else coarse
    expected = oracle.kernel_map(fine, coarse, geometry)

    kmap = CoordCache().kernel_map(fine, coarse, relation_of(geometry))

    assert kmap.volume == len(geometry.offsets)
    check_map(kmap, expected, len(fine), len(coarse))
    back = kmap.transposed()
    check_map(back, {(j, i, k) for i, j, k in expected}, len(coarse), len(fine))
    assert back.transposed() is kmap
    assert back.reads_coarse
    assert not kmap.reads_coarse


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_map_between_any_two_clouds_in_any_row_order(rng, geometry):
    fine, coarse = UNSORTED.coords, CLOUDS["empty-between"].coords
    expected = oracle.kernel_map(fine, coarse, geometry)

    kmap = CoordCache().kernel_map(fine, coarse, relation_of(geometry))

    check_map(kmap, expected, len(fine), len(coarse))
    check_map(kmap.transposed(), {(j, i, k) for i, j, k in expected}, len(coarse), len(fine))


PARTS = {
    "mirrored": (0, 4, 12, 13, 14, 22, 26),
    "centre": (13,),
    "no-centre": (3, 5, 21, 23),
    "one-side": (0, 1, 2, 9, 13),
    "a-column-with-a-gap": (0, 2, 13, 24, 26),
    "all": tuple(range(27)),
}


@pytest.mark.parametrize("offsets", PARTS.values(), ids=PARTS.keys())
@pytest.mark.parametrize("geometry", ["k3", "k3-dilation-123", "k3-stride-2"])
@pytest.mark.parametrize("cloud", ["unsorted", "two-batches", "line", "empty"])
def test_a_search_for_some_offsets_is_the_whole_one_without_the_others(cloud, geometry, offsets):
    coords, relation = CLOUDS[cloud].coords, relation_of(GEOMETRIES[geometry])
    fine = SortedKeys.of(coords)
    same = relation.is_symmetric
    coarse = fine if same else SortedKeys.of(coarse_of(coords, GEOMETRIES[geometry]))
    whole = build_kernel_map(fine, coarse, relation, same_coords=same)
    part = build_kernel_map(fine, coarse, relation, offsets, same_coords=same)

    kept = whole.keep_offsets(torch.tensor([k in offsets for k in range(27)]))
    for got, want in zip(part.tensors()[1:], kept.tensors()[1:], strict=True):
        assert torch.equal(got, want)
    assert (part.symmetric, part.monotone) == (kept.symmetric, kept.monotone)
    assert part.symmetric == (same and offsets in (PARTS["mirrored"], PARTS["centre"], PARTS["all"],
                                                   PARTS["a-column-with-a-gap"]))  # fmt: skip


def test_some_offsets_of_more_rows_than_one_block_of_the_search():
    coords, offsets = lidar_like(7000, batch_size=2), PARTS["mirrored"]
    keys = SortedKeys.of(coords)
    kmap = build_kernel_map(keys, keys, Relation.of(3), offsets, same_coords=True)
    place = {k: i for i, k in enumerate(offsets)}
    expected = oracle.kernel_map(coords, coords, Geometry((3, 3, 3)))
    check_map(kmap, {(i, j, place[k]) for i, j, k in expected if k in place}, len(coords), len(coords))


def test_map_of_more_rows_than_one_block_of_the_search():
    coords = lidar_like(7000, batch_size=2)
    geometry = Geometry((3, 3, 3))
    kmap = CoordCache().kernel_map(coords, coords, Relation.of(3))

    assert len(coords) > 3 * 2048
    check_map(kmap, oracle.kernel_map(coords, coords, geometry), len(coords), len(coords))


TRIPLE = [st.integers(1, 4)] * 3
ROW = st.tuples(st.integers(0, 2), *[st.integers(-6, 6)] * 3)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(ROW, max_size=40, unique=True),
    st.lists(ROW, max_size=40, unique=True),
    st.builds(
        Geometry,
        st.tuples(*TRIPLE),
        st.tuples(*[st.integers(1, 3)] * 3),
        st.tuples(*[st.integers(1, 3)] * 3),
        st.tuples(*[st.integers(0, 3)] * 3),
    ),
)
def test_map_of_any_geometry(fine, coarse, geometry):
    fine, coarse = (torch.tensor(rows, dtype=torch.int32).view(-1, 4) for rows in (fine, coarse))
    expected = oracle.kernel_map(fine, coarse, geometry)

    kmap = CoordCache().kernel_map(fine, coarse, relation_of(geometry))

    check_map(kmap, expected, len(fine), len(coarse))
    check_map(kmap.transposed(), {(j, i, k) for i, j, k in expected}, len(coarse), len(fine))


@pytest.mark.parametrize("cloud", CLOUDS.values(), ids=CLOUDS.keys())
@pytest.mark.parametrize("size", [(1, 1, 1), (3, 3, 3), (5, 5, 5), (1, 3, 5)], ids=str)
@pytest.mark.parametrize("dilation", [1, 2])
def test_the_mirrored_half_is_the_full_search(cloud, size, dilation):
    keys, relation = SortedKeys.of(cloud.coords), Relation.of(size, dilation=dilation)
    mirrored = build_kernel_map(keys, keys, relation, same_coords=True)
    searched = build_kernel_map(keys, keys, relation)

    assert mirrored.symmetric
    assert not searched.symmetric
    assert torch.equal(mirrored.pairs.starts, searched.pairs.starts)
    assert torch.equal(mirrored.pairs.rows_in, searched.pairs.rows_in)
    assert torch.equal(mirrored.pairs.rows_out, searched.pairs.rows_out)


def test_what_symmetric_promises():
    kmap = CoordCache().kernel_map(UNSORTED.coords, UNSORTED.coords, Relation.of(3))
    pairs, k = kmap.pairs, kmap.volume
    lists = [slice(a, b) for a, b in pairwise(pairs.starts.tolist())]

    assert kmap.symmetric
    assert torch.equal(pairs.rows_in[lists[13]], torch.arange(kmap.n_in, dtype=torch.int32))
    assert torch.equal(pairs.rows_out[lists[13]], torch.arange(kmap.n_in, dtype=torch.int32))
    for i in range(k // 2):
        left, right = lists[i], lists[k - 1 - i]
        swapped = set(zip(pairs.rows_out[right].tolist(), pairs.rows_in[right].tolist(), strict=True))
        assert set(zip(pairs.rows_in[left].tolist(), pairs.rows_out[left].tolist(), strict=True)) == swapped


def test_even_kernels_and_other_voxels_are_not_symmetric():
    coords = UNSORTED.coords
    assert not CoordCache().kernel_map(coords, coords, Relation.of(2)).symmetric
    assert not CoordCache().kernel_map(coords, coords.clone(), Relation.of(3)).symmetric
    assert not CoordCache().kernel_map(coords, coords, Relation.of(3, 2)).symmetric


def test_neighbours_do_not_wrap_at_the_ends_of_the_range():
    (x0, y0, z0), (x1, y1, z1) = COORD_MIN, COORD_MAX
    # cells that would be neighbours if a field ran over into the next
    rows = [
        (0, x0, y0, z0), (0, x0, y0, z1), (0, x0, y0 + 1, z0), (0, x0, y1, z1), (0, x0 + 1, y0, z0),
        (0, x1, y1, z1), (1, x0, y0, z0), (0, x1, y1, z1 - 1), (2046, x1, y1, z1), (2046, x0, y0, z0),
    ]  # fmt: skip
    coords = torch.tensor(rows, dtype=torch.int32)
    for geometry in (Geometry((7, 7, 7)), Geometry((3, 3, 3), dilation=(256, 256, 256))):
        kmap = CoordCache().kernel_map(coords, coords, relation_of(geometry))
        check_map(kmap, oracle.kernel_map(coords, coords, geometry), 10, 10)


def test_duplicates_name_the_first_repeated_row():
    with pytest.raises(
        RangeError, match=r"2 of 5 coordinates are duplicates, first at row 2: \[0, 1, 1, 1\]"
    ):
        CoordCache().kernel_map(DUPLICATES, DUPLICATES, Relation.of(3))
    with pytest.raises(RangeError, match="merge them with voxelize and voxel_reduce"):
        SortedKeys.of(torch.tensor([[0, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.int32))


def test_out_of_range_coordinates_and_outputs_are_refused():
    far = torch.tensor([[0, 0, 0, COORD_MAX[2] + 1]], dtype=torch.int32)
    with pytest.raises(RangeError, match=f"z of the coordinates spans {COORD_MAX[2] + 1}"):
        CoordCache().kernel_map(far, far, Relation.of(3))
    # a coarse cell whose image leaves the range
    high = torch.tensor([[0, 100_000, 0, 0]], dtype=torch.int32)
    with pytest.raises(RangeError, match="x of the coordinates spans 200000"):
        CoordCache().kernel_map(high, high, Relation.of(2, 2))
