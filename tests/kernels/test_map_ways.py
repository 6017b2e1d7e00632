"""Ways to a kernel map: all give the table of the twin and of a Python dict; what is possible, who picks."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from pcsparse.coords.relation import Relation
from pcsparse.errors import FormatError, RangeError
from pcsparse.kernels import reference
from pcsparse.kernels.jobs import Search
from pcsparse.kernels.map_ways import (
    MOST_GRID_CELLS,
    MOST_HASH_CELLS,
    WAYS,
    MapRule,
    MapSize,
    cells_in,
    slots_of,
    way_of,
)
from pcsparse.kernels.select import backend_of

LOOKED_UP = tuple(way for way in WAYS if way != "search")
_BOX = torch.cartesian_prod(torch.arange(3), torch.arange(3), torch.arange(3))


def _rows(cells: torch.Tensor, batch: int = 0) -> torch.Tensor:
    return torch.cat([torch.full((len(cells), 1), batch), cells], dim=1).int()


def _scattered(n: int, high: int, seed: int, low: int = 0, batch: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return _rows(torch.unique(torch.randint(low, high, (n, 3), generator=rng), dim=0), batch)


# 65,537 by 4,369 by 15 cells are 2^32 - 1, so that the last one has the largest number of 32 bits but one
_SIDES = (65_537, 4_369, 15)
_CORNERS = torch.cartesian_prod(*[torch.tensor([0, 1, side - 2, side - 1]) - side // 2 for side in _SIDES])
# a grid of more is too large for a test
_MOST_CELLS = 1 << 21
CLOUDS = {
    "one": _rows(torch.tensor([[-3, 2, 7]]), 2046),
    # what leaves the first batch along an axis would come to a voxel of the next column, plane or batch
    "full": torch.cat([_rows(_BOX - 2), _rows(_BOX - 2, 1)]),
    "negative": _scattered(40, -20, 1, low=-25),
    "two-batches": torch.cat([_scattered(30, 4, 2, -2), _scattered(30, 4, 3, -2, batch=3)]),
    "columns": _rows(torch.cartesian_prod(torch.tensor([0, 1]), torch.tensor([0]), torch.arange(-20, 16))),
    "corners": _rows(_CORNERS),
}
RELATIONS = {
    "1": Relation.of(1),
    "2": Relation.of(2),
    "3": Relation.of(3),
    "4": Relation.of(4),
    "5": Relation.of(5),
    "6": Relation.of(6),
    "7": Relation.of(7),
    "3-dilated": Relation.of(3, dilation=3),
    "flat": Relation.of((1, 5, 3)),
    "long": Relation.of((1, 1, 65)),
    "3-stride-2": Relation.of(3, 2, padding=1),
    "2-stride-2": Relation.of(2, 2),
    "3-stride-3-dilated": Relation.of((3, 2, 3), (3, 1, 2), (2, 1, 9)),
}


def _search(rows: torch.Tensor, relation: Relation, device: torch.device, bounds: str = "tight") -> Search:
    """The map of a cloud to itself, or to the cells that its strided cells lie in."""
    rows = torch.unique(rows, dim=0)
    keys, low, high, ascending = reference.pack_rows(rows)
    assert ascending
    if relation.is_submanifold:
        queries = keys
    else:
        cells = torch.div(rows, torch.tensor([1, *relation.stride]), rounding_mode="floor")
        queries = torch.unique(reference.pack_rows(cells.int())[0])
    wide = tuple(n - 9 for n in low), tuple(n + 9 for n in high)
    within = {"tight": (low, high), "wide": wide, "none": None}
    keys = keys.to(device)
    same = keys if relation.is_submanifold else queries.to(device)
    deltas, known = relation.key_steps(), within[bounds]
    return Search(keys, same, deltas, relation.stride, symmetric=relation.is_symmetric, bounds=known)


def _by_dict(search: Search) -> torch.Tensor:
    """The table by definition, out of Python numbers."""
    row_of = {key: i for i, key in enumerate(search.keys.tolist())}
    order_in = range(len(search.keys)) if search.order_in is None else search.order_in.tolist()
    order_out = range(len(search.queries)) if search.order_out is None else search.order_out.tolist()
    shifts, biases = (34, 16, 0), (1 << 17, 1 << 17, 1 << 15)
    masks = ((1 << 18) - 1, (1 << 18) - 1, (1 << 16) - 1)
    table = torch.full((len(search.deltas), len(search.queries)), -1, dtype=torch.int32)
    for j, query in enumerate(search.queries.tolist()):
        scaled = query >> 52 << 52
        for shift, bias, mask, step in zip(shifts, biases, masks, search.stride, strict=True):
            scaled += (((query >> shift & mask) - bias) * step + bias) << shift
        for k, delta in enumerate(search.deltas):
            i = row_of.get(scaled + delta)
            table[k, order_out[j]] = -1 if i is None else order_in[i]
    return table


def _possible(way: str, search: Search) -> bool:
    size = MapSize.of(len(search.keys), len(search.queries), search.deltas, search.symmetric, search.bounds)
    small = way != "grid" or (size.cells or 0) < _MOST_CELLS
    return size.is_empty or (small and size.refuses(way) is None)


@pytest.mark.parametrize("relation", RELATIONS.values(), ids=RELATIONS.keys())
@pytest.mark.parametrize("rows", CLOUDS.values(), ids=CLOUDS.keys())
def test_every_way_leads_to_the_table_of_a_dict(gpu_or_emulated, rows, relation):
    search = _search(rows, relation, gpu_or_emulated)
    expected = _by_dict(search)
    assert torch.equal(reference.match_tables([search])[0].cpu(), expected)
    for way in WAYS:
        if not _possible(way, search):
            continue
        (found,) = backend_of(search.keys).match_tables([replace(search, how=way)])
        assert found.dtype == torch.int32, way
        assert torch.equal(found.cpu(), expected), way


@pytest.mark.parametrize("bounds", ["wide", "none"])
def test_bounds_may_be_wide_or_unknown(gpu_or_emulated, bounds):
    search = _search(CLOUDS["two-batches"], RELATIONS["3"], gpu_or_emulated, bounds)
    assert [way for way in WAYS if _possible(way, search)] == (
        list(WAYS) if bounds == "wide" else ["search", "runs"]
    )
    for way in WAYS:
        if _possible(way, search):
            (found,) = backend_of(search.keys).match_tables([replace(search, how=way)])
            assert torch.equal(found.cpu(), _by_dict(search)), way


def _network(device: torch.device, rng: torch.Generator) -> list[Search]:
    """Maps that share keys, of rows in any order, some with room for more; empty ones."""
    plain = _search(CLOUDS["two-batches"], RELATIONS["3"], device)
    strided = _search(CLOUDS["two-batches"], RELATIONS["3-stride-2"], device)
    n, m = len(plain.keys), len(strided.queries)
    order, other = (torch.randperm(size, generator=rng).int().to(device) for size in (n, m))
    mixed = replace(plain, order_in=order, order_out=order)
    return [
        plain,
        mixed,
        replace(strided, order_in=order, order_out=other),
        replace(mixed, out=_room(mixed, n + 300)),
        replace(strided, order_out=other, out=_room(strided, m + 7)),
        replace(plain, keys=plain.keys[:0], queries=plain.queries[:0]),
        replace(strided, queries=strided.queries[:0]),
        replace(plain, deltas=(), symmetric=False),
    ]


def _room(search: Search, room: int) -> torch.Tensor:
    return torch.full((len(search.deltas), room), 7, dtype=torch.int32, device=search.keys.device)


@pytest.mark.parametrize("ways", [*[(way,) for way in LOOKED_UP], WAYS, WAYS[::-1]], ids="-".join)
def test_maps_of_one_call_go_their_own_ways(device, rng, ways):
    searches = _network(device, rng)
    expected = reference.match_tables([replace(one, out=None) for one in searches])
    routed = [replace(one, how=way) for one, way in zip(searches, itertools.cycle(ways), strict=False)]
    tables = backend_of(searches[0].keys).match_tables(routed)
    for search, found, want in zip(searches, tables, expected, strict=True):
        assert search.out is None or found is search.out
        assert torch.equal(found[:, : want.shape[1]], want)
        assert bool((found[:, want.shape[1] :] == -1).all())


@pytest.mark.parametrize("way", LOOKED_UP)
def test_a_symmetric_map_without_a_middle_is_looked_up_whole(gpu_or_emulated, way):
    search = _search(CLOUDS["full"], RELATIONS["3"], gpu_or_emulated)
    search = replace(search, deltas=(-1, 1), how=way)
    (found,) = backend_of(search.keys).match_tables([search])
    assert torch.equal(found.cpu(), _by_dict(search))


@pytest.mark.parametrize("way", LOOKED_UP)
def test_differences_beyond_the_range_of_a_key_lead_nowhere(device, way):
    # the first cell that a key can hold, and differences below it: -1 is all ones, as a free slot is
    keys = torch.tensor([0, 1, (5 << 34) + (9 << 16) + 3], device=device)
    bounds = ((0, -(1 << 17), -(1 << 17), -(1 << 15)), (0, 5 - (1 << 17), 9 - (1 << 17), 3 - (1 << 15)))
    deltas = (-(1 << 62), -(1 << 52), -40, -33, -32, -2, -1, 0, 1, 5 << 34, (1 << 63) - (1 << 40))
    search = Search(keys, keys, deltas, bounds=bounds, how=way)
    (found,) = backend_of(keys).match_tables([search])
    assert torch.equal(found.cpu(), _by_dict(search))


@pytest.mark.parametrize("n", [1, 2, 16, 17, 31, 64])
def test_a_table_of_keys_does_not_depend_on_who_comes_first(gpu_or_emulated, rng, n):
    from pcsparse.kernels.gpu.lookup import Place, _clear

    # as many keys as may be, in tables so small that they collide and go round the end
    assert slots_of(n) >= 2 * n > slots_of(n) // 2
    for seed in range(6):
        rows = torch.unique(_scattered(2 * n, 30, seed), dim=0)[:n]
        keys, low, high, _ = reference.pack_rows(rows)
        order = torch.randperm(len(keys), generator=rng)
        found = []
        for given in (keys, keys[order]):
            moved = given.to(gpu_or_emulated)
            search = Search(moved, keys.to(gpu_or_emulated), (-1, 0, 1), bounds=(low, high))
            place, table = Place.of("hash", search), _room(search, len(keys))
            _clear(place, table[:0])
            place.fill(moved)
            assert int((place.memory != -1).sum()) == len(keys)
            place.look(search, table)
            found.append(table.cpu())
        there = found[1] >= 0
        found[1][there] = order[found[1][there].long()].int()
        assert torch.equal(*found)


def test_slots_are_twice_the_rows_or_more():
    for rows in (1, 2, 3, 4, 5, 1000, 1024, 1025, (1 << 20) - 1, 1 << 20, (1 << 31) - 1):
        slots = slots_of(rows)
        assert slots.bit_count() == 1
        assert 2 * rows <= slots < 4 * rows
    # which 32 bits number
    assert slots_of((1 << 31) - 1) == 1 << 32


def test_a_way_that_cannot_make_a_map_is_refused(gpu_or_emulated):
    search = _search(CLOUDS["full"], RELATIONS["3"], gpu_or_emulated, "none")
    match_tables = backend_of(search.keys).match_tables
    with pytest.raises(RangeError, match=r"no map by 'grid': .* at most 4294967296 cells, not of None"):
        match_tables([replace(search, how="grid")])
    with pytest.raises(RangeError, match=r"'hash': .* at most 4294967295 cells, not of None; take runs"):
        match_tables([replace(search, how="hash")])
    with pytest.raises(RangeError, match=r"no way 'sort' to a map; known: search, grid, hash, runs"):
        match_tables([replace(search, how="sort")])


def _size(
    cells: int | None = 1000, rows: int = 100, queries: int = 100, deltas: Sequence[int] = (0, 1)
) -> MapSize:
    bounds = None if cells is None else ((0, 0, 0, 0), (0, 0, 0, cells - 1))
    return replace(MapSize.of(rows, queries, tuple(deltas), False, bounds), cells=cells)


def test_sizes_of_maps():
    cube = RELATIONS["3"].key_steps()
    size = MapSize.of(50, 40, cube, True, ((0, -1, -2, -3), (1, 1, 2, 3)))
    assert (size.volume, size.columns, size.half_volume, size.half_columns) == (27, 9, 13, 5)
    assert size.cells == 2 * 3 * 5 * 7
    assert size.amounts("search") == (1, 0, 0, 40 * 9, 40 * 27)
    assert size.amounts("grid") == (1, 50, 210, 40 * 5, 40 * 13)
    assert size.amounts("runs") == (1, 50, 0, 40 * 5, 40 * 13)
    whole = MapSize.of(50, 40, cube, False, None)
    assert (whole.half_volume, whole.half_columns, whole.cells) == (27, 9, None)
    # what a key cannot hold is not there
    assert cells_in(((-5, 0, 0, -40_000), (0, 0, 0, -32_768))) == 1
    assert cells_in(((0, 0, 0, 5), (0, 0, 0, 4))) is None


def test_cells_of_32_bits_end_where_a_slot_is_free():
    bounds = ((0, 0, 0, 0), (0, *(side - 1 for side in _SIDES)))
    assert cells_in(bounds) == MOST_HASH_CELLS == 2**32 - 1
    assert _size(MOST_HASH_CELLS).refuses("hash") is None
    assert (_size(MOST_HASH_CELLS).key_bits, _size(MOST_HASH_CELLS + 1).key_bits) == (32, 64)
    assert "take runs" in (_size(MOST_HASH_CELLS + 1).refuses("hash") or "")
    assert _size(MOST_GRID_CELLS).refuses("grid") is None
    assert _size(MOST_GRID_CELLS + 1).refuses("grid") is not None
    assert _size(None).key_bits == 64
    assert _size(1 << 40).refuses("runs") is None


RULE = MapRule(
    {"search": (1e-6, 0, 0, 1e-9, 0), "grid": (2e-6, 0, 1e-9, 0, 0), "runs": (9e-6, 0, 0, 0, 0)},
    (100_000, 100_000, 343, 1 << 24),
    1.25,
)


@pytest.mark.parametrize(
    ("size", "way"),
    [
        # 1 and 0.1 microseconds of search
        (_size(queries=100), "search"),
        (_size(1000, queries=20_000), "grid"),
        (_size(5_000, queries=20_000), "grid"),
        # 21 against 15 and 9
        (_size(13_000, queries=20_000), "runs"),
        (_size(None, queries=20_000), "runs"),
        # 21 against 18, which is within the margin, and 9 is not
        (_size(16_000, queries=20_000), "runs"),
        (_size(6_500, queries=9_000), "search"),
        (_size(5_500, queries=9_000), "grid"),
        # beyond what was measured
        (_size(1000, queries=100_001), "search"),
        (_size(1000, rows=100_001, queries=20_000), "search"),
        (_size(1000, queries=20_000, deltas=range(344)), "search"),
        (_size((1 << 24) + 1, queries=20_000), "runs"),
        (_size(1000, queries=0), "search"),
    ],
)
def test_a_rule_picks_the_fastest_that_is_possible(size, way):
    assert way_of(RULE, size) == way


def test_without_the_search_a_rule_knows_nothing():
    assert MapRule({}, (10, 10, 10, 10)).pick(_size()) == "search"
    assert MapRule({"runs": (0,) * 5}, (1000,) * 4).pick(_size()) == "search"


def test_a_rule_picks_for_each_map_of_a_call(gpu_or_emulated, monkeypatch):
    from pcsparse.kernels.gpu import lookup

    launched = []
    launch = lookup._launch
    monkeypatch.setattr(lookup, "_launch", lambda name, *args: (launched.append(name), launch(name, *args)))
    search = _search(CLOUDS["two-batches"], RELATIONS["3"], gpu_or_emulated)
    free = replace(RULE, seconds={"search": (1.0, 0, 0, 0, 0), "hash": (0,) * 5})
    found = lookup.match_tables([replace(search, how=free), replace(search, how=RULE), search])
    assert launched == ["clear_lookup", "fill_hash", "look_in_hash"]
    assert all(torch.equal(table, found[2]) for table in found)


def test_what_keys_are_filled_into_serves_all_maps_of_a_call(gpu_or_emulated, monkeypatch):
    from pcsparse.kernels.gpu import lookup

    launched = []
    launch = lookup._launch
    monkeypatch.setattr(lookup, "_launch", lambda name, *args: (launched.append(name), launch(name, *args)))
    one = _search(CLOUDS["full"], RELATIONS["3"], gpu_or_emulated)
    other = replace(one, deltas=RELATIONS["5"].key_steps())
    lookup.match_tables([replace(search, how="runs") for search in (one, other)])
    assert launched == ["clear_lookup", "fill_runs", "look_in_runs", "clear_lookup", "look_in_runs"]


@pytest.mark.parametrize("way", LOOKED_UP)
def test_other_keys_of_equal_number_and_bounds_are_not_taken_for_the_same(gpu_or_emulated, way):
    rows = torch.unique(CLOUDS["columns"], dim=0)
    bounds = ((0, -9, -9, -99), (0, 9, 9, 99))
    searches = []
    for step in (0, 1, 2):
        keys = reference.pack_rows(rows + torch.tensor([0, step, 0, step]).int())[0].to(gpu_or_emulated)
        searches.append(
            Search(keys, searches[0].keys if searches else keys, (-1, 0, 1), bounds=bounds, how=way)
        )
    found = backend_of(searches[0].keys).match_tables(searches)
    for search, table in zip(searches, found, strict=True):
        assert torch.equal(table.cpu(), _by_dict(search))


def test_a_rule_goes_through_json():
    assert MapRule.from_json(RULE.to_json()) == RULE
    assert hash(MapRule.from_json(RULE.to_json())) == hash(RULE)
    with pytest.raises(FormatError, match="no rule of ways"):
        MapRule.from_json({"seconds": {"search": [1, 2]}, "most": [1, 2, 3, 4], "margin": 1})
    with pytest.raises(FormatError, match="no rule of ways"):
        MapRule.from_json({"seconds": {}, "margin": 1})


@pytest.mark.parametrize(
    "changes",
    [
        {"seconds": {"sort": (0.0,) * 5}},
        {"seconds": {"search": (0.0, 0.0, -1e-9, 0.0, 0.0)}},
        {"seconds": {"search": (0.0, 0.0, float("nan"), 0.0, 0.0)}},
        {"margin": 0.9},
        {"most": (1, 2, 3)},
    ],
    ids=str,
)
def test_a_rule_of_other_numbers_is_refused(changes):
    with pytest.raises(RangeError, match="rule"):
        replace(RULE, **changes)
