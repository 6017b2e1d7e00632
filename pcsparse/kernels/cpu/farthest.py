"""Farthest-point sampling, exact, over blocks of points that lie side by side.

A block knows its box and the farthest of its points from all chosen ones. A newly chosen point that is no
nearer to the box than that changes nothing in the block, and after some hundred choices this holds for nearly
all blocks. Rounding never decides otherwise: every operation is monotone, so a computed distance to a point
is not less than the computed one to the box around it.

Source: QuickFPS (Han et al., IEEE TCAD 2023): farthest-point sampling over buckets; there of a k-d tree.
"""

import numpy as np
import numpy.typing as npt
import torch
from numba import prange
from torch import Tensor

from pcsparse.kernels.cpu.keys import sort_keys
from pcsparse.kernels.cpu.launch import jit_parallel, jit_serial

_BLOCK = 64
# of each axis: fine enough that points of one cell may be cut into blocks as they come
_BITS = 12


@jit_serial
def _spread(value):
    """Two zeros after each of the low 16 bits."""
    value = (value | (value << 16)) & 0x0000FF0000FF
    value = (value | (value << 8)) & 0x00F00F00F00F
    value = (value | (value << 4)) & 0x0C30C30C30C3
    return (value | (value << 2)) & 0x249249249249


@jit_serial
def _along_a_curve(points, starts, low, keys):
    """Keys by which points that follow each other are near: cloud, then the bits of the cell interleaved."""
    for cloud in range(starts.size - 1):
        begin, end = starts[cloud], starts[cloud + 1]
        if begin == end:
            continue
        extent = 0.0
        for axis in range(3):
            low[axis] = np.float64(points[begin:end, axis].min())
            extent = max(extent, np.float64(points[begin:end, axis].max()) - low[axis])
        scale = ((1 << _BITS) - 1) / extent if extent > 0 else 0.0
        for i in range(begin, end):
            key = np.int64(cloud)
            key <<= 3 * _BITS
            for axis in range(3):
                # a place that rounds another way only makes a larger box
                cell = np.int64((np.float64(points[i, axis]) - low[axis]) * scale)
                key |= _spread(min(cell, (1 << _BITS) - 1)) << axis
            keys[i] = key


@jit_serial
def _make_boxes(points, rows, xyz, boxes):
    """Sorted coordinates (3, n), and the lowest and highest of each block (6, blocks)."""
    for block in range(boxes.shape[1]):
        begin, end = block * _BLOCK, min(rows.size, (block + 1) * _BLOCK)
        for axis in range(3):
            low, high = np.inf, -np.inf
            for p in range(begin, end):
                value = np.float64(points[rows[p], axis])
                xyz[axis, p] = value
                low, high = min(low, value), max(high, value)
            boxes[axis, block], boxes[3 + axis, block] = low, high


@jit_serial
def _measure_boxes(x, y, z, boxes, ways):
    """The squared distance of a point to each box."""
    for block in range(ways.size):
        dx = max(max(boxes[0, block] - x, x - boxes[3, block]), 0.0)
        dy = max(max(boxes[1, block] - y, y - boxes[4, block]), 0.0)
        dz = max(max(boxes[2, block] - z, z - boxes[5, block]), 0.0)
        ways[block] = dx * dx + dy * dy + dz * dz


@jit_serial
def _come_nearer(x, y, z, begin, end, xyz, nearest, rows):
    """A chosen point is added for the points of a block; returns how far the farthest is now, and where."""
    for p in range(begin, end):
        dx, dy, dz = xyz[0, p] - x, xyz[1, p] - y, xyz[2, p] - z
        nearest[p] = min(nearest[p], dx * dx + dy * dy + dz * dz)
    farthest, at = -2.0, begin
    for p in range(begin, end):
        if nearest[p] > farthest or (nearest[p] == farthest and rows[p] < rows[at]):
            farthest, at = nearest[p], p
    return farthest, at


@jit_serial
def _sample(points, rows, first, xyz, nearest, boxes, ways, farthest, ends, chosen):
    """Choose rows of one cloud; `rows` are its own in the order of blocks."""
    n, blocks = rows.size, ways.size
    nearest[:] = np.inf
    farthest[:] = np.inf
    ends[:] = 0
    _make_boxes(points, rows, xyz, boxes)
    at = np.int64(0)
    while rows[at] != first:
        at += 1
    for i in range(chosen.size):
        chosen[i] = rows[at]
        # less than any distance: it is not chosen again
        nearest[at] = -1.0
        mine = at // _BLOCK
        x, y, z = xyz[0, at], xyz[1, at], xyz[2, at]
        _measure_boxes(x, y, z, boxes, ways)
        most = -2.0
        for block in range(blocks):
            if ways[block] < farthest[block] or block == mine:
                begin, end = block * _BLOCK, min(n, (block + 1) * _BLOCK)
                farthest[block], ends[block] = _come_nearer(x, y, z, begin, end, xyz, nearest, rows)
            if farthest[block] > most or (farthest[block] == most and rows[ends[block]] < rows[at]):
                most, at = farthest[block], ends[block]


@jit_parallel()
def _sample_clouds(points, rows, starts, first, ends, blocks, spare, chosen):
    xyz, nearest, boxes, ways, farthest, farthest_at = spare
    for cloud in prange(first.size):
        if ends[cloud] < ends[cloud + 1]:
            mine, own = slice(starts[cloud], starts[cloud + 1]), slice(blocks[cloud], blocks[cloud + 1])
            _sample(
                points, rows[mine], first[cloud], xyz[:, mine], nearest[mine], boxes[:, own], ways[own],
                farthest[own], farthest_at[own], chosen[ends[cloud] : ends[cloud + 1]],
            )  # fmt: skip


def _ends(sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), sizes.cumsum()])


def farthest_points(points: Tensor, starts: Tensor, first: Tensor, counts: Tensor) -> Tensor:
    places, begins, n = points.detach().contiguous().numpy(), starts.numpy(), len(points)
    keys = torch.empty(n, dtype=torch.int64, device="cpu")
    _along_a_curve(places, begins, np.empty(3), keys.numpy())
    _, rows = sort_keys(keys)
    ends, blocks = _ends(counts.numpy()), _ends(-(-np.diff(begins) // _BLOCK))
    chosen, m = np.empty(ends[-1], np.int32), int(blocks[-1])
    spare = np.empty((3, n)), np.empty(n), np.empty((6, m)), np.empty(m), np.empty(m), np.empty(m, np.int64)
    _sample_clouds(places, rows.numpy(), begins, first.numpy(), ends, blocks, spare, chosen)
    return torch.from_numpy(chosen)
