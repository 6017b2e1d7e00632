"""Sorting and matching of keys: twins against Python, backends against twins."""

from itertools import pairwise

import pytest
import torch

from pcsparse.kernels import reference
from pcsparse.kernels.select import backend_of


def _sorted_keys(rng, n, high):
    return torch.randperm(high, generator=rng)[:n].sort().values


KEYS = {
    "none": lambda rng: torch.zeros(0, dtype=torch.int64),
    "one": lambda rng: torch.tensor([1 << 62]),
    "all-equal": lambda rng: torch.full((65,), 7),
    "descending": lambda rng: torch.arange(500, 0, -1),
    "repeats": lambda rng: torch.randint(40, (5000,), generator=rng),
    "wide": lambda rng: torch.randint(1 << 62, (4097,), generator=rng),
}


@pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS.keys())
def test_twin_of_unique_keys(rng, keys):
    keys = keys(rng)
    unique, inverse, first = reference.unique_keys(keys)

    values = keys.tolist()
    assert unique.tolist() == sorted(set(values))
    assert [unique[i].item() for i in inverse] == values
    assert first.tolist() == [values.index(key) for key in unique.tolist()]


@pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS.keys())
def test_unique_keys_matches_twin(device, rng, keys):
    keys = keys(rng).to(device)
    kept = keys.clone()
    for actual, expected in zip(backend_of(keys).unique_keys(keys), reference.unique_keys(keys), strict=True):
        assert actual.dtype == torch.int64
        assert torch.equal(actual, expected)
    assert torch.equal(keys, kept)


# a z column is 1 apart, the next column 1000 or more, as with packed coordinates
DELTAS = {
    "none": [],
    "zero": [0],
    "columns": [x * 100_000 + y * 1000 + z for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1)],
    "descending": [2, 1, 0, -1],
    "repeated": [0, 0, 3, 3],
    "far": [-(1 << 40), -(1 << 15), 1 << 15, 1 << 40],
    "gaps": [-512, -256, 0, 256, 512],
}
SIZES = {  # n_in, n_out; a block of queries holds 2048
    "nothing": (0, 0),
    "no-keys": (0, 5),
    "no-queries": (5, 0),
    "one": (1, 1),
    "block-less-one": (2047, 2047),
    "block-and-one": (3000, 2049),
    "blocks": (6500, 6145),
}


def _same_range(rng, sizes):
    high = max(4, 2 * max(sizes))
    return _sorted_keys(rng, sizes[0], high) + (1 << 50), _sorted_keys(rng, sizes[1], high) + (1 << 50)


@pytest.mark.parametrize("deltas", DELTAS.values(), ids=DELTAS.keys())
def test_twin_of_match_keys(rng, deltas):
    keys, queries = _same_range(rng, (90, 70))
    rows_in, rows_out, starts = reference.match_keys(keys, queries, torch.tensor(deltas, dtype=torch.int64))

    row_of = {key: i for i, key in enumerate(keys.tolist())}
    expected = [
        [(row_of[q + delta], j) for j, q in enumerate(queries.tolist()) if q + delta in row_of]
        for delta in deltas
    ]
    found = list(zip(rows_in.tolist(), rows_out.tolist(), strict=True))
    assert [found[a:b] for a, b in pairwise(starts.tolist())] == expected
    assert len(found) == starts[-1]


@pytest.mark.parametrize("deltas", DELTAS.values(), ids=DELTAS.keys())
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_match_keys_matches_twin(device, rng, sizes, deltas):
    keys, queries = _same_range(rng, sizes)
    inputs = [keys.to(device), queries.to(device), torch.tensor(deltas, dtype=torch.int64, device=device)]

    expected = reference.match_keys(*inputs)
    actual = backend_of(*inputs).match_keys(*inputs)

    for got, want, dtype in zip(actual, expected, (torch.int32, torch.int32, torch.int64), strict=True):
        assert got.dtype == want.dtype == dtype
        assert torch.equal(got, want)


def test_match_keys_with_queries_outside_all_keys(device):
    keys = torch.arange(1000, 1100, device=device)
    for first in (0, 5000):
        queries = torch.arange(first, first + 50, device=device)
        rows_in, rows_out, starts = backend_of(keys).match_keys(keys, queries, torch.tensor([-1, 0, 1]))
        assert rows_in.numel() == rows_out.numel() == 0
        assert starts.tolist() == [0, 0, 0, 0]
