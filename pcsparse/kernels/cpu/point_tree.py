"""Points halved again and again along the widest axis of their box: a k-d tree without pointers.

A cloud of n points is cut level by level until no part has more than a leaf's points, so the range of every
node follows from n, its level and its number, and nothing but boxes is stored. Boxes are those of the points,
so a stray point widens those of few others. Points of a part are told apart by coordinate and row; so many
that coincide end in the order of their rows, and a search for the first of them can end.

Source: Friedman, Bentley and Finkel, 1977 (doi 10.1145/355744.355745), for the halves and the search.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import prange

from pcsparse.kernels.cpu.launch import jit_parallel, jit_serial

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

LEAF = 16
"""Points of a leaf at most: two vectors of distances."""


@jit_serial
def _exchange(xyz, rows, i, j):
    for axis in range(3):
        xyz[axis, i], xyz[axis, j] = xyz[axis, j], xyz[axis, i]
    rows[i], rows[j] = rows[j], rows[i]


@jit_serial
def _halve(xyz, rows, axis, begin, end, middle):
    """Reorder points from begin to end so that those before the middle come first by coordinate and row.

    Returns:
        How many points were compared, all rounds together.
    """
    along = xyz[axis]
    left, right, compared = begin, end - 1, 0
    seed = begin + end
    while left < right:
        # drawn, the same in every run: the one in the middle is the worst where a coordinate rises and falls
        # again, as in a ring
        seed = (seed * 1103515245 + 12345) & 0x7FFFFFFF
        drawn = left + (seed * (right - left + 1) >> 31)
        value, row = along[drawn], rows[drawn]
        compared += right - left + 1
        i, j = left, right
        while i <= j:
            while along[i] < value or (along[i] == value and rows[i] < row):
                i += 1
            while along[j] > value or (along[j] == value and rows[j] > row):
                j -= 1
            if i <= j:
                _exchange(xyz, rows, i, j)
                i += 1
                j -= 1
        if middle <= j:
            right = j
        elif middle >= i:
            left = i
        else:
            break
    return compared


@jit_serial
def _box(xyz, begin, end, low, high):
    """Write the box of some points; returns its widest axis."""
    widest, width = 0, -1.0
    for axis in range(3):
        least, most = xyz[axis, begin], xyz[axis, begin]
        for i in range(begin, end):
            least, most = min(least, xyz[axis, i]), max(most, xyz[axis, i])
        low[axis], high[axis] = least, most
        if most - least > width:
            widest, width = axis, most - least
    return widest


@jit_parallel()
def _grow(starts, depths, nodes, order, counts, xyz, rows, low, high, first):
    # `counts`: clouds that are so deep; they come first in `order`
    for level in range(counts.size):
        for item in prange(counts[level] << level):
            cloud, part = order[item >> level], item & ((1 << level) - 1)
            n, node = starts[cloud + 1] - starts[cloud], nodes[cloud] + (1 << level) - 1 + part
            begin = starts[cloud] + ((n * part) >> level)
            end = starts[cloud] + ((n * (part + 1)) >> level)
            axis = _box(xyz, begin, end, low[node], high[node])
            least = rows[begin]
            for i in range(begin, end):
                least = min(least, rows[i])
            first[node] = least
            if level < depths[cloud]:
                middle = starts[cloud] + ((n * (2 * part + 1)) >> (level + 1))
                _halve(xyz, rows, axis, begin, end, middle)


@dataclass(frozen=True, eq=False)
class PointTree:
    """A tree for each cloud.

    Attributes:
        starts: (clouds + 1,) int64, first point of each cloud.
        depths: (clouds,) int64, levels below the root.
        nodes: (clouds,) int64, the root of each; node i of a tree has the nodes 2 i + 1 and 2 i + 2 below it.
        xyz: (3, n) float64, metres, leaf after leaf.
        rows: (n,) int32, which point each is.
        low, high: (m, 3) float64, the box of each node.
        first: (m,) int32, the lowest row of each node.
    """

    starts: Ints
    depths: Ints
    nodes: Ints
    xyz: Floats
    rows: npt.NDArray[np.int32]
    low: Floats
    high: Floats
    first: npt.NDArray[np.int32]

    @staticmethod
    def over(points: npt.NDArray[np.float32], starts: Ints) -> "PointTree":
        """Of points (n, 3), finite, cloud after cloud; starts (clouds + 1,)."""
        sizes = np.diff(starts)
        # halves differ by one point at most; a cloud without points has no node that is read
        depths = np.ceil(np.log2(np.maximum(sizes, 1) / LEAF)).clip(0).astype(np.int64)
        ends = np.cumsum((2 << depths) - 1)
        order = np.argsort(np.where(sizes > 0, -depths, 1), kind="stable")
        filled = depths[sizes > 0]
        counts = np.array([(filled >= level).sum() for level in range(filled.max(initial=-1) + 1)], np.int64)
        tree = PointTree(
            starts, depths, ends - ((2 << depths) - 1),
            np.ascontiguousarray(points.T, np.float64), np.arange(len(points), dtype=np.int32),
            np.empty((ends[-1], 3)), np.empty((ends[-1], 3)), np.empty(ends[-1], np.int32),
        )  # fmt: skip
        _grow(starts, depths, tree.nodes, order, counts, *tree.arrays()[3:])
        return tree

    def arrays(self) -> tuple[Ints, Ints, Ints, Floats, npt.NDArray[np.int32], Floats, Floats, npt.NDArray]:
        """What a kernel reads."""
        return self.starts, self.depths, self.nodes, self.xyz, self.rows, self.low, self.high, self.first
