"""Packing and sorting of keys: twins against Python, backends against twins."""

from itertools import pairwise

import pytest
import torch

from pcsparse.coords.keys import COORD_MIN
from pcsparse.kernels import reference
from pcsparse.kernels.select import backend_of

COORDS = {
    "none": torch.zeros(0, 4),
    "one": torch.tensor([[2046, -130_000, 130_000, -32_000]]),
    "corners": torch.cartesian_prod(
        torch.tensor([0, 2046]), *(torch.tensor([low, 0, -low - 1]) for low in COORD_MIN)
    ),
    "equal-rows": torch.tensor([[0, 1, 2, 3], [0, 1, 2, 3]]),
    "last-row-falls": torch.tensor([[0, 0, 0, 1], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 9, 9]]),
}  # fmt: skip
# blocks of rows that ascend, but not where two blocks meet
_rows = torch.cat([torch.arange(4096), torch.arange(100)])[:, None]
COORDS["falls-between-blocks"] = (
    _rows // torch.tensor([1 << 20, 1 << 20, 100, 1]) % torch.tensor([1, 1, 50, 100])
)
COORDS["ascending-blocks"] = torch.arange(10_000)[:, None] // torch.tensor([5000, 100, 10, 1]) + COORD_MIN[2]
COORDS["ascending-blocks"][:, 0] += -COORD_MIN[2]


@pytest.mark.parametrize("coords", COORDS.values(), ids=COORDS.keys())
def test_twin_of_pack_rows(coords):
    keys, low, high, ascending = reference.pack_rows(coords.int())

    rows = coords.tolist()
    assert keys.tolist() == [
        (int(b) << 52) + (int(x) + 131072 << 34) + (int(y) + 131072 << 16) + int(z) + 32768
        for b, x, y, z in rows
    ]
    assert list(low) == ([min(column) for column in zip(*rows, strict=True)] or [0] * 4)
    assert list(high) == ([max(column) for column in zip(*rows, strict=True)] or [0] * 4)
    assert ascending == all(a < b for a, b in pairwise(rows))


@pytest.mark.parametrize("coords", COORDS.values(), ids=COORDS.keys())
def test_pack_rows_matches_twin(device, coords):
    coords = coords.int().to(device)
    actual, expected = backend_of(coords).pack_rows(coords), reference.pack_rows(coords)

    assert actual[0].dtype == torch.int64
    assert torch.equal(actual[0], expected[0])
    assert type(actual[3]) is bool
    assert actual[1:] == expected[1:]


def test_pack_rows_finds_what_is_out_of_range_in_any_row(device, rng):
    coords = torch.zeros(9000, 4, dtype=torch.int32)
    for row, column in ((0, 0), (4095, 1), (4096, 2), (8999, 3)):
        coords[row, column] = 2**31 - 1
        coords[row - 1, column] = -(2**31)
    _, low, high, _ = backend_of(coords.to(device)).pack_rows(coords.to(device))

    assert low == (-(2**31),) * 4
    assert high == (2**31 - 1,) * 4


def test_pack_rows_reads_rows_at_any_address(device):
    coords = COORDS["corners"].int()
    shifted = torch.cat([torch.zeros(1, dtype=torch.int32), coords.flatten()]).to(device)[1:].view(-1, 4)
    assert shifted.data_ptr() % 16 == 4
    actual, expected = backend_of(shifted).pack_rows(shifted), reference.pack_rows(coords)
    assert torch.equal(actual[0].cpu(), expected[0])
    assert actual[1:] == expected[1:]


@pytest.mark.parametrize("coords", COORDS.values(), ids=COORDS.keys())
def test_twin_of_unpack_keys(coords):
    assert torch.equal(reference.unpack_keys(reference.pack_rows(coords.int())[0]), coords.int())


@pytest.mark.parametrize("coords", COORDS.values(), ids=COORDS.keys())
def test_unpack_keys_matches_twin(device, coords):
    keys = reference.pack_rows(coords.int())[0].to(device)
    actual = backend_of(keys).unpack_keys(keys)

    assert actual.dtype == torch.int32
    assert torch.equal(actual, reference.unpack_keys(keys))


@pytest.mark.parametrize("coords", COORDS.values(), ids=COORDS.keys())
def test_twin_of_key_extent(coords):
    low, high = reference.key_extent(reference.pack_rows(coords.int())[0])

    columns = list(zip(*coords.int().tolist(), strict=True)) or [(0,)] * 4
    assert low == tuple(min(column) for column in columns)
    assert high == tuple(max(column) for column in columns)


@pytest.mark.parametrize("coords", COORDS.values(), ids=COORDS.keys())
def test_key_extent_matches_twin(device, coords):
    keys = reference.pack_rows(coords.int())[0].to(device)
    assert backend_of(keys).key_extent(keys) == reference.key_extent(keys)


FALLS = {
    "nothing": ([], True),
    "one": ([7], True),
    "equal": ([3, 3], False),
    "falls": ([3, 2], False),
    "across-blocks": ([*range(256), *range(255, 400)], False),
    "last": ([*range(700), 699], False),
    "long": (list(range(0, 1 << 60, 1 << 50)), True),
}


@pytest.mark.parametrize(("keys", "expected"), FALLS.values(), ids=FALLS.keys())
def test_twin_of_ascend(keys, expected):
    assert reference.ascend(torch.tensor(keys, dtype=torch.int64)) is expected


@pytest.mark.parametrize("keys", [keys for keys, _ in FALLS.values()], ids=FALLS.keys())
def test_ascend_matches_twin(device, keys):
    keys = torch.tensor(keys, dtype=torch.int64, device=device)
    # what it leaves behind is what it finds the next time
    for _ in range(2):
        assert backend_of(keys).ascend(keys) is reference.ascend(keys)


STRIDES = {"same": (1, 1, 1), "axes-apart": (2, 3, 5), "long": (1 << 40, 1, 1 << 20)}


def _to_scale(stride: tuple) -> torch.Tensor:
    """Coordinates that keep in the range when they are scaled: 0 where the stride is long."""
    steps = torch.tensor(stride)
    rows = torch.cartesian_prod(torch.tensor([0, 7, 2046]), *(torch.tensor([-6000, -1, 0, 6000]),) * 3)
    return torch.cat([rows[:, :1], torch.where(steps < 10, rows[:, 1:], 0)], dim=1).int()


@pytest.mark.parametrize("stride", STRIDES.values(), ids=STRIDES.keys())
def test_twin_of_scale_keys(stride):
    coords = _to_scale(stride)
    scaled = reference.unpack_keys(reference.scale_keys(reference.pack_rows(coords)[0], stride))
    assert scaled.tolist() == [
        [b, *(c * s for c, s in zip(cell, stride, strict=True))] for b, *cell in coords.tolist()
    ]


@pytest.mark.parametrize("stride", STRIDES.values(), ids=STRIDES.keys())
@pytest.mark.parametrize("n", [0, 1, None])
def test_scale_keys_matches_twin(device, stride, n):
    keys = reference.pack_rows(_to_scale(stride)[:n])[0].to(device)
    actual, expected = backend_of(keys).scale_keys(keys, stride), reference.scale_keys(keys, stride)
    assert actual.dtype == expected.dtype == torch.int64
    assert torch.equal(actual, expected)


KEYS = {
    "none": lambda rng: torch.zeros(0, dtype=torch.int64),
    "one": lambda rng: torch.tensor([1 << 62]),
    "all-equal": lambda rng: torch.full((65,), 7),
    "descending": lambda rng: torch.arange(500, 0, -1),
    "repeats": lambda rng: torch.randint(40, (5000,), generator=rng),
    "wide": lambda rng: torch.randint(1 << 62, (4097,), generator=rng),
    # every bit of every field, with repeats
    "whole-range": lambda rng: torch.randint((1 << 63) - 1, (3000,), generator=rng).repeat(2),
    "smallest-and-largest": lambda rng: torch.tensor([(1 << 63) - 1, 0, (1 << 63) - 1, 5]),
    # fields of one bit, of a whole pass, and of one bit more
    "few-bits": lambda rng: (
        torch.randint(2, (2000,), generator=rng)
        + (torch.randint(1 << 12, (2000,), generator=rng) << 16)
        + (torch.randint(1 << 13, (2000,), generator=rng) << 34)
        + (torch.randint(1000, 1002, (2000,), generator=rng) << 52)
    ),
}


@pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS.keys())
def test_twin_of_sort_keys(rng, keys):
    keys = keys(rng)
    values, order = reference.sort_keys(keys)

    # sorted is stable
    expected = sorted(range(len(keys)), key=keys.tolist().__getitem__)
    assert order.tolist() == expected
    assert values.tolist() == [keys[i].item() for i in expected]


@pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS.keys())
def test_sort_keys_matches_twin(device, rng, keys):
    keys = keys(rng).to(device)
    kept = keys.clone()
    actual, expected = backend_of(keys).sort_keys(keys), reference.sort_keys(keys)
    for got, want, dtype in zip(actual, expected, (torch.int64, torch.int32), strict=True):
        assert got.dtype == want.dtype == dtype
        assert torch.equal(got, want)
    assert torch.equal(keys, kept)


_SPREAD = {  # of coordinates (batch, x, y, z): lowest and highest
    "small": ((3, -5, -1, 0), (5, 4, 7, 9)),
    "one-cell": ((0, -7, 8, 9), (0, -7, 8, 9)),
    # just within and just beyond 31 bits
    "fits": ((0, -1024, 0, -512), (0, 1023, 2046, 511)),
    "too-wide": ((0, -1024, 0, -512), (0, 1023, 2047, 512)),
    "corners": ((0, *COORD_MIN), (2046, *(-low - 1 for low in COORD_MIN))),
}


@pytest.mark.parametrize("bounds", _SPREAD.values(), ids=_SPREAD.keys())
def test_keys_of_known_bounds_are_sorted_alike(device, rng, bounds):
    columns = [torch.randint(low, high + 1, (700,), generator=rng) for low, high in zip(*bounds, strict=True)]
    # the ends themselves, and repeats
    rows = torch.cat([torch.stack(columns, dim=1), torch.tensor(bounds)]).repeat(2, 1)
    keys = reference.pack_rows(rows[torch.randperm(len(rows), generator=rng)].int())[0].to(device)
    expected = reference.sort_keys(keys)
    for asked in (bounds, None):
        actual = backend_of(keys).sort_keys(keys, asked)
        for got, want, dtype in zip(actual, expected, (torch.int64, torch.int32), strict=True):
            assert got.dtype == dtype
            assert torch.equal(got, want)
    assert backend_of(keys).sort_keys(keys[:0], bounds)[0].numel() == 0


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
