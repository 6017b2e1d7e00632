"""Points in cells of doubling size: the sorted keys in which neighbours are looked for.

Cells of the finest level are cut once, with an edge of a power of two metres, so that borders are exact. A
coarser level drops low bits of the three fields, which is how PointAcc makes output coordinates, and sorts
again. The finest edge is about a 2^17th of the extent in x and y, a 2^15th in z: what is crowded into less is
not told apart, and a search there sees all of it. So that a few stray points do not crowd all others, they
are left outside the box, in the cells at its side; the way to a cell is still no longer than that to them,
because two places never come apart when both are moved into a box.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from numba import prange

from pcsparse.kernels.cpu.keys import pack_rows, sort_keys
from pcsparse.kernels.cpu.launch import jit_parallel, jit_serial

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# highest cell of the finest level: a step beyond it is still in the field of a key
_MOST_CELLS = (2**17 - 2, 2**17 - 2, 2**15 - 2)
_SAMPLE = 4096
# how far the box reaches beyond all but a 50th of the points on either side, in extents of these
_REACH = 1024.0
_STRAY = 50


@dataclass(frozen=True, eq=False)
class Box:
    """Where the points lie, or all but stray ones.

    Attributes:
        low: (3,) metres, the corner of cell 0.
        high: (3,) metres.
        edge: of a cell of the finest level, metres; a power of two.
        top: the level at which all points share one cell.
    """

    low: Floats
    high: Floats
    edge: float
    top: int

    @staticmethod
    def around(points: npt.NDArray[np.float32]) -> "Box":
        """The box of points (n, 3), n at least 1."""
        ends = points.min(axis=0).astype(np.float64), points.max(axis=0).astype(np.float64)
        low, high = _without_strays(points, *ends)
        extents = (high - low).tolist()
        wanted = max(extent / most for extent, most in zip(extents, _MOST_CELLS, strict=True))
        edge = 2.0 ** math.ceil(math.log2(wanted)) if wanted > 0 else 1.0
        top = max(int(extent / edge) for extent in extents).bit_length()
        return Box(low, high, edge, top)

    def level_of(self, size: float) -> int:
        """The finest level whose cells are at least `size` metres, or the top."""
        if not size < self.edge * 2.0**self.top:
            return self.top
        return max(0, math.ceil(math.log2(size / self.edge)))


def _without_strays(points: npt.NDArray[np.float32], low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """Ends of the box: of the points, or nearer ones that are float32 too, so that borders stay exact."""
    sample = np.sort(points[:: max(1, len(points) // _SAMPLE)], axis=0).astype(np.float64)
    few = len(sample) // _STRAY
    inner_low, inner_high = sample[few], sample[-1 - few]
    reach = _REACH * float((inner_high - inner_low).max())
    if reach == 0:
        # most points coincide, and say nothing about the others
        return low, high
    return (
        np.maximum(low, inner_low - reach).astype(np.float32).astype(np.float64),
        np.minimum(high, inner_high + reach).astype(np.float32).astype(np.float64),
    )


@dataclass(frozen=True, eq=False)
class Level:
    """Points in the order of the keys of their cells.

    Attributes:
        keys: (m + 2,) int64, of occupied cells, ascending; two sentinels.
        starts: (m + 1,) int64, first point of each cell.
        rows: (n,) int32, which point each is; ascending in a cell.
        xyz: (3, n) float64, metres.
    """

    keys: Ints
    starts: Ints
    rows: npt.NDArray[np.int32]
    xyz: Floats

    def arrays(self) -> tuple[Ints, Ints, npt.NDArray[np.int32], Floats]:
        """What a kernel reads."""
        return self.keys, self.starts, self.rows, self.xyz


@jit_parallel()
def _cut(points, clouds, low, high, edge, coords):
    """Cells of points, or of the places of the box that are nearest to them."""
    blocks = (points.shape[0] + 4095) // 4096
    for block in prange(blocks):
        for i in range(block * 4096, min(points.shape[0], (block + 1) * 4096)):
            coords[i, 0] = clouds[i]
            for axis in range(3):
                inside = min(max(np.float64(points[i, axis]), low[axis]), high[axis])
                coords[i, axis + 1] = np.int32((inside - low[axis]) / edge)


def cells_of(points: npt.NDArray[np.float32], clouds: npt.NDArray[np.int32], box: Box) -> torch.Tensor:
    """(n, 4) int32, cloud and cell of the finest level; points beside the box go to its side."""
    coords = np.empty((len(points), 4), np.int32)
    _cut(points, clouds, box.low, box.high, box.edge, coords)
    return torch.from_numpy(coords)


def keys_at(coords: torch.Tensor, level: int) -> torch.Tensor:
    """Keys of the cells of a coarser level."""
    coarse = coords >> level
    coarse[:, 0] = coords[:, 0]
    return pack_rows(coarse)[0]


@jit_serial
def _list_cells(keys, cells, starts):
    m = 0
    for i in range(keys.size):
        if i == 0 or keys[i] != cells[m - 1]:
            cells[m], starts[m] = keys[i], i
            m += 1
    starts[m] = keys.size
    return m


@jit_parallel()
def _gather(points, rows, xyz):
    blocks = (rows.size + 4095) // 4096
    for block in prange(blocks):
        for i in range(block * 4096, min(rows.size, (block + 1) * 4096)):
            for axis in range(3):
                xyz[axis, i] = points[rows[i], axis]


def level_of_points(points: npt.NDArray[np.float32], coords: torch.Tensor, level: int) -> Level:
    """Sort the points of one level."""
    keys, order = sort_keys(keys_at(coords, level))
    n = len(points)
    cells, starts = np.empty(n + 2, np.int64), np.empty(n + 1, np.int64)
    m = _list_cells(keys.numpy(), cells, starts)
    cells[m : m + 2] = np.iinfo(np.int64).max
    xyz = np.empty((3, n), np.float64)
    _gather(points, order.numpy(), xyz)
    return Level(cells[: m + 2], starts[: m + 1], order.numpy(), xyz)
