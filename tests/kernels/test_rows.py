"""Counting sort, tables and bit masks: twins against Python, backends against twins."""

from itertools import pairwise

import pytest
import torch

from pcsparse.kernels import reference
from pcsparse.kernels.select import backend_of
from tests.kernels.random_maps import COUNTS, N_IN, N_OUT, pairs

ROWS = {  # rows, n
    "none": ([], 0),
    "none-in-five": ([], 5),
    "one": ([0], 1),
    "last-only": ([6, 6, 6], 7),
    "descending": ([4, 3, 2, 1, 0], 5),
    "mixed": ([5, 1, 1, 0, 5, 3, 1, 5], 9),
}


@pytest.mark.parametrize(("rows", "n"), ROWS.values(), ids=ROWS.keys())
def test_twin_of_group_rows(rows, n):
    order, starts = reference.group_rows(torch.tensor(rows, dtype=torch.int32), n)

    groups = [[i for i, row in enumerate(rows) if row == wanted] for wanted in range(n)]
    assert order.tolist() == [i for group in groups for i in group]
    assert starts.tolist() == [sum(len(group) for group in groups[:row]) for row in range(n + 1)]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize(("rows", "n"), ROWS.values(), ids=ROWS.keys())
def test_group_rows_matches_twin(device, rows, n, dtype):
    rows = torch.tensor(rows, dtype=dtype, device=device)
    expected, actual = reference.group_rows(rows, n), backend_of(rows).group_rows(rows, n)

    for got, want, kind in zip(actual, expected, (torch.int32, torch.int64), strict=True):
        assert got.dtype == want.dtype == kind
        assert torch.equal(got, want)


def test_group_rows_is_stable_where_it_is_large(device, rng):
    rows = torch.randint(37, (10_007,), generator=rng).to(device)
    expected, actual = reference.group_rows(rows, 40), backend_of(rows).group_rows(rows, 40)

    assert torch.equal(actual[0], expected[0])
    assert torch.equal(actual[1], expected[1])


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS.keys())
def test_twin_of_pairs_to_table(rng, counts):
    rows_in, rows_out, starts = pairs(counts, rng)
    table = reference.pairs_to_table(rows_in, rows_out, starts, N_OUT)

    expected = [[-1] * N_OUT for _ in counts]
    for k in range(len(counts)):
        for p in range(starts[k], starts[k + 1]):
            expected[k][rows_out[p]] = int(rows_in[p])
    assert table.tolist() == expected


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS.keys())
def test_pairs_to_table_matches_twin(device, rng, counts):
    lists = [part.to(device) for part in pairs(counts, rng)]
    expected = reference.pairs_to_table(*lists, N_OUT)
    actual = backend_of(*lists).pairs_to_table(*lists, N_OUT)

    assert actual.dtype == expected.dtype == torch.int32
    assert torch.equal(actual, expected)


def _orders(rng, n_in: int = N_IN, n_out: int = N_OUT) -> dict[str, tuple]:
    order_in, order_out = (torch.randperm(n, generator=rng).int() for n in (n_in, n_out))
    return {
        "both": (order_in, order_out),
        "in": (order_in, None),
        "out": (None, order_out),
        "none": (None, None),
    }


def _mixed(counts: list[int], rng, twice: bool = False) -> tuple:
    """Pairs whose lists do not ascend; with outputs that occur more than once if `twice`."""
    rows_in, rows_out, starts = pairs(counts, rng)
    for start, stop in pairwise(starts.tolist()):
        rows_out[start:stop] = rows_out[start:stop].flip(0)
    return rows_in, rows_out // 2 if twice else rows_out, starts


@pytest.mark.parametrize("which", ["both", "in", "out", "none"])
@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS.keys())
@pytest.mark.parametrize("twice", [False, True])
def test_twin_of_renumber_pairs(rng, counts, which, twice):
    rows_in, rows_out, starts = _mixed(counts, rng, twice)
    order_in, order_out = _orders(rng)[which]
    new_in, new_out = reference.renumber_pairs(rows_in, rows_out, starts, order_in, order_out, N_OUT)

    for start, stop in pairwise(starts.tolist()):
        renamed = [
            (i if order_in is None else int(order_in[i]), j if order_out is None else int(order_out[j]))
            for i, j in zip(rows_in[start:stop].tolist(), rows_out[start:stop].tolist(), strict=True)
        ]
        # sorted is stable
        expected = sorted(renamed, key=lambda pair: pair[1])
        assert list(zip(new_in[start:stop].tolist(), new_out[start:stop].tolist(), strict=True)) == expected


@pytest.mark.parametrize("which", ["both", "in", "out", "none"])
@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS.keys())
@pytest.mark.parametrize("twice", [False, True])
def test_renumber_pairs_matches_twin(device, rng, counts, which, twice):
    lists = [part.to(device) for part in _mixed(counts, rng, twice)]
    kept = [part.clone() for part in lists]
    orders = [None if order is None else order.to(device) for order in _orders(rng)[which]]
    expected = reference.renumber_pairs(*lists, *orders, N_OUT)
    actual = backend_of(*lists).renumber_pairs(*lists, *orders, N_OUT)

    for got, want in zip(actual, expected, strict=True):
        assert got.dtype == want.dtype == torch.int32
        assert torch.equal(got, want)
    assert all(torch.equal(a, b) for a, b in zip(lists, kept, strict=True))


MASKS = {
    "none": torch.zeros(N_OUT, dtype=torch.bool),
    "all": torch.ones(N_OUT, dtype=torch.bool),
    "third": torch.arange(N_OUT) % 3 == 1,
    "last": torch.arange(N_OUT) == N_OUT - 1,
}
# no offset, and the first and the last, all of whose pairs stay
WHOLE = (None, 0, -1)


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS.keys())
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
@pytest.mark.parametrize("whole", WHOLE)
def test_twin_of_keep_outputs(rng, counts, mask, whole):
    rows_in, rows_out, starts = pairs(counts, rng)
    whole = None if whole is None or not counts else whole % len(counts)
    new_in, new_out, new_starts = reference.keep_outputs(rows_in, rows_out, starts, mask, whole)

    found = list(zip(new_in.tolist(), new_out.tolist(), strict=True))
    assert len(new_starts) == len(counts) + 1
    for k, (start, stop) in enumerate(pairwise(starts.tolist())):
        kept = [p for p in range(start, stop) if k == whole or mask[rows_out[p]]]
        expected = [(int(rows_in[p]), int(rows_out[p])) for p in kept]
        assert found[new_starts[k] : new_starts[k + 1]] == expected
    assert new_starts[-1] == len(found)


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS.keys())
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
@pytest.mark.parametrize("whole", WHOLE)
def test_keep_outputs_matches_twin(device, rng, counts, mask, whole):
    inputs = [*(part.to(device) for part in pairs(counts, rng)), mask.to(device)]
    whole = None if whole is None or not counts else whole % len(counts)
    expected, actual = (kernels.keep_outputs(*inputs, whole) for kernels in (reference, backend_of(*inputs)))

    for got, want, dtype in zip(actual, expected, (torch.int32, torch.int32, torch.int64), strict=True):
        assert got.dtype == want.dtype == dtype
        assert torch.equal(got, want)


TILES = [1, 2, 7, N_OUT - 1, N_OUT, N_OUT + 1, 10 * N_OUT]


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS.keys())
@pytest.mark.parametrize("tile", TILES)
def test_twin_of_tile_spans(rng, counts, tile):
    _, rows_out, starts = pairs(counts, rng)
    spans = reference.tile_spans(rows_out, starts, N_OUT, tile)

    assert spans.shape == (-(-N_OUT // tile) + 1, len(counts))
    for t in range(len(spans)):
        for k in range(len(counts)):
            before = [p for p in range(starts[k], starts[k + 1]) if rows_out[p] < t * tile]
            assert spans[t, k] == starts[k] + len(before)


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS.keys())
@pytest.mark.parametrize("tile", TILES)
def test_tile_spans_matches_twin(device, rng, counts, tile):
    _, rows_out, starts = (part.to(device) for part in pairs(counts, rng))
    expected = reference.tile_spans(rows_out, starts, N_OUT, tile)
    actual = backend_of(rows_out).tile_spans(rows_out, starts, N_OUT, tile)

    assert actual.dtype == expected.dtype == torch.int64
    assert torch.equal(actual, expected)
    assert torch.equal(actual[-1], starts[1:])


def test_tile_spans_without_rows(device):
    nothing = torch.zeros(0, dtype=torch.int32, device=device)
    for k in (0, 27):
        spans = backend_of(nothing).tile_spans(
            nothing, torch.zeros(k + 1, dtype=torch.int64, device=device), 0, 64
        )
        assert spans.shape == (1, k)
        assert spans.tolist() == [[0] * k]


TABLES = {  # k, n_out, splits; a block of rows holds 1024
    "no-rows": (27, 0, 1),
    "one-row": (27, 1, 1),
    "one-offset": (1, 5, 1),
    "all-63-bits": (63, 300, 1),
    "27-in-4": (27, 1025, 4),
    "125-in-2": (125, 1023, 2),
    "125-in-3": (125, 2100, 3),
    "343-in-6": (343, 100, 6),
    "last-chunk-empty": (5, 50, 4),
}


@pytest.mark.parametrize(("k", "n_out", "splits"), TABLES.values(), ids=TABLES.keys())
def test_twin_of_row_masks(rng, k, n_out, splits):
    n_out = min(n_out, 80)
    table = torch.randint(-2, 2, (k, n_out), generator=rng, dtype=torch.int32).clamp(min=-1)
    masks = reference.row_masks(table, splits)

    chunk = -(-k // splits)
    for row in range(n_out):
        for s in range(splits):
            bits = [table[o, row] >= 0 for o in range(s * chunk, min(k, (s + 1) * chunk))]
            assert masks[s, row] == sum(1 << j for j, bit in enumerate(bits) if bit)
    assert masks.shape == (splits, n_out)


@pytest.mark.parametrize(("k", "n_out", "splits"), TABLES.values(), ids=TABLES.keys())
def test_row_masks_matches_twin(device, rng, k, n_out, splits):
    table = torch.randint(-2, 2, (k, n_out), generator=rng, dtype=torch.int32).clamp(min=-1).to(device)
    expected, actual = reference.row_masks(table, splits), backend_of(table).row_masks(table, splits)

    assert actual.dtype == expected.dtype == torch.int64
    assert torch.equal(actual, expected)


def test_twin_of_gray_rank():
    # the definition: rank r has the Gray code r ^ r >> 1
    ranks = torch.cat([torch.arange(1024), torch.tensor([(1 << 62) + 5, (1 << 63) - 1])])
    codes = ranks ^ (ranks >> 1)

    assert torch.equal(reference.gray_rank(codes), ranks)


@pytest.mark.parametrize("shape", [(0,), (1,), (4, 33), (3, 0)], ids=str)
def test_gray_rank_matches_twin(device, rng, shape):
    masks = torch.randint((1 << 63) - 1, shape, generator=rng).to(device)
    kept = masks.clone()
    expected, actual = reference.gray_rank(masks), backend_of(masks).gray_rank(masks)

    assert actual.dtype == expected.dtype == torch.int64
    assert torch.equal(actual, expected)
    assert torch.equal(masks, kept)
