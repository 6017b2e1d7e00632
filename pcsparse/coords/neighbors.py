"""Nearest neighbours, ball queries and farthest-point samples of points in metres: exact and deterministic.

A tree of boxes, or the sorted keys of cells for a ball's first points, says where to look; candidates are
ranked by squared distance in float64, equal ones by row. So results are those of a search through all
points, at any number of threads.

Source: PointAcc (MICRO 2021), section 4: mapping operations as ranking; the operations are PointNet++'s
(NeurIPS 2017), section 3.2.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pcsparse.checks import check_dtype, check_same_device, check_shape
from pcsparse.coords.kernel_map import NO_NEIGHBOUR
from pcsparse.coords.point_clouds import GivenPoints, surveyed
from pcsparse.errors import RangeError
from pcsparse.kernels.select import backend_of


@dataclass(frozen=True, eq=False)
class Neighbours:
    """For each query some points.

    Attributes:
        rows: (m, k) int32, rows of the points; NO_NEIGHBOUR (-1) at the end where there are fewer.
        squared: (m, k) float64, squared distances in square metres; inf where there is no neighbour.
    """

    rows: Tensor
    squared: Tensor

    @property
    def counts(self) -> Tensor:
        """How many neighbours each query has, (m,) int64; 0 is a query without any."""
        return (self.rows != NO_NEIGHBOUR).sum(dim=1)

    def filled(self) -> Tensor:
        """Rows (m, k) int32 with the first neighbour in free places, as PointNet++ fills a ball.

        A query without neighbours keeps NO_NEIGHBOUR everywhere.
        """
        return torch.where(self.rows == NO_NEIGHBOUR, self.rows[:, :1], self.rows)


def nearest_neighbours(
    points: Tensor,
    k: int,
    *,
    queries: Tensor | None = None,
    batch: Tensor | None = None,
    query_batch: Tensor | None = None,
) -> Neighbours:
    """The k nearest points of each query in its own cloud, nearest first; of equally near ones the first row.

    Args:
        points: (n, 3) float32, metres, finite.
        k: at least 1. Where a cloud has fewer points, free places are NO_NEIGHBOUR.
        queries: (m, 3) float32, metres, finite; the points themselves if None, each then finds itself.
        batch: (n,) integer, the cloud of each point, in any order; 0 for all if None.
        query_batch: (m,) integer, of each query; needs `queries`.

    Returns:
        Neighbours of the m queries.

    Raises:
        ShapeError: `points` or `queries` is not (n, 3), or a batch not (n,).
        DtypeError: points that are not float32, a batch that is not int32 or int64.
        DeviceError: tensors on several devices.
        RangeError: k below 1, a point that is not finite, a cloud below 0 or above 2046, or a batch for only
            one of points and queries.
    """
    return _ranked(points, queries, k, float("inf"), batch, query_batch, "nearest")


def ball_query(
    points: Tensor,
    radius: float,
    limit: int,
    *,
    queries: Tensor | None = None,
    batch: Tensor | None = None,
    query_batch: Tensor | None = None,
    order: Literal["nearest", "index"] = "nearest",
) -> Neighbours:
    """At most `limit` points of each query's own cloud that are nearer to it than `radius`.

    Args:
        points: (n, 3) float32, metres, finite.
        radius: metres, positive; a point exactly that far away is outside.
        limit: at least 1.
        queries: as of `nearest_neighbours`.
        batch: as of `nearest_neighbours`.
        query_batch: as of `nearest_neighbours`.
        order: "nearest": the nearest points, nearest first. "index": the first points by row, in that order,
            as the CUDA code of PointNet++ takes them; the choice then depends on the order of the points.

    Returns:
        Neighbours of the m queries. PointNet++'s code repeats the first neighbour in free places: `filled()`.

    Raises:
        ShapeError, DtypeError, DeviceError: as `nearest_neighbours`.
        RangeError: as `nearest_neighbours`, a radius that is not positive and finite or whose square is not,
            or another `order`.
    """
    if not (radius > 0 and 0 < radius * radius < float("inf")):
        raise RangeError(f"radius must be positive and finite metres, and so must its square, got {radius}")
    if order not in ("nearest", "index"):
        raise RangeError(f"order must be 'nearest' or 'index', got {order!r}")
    return _ranked(points, queries, limit, radius, batch, query_batch, order)


def farthest_points(
    points: Tensor, n_samples: int, *, batch: Tensor | None = None, first: Tensor | None = None
) -> Tensor:
    """Rows of points that cover each cloud: each chosen one is the farthest from those chosen before it.

    Of equally far points the first row is taken; none is taken twice, not even where points coincide. A
    cloud of fewer than `n_samples` points gives all of them.

    Args:
        points: (n, 3) float32, metres, finite.
        n_samples: a cloud, at least 1.
        batch: (n,) integer, the cloud of each point, in any order; 0 for all if None.
        first: (clouds,) integer, the row of `points` that each cloud begins with, not read where a cloud has
            no points; the first row of each cloud if None. Clouds are numbered up to the highest in `batch`.

    Returns:
        (sum of samples,) int64, cloud after cloud, each in the order of choice.

    Raises:
        ShapeError: `points` is not (n, 3), `batch` not (n,), `first` not (clouds,).
        DtypeError: points that are not float32, a batch or `first` that is not int32 or int64.
        DeviceError: tensors on several devices.
        RangeError: n_samples below 1, a point that is not finite, a cloud below 0 or above 2046, or a row in
            `first` that is not in its cloud.
    """
    if n_samples < 1:
        raise RangeError(f"n_samples must be at least 1, got {n_samples}")
    given = GivenPoints("points", points, batch, "batch")
    given.check_form()
    (clouds,) = surveyed(given)
    own = given.by_cloud(clouds.count, clouds.ascending)
    sizes = own.starts.diff()
    begin = own.starts[:-1]
    if first is not None:
        begin = _check_first(first, points, batch, own.order, sizes)
    rows = backend_of(points).farthest_points(own.points, own.starts, begin, sizes.clamp(max=n_samples))
    return rows.long() if own.order is None else own.order[rows.long()]


def _check_first(
    first: Tensor, points: Tensor, batch: Tensor | None, order: Tensor | None, sizes: Tensor
) -> Tensor:
    """The rows to begin with, as they are numbered cloud after cloud."""
    check_shape("first", first, (len(sizes),))
    check_dtype("first", first, torch.int32, torch.int64)
    check_same_device(points=points, first=first)
    n, first = len(points), first.long().contiguous()
    if n == 0:
        return first
    rows = first.clamp(0, n - 1)
    wrong = rows != first
    if batch is not None:
        wrong |= batch[rows] != torch.arange(len(sizes), device=batch.device)
    wrong &= sizes > 0
    if bool(wrong.any()):
        cloud = int(wrong.nonzero()[0])
        raise RangeError(
            f"first[{cloud}] = {int(first[cloud])} is not a row of cloud {cloud}; give a row of one of its "
            "points"
        )
    if order is None:
        return first
    place = torch.empty_like(order)
    place[order] = torch.arange(n, device=order.device)
    return place[rows]


def _ranked(
    points: Tensor,
    queries: Tensor | None,
    k: int,
    radius: float,
    batch: Tensor | None,
    query_batch: Tensor | None,
    order: str,
) -> Neighbours:
    if k < 1:
        raise RangeError(f"the number of neighbours must be at least 1, got {k}")
    given = [GivenPoints("points", points, batch, "batch")]
    given[0].check_form()
    if queries is not None:
        given.append(GivenPoints("queries", queries, query_batch, "query_batch"))
        given[1].check_form()
        check_same_device(points=points, queries=queries)
        if (batch is None) != (query_batch is None):
            raise RangeError(
                "points and queries must both have a batch or neither, got only "
                f"{'query_batch' if batch is None else 'batch'}; give the other too"
            )
    elif query_batch is not None:
        raise RangeError("query_batch is given without queries; leave it out, or give the queries")
    known = surveyed(*given)
    clouds = max(found.count for found in known)
    # points that look among themselves are the same tensors twice, which a backend may see
    own, *others = (one.by_cloud(clouds, found.ascending) for one, found in zip(given, known, strict=True))
    asking = others[0] if others else own
    backend = backend_of(own.points, asking.points)
    search = backend.k_nearest if order == "nearest" else backend.first_in_ball
    rows, squared = search(own.points, own.starts, asking.points, asking.starts, k, radius)
    if own.order is not None:
        # a stable sort keeps the order of rows in a cloud, and with it the ranks of equal distances
        named = own.order[rows.long().clamp(min=0)].int() if len(own.order) else rows
        rows = torch.where(rows == NO_NEIGHBOUR, rows, named)
    if asking.order is not None:
        # a row of results goes to where its query came from
        rows, squared = (
            torch.empty_like(part).index_copy_(0, asking.order, part) for part in (rows, squared)
        )
    return Neighbours(rows, squared)
