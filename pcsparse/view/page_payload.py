"""Points of a page: 16 bits an axis, differences, byte planes, deflate, base64. `page_data.js` undoes it."""

import base64
import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pcsparse.errors import RangeError

CELLS = 65535
"""Steps along each axis."""
NONE = 255
"""Byte of a point without a class."""
MAX_CLASSES = 255
MAX_INSTANCE = 65535

_LEVEL = 6


@dataclass(frozen=True)
class Grid:
    """Where the cells of a cloud lie: metres = low + step * cell, cell 0 ... 65,535 on each axis.

    Attributes:
        low: x, y, z of cell 0, metres.
        step: metres between two cells, 0 on an axis without extent.
    """

    low: tuple[float, float, float]
    step: tuple[float, float, float]

    @classmethod
    def of(cls, points: npt.NDArray[np.floating]) -> "Grid":
        """The finest grid that holds all points; points must be finite, (n, 3)."""
        if len(points) == 0:
            return cls((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
        low = points.min(axis=0).astype(np.float64)
        step = (points.max(axis=0).astype(np.float64) - low) / CELLS
        return cls(
            (float(low[0]), float(low[1]), float(low[2])), (float(step[0]), float(step[1]), float(step[2]))
        )

    def cells(self, points: npt.NDArray[np.floating]) -> npt.NDArray[np.uint16]:
        """(n, 3) uint16: the nearest cell of each point, at most half a step away on each axis."""
        step = np.array(self.step)
        place = (points.astype(np.float64) - self.low) / np.where(step > 0, step, 1.0)
        return np.clip(np.rint(place), 0, CELLS).astype(np.uint16)


def difference_planes(column: npt.NDArray[np.integer]) -> bytes:
    """Differences of a column of 16-bit numbers, small ones near 0 whatever their sign: low bytes, then high.

    Difference d, modulo 65,536, is stored as 2 d, or -2 d - 1 where it is negative: neighbours on a ring
    differ little, so most high bytes are 0.
    """
    steps = np.diff(column.astype(np.uint16), prepend=np.uint16(0)).view(np.int16)
    coded = ((steps << 1) ^ (steps >> 15)).view(np.uint16)
    return (coded & 0xFF).astype(np.uint8).tobytes() + (coded >> 8).astype(np.uint8).tobytes()


def row_planes(rows: npt.NDArray[np.integer]) -> bytes:
    """Differences of ascending row numbers below 2^32 - 1, the first from -1, in four byte planes."""
    gaps = np.diff(rows.astype(np.int64), prepend=-1).astype(np.int64)
    if len(gaps) and (gaps.min() < 1 or rows[-1] > 0xFFFFFFFE):
        raise RangeError(f"rows must ascend and lie in 0 ... {0xFFFFFFFE}, got {rows[:3]} ... {rows[-1]}")
    return b"".join(((gaps >> shift) & 0xFF).astype(np.uint8).tobytes() for shift in (0, 8, 16, 24))


def share_bytes(values: npt.NDArray[np.floating], full_scale: float) -> bytes:
    """Values 0 ... full_scale in 255 steps; beyond the ends the end, NaN the first."""
    share = np.nan_to_num(values.astype(np.float64) / full_scale, nan=0.0)
    return np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8).tobytes()


def class_bytes(targets: npt.NDArray[np.integer], n_classes: int, what: str) -> bytes:
    """Class numbers as bytes, -1 as `NONE`.

    Raises:
        RangeError: a number that is neither -1 nor a class.
    """
    if targets.size and not (targets.min() >= -1 and targets.max() < n_classes):
        raise RangeError(
            f"{what} must lie in -1 ... {n_classes - 1}, got {targets.min()} ... {targets.max()}"
        )
    # -1 becomes 255
    return targets.astype(np.int64).astype(np.uint8).tobytes()


def packed(planes: bytes) -> str:
    """Raw deflate, then base64: the text that stands in the page."""
    deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return base64.b64encode(deflate.compress(planes) + deflate.flush()).decode("ascii")
