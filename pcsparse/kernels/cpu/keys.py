"""Packing and sorting of coordinate keys."""

import numpy as np
import numpy.typing as npt
import torch
from numba import prange
from torch import Tensor

from pcsparse.kernels.cpu.launch import jit_parallel, jit_serial
from pcsparse.kernels.key_layout import BATCH_SHIFT, BIAS, FIELD_BITS, SHIFTS
from pcsparse.types import Bounds, Triple

_BLOCK = 4096
DIGIT = 12
"""Most bits that one pass of a counting sort looks at."""
_SHIFT_X, _SHIFT_Y, _ = SHIFTS
_BIAS_X, _BIAS_Y, _BIAS_Z = BIAS
_ALL_BIAS = (_BIAS_X << _SHIFT_X) + (_BIAS_Y << _SHIFT_Y) + _BIAS_Z
_MASK_X, _MASK_Y, _MASK_Z = ((1 << bits) - 1 for bits in FIELD_BITS)
_MASK_BATCH = (1 << (63 - BATCH_SHIFT)) - 1
_FIELDS = (0, _MASK_Z), (_SHIFT_Y, _MASK_Y), (_SHIFT_X, _MASK_X), (BATCH_SHIFT, _MASK_BATCH)
"""Lowest bit of a field of a key, and its mask once it is moved there."""


@jit_serial
def _key(coords, i):
    batch, x = np.int64(coords[i, 0]), np.int64(coords[i, 1])
    y, z = np.int64(coords[i, 2]), np.int64(coords[i, 3])
    # biases sit in the fields' top bits, so one addition places all three
    return (batch << BATCH_SHIFT) + (x << _SHIFT_X) + (y << _SHIFT_Y) + z + _ALL_BIAS


@jit_parallel()
def _pack(coords, keys, low, high, ascending):
    """One pass: keys, and for each block of rows the extent of the fields and whether its keys ascend."""
    for block in prange(low.shape[0]):
        begin, end = block * _BLOCK, min(keys.size, (block + 1) * _BLOCK)
        before = _key(coords, begin - 1) if begin else np.int64(-1) << 62
        sorted_here = True
        b0 = b1 = coords[begin, 0]
        x0 = x1 = coords[begin, 1]
        y0 = y1 = coords[begin, 2]
        z0 = z1 = coords[begin, 3]
        for i in range(begin, end):
            b, x, y, z = coords[i, 0], coords[i, 1], coords[i, 2], coords[i, 3]
            b0, b1 = min(b0, b), max(b1, b)
            x0, x1 = min(x0, x), max(x1, x)
            y0, y1 = min(y0, y), max(y1, y)
            z0, z1 = min(z0, z), max(z1, z)
            key = _key(coords, i)
            sorted_here &= key > before
            before = key
            keys[i] = key
        low[block, 0], low[block, 1], low[block, 2], low[block, 3] = b0, x0, y0, z0
        high[block, 0], high[block, 1], high[block, 2], high[block, 3] = b1, x1, y1, z1
        ascending[block] = sorted_here


def pack_rows(coords: Tensor) -> tuple[Tensor, tuple[int, ...], tuple[int, ...], bool]:
    n = coords.shape[0]
    keys = np.empty(n, np.int64)
    blocks = -(-n // _BLOCK)
    low, high, ascending = (
        np.empty((blocks, 4), np.int64),
        np.empty((blocks, 4), np.int64),
        np.ones(blocks, bool),
    )
    if n == 0:
        return torch.from_numpy(keys), (0,) * 4, (0,) * 4, True
    _pack(coords.numpy(), keys, low, high, ascending)
    return (
        torch.from_numpy(keys),
        tuple(low.min(axis=0).tolist()),
        tuple(high.max(axis=0).tolist()),
        bool(ascending.all()),
    )


@jit_serial
def _unpack(keys, coords):
    for i in range(keys.size):
        key = keys[i]
        coords[i, 0] = key >> BATCH_SHIFT
        coords[i, 1] = ((key >> _SHIFT_X) & _MASK_X) - _BIAS_X
        coords[i, 2] = ((key >> _SHIFT_Y) & _MASK_Y) - _BIAS_Y
        coords[i, 3] = (key & _MASK_Z) - _BIAS_Z


def unpack_keys(keys: Tensor) -> Tensor:
    coords = np.empty((keys.numel(), 4), np.int32)
    _unpack(keys.numpy(), coords)
    return torch.from_numpy(coords)


@jit_serial
def extent(keys, shift, mask):
    """The smallest and largest value of a field; mask and 0 if there are no keys."""
    low, high = np.int64(mask), np.int64(0)
    for i in range(keys.size):
        field = (keys[i] >> shift) & mask
        low, high = min(low, field), max(high, field)
    return low, high


def key_extent(keys: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if keys.numel() == 0:
        return (0,) * 4, (0,) * 4
    fields = [extent(keys.numpy(), shift, mask) for shift, mask in _FIELDS[::-1]]
    # a batch has no bias
    low, high = (
        [int(e) - bias for e, bias in zip(ends, (0, *BIAS), strict=True)]
        for ends in zip(*fields, strict=True)
    )
    return tuple(low), tuple(high)


def ascend(keys: Tensor) -> bool:
    return bool((keys[1:] > keys[:-1]).all())


def scale_keys(keys: Tensor, stride: Triple) -> Tensor:
    # a longer one would leave the range, unless all coordinates are 0 there
    steps = [min(step, 1 << max(FIELD_BITS)) for step in stride]
    factors = [1 << BATCH_SHIFT, *(step << shift for step, shift in zip(steps, SHIFTS, strict=True))]
    return (unpack_keys(keys) * torch.tensor(factors, device="cpu")).sum(dim=1) + _ALL_BIAS


@jit_serial
def sort_digit(keys, rows, spare_keys, spare_rows, low, shift, width, heads):
    """One pass of a counting sort, by the bits of `keys - low` from `shift` to `shift + width`; it is stable.

    `heads` has room for 2^width counts.
    """
    mask = (1 << width) - 1
    for digit in range(mask + 1):
        heads[digit] = 0
    for i in range(keys.size):
        # unsigned: an index that may be negative takes a comparison
        heads[np.uint64(((keys[i] - low) >> shift) & mask)] += 1
    total = np.int64(0)
    for digit in range(mask + 1):
        count = heads[digit]
        heads[digit] = total
        total += count
    for i in range(keys.size):
        digit = np.uint64(((keys[i] - low) >> shift) & mask)
        place = np.uint64(heads[digit])
        heads[digit] += 1
        spare_keys[place], spare_rows[place] = keys[i], rows[i]


def _sorted(keys: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Ascending keys and their positions, ties in input order.

    Field by field, of each only the bits that it takes in these keys: three passes for a sweep. NumPy's sort
    needs 0.35 ms on one processor with AVX-512 and 3.3 on another, where these passes take 0.6.
    """
    extents = [(shift, *extent(keys, shift, mask)) for shift, mask in _FIELDS]
    lowest = sum(low << shift for shift, low, _ in extents)
    values, rows, heads = keys.copy(), np.arange(keys.size), np.empty(1 << DIGIT, np.int64)
    spare_values, spare_rows = np.empty_like(keys), np.empty_like(rows)
    for shift, low, high in extents:
        bits = max(high - low, 0).bit_length()
        passes = -(-bits // DIGIT)
        for number in range(passes):
            begin, end = number * bits // passes, (number + 1) * bits // passes
            sort_digit(values, rows, spare_values, spare_rows, lowest, shift + begin, end - begin, heads)
            values, rows, spare_values, spare_rows = spare_values, spare_rows, values, rows
    return values, rows


def sort_keys(keys: Tensor, bounds: Bounds | None = None) -> tuple[Tensor, Tensor]:
    values, rows = _sorted(keys.numpy())
    return torch.from_numpy(values), torch.from_numpy(rows.astype(np.int32))


@jit_serial
def _unique_sorted(keys, order, unique, inverse, first):
    m = 0
    for i in range(order.size):
        position = order[i]
        if m == 0 or unique[m - 1] != keys[i]:
            unique[m] = keys[i]
            # the order is stable: the first of equal keys comes first
            first[m] = position
            m += 1
        inverse[position] = m - 1
    return m


def unique_keys(keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    values, rows = _sorted(keys.numpy())
    unique, inverse, first = np.empty_like(values), np.empty_like(values), np.empty_like(values)
    m = _unique_sorted(values, rows, unique, inverse, first)
    return torch.from_numpy(unique[:m].copy()), torch.from_numpy(inverse), torch.from_numpy(first[:m].copy())
