"""Exact ball query on sorted keys: cells as wide as the radius, and for each query the points of 27.

A query reads nine runs of sorted keys, each three cells long.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from numba import prange
from torch import Tensor

from pcsparse.kernels.cpu.cell_levels import Box, cells_of, keys_at, level_of_points
from pcsparse.kernels.cpu.keys import sort_keys
from pcsparse.kernels.cpu.launch import jit_parallel, jit_serial
from pcsparse.kernels.cpu.microkernel import next_item
from pcsparse.kernels.key_layout import SHIFTS

# queries that a thread takes at a time
_BLOCK = 128
_DX, _DY = 1 << SHIFTS[0], 1 << SHIFTS[1]
# the column of the query's own cell comes first, as its points are near
_STEPS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1))
_COLUMNS = np.array([x * _DX + y * _DY for x, y in _STEPS])


@jit_serial
def _seek(keys, p, wanted):
    """The first position from p on whose key is at least `wanted`; the last keys are sentinels."""
    last, jump = keys.size - 1, 1
    while p + jump < last and keys[p + jump] < wanted:
        p += jump
        jump *= 2
    end = min(p + jump, last)
    while p < end:
        middle = (p + end) >> 1
        if keys[middle] < wanted:
            p = middle + 1
        else:
            end = middle
    return p


@jit_serial
def _take_first(block, level, queries, keys, order, columns, limit, pointers, results):
    """The lowest rows within the radius, for the queries of one block."""
    cells, starts, rows, xyz = level
    pointers[:] = 0
    k = results[0].shape[1]
    for i in range(block * _BLOCK, min(keys.size, (block + 1) * _BLOCK)):
        at = order[i]
        x, y, z = np.float64(queries[at, 0]), np.float64(queries[at, 1]), np.float64(queries[at, 2])
        found, squared = results[0][at], results[1][at]
        n = 0
        for column in range(columns.size):
            middle = keys[i] + columns[column]
            cell = _seek(cells, pointers[column], middle - 1)
            pointers[column] = cell
            while cells[cell] <= middle + 1:
                for p in range(starts[cell], starts[cell + 1]):
                    # rows of a cell ascend
                    if n == k and rows[p] > found[k - 1]:
                        break
                    dx, dy, dz = xyz[0, p] - x, xyz[1, p] - y, xyz[2, p] - z
                    distance = dx * dx + dy * dy + dz * dz
                    if distance <= limit:
                        n -= n == k
                        j = n
                        while j > 0 and found[j - 1] > rows[p]:
                            found[j], squared[j] = found[j - 1], squared[j - 1]
                            j -= 1
                        found[j], squared[j] = rows[p], distance
                        n += 1
                cell += 1


@jit_parallel()
def _first(level, queries, keys, order, columns, limit, taken, pointers, results):
    blocks = (keys.size + _BLOCK - 1) // _BLOCK
    for worker in prange(pointers.shape[0]):
        while True:
            block = next_item(taken.ctypes.data)
            if block >= blocks:
                break
            _take_first(block, level, queries, keys, order, columns, limit, pointers[worker], results)


@dataclass(frozen=True, eq=False)
class _Search:
    """Points and queries in cells of the finest level.

    Attributes:
        points: (n, 3) float32.
        queries: (m, 3) float32.
        box: around the points.
        coords: (n, 4) int32, cloud and cell of the points.
        asked: (m, 4) int32, of the queries.
        limit: the largest squared distance that counts.
    """

    points: npt.NDArray[np.float32]
    queries: npt.NDArray[np.float32]
    box: Box
    coords: Tensor
    asked: Tensor
    limit: float

    @staticmethod
    def of(points: Tensor, starts: Tensor, queries: Tensor, query_starts: Tensor, radius: float) -> "_Search":
        given, asking = points.detach().contiguous().numpy(), queries.detach().contiguous().numpy()
        box = Box.around(given)
        coords, asked = (
            cells_of(places, _clouds(begins), box)
            for places, begins in ((given, starts), (asking, query_starts))
        )
        return _Search(given, asking, box, coords, asked, float(np.nextafter(radius * radius, 0.0)))


def _clouds(starts: Tensor) -> npt.NDArray[np.int32]:
    """The cloud of each row."""
    sizes = np.diff(starts.numpy())
    return np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)


def first_in_ball(
    points: Tensor, starts: Tensor, queries: Tensor, query_starts: Tensor, limit: int, radius: float
) -> tuple[Tensor, Tensor]:
    results = np.full((len(queries), limit), -1, np.int32), np.full((len(queries), limit), np.inf)
    tensors = torch.from_numpy(results[0]), torch.from_numpy(results[1])
    if len(points) == 0 or len(queries) == 0:
        return tensors
    search = _Search.of(points, starts, queries, query_starts, radius)
    level = search.box.level_of(radius)
    here = level_of_points(search.points, search.coords, level)
    keys, order = sort_keys(keys_at(search.asked, level))
    # what two threads write is not on one cache line, nor on two that are fetched together
    pointers = np.empty((torch.get_num_threads(), len(_COLUMNS) + 32), np.int64)
    taken = np.zeros(1, np.int64)
    _first(
        here.arrays(), search.queries, keys.numpy(), order.numpy(), _COLUMNS, search.limit, taken, pointers,
        results,
    )  # fmt: skip
    return tensors
