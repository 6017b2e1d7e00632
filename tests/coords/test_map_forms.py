"""Forms of one map: lists, table, groups, subsets, tensors."""

import copy
from itertools import pairwise

import pytest
import torch

from pcsparse.coords.cache import CoordCache
from pcsparse.coords.kernel_map import NO_NEIGHBOUR, KernelMap
from pcsparse.coords.relation import Relation
from pcsparse.errors import DtypeError, RangeError, ShapeError
from tests import oracle
from tests.clouds import CLOUDS, TWO_BATCHES, UNSORTED
from tests.oracle import Geometry


@pytest.fixture(
    params=[UNSORTED, TWO_BATCHES, CLOUDS["one"], CLOUDS["empty"]], ids=["unsorted", "two", "one", "none"]
)
def kmap(request) -> KernelMap:
    coords = request.param.coords
    return CoordCache().kernel_map(coords, coords, Relation.of(3))


def _triples(kmap: KernelMap) -> list[tuple[int, int, int]]:
    pairs = kmap.pairs
    offset = torch.repeat_interleave(torch.arange(kmap.volume), pairs.starts.diff()).tolist()
    return list(zip(pairs.rows_in.tolist(), pairs.rows_out.tolist(), offset, strict=True))


def test_table_and_pairs_say_the_same(kmap):
    table = kmap.table
    assert table.shape == (27, kmap.n_out)
    assert table.dtype == torch.int32
    assert NO_NEIGHBOUR == -1

    from_table = [
        (int(table[k, j]), j, k) for k in range(27) for j in range(kmap.n_out) if table[k, j] != NO_NEIGHBOUR
    ]
    assert from_table == _triples(kmap)
    assert kmap.table is table


def test_groups_by_output_and_by_input(kmap):
    triples = _triples(kmap)
    for (order, starts), column, n in (
        (kmap.by_output(), 1, kmap.n_out),
        (kmap.by_input(), 0, kmap.n_in),
    ):
        for row in range(n):
            group = order[starts[row] : starts[row + 1]].tolist()
            assert group == [p for p, triple in enumerate(triples) if triple[column] == row]
    assert kmap.by_output()[0] is kmap.by_output()[0]


def _derive(kmap: KernelMap) -> None:
    """Make all derived forms, so that a subset that takes them over is found out."""
    kmap.table, kmap.transposed(), kmap.by_output(), kmap.by_input(), kmap.tensors()


@pytest.mark.parametrize("kept", ["none", "all", "some", "mirrored", "mirrored-without-centre"])
def test_keep_offsets(kmap, kept):
    mask = torch.zeros(27, dtype=torch.bool)
    positions = {
        "none": [],
        "all": list(range(27)),
        "some": [0, 5, 13, 14],
        "mirrored": [2, 13, 24],
        "mirrored-without-centre": [2, 24],
    }[kept]
    mask[positions] = True
    _derive(kmap)
    smaller = kmap.keep_offsets(mask)

    number = {k: i for i, k in enumerate(positions)}
    assert _triples(smaller) == [(i, j, number[k]) for i, j, k in _triples(kmap) if k in number]
    assert smaller.volume == len(positions)
    assert smaller.symmetric == (kept in ("all", "mirrored"))
    assert (smaller.n_in, smaller.n_out) == (kmap.n_in, kmap.n_out)
    # derived forms are those of the smaller map
    assert smaller.table.shape == (len(positions), kmap.n_out)
    swapped = sorted((j, i, k) for i, j, k in _triples(smaller))
    assert sorted(_triples(smaller.transposed())) == swapped


@pytest.mark.parametrize("whole", [None, 13, 20])
def test_keep_outputs(kmap, whole):
    _derive(kmap)
    mask = torch.arange(kmap.n_out) % 3 != 0
    smaller = kmap.keep_outputs(mask, whole)

    kept = [triple for triple in _triples(kmap) if mask[triple[1]] or triple[2] == whole]
    assert _triples(smaller) == kept
    assert (smaller.n_in, smaller.n_out, smaller.volume) == (kmap.n_in, kmap.n_out, 27)
    assert not smaller.symmetric
    others = [k for k in range(27) if k != whole]
    assert bool((smaller.table[others][:, ~mask] == NO_NEIGHBOUR).all())
    assert sorted(_triples(smaller.transposed())) == sorted((j, i, k) for i, j, k in kept)


def test_subsets_refuse_masks_of_another_length(kmap):
    with pytest.raises(ShapeError, match=r"mask must have shape \(27,\), got \(26,\)"):
        kmap.keep_offsets(torch.ones(26, dtype=torch.bool))
    with pytest.raises(ShapeError, match=rf"\({kmap.n_out},\), got \({kmap.n_out + 1},\)"):
        kmap.keep_outputs(torch.ones(kmap.n_out + 1, dtype=torch.bool))
    for whole in (-1, 27):
        with pytest.raises(RangeError, match=rf"an offset in 0 \.\.\. 26, got {whole}"):
            kmap.keep_outputs(torch.ones(kmap.n_out, dtype=torch.bool), whole)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32], ids=["uint8", "int64", "float"])
def test_subsets_refuse_masks_that_are_not_bool(kmap, dtype):
    # a byte of 2 counts for two pairs, and an int64 is read as eight rows
    with pytest.raises(DtypeError, match="mask must be bool"):
        kmap.keep_offsets(torch.full((27,), 2, dtype=dtype))
    with pytest.raises(DtypeError, match="mask must be bool"):
        kmap.keep_outputs(torch.full((kmap.n_out,), 2, dtype=dtype))


@pytest.mark.parametrize("form", ["whole", "transposed", "some-offsets"])
def test_tensors_round_trip(kmap, form):
    if form == "transposed":
        kmap = kmap.transposed()
    if form == "some-offsets":
        kmap = kmap.keep_offsets(torch.arange(27) < 10)
    again = KernelMap.from_tensors([tensor.clone() for tensor in kmap.tensors()])

    for name in ("relation", "n_in", "n_out", "symmetric", "reads_coarse", "monotone", "volume", "n_pairs"):
        assert getattr(again, name) == getattr(kmap, name), name
    assert _triples(again) == _triples(kmap)
    assert all(torch.equal(a, b) for a, b in zip(again.tensors(), kmap.tensors(), strict=True))


def test_tensors_carry_every_field_of_the_relation():
    relation = Relation((1, 2, 3), (4, 5, 6), (7, 8, 9), (10, 11, 12))
    coords = UNSORTED.coords
    again = KernelMap.from_tensors(CoordCache().kernel_map(coords, coords, relation).tensors())

    assert again.relation == relation


def test_monotone_says_when_no_sort_is_needed():
    ascending, shuffled = TWO_BATCHES.coords, UNSORTED.coords
    cache, relation = CoordCache(), Relation.of(3)
    coarse = cache.coarser(ascending, Relation.of(2, 2))

    assert cache.kernel_map(ascending, ascending, relation).monotone
    assert cache.kernel_map(ascending, coarse, Relation.of(2, 2)).transposed().monotone
    assert not cache.kernel_map(shuffled, shuffled, relation).monotone
    assert not cache.kernel_map(ascending, shuffled, relation).monotone
    assert not cache.kernel_map(shuffled, ascending, relation).monotone


def test_of_groups_leads_every_row_to_its_group():
    group = torch.tensor([3, 0, 3, 3, 1])
    kmap = KernelMap.of_groups(group, 5)

    assert sorted(_triples(kmap)) == sorted((i, int(g), 0) for i, g in enumerate(group))
    assert (kmap.n_in, kmap.n_out, kmap.volume) == (5, 5, 1)
    order, starts = kmap.by_output()
    members = kmap.pairs.rows_in[order.long()]
    assert [members[a:b].tolist() for a, b in pairwise(starts.tolist())] == [
        [1], [4], [], [0, 2, 3], [],
    ]  # fmt: skip


def test_counts_of_macs(kmap):
    coords = UNSORTED.coords
    whole = CoordCache().kernel_map(coords, coords, Relation.of(3))
    assert whole.n_pairs == len(oracle.kernel_map(coords, coords, Geometry((3, 3, 3))))


@pytest.mark.parametrize("tile", [1, 7, 64, 1000])
def test_tile_spans_cut_the_lists_at_every_tile(kmap, tile):
    for form in (kmap, kmap.transposed(), kmap.keep_offsets(torch.arange(27) % 3 == 0)):
        spans, pairs = form.tile_spans(tile), form.pairs
        assert spans.shape == (-(-form.n_out // tile) + 1, form.volume)
        assert spans[0].tolist() == pairs.starts[:-1].tolist()
        assert spans[-1].tolist() == pairs.starts[1:].tolist()
        for t in range(len(spans) - 1):
            for k in range(form.volume):
                rows = pairs.rows_out[spans[t, k] : spans[t + 1, k]]
                assert bool((rows // tile == t).all())


def test_tile_spans_are_kept_for_each_height(kmap):
    assert kmap.tile_spans(8) is kmap.tile_spans(8)
    assert kmap.tile_spans(9) is not kmap.tile_spans(8)
    with pytest.raises(RangeError, match="a tile holds at least 1 output row, got tile=0"):
        kmap.tile_spans(0)
    with torch.inference_mode():
        assert not kmap.tile_spans(10).is_inference()


def test_forms_derived_in_inference_mode_serve_training(kmap):
    with torch.inference_mode():
        forms = [kmap.table, kmap.tile_spans(7), kmap.pairs_per_output(), *kmap.by_output(), *kmap.by_input()]
        forms += [kmap.transposed().table, *kmap.transposed().tensors()]
    assert not any(form.is_inference() for form in forms)
    assert kmap.table is forms[0]


def test_a_shallow_copy_leaves_the_way_back_to_its_original(kmap):
    twin = copy.copy(kmap)
    assert KernelMap.from_tensors(twin.tensors()) is twin
    assert KernelMap.from_tensors(kmap.tensors()) is kmap
    del twin
    assert KernelMap.from_tensors(kmap.tensors()) is kmap
