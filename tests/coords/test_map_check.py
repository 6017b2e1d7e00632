"""Maps made by hand: what kernels follow without looking is read once, and named where it is wrong."""

import copy
import gc
import pickle
import weakref
from dataclasses import replace

import pytest
import torch

from pcsparse.coords import kernel_map as kernel_map_module
from pcsparse.coords.cache import CoordCache
from pcsparse.coords.kernel_map import KernelMap, Pairs
from pcsparse.coords.relation import Relation
from pcsparse.errors import DeviceError, DtypeError, RangeError, ShapeError
from tests.clouds import CLUMPED, TWO_BATCHES, UNSORTED


def rows(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


# three offsets between four inputs and three outputs
ROWS_IN, ROWS_OUT, STARTS = rows(3, 0, 0, 1, 2, 1), rows(0, 2, 0, 1, 2, 1), torch.tensor([0, 2, 5, 6])


def by_hand(
    rows_in=ROWS_IN, rows_out=ROWS_OUT, starts=STARTS, n_in: int = 4, n_out: int = 3, **flags: bool
) -> KernelMap:
    return KernelMap(Relation.of((1, 1, 3)), n_in, n_out, Pairs(rows_in, rows_out, starts), **flags)


WIDE = torch.stack([ROWS_IN, ROWS_IN], dim=1)
BAD = {
    "rows_in-int64": ({"rows_in": ROWS_IN.long()}, DtypeError, r"rows_in must be int32, got int64.*\.to\(\)"),
    "rows_out-float": ({"rows_out": ROWS_OUT.float()}, DtypeError, "rows_out must be int32, got float32"),
    "starts-int32": ({"starts": STARTS.int()}, DtypeError, "starts must be int64, got int32"),
    "rows_in-strided": ({"rows_in": WIDE[:, 0]}, ShapeError, r"rows_in .*strides \(2,\).*\.contiguous\(\)"),
    "starts-strided": (
        {"starts": torch.stack([STARTS, STARTS], dim=1)[:, 0]},
        ShapeError,
        r"starts .*strides \(2,\)",
    ),
    "rows_in-2d": ({"rows_in": WIDE}, ShapeError, r"rows_in must have shape \(\*\), got \(6, 2\)"),
    "starts-0d": ({"starts": torch.tensor(0)}, ShapeError, r"starts must have shape \(\*\), got \(\)"),
    "no-starts": ({"starts": STARTS[:0]}, ShapeError, "starts .* k \\+ 1 .* got none"),
    "lengths": ({"rows_out": ROWS_OUT[:5]}, ShapeError, r"rows_out must have shape \(6\), got \(5,\)"),
    "devices": ({"rows_out": ROWS_OUT.to("meta")}, DeviceError, "rows_in on cpu, rows_out on meta"),
    "starts-late": ({"starts": torch.tensor([1, 2, 5, 6])}, RangeError, "from 0 to the 6 pairs, .* 1 to 6"),
    "starts-short": ({"starts": torch.tensor([0, 2, 5, 5])}, RangeError, "from 0 to the 6 pairs, .* 0 to 5"),
    "starts-long": ({"starts": torch.tensor([0, 2, 5, 900])}, RangeError, "to the 6 pairs, .* 0 to 900"),
    "starts-fall": (
        {"starts": torch.tensor([0, 8, 5, 6])},
        RangeError,
        "starts must not fall, but offset 1 begins at 8 and ends at 5",
    ),
    "n_in": ({"n_in": 3}, RangeError, "rows_in names row 3 at pair 0, .* 3 input rows"),
    "rows_in-negative": ({"rows_in": rows(3, 0, 0, -1, 2, 1)}, RangeError, "rows_in names row -1 at pair 3"),
    "n_out": ({"n_out": 2}, RangeError, "rows_out names row 2 at pair 1, .* 2 output rows"),
    "rows_out-negative": ({"rows_out": rows(-7, 2, 0, 1, 2, 1)}, RangeError, "rows_out names row -7 at pair"),
    "n_in-negative": ({"n_in": -1}, RangeError, "n_in must be .*, got -1"),
    "n_out-beyond-int32": ({"n_out": 1 << 31}, RangeError, "n_out must be .*, got 2147483648"),
    "descending": (
        {"rows_out": rows(0, 2, 0, 2, 1, 1)},
        RangeError,
        "rows_out must ascend within an offset, but at offset 1 row 2 comes before row 1; sort",
    ),
    "descending-groups": (
        {"rows_out": rows(0, 2, 0, 2, 1, 1), "distinct": False},
        RangeError,
        "rows_out must ascend within an offset, but at offset 1 row 2 comes before row 1; sort",
    ),
    "twice-an-output": (
        {"rows_out": rows(0, 2, 0, 1, 1, 1)},
        RangeError,
        "at offset 1 row 1 comes before row 1; .*distinct=False",
    ),
    "twice-an-input": (
        {"rows_in": rows(3, 0, 0, 1, 0, 1)},
        RangeError,
        "input row 0 occurs twice at offset 1; .*distinct=False",
    ),
    "not-monotone": (
        {"monotone": True},
        RangeError,
        "rows_in must ascend within an offset, but at offset 0 row 3 comes before row 0; .*monotone=False",
    ),
}  # fmt: skip


def test_a_right_map_is_taken():
    kmap = by_hand()
    assert (kmap.volume, kmap.n_pairs) == (3, 6)
    assert kmap.table.tolist() == [[3, -1, 0], [0, 1, 2], [-1, 1, -1]]
    nothing = rows()
    assert by_hand(nothing, nothing, torch.tensor([0]), 0, 0, monotone=True).volume == 0
    assert by_hand(nothing, nothing, torch.tensor([0, 0]), 5, 0, symmetric=False).n_pairs == 0
    # rows may meet twice where nobody says they do not
    assert by_hand(rows(3, 0, 0, 1, 0, 1), rows(0, 2, 0, 1, 1, 1), distinct=False).n_pairs == 6
    assert by_hand(rows(0, 3, 0, 1, 2, 1), monotone=True).transposed().monotone


@pytest.mark.parametrize(("changes", "error", "text"), BAD.values(), ids=BAD.keys())
def test_a_wrong_map_is_named_when_it_is_made(changes, error, text):
    with pytest.raises(error, match=text):
        by_hand(**changes)


@pytest.mark.parametrize(("changes", "error", "text"), BAD.values(), ids=BAD.keys())
def test_a_right_map_is_not_replaced_by_a_wrong_one(changes, error, text):
    kmap = by_hand()
    lists = {name: changes[name] for name in ("rows_in", "rows_out", "starts") if name in changes}
    others = {name: value for name, value in changes.items() if name not in lists}
    with pytest.raises(error, match=text):
        KernelMap(kmap.relation, **{"n_in": 4, "n_out": 3, "pairs": replace(kmap.pairs, **lists)} | others)


def _symmetric_lists(coords: torch.Tensor) -> tuple[torch.Tensor, ...]:
    pairs = CoordCache().kernel_map(coords, coords, Relation.of(3)).pairs
    return pairs.rows_in.clone(), pairs.rows_out.clone(), pairs.starts.clone()


@pytest.mark.parametrize("coords", [UNSORTED.coords, TWO_BATCHES.coords], ids=["unsorted", "sorted"])
def test_a_symmetric_map_is_taken(coords):
    kmap = by_hand(*_symmetric_lists(coords), len(coords), len(coords), symmetric=True)
    swapped, searched = kmap.transposed(), by_hand(*_symmetric_lists(coords), len(coords), len(coords))
    assert torch.equal(swapped.table, searched.transposed().table)


def test_promised_symmetry_is_looked_at():
    coords = UNSORTED.coords
    rows_in, rows_out, starts = _symmetric_lists(coords)
    n = len(coords)
    with pytest.raises(RangeError, match=rf"n_in={n + 1} and n_out={n}.*symmetric=False"):
        by_hand(rows_in, rows_out, starts, n + 1, n, symmetric=True)
    with pytest.raises(RangeError, match="an odd number of offsets, got 28; pass symmetric=False"):
        by_hand(rows_in, rows_out, torch.cat([starts, starts[-1:]]), n, n, symmetric=True)

    # the middle offset without its first row
    begin, later = int(starts[13]), (torch.arange(28) > 13).long()
    fewer = [torch.cat([part[:begin], part[begin + 1 :]]) for part in (rows_in, rows_out)]
    with pytest.raises(RangeError, match=r"middle offset 13 .*symmetric=False"):
        by_hand(*fewer, starts - later, n, n, symmetric=True)

    # two inputs of offset 2 swapped
    first = int(starts[2])
    rows_in[[first, first + 1]] = rows_in[[first + 1, first]]
    with pytest.raises(RangeError, match=r"offset 24 is not offset 2 .*symmetric=False"):
        by_hand(rows_in, rows_out, starts, n, n, symmetric=True)


def test_pairs_beyond_int32_are_refused(monkeypatch):
    monkeypatch.setattr("pcsparse.kernels.key_layout.MOST_PAIRS", 5)
    with pytest.raises(RangeError, match="6 pairs of 4 and 3 voxels at 3 offsets"):
        by_hand()


def test_lists_without_values_are_taken_as_they_are():
    lists = [part.to("meta") for part in (ROWS_IN, ROWS_OUT, STARTS)]
    assert by_hand(*lists).n_pairs == 6


@pytest.fixture
def read(monkeypatch) -> list[KernelMap]:
    """The maps whose lists are read."""
    real, seen = kernel_map_module.check_map, []

    def spy(kmap: KernelMap) -> None:
        seen.append(kmap)
        real(kmap)

    monkeypatch.setattr(kernel_map_module, "check_map", spy)
    return seen


def test_our_own_maps_are_not_read(read):
    halve = Relation.of(2, 2)
    for coords in (UNSORTED.coords, CLUMPED.coords):
        cache = CoordCache()
        coarse = cache.coarser(coords, halve)
        maps = [
            cache.kernel_map(coords, coords, Relation.of(3)),
            cache.kernel_map(coords, coords, Relation.of(3), (0, 13, 26)),
            cache.kernel_map(coords, coords, Relation.of(1)),
            cache.kernel_map(coords, coarse, halve),
            cache.kernel_map(coords, cache.coarser(coords, Relation.of(3, 2)), Relation.of(3, 2)),
            cache.cloud_map(coords, 2),
        ]
        for kmap in maps:
            kept = kmap.keep_outputs(torch.arange(kmap.n_out) % 2 == 0)
            for form in (kmap, kmap.transposed(), kept, kept.transposed()):
                for other in (form, copy.deepcopy(form), pickle.loads(pickle.dumps(form))):
                    assert KernelMap.from_tensors(other.tensors()) is other
    assert read == []


def test_a_map_made_by_hand_is_read_once(read):
    kmap = by_hand()
    assert read == [kmap]
    for other in (kmap, copy.deepcopy(kmap), pickle.loads(pickle.dumps(kmap))):
        for _ in range(3):
            assert KernelMap.from_tensors(other.tensors()) is other
            other.transposed().table, other.tile_spans(2), other.by_input()
    assert read == [kmap]


def test_tensors_without_a_map_are_read_once_and_keep_their_forms(read):
    tensors = [part.clone() for part in by_hand().tensors()]
    del read[:]
    table = KernelMap.from_tensors(tensors).table
    assert len(read) == 1
    # nobody but the header holds the map now
    del read[:]
    assert all(KernelMap.from_tensors(list(tensors)).table is table for _ in range(3))
    assert read == []

    ghost = weakref.ref(KernelMap.from_tensors(tensors))
    gc.disable()
    try:
        del tensors
        assert ghost() is None
    finally:
        gc.enable()


def test_lists_changed_in_place_are_read_again(read):
    kmap = by_hand(ROWS_IN.clone(), ROWS_OUT.clone(), STARTS.clone())
    table = kmap.table
    kmap.pairs.rows_in[0] = 2
    again = KernelMap.from_tensors(kmap.tensors())
    assert again.table[0].tolist() == [2, -1, 0]
    assert KernelMap.from_tensors(kmap.tensors()) is again
    assert torch.equal(copy.deepcopy(kmap).table, again.table)
    assert table[0].tolist() == [3, -1, 0]
    assert read == [kmap, again]

    kmap.pairs.rows_in[0] = 1 << 20
    for use in (lambda: KernelMap.from_tensors(kmap.tensors()), lambda: copy.deepcopy(kmap)):
        with pytest.raises(RangeError, match="rows_in names row 1048576 at pair 0"):
            use()


def test_other_lists_behind_a_header_are_what_counts(read):
    kmap = by_hand()
    header, *lists = kmap.tensors()
    for i, bad in enumerate((rows(9, 0, 0, 1, 2, 1), rows(2, 0, 0, 1, 2, 1), torch.tensor([0, 2, 5, 900]))):
        tensors = [*lists[:i], bad, *lists[i + 1 :]]
        with pytest.raises(RangeError):
            KernelMap.from_tensors([header, *tensors])
    with pytest.raises(DtypeError, match="rows_in must be int32, got float32"):
        KernelMap.from_tensors([header, lists[0].view(torch.float32), *lists[1:]])
    # the same numbers elsewhere
    twice = ROWS_OUT.repeat(2)
    assert KernelMap.from_tensors([header, lists[0], twice[:6], lists[2]]).table.equal(kmap.table)


def test_a_broken_header_is_named():
    header, *lists = by_hand().tensors()
    with pytest.raises(ShapeError, match=r"\[header, rows_in, .*\] or \[header, table\], got 3 tensors"):
        KernelMap.from_tensors(lists)
    with pytest.raises(ShapeError, match=r"header must have shape \(15\), got \(14,\)"):
        KernelMap.from_tensors([header[1:], *lists])
    with pytest.raises(DtypeError, match="header must be int64, got float32"):
        KernelMap.from_tensors([header.float(), *lists])


def test_groups_out_of_range_are_refused():
    for group, text in (([0, 5, 1], "0 to 5"), ([0, -1], "-1 to 0")):
        with pytest.raises(RangeError, match=f"in groups {text}, but there are 5 groups"):
            KernelMap.of_groups(torch.tensor(group), 5)
    with pytest.raises(DtypeError, match="group must be int32, int64, got float32"):
        KernelMap.of_groups(torch.zeros(3), 5)
    with pytest.raises(ShapeError, match=r"group must have shape \(\*\), got \(3, 1\)"):
        KernelMap.of_groups(torch.zeros(3, 1, dtype=torch.int64), 5)
    assert KernelMap.of_groups(torch.zeros(0, dtype=torch.int64), 0).n_out == 0
