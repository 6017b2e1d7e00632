"""(batch, x, y, z) <-> one sortable int64 key.

Bits, high to low: batch 11, x 18, y 18, z 16; 63 in all, so a key is never negative and z is the low field.
Fields are biased, and a guard of `GUARD` cells at each end makes packing additive: `pack(c) + key_delta(d) ==
pack(c + d)` for every coordinate in range and every |d| <= GUARD. At 5 cm the range is 6.5 km by 6.5 km by
1.6 km either way, and 2,047 clouds.
"""

import torch
from torch import Tensor

from pcsparse.errors import RangeError
from pcsparse.kernels.key_layout import BATCH_SHIFT, BIAS, SHIFTS
from pcsparse.kernels.select import backend_of
from pcsparse.types import Triple

GUARD = 256
_BATCH_MAX = 2 ** (63 - BATCH_SHIFT) - 2
COORD_MIN: Triple = (GUARD - BIAS[0], GUARD - BIAS[1], GUARD - BIAS[2])
"""Smallest coordinate an axis that a key can hold."""
COORD_MAX: Triple = (BIAS[0] - 1 - GUARD, BIAS[1] - 1 - GUARD, BIAS[2] - 1 - GUARD)
"""Largest coordinate an axis that a key can hold."""


def check_range(coords: Tensor) -> None:
    """Raise RangeError unless every row of `coords` (n, 4) fits into a key.

    Raises:
        RangeError: the text names the field, the values found and the values allowed.
    """
    if coords.shape[0]:
        check_extent(*coords.aminmax(dim=0))


def check_extent(low: Tensor, high: Tensor) -> None:
    """Raise RangeError unless a key holds all coordinates from `low` to `high`, (4,) integers each.

    Raises:
        RangeError: as `check_range`.
    """
    limits = zip(("batch", "x", "y", "z"), (0, *COORD_MIN), (_BATCH_MAX, *COORD_MAX), strict=True)
    found = zip(limits, low.tolist(), high.tolist(), strict=True)
    for (name, smallest, largest), lowest, highest in found:
        if lowest < smallest or highest > largest:
            raise RangeError(
                f"{name} of the coordinates spans {lowest} to {highest}, but a key holds {smallest} to "
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
    return pack_and_compare(coords)[0]


def pack_and_compare(coords: Tensor) -> tuple[Tensor, bool]:
    """`pack`, and whether every key is larger than the one before."""
    if coords.dtype != torch.int32:
        # before the cast, where a large value would wrap silently
        check_range(coords)
    keys, low, high, ascending = backend_of(coords).pack_rows(coords.int().contiguous())
    check_extent(low, high)
    return keys, ascending


def unpack(keys: Tensor) -> Tensor:
    """Coordinates (n, 4) int32 of keys (n,) int64: the inverse of `pack`."""
    return backend_of(keys).unpack_keys(keys)


def key_delta(step: Triple) -> int:
    """What a step of (x, y, z) cells adds to a key.

    Raises:
        RangeError: the step is longer than the guard, so that fields could run into each other.
    """
    if max(map(abs, step)) > GUARD:
        raise RangeError(
            f"a kernel offset of {step} cells is beyond {GUARD}; use a smaller dilation or kernel"
        )
    return (step[0] << SHIFTS[0]) + (step[1] << SHIFTS[1]) + step[2]
