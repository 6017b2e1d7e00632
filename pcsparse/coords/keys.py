"""(batch, x, y, z) <-> one sortable int64 key.

Bits, high to low: batch 11, x 18, y 18, z 16; 63 in all, so a key is never negative and z is the low field.
Fields are biased, and a guard of `GUARD` cells at each end makes packing additive: `pack(c) + key_delta(d) ==
pack(c + d)` for every coordinate in range and every |d| <= GUARD. At 5 cm the range is 6.5 km by 6.5 km by
1.6 km either way, and 2,047 clouds.
"""

from dataclasses import dataclass

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


@dataclass(frozen=True)
class Extent:
    """Bounds of coordinates on the host: no (batch, x, y, z) is below `low` or above `high`."""

    low: tuple[int, ...]
    high: tuple[int, ...]

    def moved(
        self, stride: Triple, first: Triple = (0, 0, 0), last: Triple = (0, 0, 0), *, coarser: bool = False
    ) -> "Extent":
        """Bounds of stride * these + every step; or, if `coarser`, of the cells that reach these.

        Args:
            stride: (x, y, z).
            first: the lowest step on each axis.
            last: the highest.
            coarser: bounds of all c with stride * c + step within these bounds.
        """
        # field by field: this stands before every level
        (b, x, y, z), (b_end, x_end, y_end, z_end) = self.low, self.high
        (p, q, r), (i, j, k), (u, v, w) = stride, first, last
        if coarser:
            return Extent(
                (b, -((u - x) // p), -((v - y) // q), -((w - z) // r)),
                (b_end, (x_end - i) // p, (y_end - j) // q, (z_end - k) // r),
            )
        return Extent(
            (b, x * p + i, y * q + j, z * r + k), (b_end, x_end * p + u, y_end * q + v, z_end * r + w)
        )

    def within(self, lower: Triple, upper: Triple) -> bool:
        """Whether everything within the bounds lies in the box from `lower` to `upper`, (x, y, z) each."""
        return all(a <= b for a, b in zip(lower, self.low[1:], strict=True)) and all(
            a <= b for a, b in zip(self.high[1:], upper, strict=True)
        )

    def clamped(self, lower: Triple, upper: Triple) -> "Extent":
        """Of what lies in that box, too."""
        return Extent(
            (self.low[0], *map(max, self.low[1:], lower)), (self.high[0], *map(min, self.high[1:], upper))
        )

    @property
    def fits(self) -> bool:
        """Whether a key holds everything within the bounds."""
        # field by field: this stands before every map
        (b, x, y, z), (b_end, x_end, y_end, z_end) = self.low, self.high
        return (
            b >= 0 and x >= COORD_MIN[0] and y >= COORD_MIN[1] and z >= COORD_MIN[2] and b_end <= _BATCH_MAX
            and x_end <= COORD_MAX[0] and y_end <= COORD_MAX[1] and z_end <= COORD_MAX[2]
        )  # fmt: skip

    def check(self) -> None:
        """Raise RangeError unless a key holds everything within the bounds.

        Raises:
            RangeError: the text names the field, the values found and the values allowed.
        """
        if self.fits:
            return
        limits = zip(("batch", "x", "y", "z"), (0, *COORD_MIN), (_BATCH_MAX, *COORD_MAX), strict=True)
        for (name, smallest, largest), lowest, highest in zip(limits, self.low, self.high, strict=True):
            if lowest < smallest or highest > largest:
                raise RangeError(
                    f"{name} of the coordinates spans {lowest} to {highest}, but a key holds {smallest} to "
                    f"{largest}; move the origin nearer, enlarge the voxels, or split the batch"
                )


WHOLE = Extent((0, *COORD_MIN), (_BATCH_MAX, *COORD_MAX))
"""What a key holds."""


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


def pack_and_compare(coords: Tensor) -> tuple[Tensor, Extent, bool]:
    """`pack`, what the coordinates span, and whether every key is larger than the one before."""
    if coords.dtype != torch.int32 and len(coords):
        # before the cast, where a large value would wrap silently
        Extent(*map(tuple, torch.stack(coords.aminmax(dim=0)).tolist())).check()
    keys, low, high, ascending = backend_of(coords).pack_rows(coords.int().contiguous())
    extent = Extent(low, high)
    extent.check()
    return keys, extent, ascending


def scaled(keys: Tensor, stride: Triple) -> Tensor:
    """Keys of stride * coordinates, which keep their order. That they are in range is not looked at.

    Args:
        keys: (n,) int64.
        stride: (x, y, z).
    """
    return backend_of(keys).scale_keys(keys, stride)


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
