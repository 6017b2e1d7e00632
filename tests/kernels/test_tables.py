"""Maps as tables: twins against Python and against the kernels of lists, backends against twins."""

import itertools
from dataclasses import replace

import pytest
import torch

from pcsparse.kernels import reference
from pcsparse.kernels.jobs import LevelStep, Search
from pcsparse.kernels.select import backend_of

N_IN, N_OUT = 50, 37
SIZES = {"none": (0, 5), "no-outputs": (3, 0), "one": (1, 1), "some": (4, N_OUT)}


def _table(rng, k: int, n_out: int, n_in: int = N_IN) -> torch.Tensor:
    """Inputs at random, none twice at an offset; a third of the places empty."""
    rows = [torch.randperm(n_in, generator=rng)[:n_out] for _ in range(k)]
    table = torch.stack(rows).int() if k else torch.zeros(0, n_out, dtype=torch.int32)
    return table.masked_fill(torch.rand(k, n_out, generator=rng) < 0.3, -1)


def _keys(rng, n: int, spread: int = 200) -> torch.Tensor:
    return torch.unique(torch.randint(spread, (n,), generator=rng)) if n else torch.zeros(0, dtype=torch.long)


@pytest.fixture(params=SIZES.values(), ids=SIZES.keys())
def table(request, rng) -> torch.Tensor:
    return _table(rng, *request.param)


MATCHES = {
    "empty": (0, 9, [1, 2]), "no-queries": (9, 0, [0]), "no-deltas": (9, 9, []),
    "some": (90, 80, [-3, 0, 1, 2]),
}  # fmt: skip


@pytest.mark.parametrize(("n", "m", "deltas"), MATCHES.values(), ids=MATCHES.keys())
def test_twin_of_match_table(rng, n, m, deltas):
    keys, queries = _keys(rng, n), _keys(rng, m)
    found = reference.match_table(keys, queries, torch.tensor(deltas, dtype=torch.int64))

    place = {key: i for i, key in enumerate(keys.tolist())}
    assert found.tolist() == [[place.get(q + d, -1) for q in queries.tolist()] for d in deltas]
    assert found.shape == (len(deltas), len(queries))


def test_twin_of_match_table_mirrors_half_a_kernel(rng):
    keys = _keys(rng, 90)
    whole = reference.match_table(keys, keys, torch.tensor([-5, -1, 0, 1, 5]))
    assert torch.equal(reference.match_table(keys, keys, torch.tensor([-5, -1]), True), whole)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("n", "m", "deltas"), MATCHES.values(), ids=MATCHES.keys())
def test_match_table_matches_twin(device, rng, n, m, deltas, mirrored):
    keys = _keys(rng, n).to(device)
    queries = keys if mirrored else _keys(rng, m).to(device)
    deltas = torch.tensor(sorted(-abs(d) for d in deltas) if mirrored else deltas, dtype=torch.int64)
    deltas = deltas[deltas != 0].to(device) if mirrored else deltas.to(device)
    actual = backend_of(keys).match_table(keys, queries, deltas, mirrored)

    assert actual.dtype == torch.int32
    assert torch.equal(actual, reference.match_table(keys, queries, deltas, mirrored))


def _packed(rng, n: int) -> torch.Tensor:
    coords = torch.randint(-9, 9, (n, 4), generator=rng, dtype=torch.int32)
    coords[:, 0] = coords[:, 0] % 2
    return torch.unique(reference.pack_rows(coords)[0])


LEVELS = {"unit": ((1, 1, 1), (0, 0, 0)), "pairs": ((2, 2, 2), (0, 0, 0)), "moved": ((3, 1, 2), (-4, 1, 3))}


@pytest.mark.parametrize("n", [0, 1, 300])
@pytest.mark.parametrize(("stride", "first"), LEVELS.values(), ids=LEVELS.keys())
def test_twin_of_partition_table(rng, n, stride, first):
    keys = _packed(rng, n)
    coarse, table = reference.partition_table(keys, stride, first)

    cells: dict[tuple, dict[int, int]] = {}
    offsets = list(itertools.product(*map(range, stride)))
    for row, (batch, *place) in enumerate(reference.unpack_keys(keys).tolist()):
        moved = [(p - f) for p, f in zip(place, first, strict=True)]
        cell = (batch, *(m // s for m, s in zip(moved, stride, strict=True)))
        inside = tuple(m % s for m, s in zip(moved, stride, strict=True))
        cells.setdefault(cell, {})[offsets.index(inside)] = row
    assert [tuple(cell) for cell in reference.unpack_keys(coarse).tolist()] == sorted(cells)
    wanted = [[cells[cell].get(k, -1) for cell in sorted(cells)] for k in range(len(offsets))]
    assert table.tolist() == wanted


@pytest.mark.parametrize("n", [0, 1, 300])
@pytest.mark.parametrize(("stride", "first"), LEVELS.values(), ids=LEVELS.keys())
def test_partition_table_matches_twin(device, rng, n, stride, first):
    keys = _packed(rng, n).to(device)
    expected = reference.partition_table(keys, stride, first)
    actual = backend_of(keys).partition_table(keys, stride, first)

    for got, want in zip(actual, expected, strict=True):
        assert got.dtype == want.dtype
        assert torch.equal(got, want)


KERNELS = {
    "cube": ((3, 3, 3), (2, 2, 2), (1, 1, 1), (-1, -1, -1)),
    "flat": ((2, 1, 3), (1, 1, 2), (2, 1, 1), (0, 0, -3)),
}


@pytest.mark.parametrize("expand", [False, True])
@pytest.mark.parametrize("n", [0, 1, 120])
@pytest.mark.parametrize("geometry", KERNELS.values(), ids=KERNELS.keys())
def test_twin_of_reached_level(rng, n, geometry, expand):
    keys = _packed(rng, n)
    size, stride, dilation, first = geometry
    steps = [
        [f + d * o for f, d, o in zip(first, dilation, offset, strict=True)]
        for offset in itertools.product(*map(range, size))
    ]
    wanted = set()
    for (batch, *place), step in itertools.product(reference.unpack_keys(keys).tolist(), steps):
        if expand:
            wanted.add((batch, *(p * s + t for p, s, t in zip(place, stride, step, strict=True))))
        elif all((p - t) % s == 0 for p, s, t in zip(place, stride, step, strict=True)):
            wanted.add((batch, *((p - t) // s for p, s, t in zip(place, stride, step, strict=True))))
    found = reference.unpack_keys(reference.reached_level(keys, *geometry, expand))
    assert [tuple(cell) for cell in found.tolist()] == sorted(wanted)


@pytest.mark.parametrize("expand", [False, True])
@pytest.mark.parametrize("n", [0, 1, 120])
@pytest.mark.parametrize("geometry", KERNELS.values(), ids=KERNELS.keys())
def test_reached_level_matches_twin(device, rng, n, geometry, expand):
    keys = _packed(rng, n).to(device)
    actual = backend_of(keys).reached_level(keys, *geometry, expand)

    assert torch.equal(actual, reference.reached_level(keys, *geometry, expand))


def _orders(rng, n_out: int) -> dict[str, tuple]:
    order_in, order_out = (torch.randperm(n, generator=rng).int() for n in (N_IN, n_out))
    return {
        "both": (order_in, order_out),
        "in": (order_in, None),
        "out": (None, order_out),
        "no": (None, None),
    }


@pytest.mark.parametrize("which", ["both", "in", "out", "no"])
def test_twin_of_renumber_table(table, rng, which):
    order_in, order_out = _orders(rng, table.shape[1])[which]
    out = reference.renumber_table(table, order_in, order_out)

    assert out.shape == table.shape
    for k, j in itertools.product(range(len(table)), range(table.shape[1])):
        row = int(table[k, j])
        named = row if row < 0 or order_in is None else int(order_in[row])
        assert out[k, j if order_out is None else int(order_out[j])] == named


@pytest.mark.parametrize("which", ["both", "in", "out", "no"])
def test_renumber_table_matches_twin(device, table, rng, which):
    orders = [None if o is None else o.to(device) for o in _orders(rng, table.shape[1])[which]]
    table = table.to(device)
    actual = backend_of(table).renumber_table(table, *orders)

    assert actual.dtype == torch.int32
    assert torch.equal(actual, reference.renumber_table(table, *orders))


def test_twin_of_transpose_table(table):
    out = reference.transpose_table(table, N_IN)

    assert out.shape == (len(table), N_IN)
    for k in range(len(table)):
        assert out[k].tolist() == [
            table[k].tolist().index(i) if i in table[k].tolist() else -1 for i in range(N_IN)
        ]


def test_transpose_table_matches_twin(device, table):
    table = table.to(device)
    actual = backend_of(table).transpose_table(table, N_IN)

    assert actual.dtype == torch.int32
    assert actual.is_contiguous()
    assert torch.equal(actual, reference.transpose_table(table, N_IN))


def test_twin_of_table_to_pairs(table):
    rows_in, rows_out, starts = reference.table_to_pairs(table)

    listed = [[(int(i), j) for j, i in enumerate(row) if i >= 0] for row in table]
    assert list(zip(rows_in.tolist(), rows_out.tolist(), strict=True)) == [p for row in listed for p in row]
    assert starts.tolist() == [0, *itertools.accumulate(map(len, listed))]


def test_table_to_pairs_matches_twin(device, table):
    table = table.to(device)
    actual, expected = backend_of(table).table_to_pairs(table), reference.table_to_pairs(table)

    for got, want in zip(actual, expected, strict=True):
        assert got.dtype == want.dtype
        assert torch.equal(got, want)


@pytest.mark.parametrize("first_stays", [False, True])
def test_twin_of_mask_table_outputs(table, first_stays):
    mask = torch.arange(table.shape[1]) % 3 != 1
    out = reference.mask_table_outputs(table, mask, 0 if first_stays and len(table) else None)

    for k, (row, masked) in enumerate(zip(table.tolist(), out.tolist(), strict=True)):
        kept = [True] * len(mask) if first_stays and k == 0 else mask.tolist()
        assert masked == [i if keep else -1 for i, keep in zip(row, kept, strict=True)]


@pytest.mark.parametrize("first_stays", [False, True])
def test_mask_table_outputs_matches_twin(device, table, first_stays):
    table, whole = table.to(device), 0 if first_stays and len(table) else None
    mask = torch.arange(table.shape[1], device=device) % 3 != 1
    actual = backend_of(table).mask_table_outputs(table, mask, whole)

    assert torch.equal(actual, reference.mask_table_outputs(table, mask, whole))


STEPS = {  # size, stride, dilation, first
    "halves": [((2, 2, 2), (2, 2, 2), (1, 1, 1), (0, 0, 0))] * 4,
    "cubes": [((3, 3, 3), (2, 2, 2), (1, 1, 1), (-1, -1, -1))] * 3,
    "mixed": [KERNELS["flat"], ((2, 2, 2), (2, 2, 2), (1, 1, 1), (0, 0, 0)), KERNELS["cube"]],
    "one": [((3, 1, 1), (1, 1, 1), (1, 1, 1), (-1, 0, 0))],
    "none": [],
}
# beyond what a grid of bits has room for, none, and within the cells that there are
BOUNDS = {
    "far": ((0, -40000, -40000, -30000), (2046, 40000, 40000, 30000)),
    "all": ((0, -20, -20, -20), (1, 20, 20, 20)),
    "some": ((0, -2, -5, -1), (1, 3, 1, 4)),
    "nothing": ((0, 5, 5, 5), (1, 4, 5, 5)),
}


def _steps(geometries: list, names: tuple[str, ...]) -> list[LevelStep]:
    bounds = itertools.cycle(BOUNDS[name] for name in names)
    return [LevelStep(*geometry, next(bounds)) for geometry in geometries]


@pytest.mark.parametrize("bounds", BOUNDS.values(), ids=BOUNDS.keys())
@pytest.mark.parametrize("n", [0, 1, 120])
def test_twin_of_reached_levels(rng, n, bounds):
    keys, (low, high) = _packed(rng, n), bounds
    steps = [LevelStep(*geometry, bounds) for geometry in STEPS["mixed"]]
    found = reference.reached_levels(keys, steps)

    assert len(found) == len(steps)
    for step, (made, coords) in zip(steps, found, strict=True):
        cells = reference.unpack_keys(
            reference.reached_level(keys, step.size, step.stride, step.dilation, step.first)
        ).tolist()
        wanted = [cell for cell in cells if all(a <= c <= b for a, c, b in zip(low, cell, high, strict=True))]
        assert coords.tolist() == wanted
        assert torch.equal(made, reference.pack_rows(coords)[0])
        keys = made


@pytest.mark.parametrize("names", [("all",), ("some", "all"), ("all", "far"), ("far",), ("nothing", "all")])
@pytest.mark.parametrize("n", [0, 1, 300])
@pytest.mark.parametrize("geometries", STEPS.values(), ids=STEPS.keys())
def test_reached_levels_matches_twin(device, rng, n, geometries, names):
    keys, steps = _packed(rng, n).to(device), _steps(geometries, names)
    expected = reference.reached_levels(keys, steps)
    # what it leaves behind is what it finds the next time
    for _ in range(2):
        actual = backend_of(keys).reached_levels(keys, steps)
        assert len(actual) == len(expected)
        for got, want in zip(actual, expected, strict=True):
            assert [part.dtype for part in got] == [torch.int64, torch.int32]
            assert all(map(torch.equal, got, want))


def test_levels_of_a_solid_block(device):
    # more cells for one block of threads than it lists at once; where each marks itself alone, all are seen
    itself = [((1, 1, 1), (1, 1, 1), (1, 1, 1), (0, 0, 0))] * 2
    sides = [range(-9, 9), range(-9, 10), range(-8, 9)]
    cells = torch.tensor(list(itertools.product([0], *sides)), dtype=torch.int32, device=device)
    keys = reference.pack_rows(cells)[0]
    for geometries in ([*itself, *STEPS["halves"]], [*STEPS["one"], *STEPS["cubes"]]):
        steps = _steps(geometries, ("all",))
        expected = reference.reached_levels(keys, steps)
        assert len(expected[0][0]) > 4096
        for got, want in zip(backend_of(keys).reached_levels(keys, steps), expected, strict=True):
            assert all(map(torch.equal, got, want))


def test_more_levels_than_a_letter_has_words(device, monkeypatch, rng):
    from tests.emulation import gpu_kernels

    gpu_kernels()
    from pcsparse.kernels.gpu import grid

    monkeypatch.setattr(grid, "WORDS", 2)
    keys, steps = _packed(rng, 300).to(device), _steps(STEPS["halves"] + STEPS["one"], ("all",))
    for got, want in zip(
        backend_of(keys).reached_levels(keys, steps), reference.reached_levels(keys, steps), strict=True
    ):
        assert all(map(torch.equal, got, want))


def _searches(rng, device, *, symmetric: bool) -> list[Search]:
    """Maps of two levels with rows in any order, one whose keys are none, and one without offsets."""
    fine = _packed(rng, 700)
    coarse = reference.partition_keys(fine, (2, 2, 2), (0, 0, 0))[0]
    orders = [torch.randperm(len(keys), generator=rng).int().to(device) for keys in (fine, coarse)]
    fine, coarse = fine.to(device), coarse.to(device)
    axis = (-1, 0, 1)
    cube = tuple((x << 34) + (y << 16) + z for x in axis for y in axis for z in axis)
    whole = Search(fine, fine, cube, (1, 1, 1), orders[0], orders[0], symmetric)
    return [
        whole,
        Search(coarse, coarse, cube, symmetric=symmetric),
        Search(fine, coarse, cube, (2, 2, 2), orders[0]),
        Search(fine, coarse, cube[13:], (2, 2, 2), None, orders[1]),
        Search(fine[:0], coarse, cube[:2]),
        Search(fine, fine[:0], cube),
        Search(fine, fine, ()),
        Search(fine, fine, (0,), symmetric=symmetric),
    ]


_MORE = (0, 3, 600, 3, 600, 600, 3, 1)


def _with_room(searches: list[Search], device) -> list[Search]:
    """The same, to be written to tables that are wider and full of other numbers; 600 more is blocks more."""
    rooms = [len(search.queries) + more for search, more in zip(searches, _MORE, strict=True)]
    return [
        replace(search, out=torch.full((len(search.deltas), room), 7, dtype=torch.int32, device=device))
        for search, room in zip(searches, rooms, strict=True)
    ]


def test_twin_of_match_tables(rng):
    searches = _searches(rng, torch.device("cpu"), symmetric=False)
    for search, table in zip(searches, reference.match_tables(searches), strict=True):
        row_of = {key: i for i, key in enumerate(search.keys.tolist())}
        steps = [1, *search.stride]
        queries = reference.unpack_keys(search.queries).tolist()
        cells = [[c * s for c, s in zip(query, steps, strict=True)] for query in queries]
        scaled = reference.pack_rows(torch.tensor(cells, dtype=torch.int32).view(-1, 4))[0].tolist()
        expected = torch.full((len(search.deltas), len(scaled)), -1, dtype=torch.int32)
        for (k, delta), (j, query) in itertools.product(enumerate(search.deltas), enumerate(scaled)):
            row = row_of.get(query + delta, -1)
            if row >= 0 and search.order_in is not None:
                row = int(search.order_in[row])
            expected[k, j if search.order_out is None else int(search.order_out[j])] = row
        assert table.dtype == torch.int32
        assert torch.equal(table, expected)


@pytest.mark.parametrize("symmetric", [False, True])
def test_match_tables_matches_twin(device, rng, symmetric):
    searches = _searches(rng, device, symmetric=symmetric)
    expected = reference.match_tables(searches)
    backend = backend_of(searches[0].keys)
    alone = [backend.match_tables([search])[0] for search in searches]
    for actual in (backend.match_tables(searches), alone):
        for got, want in zip(actual, expected, strict=True):
            assert got.dtype == torch.int32
            assert torch.equal(got, want)
    assert backend.match_tables([]) == []


def test_match_tables_write_to_a_table_with_more_room(device, rng):
    searches = _searches(rng, device, symmetric=False)
    expected = reference.match_tables(searches)
    backend = backend_of(searches[0].keys)
    for one_by_one in (False, True):
        given = _with_room(searches, device)
        found = (
            [backend.match_tables([search])[0] for search in given]
            if one_by_one
            else backend.match_tables(given)
        )
        twins = reference.match_tables(_with_room(searches, device))
        for search, got, want, twin in zip(given, found, expected, twins, strict=True):
            assert got is search.out
            assert torch.equal(got[:, : want.shape[1]], want)
            assert bool((got[:, want.shape[1] :] == -1).all())
            assert torch.equal(got, twin)


def test_long_lists_of_offsets_stay_where_they_are_until_the_launch(device, rng):
    # so long that the device does not keep them
    keys = _keys(rng, 60, 6000).to(device)
    searches = [Search(keys, keys, tuple(range(first, first + 4100))) for first in (0, 7, 13, 19)]
    backend = backend_of(keys)
    for search, got in zip(searches, backend.match_tables(searches), strict=True):
        assert torch.equal(got, backend.match_tables([search])[0])


_CUBE = tuple((x << 34) + (y << 16) + z for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1))
_ROWS = {  # clouds of rows (batch, x, y, z)
    "none": torch.zeros(0, 4, dtype=torch.int32),
    "one": torch.tensor([[2046, -7, 0, 5]], dtype=torch.int32),
    "ascend": reference.unpack_keys(_packed(torch.Generator().manual_seed(3), 700)),
    "twice": torch.tensor([[0, 1, 2, 3], [0, 1, 2, 3]], dtype=torch.int32),
    "beyond-a-key": torch.tensor([[0, 0, 0, 0], [0, 200_000, 0, 0]], dtype=torch.int32),
}
_ROWS["descend"] = _ROWS["ascend"].flip(0)
_ROWS["last-falls"] = _ROWS["ascend"][[*range(1, 650), 0]]


@pytest.mark.parametrize("rows", _ROWS.values(), ids=_ROWS.keys())
def test_twin_of_pack_and_match(rows):
    keys, low, high, table = reference.pack_and_match(rows, _CUBE)

    *packed, ascending = reference.pack_rows(rows)
    assert torch.equal(keys, packed[0])
    assert [low, high] == packed[1:]
    assert ascending == (table is not None)
    if table is not None and len(rows) > 1 and packed[2][1] < 1000:
        place = {cell: i for i, cell in enumerate(map(tuple, rows.tolist()))}
        steps = list(itertools.product((-1, 0, 1), repeat=3))
        for k, (x, y, z) in enumerate(steps):
            moved = [(b, i + x, j + y, h + z) for b, i, j, h in place]
            assert table[k].tolist() == [place.get(cell, -1) for cell in moved]


@pytest.mark.parametrize("deltas", [_CUBE, (0,), ()], ids=len)
@pytest.mark.parametrize("rows", _ROWS.values(), ids=_ROWS.keys())
def test_pack_and_match_matches_twin(device, rows, deltas):
    expected, rows = reference.pack_and_match(rows, deltas), rows.to(device)
    # what it leaves behind is what it finds the next time
    for _ in range(2):
        keys, low, high, table = backend_of(rows).pack_and_match(rows, deltas)
        assert torch.equal(keys.cpu(), expected[0])
        assert (low, high) == expected[1:3]
        assert (table is None) == (expected[3] is None)
        if table is not None:
            assert table.dtype == torch.int32
            assert table.shape == (len(deltas), len(rows))
            assert torch.equal(table.cpu(), expected[3])


def test_a_table_of_keys_that_fall_is_not_searched(monkeypatch):
    from tests.emulation import emulate

    emulate(monkeypatch)
    from pcsparse.kernels.gpu import match

    given = []
    rows, launch = _ROWS["descend"], match._launch
    monkeypatch.setattr(
        match, "_launch", lambda *args, **more: (given.append(args[3]), launch(*args, **more))
    )
    monkeypatch.setattr(
        torch, "empty", lambda shape, **how: torch.full(torch.Size([*_sizes(shape)]), 7, **how)
    )
    assert match.pack_and_match(rows, _CUBE)[3] is None
    # a walk along such keys has no end in sight
    assert bool((given[0] == 7).all())


def _sizes(shape: int | tuple[int, ...]) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, int) else shape


# what a cloud's levels are kept within where nobody cuts them
_EVERYWHERE = ((0, -130_000, -130_000, -32_000), (2046, 130_000, 130_000, 32_000))


def _first_steps(geometries: list, bounds: tuple = _EVERYWHERE) -> list[LevelStep]:
    return [LevelStep(*geometry, bounds) for geometry in geometries]


@pytest.mark.parametrize("rows", _ROWS.values(), ids=_ROWS.keys())
def test_twin_of_pack_and_reach(rows):
    steps = _first_steps(STEPS["mixed"])
    keys, low, high, levels, table = reference.pack_and_reach(rows, steps, _CUBE)

    *packed, ascending = reference.pack_rows(rows)
    assert torch.equal(keys, packed[0])
    assert [low, high] == packed[1:]
    usable = ascending and all(-131072 <= end < 131072 for end in (*low, *high))
    assert (levels is not None) == (table is not None) == usable
    if levels is None:
        return
    for got, want in zip(levels, reference.reached_levels(keys, steps), strict=True):
        assert all(map(torch.equal, got, want))
    place = {cell: i for i, cell in enumerate(map(tuple, rows.tolist()))}
    scale = [1, *steps[0].stride]
    for j, cell in enumerate(levels[0][1].tolist()):
        b, *at = (c * s for c, s in zip(cell, scale, strict=True))
        for k, step in enumerate(itertools.product((-1, 0, 1), repeat=3)):
            moved = (b, *(c + s for c, s in zip(at, step, strict=True)))
            assert table[k, j] == place.get(moved, -1)


def _check_first(rows, steps, deltas) -> None:
    expected = reference.pack_and_reach(rows.cpu(), steps, deltas)
    # what it leaves behind is what it finds the next time
    for _ in range(2):
        keys, low, high, levels, table = backend_of(rows).pack_and_reach(rows, steps, deltas)
        assert torch.equal(keys.cpu(), expected[0])
        assert (low, high) == expected[1:3]
        assert (levels is None) == (expected[3] is None)
        for got, want in zip(levels or (), expected[3] or (), strict=True):
            assert [part.dtype for part in got] == [torch.int64, torch.int32]
            assert all(torch.equal(a.cpu(), b) for a, b in zip(got, want, strict=True))
        assert (table is None) == (expected[4] is None)
        if table is not None:
            assert torch.equal(table.cpu(), expected[4])


@pytest.mark.parametrize("deltas", [_CUBE, None], ids=["map", "levels"])
@pytest.mark.parametrize("geometries", STEPS.values(), ids=STEPS.keys())
@pytest.mark.parametrize("rows", _ROWS.values(), ids=_ROWS.keys())
def test_pack_and_reach_matches_twin(device, rows, geometries, deltas):
    _check_first(rows.to(device), _first_steps(geometries), deltas)


@pytest.mark.parametrize("names", [("all",), ("some", "all"), ("nothing", "all"), ("all", "nothing")])
@pytest.mark.parametrize("geometries", [STEPS["halves"], STEPS["mixed"]], ids=["halves", "mixed"])
def test_the_first_levels_of_a_cloud_keep_to_their_bounds(device, geometries, names):
    _check_first(_ROWS["ascend"].to(device), _steps(geometries, names), None)


def _spread(n: int) -> torch.Tensor:
    """Rows so far apart that a level takes several chunks of bits, and the next ones fewer."""
    rows = reference.unpack_keys(_packed(torch.Generator().manual_seed(3), n))
    return (rows * torch.tensor([1, 3, 3, 3])).int()


@pytest.mark.parametrize("words", [1, 2, 5, 9])
def test_levels_without_room_for_their_bits_are_made_as_others_are(gpu_or_emulated, monkeypatch, words):
    from pcsparse.kernels.gpu import first_levels

    monkeypatch.setattr(first_levels, "_MOST_WORDS", (words - 8) * 1024)
    seen, alone = [], first_levels.reached_levels
    monkeypatch.setattr(
        first_levels, "reached_levels", lambda keys, steps: (seen.append(len(steps)), alone(keys, steps))[1]
    )
    _check_first(_spread(300).to(gpu_or_emulated), _first_steps(STEPS["halves"]), _CUBE)
    assert seen == {1: [4, 4], 2: [3, 3], 5: [], 9: []}[words]


@pytest.mark.parametrize("names", [(), ("some", "all"), ("nothing", "all"), ("far",)], ids=str)
@pytest.mark.parametrize("geometries", [STEPS["cubes"], STEPS["mixed"]], ids=["cubes", "mixed"])
def test_levels_without_room_keep_to_the_bounds_of_the_cloud(gpu_or_emulated, monkeypatch, geometries, names):
    from pcsparse.kernels.gpu import first_levels

    monkeypatch.setattr(first_levels, "_MOST_WORDS", -7 * 1024)
    steps = _steps(geometries, names) if names else _first_steps(geometries)
    for rows in (_spread(300), _ROWS["one"], _ROWS["none"]):
        _check_first(rows.to(gpu_or_emulated), steps, _CUBE)


@pytest.mark.parametrize("name", ["ascend", "descend", "last-falls", "twice"])
def test_no_bits_are_marked_for_rows_that_do_not_ascend(gpu_or_emulated, name):
    from pcsparse.kernels.gpu import first_levels

    planned = first_levels._Planned(_ROWS[name].to(gpu_or_emulated), tuple(_first_steps(STEPS["halves"])))
    planned._words.fill_(7)
    *_, ascending, counts = planned.started()
    assert ascending == (name == "ascend")
    assert (counts == [first_levels._NO_ROOM] * 4) == bool((planned._words == 7).all()) == (not ascending)


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_a_block_reads_a_run_of_bits(device, monkeypatch, blocks):
    from tests.emulation import gpu_kernels

    gpu_kernels()
    from pcsparse.kernels.gpu import first_levels

    monkeypatch.setattr(first_levels, "_MOST_BLOCKS", blocks)
    _check_first(_spread(300).to(device), _first_steps(STEPS["mixed"][:2]), None)


def test_all_is_launched_before_the_host_waits(monkeypatch):
    from tests.emulation import emulate

    emulate(monkeypatch)
    from pcsparse.kernels.gpu import cuda_text, first_levels, mailbox, match

    events, launch, read = [], cuda_text.launch, mailbox.Mailbox.read
    monkeypatch.setattr(
        cuda_text,
        "launch",
        lambda file, name, *args, **how: (events.append(name), launch(file, name, *args, **how))[1],
    )
    monkeypatch.setattr(mailbox.Mailbox, "read", lambda box, n: (events.append("wait"), read(box, n))[1])
    match.pack_and_match(_ROWS["ascend"], _CUBE)
    assert events == ["pack_rows", "match_table", "wait"]
    events.clear()
    first_levels.pack_and_reach(_ROWS["ascend"], _first_steps(STEPS["halves"][:1]), _CUBE)
    assert events[:4] == ["pack_rows", "clear_planned", "mark_planned", "count_planned"]
    assert events[4:] == ["wait", "list_planned", "match_table"]
