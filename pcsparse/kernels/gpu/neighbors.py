"""Exact kNN and ball query: each query walks a tree of boxes over the sorted points.

A query first ranks the points beside it on the curve, and so knows a distance beyond which no box need be
opened. No step waits for the host.
"""

import struct

import torch
from torch import Tensor

from pcsparse.kernels.gpu import cuda_text
from pcsparse.kernels.gpu.point_tree import Curve

# as in neighbors.cu: in a sweep, a query for 16 looks at 107 points and 132 boxes; with 4 and 3 at 169, 144
_LEAF_BITS, _FAN_BITS = 3, 2
_THREADS = 128
# lists that fit into registers, for each of which there is a kernel; longer ones are heaps in memory
_NEAREST, _FIRST = (4, 8, 16, 32), (16,)
# queries from which on sorting them costs less than the lines they would read twice
_MANY = 1 << 14


def k_nearest(
    points: Tensor, starts: Tensor, queries: Tensor, query_starts: Tensor, k: int, radius: float
) -> tuple[Tensor, Tensor]:
    return _searched("nearest", _NEAREST, points, starts, queries, query_starts, k, radius)


def first_in_ball(
    points: Tensor, starts: Tensor, queries: Tensor, query_starts: Tensor, limit: int, radius: float
) -> tuple[Tensor, Tensor]:
    return _searched("first", _FIRST, points, starts, queries, query_starts, limit, radius)


def _searched(
    kind: str,
    sizes: tuple[int, ...],
    points: Tensor,
    starts: Tensor,
    queries: Tensor,
    query_starts: Tensor,
    k: int,
    radius: float,
) -> tuple[Tensor, Tensor]:
    n, m = len(points), len(queries)
    if n == 0 or m == 0:
        rows = torch.full((m, k), -1, dtype=torch.int32, device=points.device)
        return rows, torch.full((m, k), torch.inf, dtype=torch.float64, device=points.device)
    rows = torch.empty(m, k, dtype=torch.int32, device=points.device)
    squared = torch.empty(m, k, dtype=torch.float64, device=points.device)
    # the same tensors say more than equal ones: nothing is compared
    itself = queries is points and query_starts is starts
    points = points.detach().contiguous()
    queries = points if itself else queries.detach().contiguous()
    curve = Curve.along(points, starts)
    nodes, top = curve.boxes(_LEAF_BITS, _FAN_BITS)
    asked: Tensor | int = 0
    if itself:
        keys, asked = curve.unsorted, curve.order
    else:
        keys = curve.place(queries, query_starts)
        if m >= _MANY:
            asked = keys.argsort()
    size = next((str(size) for size in sizes if k <= size), "any")
    cuda_text.launch(
        "neighbors.cu", f"{kind}_{size}", -(-m // _THREADS), _THREADS, curve.points, curve.keys, nodes,
        starts, queries, keys, query_starts, asked, rows, squared, n, m, len(starts) - 1, k,
        _bits(radius * radius), top,
    )  # fmt: skip
    return rows, squared


def _bits(value: float) -> int:
    """A double as the integer of the same bits."""
    return int(struct.unpack("<q", struct.pack("<d", value))[0])
