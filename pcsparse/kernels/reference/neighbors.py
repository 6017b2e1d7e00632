"""Twins of the neighbour kernels: every distance is computed, and all of them are ranked."""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

_CHUNK = 1 << 22
"""Most distances held at a time."""


def _squared(points: Tensor, queries: Tensor) -> Tensor:
    """(m, 3) and (n, 3) -> (m, n) float64, in the order of additions of the contract."""
    dx, dy, dz = (points.double()[None, :, axis] - queries.double()[:, None, axis] for axis in range(3))
    return dx * dx + dy * dy + dz * dz


def _chunks(
    points: Tensor, starts: Tensor, queries: Tensor, query_starts: Tensor
) -> Iterator[tuple[int, slice, Tensor]]:
    """First point of the cloud, some queries of it, and their squared distances to its points."""
    clouds = zip(pairwise(starts.tolist()), pairwise(query_starts.tolist()), strict=True)
    for (begin, end), (first, last) in clouds:
        step = max(1, _CHUNK // max(1, end - begin))
        for low in range(first, last, step):
            some = slice(low, min(last, low + step))
            yield begin, some, _squared(points[begin:end], queries[some])


def k_nearest(
    points: Tensor, starts: Tensor, queries: Tensor, query_starts: Tensor, k: int, radius: float
) -> tuple[Tensor, Tensor]:
    rows = torch.full((len(queries), k), -1, dtype=torch.int32, device=points.device)
    squared = torch.full(rows.shape, torch.inf, dtype=torch.float64, device=points.device)
    for begin, some, distances in _chunks(points, starts, queries, query_starts):
        ranked, order = distances.sort(dim=1, stable=True)
        ranked, order = ranked[:, :k], order[:, :k]
        inside = ranked < radius * radius
        rows[some, : order.shape[1]] = torch.where(inside, order + begin, -1).int()
        squared[some, : order.shape[1]] = torch.where(inside, ranked, torch.inf)
    return rows, squared


def first_in_ball(
    points: Tensor, starts: Tensor, queries: Tensor, query_starts: Tensor, limit: int, radius: float
) -> tuple[Tensor, Tensor]:
    rows = torch.full((len(queries), limit), -1, dtype=torch.int32, device=points.device)
    squared = torch.full(rows.shape, torch.inf, dtype=torch.float64, device=points.device)
    for begin, some, distances in _chunks(points, starts, queries, query_starts):
        inside = distances < radius * radius
        # stable: those inside come first, by row
        order = inside.int().argsort(dim=1, descending=True, stable=True)[:, :limit]
        inside, distances = inside.gather(1, order), distances.gather(1, order)
        rows[some, : order.shape[1]] = torch.where(inside, order + begin, -1).int()
        squared[some, : order.shape[1]] = torch.where(inside, distances, torch.inf)
    return rows, squared


def farthest_points(points: Tensor, starts: Tensor, first: Tensor, counts: Tensor) -> Tensor:
    chosen = []
    for (begin, end), row, count in zip(
        pairwise(starts.tolist()), first.tolist(), counts.tolist(), strict=True
    ):
        cloud = points[begin:end]
        nearest = torch.full((end - begin,), torch.inf, dtype=torch.float64, device=points.device)
        at = row - begin
        for _ in range(count):
            chosen.append(begin + at)
            nearest = torch.minimum(nearest, _squared(cloud, cloud[at : at + 1])[0])
            # never again, not even where all others lie on chosen ones
            nearest[at] = -1
            # the first of equal ones
            at = int((nearest == nearest.max()).int().argmax())
    return torch.tensor(chosen, dtype=torch.int32, device=points.device)
