"""Exact kNN: each query walks a tree of boxes, nearest first, and leaves out what cannot count.

The k nearest of the query before are k points, so the k-th nearest of this one is no farther than the
farthest of them: where queries follow each other in space, hardly a box is entered in vain. Queries that are
the points themselves are asked leaf after leaf, others in the order they come in, unless that is no order in
space at all.
"""

import numpy as np
import numpy.typing as npt
import torch
from numba import prange
from torch import Tensor

from pcsparse.kernels.cpu.keys import sort_keys
from pcsparse.kernels.cpu.launch import jit_parallel, jit_serial
from pcsparse.kernels.cpu.microkernel import next_item
from pcsparse.kernels.cpu.point_tree import LEAF, Ints, PointTree

# queries that a thread takes at a time
_BLOCK = 128
# up to here the list is kept sorted, beyond it is a heap
_SORTED = 64
# levels below a root: more points than a row can number
_DEEPEST = 32
# entries between what two threads write: on one cache line, or on two that are fetched together, both wait
_APART = 32
# points whose tree stays in a cache, whatever the order of the queries
_CACHED = 1 << 14
# queries that are looked at, and of how many the next must end in the same leaf for the order to be kept
_SAMPLE = 256
_TOGETHER = 0.1


@jit_serial
def _away(low, high, node, x, y, z):
    """The squared distance of a box.

    As that of a point, so that no rounding makes a point nearer than its box.
    """
    dx = max(low[node, 0] - x, 0.0, x - high[node, 0])
    dy = max(low[node, 1] - y, 0.0, y - high[node, 1])
    dz = max(low[node, 2] - z, 0.0, z - high[node, 2])
    return dx * dx + dy * dy + dz * dz


@jit_serial
def _insert(distances, rows, n, k, distance, row):
    """Put a point into the sorted list of n, whose last falls out if it has k; the new n."""
    i = min(n, k - 1)
    while i > 0 and (distances[i - 1] > distance or (distances[i - 1] == distance and rows[i - 1] > row)):
        distances[i], rows[i] = distances[i - 1], rows[i - 1]
        i -= 1
    distances[i], rows[i] = distance, row
    return min(n + 1, k)


@jit_serial
def _heap(distances, rows, n, k, distance, row):
    """Put a point into the heap of n, the farthest on top, which falls out if it has k; the new n."""
    if n < k:
        i = n
        while i > 0:
            above = (i - 1) >> 1
            if distances[above] > distance or (distances[above] == distance and rows[above] > row):
                break
            distances[i], rows[i] = distances[above], rows[above]
            i = above
    else:
        i = 0
        while 2 * i + 1 < k:
            below, other = 2 * i + 1, 2 * i + 2
            if other < k and (
                distances[other] > distances[below]
                or (distances[other] == distances[below] and rows[other] > rows[below])
            ):
                below = other
            if distances[below] < distance or (distances[below] == distance and rows[below] < row):
                break
            distances[i], rows[i] = distances[below], rows[below]
            i = below
    distances[i], rows[i] = distance, row
    return min(n + 1, k)


@jit_serial
def _sort_heap(distances, rows, n):
    for last in range(n - 1, 0, -1):
        distance, row = distances[0], rows[0]
        _heap(distances, rows, last, last, distances[last], rows[last])
        distances[last], rows[last] = distance, row


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
def _walk(tree, cloud, query, k, worst, spare):
    """List the k nearest of a cloud that are not farther than `worst`; returns how many there are."""
    starts, depths, nodes, xyz, rows, low, high, first = tree
    distances, found, waiting, waits, leaf = spare
    x, y, z = np.float64(query[0]), np.float64(query[1]), np.float64(query[2])
    n, root, depth = starts[cloud + 1] - starts[cloud], nodes[cloud], depths[cloud]
    # of equally far points the list keeps those of lower rows
    last, top = np.int64(1) << 40, 0 if k > _SORTED else k - 1
    listed, depth_of_stack = 0, 1
    waiting[0], waits[0] = 0, _away(low, high, root, x, y, z)
    while depth_of_stack:
        depth_of_stack -= 1
        node, away = waiting[depth_of_stack], waits[depth_of_stack]
        if away > worst or (away == worst and first[root + node] > last):
            continue
        while node < (1 << depth) - 1:
            near, far = 2 * node + 1, 2 * node + 2
            away, other = _away(low, high, root + near, x, y, z), _away(low, high, root + far, x, y, z)
            if other < away or (other == away and first[root + far] < first[root + near]):
                near, far, away, other = far, near, other, away
            if other <= worst:
                waiting[depth_of_stack], waits[depth_of_stack] = far, other
                depth_of_stack += 1
            node = near
            if away > worst:
                break
        if away > worst:
            continue
        part = node - ((1 << depth) - 1)
        begin, end = starts[cloud] + ((n * part) >> depth), starts[cloud] + ((n * (part + 1)) >> depth)
        for i in range(end - begin):
            dx, dy, dz = xyz[0, begin + i] - x, xyz[1, begin + i] - y, xyz[2, begin + i] - z
            leaf[i] = dx * dx + dy * dy + dz * dz
        for i in range(end - begin):
            row = rows[begin + i]
            if leaf[i] > worst or (listed == k and leaf[i] == worst and row > last):
                continue
            if k > _SORTED:
                listed = _heap(distances, found, listed, k, leaf[i], row)
            else:
                listed = _insert(distances, found, listed, k, leaf[i], row)
            if listed == k:
                worst, last = distances[top], np.int64(found[top])
    return listed


@jit_parallel()
def _search(tree, points, queries, clouds, order, k, limit, taken, spare, results):
    best, best_rows, waiting, waits, leaves = spare
    blocks = (order.size + _BLOCK - 1) // _BLOCK
    for worker in prange(best.shape[0]):
        distances, found = best[worker], best_rows[worker]
        mine = distances, found, waiting[worker], waits[worker], leaves[worker]
        # places differ in cost by orders, so a thread takes the next block when it is done with one
        while True:
            block = next_item(taken.ctypes.data)
            if block >= blocks:
                break
            before = -1
            for i in range(block * _BLOCK, min(order.size, (block + 1) * _BLOCK)):
                at = order[i]
                worst = limit
                # neighbours of a query of another cloud say nothing
                if before >= 0 and clouds[before] == clouds[at]:
                    worst = min(worst, _reach(queries[at], points, results[0][before], k))
                n = 0
                if tree[0][clouds[at]] < tree[0][clouds[at] + 1]:
                    n = _walk(tree, clouds[at], queries[at], k, worst, mine)
                if k > _SORTED:
                    _sort_heap(distances, found, n)
                for j in range(n):
                    results[0][at, j], results[1][at, j] = found[j], distances[j]
                before = at if n == k else -1


@jit_parallel()
def _find_leaves(tree, queries, clouds, asked, leaves):
    _, depths, nodes, _, _, low, high, _ = tree
    blocks = (asked.size + _BLOCK - 1) // _BLOCK
    for block in prange(blocks):
        for i in range(block * _BLOCK, min(asked.size, (block + 1) * _BLOCK)):
            query, cloud = queries[asked[i]], clouds[asked[i]]
            x, y, z = np.float64(query[0]), np.float64(query[1]), np.float64(query[2])
            root, node = nodes[cloud], 0
            while node < (1 << depths[cloud]) - 1:
                node = 2 * node + 1
                here, other = root + node, root + node + 1
                node += _away(low, high, other, x, y, z) < _away(low, high, here, x, y, z)
            leaves[i] = root + node


def _in_order(tree: PointTree, queries: Tensor, clouds: npt.NDArray[np.int32], same: bool) -> Ints:
    """The order in which queries are asked."""
    if same:
        return tree.rows.astype(np.int64)
    m, given = len(queries), queries.numpy()
    every = np.arange(m)
    if m <= _SAMPLE or len(tree.rows) <= _CACHED:
        return every

    def leaves(asked: Ints) -> Ints:
        found = np.empty(len(asked), np.int64)
        _find_leaves(tree.arrays(), given, clouds, asked, found)
        return found

    sample = every[: -1 : m // _SAMPLE]
    if (leaves(sample) == leaves(sample + 1)).mean() >= _TOGETHER:
        return every
    return sort_keys(torch.from_numpy(leaves(every)))[1].numpy()


def _spare(k: int) -> tuple[npt.NDArray, ...]:
    """What each thread writes down; no result depends on the number of threads."""
    workers, stack = torch.get_num_threads(), _DEEPEST + _APART
    return (
        np.empty((workers, k + _APART)), np.empty((workers, k + _APART), np.int32),
        np.empty((workers, stack), np.int64), np.empty((workers, stack)), np.empty((workers, LEAF + _APART)),
    )  # fmt: skip


def k_nearest(
    points: Tensor, starts: Tensor, queries: Tensor, query_starts: Tensor, k: int, radius: float
) -> tuple[Tensor, Tensor]:
    results = np.full((len(queries), k), -1, np.int32), np.full((len(queries), k), np.inf)
    tensors = torch.from_numpy(results[0]), torch.from_numpy(results[1])
    if len(points) == 0 or len(queries) == 0:
        return tensors
    points, queries = points.detach().contiguous(), queries.detach().contiguous()
    tree = PointTree.over(points.numpy(), starts.contiguous().numpy())
    same = queries.data_ptr() == points.data_ptr() and torch.equal(starts, query_starts)
    sizes = np.diff(query_starts.numpy())
    clouds = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    order, limit = _in_order(tree, queries, clouds, same), float(np.nextafter(radius * radius, 0.0))
    taken = np.zeros(1, np.int64)
    _search(
        tree.arrays(), points.numpy(), queries.numpy(), clouds, order, k, limit, taken, _spare(k), results
    )
    return tensors
