"""The search of a kernel map: the twin against Python, backends against the twin."""

from itertools import pairwise

import pytest
import torch

from pcsparse.errors import RangeError
from pcsparse.kernels import key_layout, reference
from pcsparse.kernels.select import backend_of


def _sorted_keys(rng, n, high):
    return torch.randperm(high, generator=rng)[:n].sort().values


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
SIZES = {  # n_in, n_out; a block of queries holds 1024
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


# in a dense box most neighbours are there, so that a block has no room for its hits at first
BOX = torch.cartesian_prod(torch.arange(16), torch.arange(16), torch.arange(16))
MIRRORED = {
    "empty": (torch.zeros(0, dtype=torch.int64), 1),
    "one": (torch.tensor([7 << 34]), 1),
    "box": ((BOX << torch.tensor([34, 16, 0])).sum(1) + (1 << 50), 2),
    "thin": ((BOX[::7] << torch.tensor([34, 16, 0])).sum(1) + (1 << 50), 1),
    "far-along-z": (
        torch.arange(0, 65_000, 63).repeat(9) + (torch.arange(9) << 16).repeat_interleave(1032),
        1,
    ),
}


@pytest.mark.parametrize(("keys", "reach"), MIRRORED.values(), ids=MIRRORED.keys())
def test_the_mirrored_half_is_the_whole_search(device, keys, reach):
    keys = keys.to(device)
    axis = range(-reach, reach + 1)
    deltas = torch.tensor(
        [(x << 34) + (y << 16) + z for x in axis for y in axis for z in axis], device=device
    )
    half = deltas[: len(deltas) // 2]
    whole = reference.match_keys(keys, keys, deltas)

    for backend in (reference, backend_of(keys)):
        for got, want in zip(backend.match_keys(keys, keys, half, True), whole, strict=True):
            assert got.dtype == want.dtype
            assert torch.equal(got, want)


@pytest.mark.parametrize("some", [(12,), (0, 12), (1, 4, 7), (0, 2, 3, 5, 6, 8), (4, 9, 10, 11, 12)], ids=str)
def test_some_of_the_mirrored_half_are_the_search_for_them_and_their_images(device, some):
    keys, reach = (part.to(device) if isinstance(part, torch.Tensor) else part for part in MIRRORED["thin"])
    axis = range(-reach, reach + 1)
    deltas = torch.tensor(
        [(x << 34) + (y << 16) + z for x in axis for y in axis for z in axis], device=device
    )
    whole = reference.match_keys(keys, keys, deltas[[*some, 13, *(26 - k for k in reversed(some))]])

    for backend in (reference, backend_of(keys)):
        for got, want in zip(backend.match_keys(keys, keys, deltas[list(some)], True), whole, strict=True):
            assert torch.equal(got, want)


def test_the_mirrored_half_of_a_kernel_of_one(device):
    keys, nothing = torch.arange(5, device=device), torch.zeros(0, dtype=torch.int64, device=device)
    for backend in (reference, backend_of(keys)):
        rows_in, rows_out, starts = backend.match_keys(keys, keys, nothing, True)
        assert rows_in.tolist() == rows_out.tolist() == [0, 1, 2, 3, 4]
        assert starts.tolist() == [0, 5]


@pytest.mark.parametrize("mirrored", [False, True])
def test_more_pairs_than_int32_tells_apart_are_refused_before_they_are_listed(device, monkeypatch, mirrored):
    keys = torch.arange(2000, device=device)
    deltas = torch.tensor([-2, -1], device=device)
    # 1998 + 1999 pairs, twice that and 2000 if mirrored
    n_pairs = 9994 if mirrored else 3997
    for backend in (reference, backend_of(keys)):
        monkeypatch.setattr(key_layout, "MOST_PAIRS", n_pairs)
        assert int(backend.match_keys(keys, keys, deltas, mirrored)[2][-1]) == n_pairs
        monkeypatch.setattr(key_layout, "MOST_PAIRS", n_pairs - 1)
        k = 5 if mirrored else 2
        with pytest.raises(
            RangeError, match=rf"{n_pairs} pairs of 2000 and 2000 voxels at {k} offsets .*\({n_pairs - 1}\)"
        ):
            backend.match_keys(keys, keys, deltas, mirrored)
    monkeypatch.undo()
    assert torch.iinfo(torch.int32).max == key_layout.MOST_PAIRS


@pytest.mark.parametrize("mirrored", [False, True])
def test_more_offsets_than_a_search_can_number_are_refused_before_any_work(device, mirrored):
    keys = torch.arange(3, device=device)
    most = key_layout.MOST_OFFSETS
    assert most == 1 << 21
    deltas = torch.zeros(most + 1, dtype=torch.int64, device=device)
    for backend in (reference, backend_of(keys)):
        with pytest.raises(RangeError, match=r"2097153 kernel offsets .*\(2097152\); use a smaller kernel"):
            backend.match_keys(keys, keys, deltas, mirrored)


@pytest.mark.not_emulated("two million blocks of threads")
def test_offsets_up_to_the_last_that_a_search_can_number_are_found(device):
    keys, k = torch.tensor([5, 9], device=device), key_layout.MOST_OFFSETS
    deltas = torch.arange(k, device=device) + (1 << 40)
    # one whose number has but its highest bit, and the last
    far, last = 1 << 20, k - 1
    deltas[[0, 1, far, last]] = torch.tensor([0, 4, -4, 4], device=device)
    rows_in, rows_out, starts = backend_of(keys).match_keys(keys, keys, deltas)
    assert (rows_in.tolist(), rows_out.tolist()) == ([0, 1, 1, 0, 1], [0, 1, 0, 1, 0])
    assert starts[[0, 1, 2, far, far + 1, last, last + 1]].tolist() == [0, 2, 3, 3, 4, 4, 5]
