"""Exact kNN and ball query on sorted keys, level by level of doubling cells.

At a level a query ranks the points of its cell and of the 26 around it, which are nine runs of sorted keys.
It is answered once its k-th distance is shorter than the way out of these cells; the others go on to the
next level. So dense and sparse places each end at a level that fits them. A few that are left at last see all
points.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from numba import prange
from torch import Tensor

from pcsparse.kernels.cpu.cell_levels import (
    Box,
    Floats,
    cells_of,
    crowded_level,
    keys_at,
    level_of_points,
)
from pcsparse.kernels.cpu.keys import sort_keys
from pcsparse.kernels.cpu.launch import jit_parallel, jit_serial
from pcsparse.kernels.cpu.microkernel import next_item
from pcsparse.kernels.cpu.ranking import keep_smallest
from pcsparse.kernels.key_layout import BATCH_SHIFT, SHIFTS

# queries that a thread takes at a time
_BLOCK = 128
# distances computed before they are ranked
_CHUNK = 128
# points around a cell that are copied side by side for all queries of the cell
_NEAR = 512
# pairs of open queries and points that are ranked at once rather than on another level
_FEW_PAIRS = 1 << 22
# points around a query, in k, below which it had better wait for the next level
_ENOUGH = 1.5
# share of open queries, one of so many, that is worth a level of its own
_MANY = 8
# of the k nearest, how many others share the cell at the level to begin with
_SHARE = 0.6
_DX, _DY = 1 << SHIFTS[0], 1 << SHIFTS[1]
# the column of the query's own cell comes first, as its points are near
_STEPS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1))
_COLUMNS = np.array([x * _DX + y * _DY for x, y in _STEPS])
_RUNS = len(_COLUMNS) + 2


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
def _find_runs(keys, starts, key, columns, pointers, begins, ends):
    """Where the points of the cells around `key` lie: its own cell, those below and above, eight columns."""
    total = np.int64(0)
    for column in range(columns.size):
        middle = key + columns[column]
        p = _seek(keys, pointers[column], middle - 1)
        pointers[column] = p
        if column == 0:
            begins[1] = starts[p]
            p += keys[p] < middle
            ends[1] = starts[p]
            begins[0] = starts[p]
            p += keys[p] == middle
            ends[0] = starts[p]
            begins[2] = starts[p]
            p += keys[p] == middle + 1
            ends[2] = starts[p]
            total += ends[2] - begins[1]
        else:
            begins[column + 2] = starts[p]
            while keys[p] <= middle + 1:
                p += 1
            ends[column + 2] = starts[p]
            total += ends[column + 2] - begins[column + 2]
    return total


@jit_serial
def _copy_runs(rows, xyz, begins, ends, near_rows, near):
    n = 0
    for run in range(begins.size):
        for i in range(begins[run], ends[run]):
            near_rows[n] = rows[i]
            near[0, n], near[1, n], near[2, n] = xyz[0, i], xyz[1, i], xyz[2, i]
            n += 1


@jit_serial
def _place_query(query, low, high, edge, slack, whole, gaps):
    """How far a query is from the cells around its own.

    `gaps` (3, 3): an axis, to the cell below, its own and above; never more than it is.

    Returns:
        A squared distance: points beside all these cells are not nearer.
    """
    beside, way_out = 0.0, np.inf
    for axis in range(3):
        value = np.float64(query[axis])
        inside = min(max(value, low[axis]), high[axis])
        beside += (value - inside) * (value - inside)
        cell, last = np.int64((inside - low[axis]) / edge), np.int64((high[axis] - low[axis]) / edge)
        below = max(0.0, inside - (low[axis] + cell * edge) - slack)
        above = max(0.0, low[axis] + (cell + 1) * edge - inside - slack)
        gaps[axis, 0], gaps[axis, 1], gaps[axis, 2] = below, 0.0, above
        # nothing lies beyond the first and the last cell
        if cell > 1:
            way_out = min(way_out, below + edge)
        if cell + 1 < last:
            way_out = min(way_out, above + edge)
    if not whole:
        # a point beside the box may lie on the query's side of it
        beside = 0.0
    # a place of the box is at an obtuse angle, or at none, between the query and a point
    return (beside + way_out * way_out) * (1 - 1e-12)


@jit_serial
def _rank_run(query, begin, end, rows, xyz, spare, n, k, worst):
    """List the points of a run that may count; returns how many are listed, and the distance that counts.

    The distance is squared, and no point that is farther is among the k nearest.
    """
    best, best_rows, more, more_rows = spare
    x, y, z = np.float64(query[0]), np.float64(query[1]), np.float64(query[2])
    for first in range(begin, end, _CHUNK):
        size = min(_CHUNK, end - first)
        if n + size > best.size:
            n = keep_smallest(best, best_rows, n, k, more, more_rows)
            worst = min(worst, best[n - 1]) if n == k else worst
            # a cell's rows ascend, and twins of the query lie in no other
            if worst == 0.0 and n == k:
                break
        for i in range(size):
            dx, dy, dz = xyz[0, first + i] - x, xyz[1, first + i] - y, xyz[2, first + i] - z
            more[i] = dx * dx + dy * dy + dz * dz
        for i in range(size):
            # written before it is known whether it counts
            best[n], best_rows[n] = more[i], rows[first + i]
            n += more[i] <= worst
        if worst == 0.0 and n >= k:
            # all listed ones are twins, and they came by row
            n = k
            break
    return n, worst


@jit_serial
def _reach(query, points, rows, k):
    """The squared distance of the farthest of k points: the k-th nearest is no farther."""
    worst = 0.0
    for i in range(k):
        point = points[rows[i]]
        dx, dy, dz = (
            np.float64(point[0]) - query[0], np.float64(point[1]) - query[1], np.float64(point[2]) - query[2],
        )  # fmt: skip
        worst = max(worst, dx * dx + dy * dy + dz * dz)
    return worst


@jit_serial
def _rank_block(
    block, level, box, points, queries, keys, order, asked, columns, k, limit, is_last, spare, results, still
):
    """Answer the queries of one block, or leave them open."""
    cells, starts, rows, xyz = level
    low, high, edge, slack, whole = box
    listed, pointers, (begins, ends), gaps, near, near_rows = spare
    best, best_rows, more, more_rows = listed
    pointers[:] = 0
    total, before = np.int64(0), np.int64(-1)
    answered = -1
    for i in range(block * _BLOCK, min(keys.size, (block + 1) * _BLOCK)):
        if keys[i] != before:
            # neighbours of a query of another cloud say nothing
            answered = answered if keys[i] >> BATCH_SHIFT == before >> BATCH_SHIFT else -1
            before = keys[i]
            total = _find_runs(cells, starts, before, columns, pointers, begins, ends)
            if total <= near_rows.size:
                _copy_runs(rows, xyz, begins, ends, near_rows, near)
        still[order[i]] = True
        if total < _ENOUGH * k and not is_last:
            continue
        at = asked[order[i]]
        query = queries[at]
        bound = _place_query(query, low, high, edge, slack, whole, gaps)
        worst = limit
        if not is_last:
            # who finds k of them here is answered
            worst = min(worst, bound)
        if answered >= 0:
            # most neighbours of the query before are neighbours of this one
            worst = min(worst, _reach(query, points, results[0][answered], k))
        n = 0
        if total <= near_rows.size:
            n, worst = _rank_run(query, 0, total, near_rows, near, listed, n, k, worst)
        else:
            for run in range(_RUNS):
                if begins[run] < ends[run] and _gap(gaps, run) <= worst:
                    n, worst = _rank_run(query, begins[run], ends[run], rows, xyz, listed, n, k, worst)
                    if worst == 0.0 and n == k:
                        break
        if n >= k or limit <= bound or is_last:
            still[order[i]] = False
            n = keep_smallest(best, best_rows, n, k, more, more_rows)
            for j in range(n):
                results[0][at, j], results[1][at, j] = best_rows[j], best[j]
            answered = at if n == k else -1


@jit_serial
def _gap(gaps, run):
    """The squared distance from which on a run may hold points."""
    if run < 3:
        # its own cell, below, above
        side = 1 if run == 0 else 2 * (run - 1)
        return gaps[2, side] * gaps[2, side]
    if run < 5:
        return gaps[0, 2 * (run - 3)] * gaps[0, 2 * (run - 3)]
    if run < 7:
        return gaps[1, 2 * (run - 5)] * gaps[1, 2 * (run - 5)]
    x, y = gaps[0, (run - 7) // 2 * 2], gaps[1, (run - 7) % 2 * 2]
    return x * x + y * y


@jit_parallel()
def _rank(
    level, box, points, queries, keys, order, asked, columns, k, limit, is_last, taken, spare, results, still
):
    best, best_rows, more, more_rows, pointers, runs, gaps, near, near_rows = spare
    blocks = (keys.size + _BLOCK - 1) // _BLOCK
    for worker in prange(best.shape[0]):
        mine = (
            (best[worker], best_rows[worker], more[worker], more_rows[worker]),
            pointers[worker], (runs[worker, 0], runs[worker, 1]), gaps[worker],
            near[worker], near_rows[worker],
        )  # fmt: skip
        # places differ in cost by orders, so a thread takes the next block when it is done with one
        while True:
            block = next_item(taken.ctypes.data)
            if block >= blocks:
                break
            _rank_block(
                block, level, box, points, queries, keys, order, asked, columns, k, limit, is_last, mine,
                results, still,
            )  # fmt: skip


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

    def corner(self, level: int) -> tuple[Floats, Floats, float, float, bool]:
        """What a kernel reads of the box, with the cells of a level."""
        return self.box.low, self.box.high, self.box.edge * 2.0**level, self.box.slack, self.box.whole


def _clouds(starts: Tensor) -> npt.NDArray[np.int32]:
    """The cloud of each row."""
    sizes = np.diff(starts.numpy())
    return np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)


def _spare(k: int) -> tuple[npt.NDArray, ...]:
    """What each thread writes down; no result depends on the number of threads."""
    workers = torch.get_num_threads()
    room = workers, max(2 * k, k + 64) + _CHUNK
    return (
        np.empty(room), np.empty(room, np.int32), np.empty(room), np.empty(room, np.int32),
        np.empty((workers, len(_COLUMNS)), np.int64), np.empty((workers, 2, _RUNS), np.int64),
        np.empty((workers, 3, 3)), np.empty((workers, 3, _NEAR)), np.empty((workers, _NEAR), np.int32),
    )  # fmt: skip


def k_nearest(
    points: Tensor, starts: Tensor, queries: Tensor, query_starts: Tensor, k: int, radius: float
) -> tuple[Tensor, Tensor]:
    results = np.full((len(queries), k), -1, np.int32), np.full((len(queries), k), np.inf)
    tensors = torch.from_numpy(results[0]), torch.from_numpy(results[1])
    if len(points) == 0 or len(queries) == 0:
        return tensors
    search = _Search.of(points, starts, queries, query_starts, radius)
    n, asked, coords = len(points), np.arange(len(queries)), search.asked
    # where a cell is as wide as the radius, nobody has to look farther
    last = search.box.level_of(radius)
    level = min(last, crowded_level(search.coords, _SHARE * k))
    spare = _spare(k)
    while True:
        here = level_of_points(search.points, search.coords, level)
        keys, order = sort_keys(keys_at(coords, level))
        still, taken = np.empty(len(asked), np.bool_), np.zeros(1, np.int64)
        _rank(
            here.arrays(), search.corner(level), search.points, search.queries, keys.numpy(), order.numpy(),
            asked, _COLUMNS, k, search.limit, level == last, taken, spare, results, still,
        )  # fmt: skip
        if not still.any():
            return tensors
        asked, coords = asked[still], coords[torch.from_numpy(still)]
        if len(asked) * n <= _FEW_PAIRS:
            level = last
        else:
            # sorting a level costs more than a few queries that see too many points
            level = min(last, level + (1 if len(asked) * _MANY > n else 2))


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
    taken, pointers = np.zeros(1, np.int64), np.empty((torch.get_num_threads(), len(_COLUMNS)), np.int64)
    _first(
        here.arrays(), search.queries, keys.numpy(), order.numpy(), _COLUMNS, search.limit, taken, pointers,
        results,
    )  # fmt: skip
    return tensors
