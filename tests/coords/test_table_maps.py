"""Maps that are born as tables say what those born as lists say, in every form, and make no list unasked."""

import copy
import pickle
from itertools import product

import pytest
import torch

from pcsparse.coords import kernel_map as kernel_map_module
from pcsparse.coords import map_forms
from pcsparse.coords.cache import CoordCache
from pcsparse.coords.kept_outputs import kept_outputs
from pcsparse.coords.kernel_map import KernelMap
from pcsparse.coords.map_header import volume_of
from pcsparse.coords.relation import Relation
from pcsparse.errors import DtypeError, RangeError, ShapeError
from pcsparse.kernels import cpu
from tests.clouds import CLOUDS, TWO_BATCHES, UNSORTED

SUBMANIFOLD, HALVE, OVERLAP = Relation.of(3), Relation.of(2, 2), Relation.of(3, 2)
SCENES = {"unsorted": UNSORTED, "two": TWO_BATCHES, "one": CLOUDS["one"], "empty": CLOUDS["empty"]}


def _maps(coords: torch.Tensor) -> dict[str, KernelMap]:
    """A map of each kind that a network asks for."""
    cache = CoordCache()
    half, overlapped = cache.coarser(coords, HALVE), cache.coarser(coords, OVERLAP)
    floor = cache.coarser(coords, OVERLAP, "floor")
    grown = cache.expanded(half, OVERLAP)
    return {
        "submanifold": cache.kernel_map(coords, coords, SUBMANIFOLD),
        "some": cache.kernel_map(coords, coords, SUBMANIFOLD, (0, 5, 13, 14)),
        "mirrored": cache.kernel_map(coords, coords, Relation.of(5), (2, 62, 122)),
        "even": cache.kernel_map(coords, coords, Relation.of(2)),
        "itself": cache.kernel_map(coords, coords, Relation.of(1)),
        "partition": cache.kernel_map(coords, half, HALVE),
        "overlap": cache.kernel_map(coords, overlapped, OVERLAP),
        "floor": cache.kernel_map(coords, floor, OVERLAP),
        "grown": cache.kernel_map(grown, half, OVERLAP).transposed(),
        "between": cache.kernel_map(half, coords, Relation.of(3, 2)),
    }


KINDS = tuple(_maps(CLOUDS["one"].coords))


@pytest.fixture(params=list(product(SCENES, KINDS)), ids="-".join)
def both(request, monkeypatch) -> tuple[KernelMap, KernelMap]:
    """One map, born as a table and as lists."""
    scene, kind = request.param
    lists = _maps(SCENES[scene].coords)[kind]
    monkeypatch.setattr(cpu, "TABLES", True)
    table = _maps(SCENES[scene].coords)[kind]
    assert (table.of_table, lists.of_table) == (True, False)
    return table, lists


def _same(got: KernelMap, want: KernelMap) -> None:
    for name in ("relation", "n_in", "n_out", "volume", "symmetric", "reads_coarse", "monotone", "distinct"):
        assert getattr(got, name) == getattr(want, name), name
    assert torch.equal(got.table, want.table)
    assert got.table.dtype == torch.int32
    assert got.table.is_contiguous()


def test_every_form_of_a_table_map_is_that_of_the_lists(both):
    table, lists = both
    _same(table, lists)
    _same(table.transposed(), lists.transposed())
    assert table.transposed().transposed() is table
    assert torch.equal(table.pairs_per_output(), lists.pairs_per_output())
    for got, want in ((table.pairs, lists.pairs), (table.transposed().pairs, lists.transposed().pairs)):
        for name in ("rows_in", "rows_out", "starts"):
            assert torch.equal(getattr(got, name), getattr(want, name))
            assert getattr(got, name).dtype == getattr(want, name).dtype
    assert table.n_pairs == lists.n_pairs
    for got, want in ((table.by_output(), lists.by_output()), (table.by_input(), lists.by_input())):
        assert all(map(torch.equal, got, want))
    assert torch.equal(table.tile_spans(7), lists.tile_spans(7))
    assert table.pairs is table.pairs
    assert table.device == lists.device == torch.device("cpu")


def test_parts_of_a_table_map_are_those_of_the_lists(both):
    table, lists = both
    for step in (2, 3):
        offsets = torch.arange(lists.volume) % step == 0
        _same(table.keep_offsets(offsets), lists.keep_offsets(offsets))
        _same(table.keep_offsets(offsets).transposed(), lists.keep_offsets(offsets).transposed())
        outputs = torch.arange(lists.n_out) % step == 0
        _same(table.keep_outputs(outputs), lists.keep_outputs(outputs))
        _same(kept_outputs(table, outputs).transposed(), lists.keep_outputs(outputs).transposed())
        last = lists.volume - 1
        _same(table.keep_outputs(outputs, last), lists.keep_outputs(outputs, last))
    _same(table.keep_offsets(offsets & False), lists.keep_offsets(offsets & False))


def test_rows_by_output_and_by_input_are_those_of_the_lists(both):
    table, lists = both
    for name in ("inputs_by_output", "outputs_by_input"):
        (rows, starts), (wanted, bounds) = getattr(table, name)(), getattr(lists, name)()
        assert torch.equal(starts, bounds)
        assert starts.dtype == torch.int64
        assert starts.is_contiguous()
        assert torch.equal(rows[: len(wanted)], wanted)
        assert rows.dtype == torch.int32
        assert getattr(table, name)()[0] is rows


def test_nothing_that_a_network_asks_for_counts_the_pairs(both, monkeypatch):
    table, _ = both
    monkeypatch.setattr(kernel_map_module, "pairs_of", lambda *_: pytest.fail("lists were made"))
    every = torch.ones(table.n_out, dtype=torch.bool)
    for kmap in (
        table,
        table.transposed(),
        table.keep_outputs(every),
        table.keep_offsets(every[:0].new_ones(table.volume)),
    ):
        kmap.table, kmap.transposed().table, kmap.tensors(), kmap.volume, kmap.device
        kmap.pairs_per_output(), kmap.inputs_by_output(), kmap.outputs_by_input()
        assert KernelMap.from_tensors(kmap.tensors()) is kmap


def test_a_layout_is_made_once_for_its_sizes(both, monkeypatch):
    table, lists = both
    assert all(map(torch.equal, table.layout(1, 64), lists.layout(1, 64)))
    assert table.layout(1, 64) is table.layout(1, 64)
    assert table.layout(1, 128) is not table.layout(1, 64)
    seen = []
    monkeypatch.setattr(cpu, "gemm_layout", lambda *asked: seen.append(asked) or [])
    table.layout(2, 32)
    assert seen == [(table.table, 2, 32)]


def test_a_table_map_travels_as_two_tensors(both):
    table, lists = both
    table.pairs, table.transposed()
    assert len(table.tensors()) == 2
    assert volume_of(table.tensors()) == volume_of(lists.tensors()) == table.volume
    for again in (
        KernelMap.from_tensors([part.clone() for part in table.tensors()]),
        copy.copy(table), copy.deepcopy(table), pickle.loads(pickle.dumps(table)),
    ):  # fmt: skip
        assert again is not table
        assert again.of_table
        _same(again, lists)
        _same(again.transposed(), lists.transposed())
        assert KernelMap.from_tensors(again.tensors()) is again
    assert KernelMap.from_tensors(table.tensors()) is table


def test_forms_derived_in_inference_mode_serve_training(both):
    table, _ = both
    with torch.inference_mode():
        forms = [*table.inputs_by_output(), table.pairs_per_output(), *table.transposed().tensors()]
        forms += [table.pairs.rows_in, *table.outputs_by_input()]
    assert not any(form.is_inference() for form in forms)


def test_a_table_of_more_places_than_lists_can_number_is_counted_first(monkeypatch):
    kmap = by_hand()
    monkeypatch.setattr(map_forms, "MOST_PAIRS", 8)
    assert by_hand().n_pairs == 6
    monkeypatch.setattr("pcsparse.kernels.key_layout.MOST_PAIRS", 5)
    with pytest.raises(RangeError, match="6 pairs of 4 and 3 voxels at 3 offsets are more than 32-bit"):
        _ = kmap.pairs


TABLE = [[3, -1, 0], [0, 1, 2], [-1, 1, -1]]


def by_hand(table=TABLE, n_in: int = 4, n_out: int = 3, **flags: bool) -> KernelMap:
    table = table if isinstance(table, torch.Tensor) else torch.tensor(table, dtype=torch.int32)
    return KernelMap(Relation.of((1, 1, 3)), n_in, n_out, table=table, **flags)


WHOLE = torch.tensor(TABLE, dtype=torch.int32)
MIRROR = [[-1, 0, 1], [0, 1, 2], [1, 2, -1]]
BAD = {
    "int64": ({"table": WHOLE.long()}, DtypeError, "table must be int32, got int64"),
    "strided": ({"table": WHOLE.T}, ShapeError, r"table must be contiguous, got strides \(1, 3\)"),
    "n_out": ({"n_out": 2}, ShapeError, r"table must have shape \(\*, 2\), got \(3, 3\)"),
    "n_in": ({"n_in": 3}, RangeError, "names row 3 at offset 0 of output 0, but there are 3 input rows"),
    "below": ({"table": WHOLE - 1}, RangeError, "names row -2 at offset 0 of output 1"),
    "n_in-beyond-int32": ({"n_in": 1 << 31}, RangeError, "n_in must be .*, got 2147483648"),
    "twice": ({"table": [[3, -1, 0], [0, 1, 0]]}, RangeError, "input row 0 occurs twice at offset 1"),
    "groups": ({"distinct": False}, RangeError, "one input for each output.*; make the map of pairs"),
    "descending": ({"monotone": True}, RangeError, "at offset 0 row 3 comes before row 0; .*monotone=False"),
    "sizes": ({"symmetric": True}, RangeError, "n_in=4, n_out=3 and 3 offsets; pass symmetric=False"),
    "even": ({"table": MIRROR[:2], "n_in": 3, "symmetric": True}, RangeError, "n_out=3 and 2 offsets"),
    "centre": ({"table": [*MIRROR[:1], [0, -1, 2], *MIRROR[2:]], "n_in": 3, "symmetric": True},
               RangeError, "middle offset 1 leads each of the 3 rows to itself"),
    "mirror": ({"table": [*MIRROR[:2], [2, 1, -1]], "n_in": 3, "symmetric": True},
               RangeError, "offset 2 is not offset 0 swapped"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "error", "text"), BAD.values(), ids=BAD.keys())
def test_a_wrong_table_is_named_when_it_is_made(changes, error, text):
    with pytest.raises(error, match=text):
        by_hand(**changes)


def test_a_right_table_is_taken():
    assert by_hand().table.tolist() == TABLE
    assert by_hand().transposed().table.tolist() == [[2, -1, -1, 0], [0, 1, 2, -1], [-1, 1, -1, -1]]
    assert by_hand(MIRROR, 3, symmetric=True, monotone=True).transposed().table.tolist() == MIRROR[::-1]
    assert by_hand(WHOLE.to("meta")).volume == 3
    assert by_hand(WHOLE[:0]).volume == 0


def test_a_map_is_made_of_one_form():
    pairs = by_hand().pairs
    with pytest.raises(ShapeError, match="made of pairs or of a table, got both"):
        KernelMap(SUBMANIFOLD, 4, 3, pairs, WHOLE)
    with pytest.raises(ShapeError, match="got neither"):
        KernelMap(SUBMANIFOLD, 4, 3)


def test_a_table_changed_in_place_is_read_again():
    kmap = by_hand(WHOLE.clone())
    kmap.table[0, 0] = 2
    again = KernelMap.from_tensors(kmap.tensors())
    assert again is not kmap
    assert again.table[0].tolist() == [2, -1, 0]
    kmap.table[0, 0] = 1 << 20
    with pytest.raises(RangeError, match="names row 1048576 at offset 0 of output 0"):
        KernelMap.from_tensors(kmap.tensors())
