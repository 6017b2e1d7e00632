"""(batch, x, y, z) <-> one sortable int64 key.

Bits, high to low: batch 11, x 18, y 18, z 16; 63 in all, so a key is never negative and z is the low field.
Fields are biased, and a guard of `GUARD` cells at each end makes packing additive: `pack(c) + key_delta(d) ==
pack(c + d)` for every coordinate in range and every |d| <= GUARD. At 5 cm the range is 6.5 km by 6.5 km by
1.6 km either way, and 2,047 clouds.
"""

import torch
from torch import Tensor

from pcsparse.errors import RangeError
from pcsparse.types import Triple

GUARD = 256
_BATCH_MAX = 2**11 - 2
_BITS = (18, 18, 16)
_SHIFTS = (34, 16, 0)
_BATCH_SHIFT = 52
_BIAS = tuple(1 << (bits - 1) for bits in _BITS)
COORD_MIN: Triple = (GUARD - _BIAS[0], GUARD - _BIAS[1], GUARD - _BIAS[2])
"""Smallest coordinate an axis that a key can hold."""
COORD_MAX: Triple = (_BIAS[0] - 1 - GUARD, _BIAS[1] - 1 - GUARD, _BIAS[2] - 1 - GUARD)
"""Largest coordinate an axis that a key can hold."""


def check_range(coords: Tensor) -> None:
    """Raise RangeError unless every row of `coords` (n, 4) fits into a key.

    Raises:
        RangeError: the text names the field, the values found and the values allowed.
    """
    if coords.shape[0] == 0:
        return
    low, high = coords.amin(dim=0).tolist(), coords.amax(dim=0).tolist()
    limits = zip(("batch", "x", "y", "z"), (0, *COORD_MIN), (_BATCH_MAX, *COORD_MAX), strict=True)
    for axis, (name, smallest, largest) in enumerate(limits):
        if low[axis] < smallest or high[axis] > largest:
            raise RangeError(
                f"{name} of the coordinates spans {low[axis]} to {high[axis]}, but a key holds {smallest} to "
                f"{largest}; move the origin nearer, enlarge the voxels, or split the batch"
            )


def pack(coords: Tensor) -> Tensor:
    """Keys of coordinates.

    Args:
        coords: (n, 4) int32 or int64, columns (batch, x, y, z).

    Returns:
        (n,) int64; ascending keys are lexicographic coordinates.

    Raises:
        RangeError: a coordinate leaves the range of a key.
    """
    check_range(coords)
    batch, x, y, z = coords.long().unbind(dim=1)
    # biases sit in the fields' top bits, so one addition places all three
    bias = sum(value << shift for value, shift in zip(_BIAS, _SHIFTS, strict=True))
    return (batch << _BATCH_SHIFT) + (x << _SHIFTS[0]) + (y << _SHIFTS[1]) + z + bias


def unpack(keys: Tensor) -> Tensor:
    """Coordinates (n, 4) int32 of keys (n,) int64: the inverse of `pack`."""
    columns = [keys >> _BATCH_SHIFT]
    for bits, shift, bias in zip(_BITS, _SHIFTS, _BIAS, strict=True):
        columns.append(((keys >> shift) & ((1 << bits) - 1)) - bias)
    return torch.stack(columns, dim=1).int()


def key_delta(step: Triple) -> int:
    """What a step of (x, y, z) cells adds to a key.

    Raises:
        RangeError: the step is longer than the guard, so that fields could run into each other.
    """
    if max(map(abs, step)) > GUARD:
        raise RangeError(
            f"a kernel offset of {step} cells is beyond {GUARD}; use a smaller dilation or kernel"
        )
    return (step[0] << _SHIFTS[0]) + (step[1] << _SHIFTS[1]) + step[2]
