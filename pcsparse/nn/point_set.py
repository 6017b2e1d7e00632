"""PointNet++'s levels: sample, group, pool; and interpolate back.

Sampling and searching are modules without parameters, so that a forward hook sees what is asked and answered.

Source: Qi et al., PointNet++, NeurIPS 2017 (arXiv 1706.02413), sections 3.2 to 3.4.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pcsparse.coords.kernel_map import KernelMap
from pcsparse.coords.neighbors import Neighbours, ball_query, farthest_points, nearest_neighbours
from pcsparse.nn.row_layer import RowLayer
from pcsparse.ops.group import group_neighbours
from pcsparse.ops.interpolate import interpolate
from pcsparse.ops.pool import max_pool


@dataclass(frozen=True, eq=False)
class PointSet:
    """Points of one level, and what is known of them.

    Attributes:
        points: (n, 3) float32, metres.
        batch: (n,) int32 or int64, the cloud of each point.
        feats: (n, c) float, or None.
    """

    points: Tensor
    batch: Tensor
    feats: Tensor | None


class FarthestPoints(nn.Module):
    """`coords.neighbors.farthest_points` as a module.

    Args:
        n_samples: points to choose from each cloud.
    """

    def __init__(self, n_samples: int) -> None:
        super().__init__()
        self.n_samples = n_samples

    def forward(self, points: Tensor, batch: Tensor, first: Tensor | None = None) -> Tensor:
        """(n, 3), (n,) -> rows of the chosen points."""
        return farthest_points(points, self.n_samples, batch=batch, first=first)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"n_samples={self.n_samples}"


class BallQuery(nn.Module):
    """`coords.neighbors.ball_query` as a module: the nearest points of a ball.

    Args:
        radius: metres.
        limit: neighbours a query at most.
    """

    def __init__(self, radius: float, limit: int) -> None:
        super().__init__()
        self.radius, self.limit = radius, limit

    def forward(self, points: Tensor, batch: Tensor, queries: Tensor, query_batch: Tensor) -> Neighbours:
        """Neighbours of (m, 3) queries among (n, 3) points."""
        return ball_query(
            points, self.radius, self.limit, queries=queries, batch=batch, query_batch=query_batch
        )

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"radius={self.radius}, limit={self.limit}"


class NearestNeighbours(nn.Module):
    """`coords.neighbors.nearest_neighbours` as a module.

    Args:
        k: neighbours a query.
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, points: Tensor, batch: Tensor, queries: Tensor, query_batch: Tensor) -> Neighbours:
        """Neighbours of (m, 3) queries among (n, 3) points."""
        return nearest_neighbours(points, self.k, queries=queries, batch=batch, query_batch=query_batch)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"k={self.k}"


def _layers(widths: Sequence[tuple[int, int]]) -> nn.Sequential:
    return nn.Sequential(*(RowLayer(c_in, c_out) for c_in, c_out in widths))


class SetAbstraction(nn.Module):
    """Sample centres, group points around them at one scale or several, and describe each group.

    The nearest points of a ball are taken, so that an order of the points does not matter but for ties; free
    places repeat the nearest, as in the published code, so statistics of norms see it as often.

    Args:
        n_samples: centres a cloud.
        balls: (radius in metres, neighbours at most), one a scale.
        widths: (c_in, c_out) of each layer, one list a scale; the first c_in is 3 + c.
    """

    def __init__(
        self,
        n_samples: int,
        balls: Sequence[tuple[float, int]],
        widths: Sequence[Sequence[tuple[int, int]]],
    ) -> None:
        super().__init__()
        self.sample = FarthestPoints(n_samples)
        self.search = nn.ModuleList(BallQuery(radius, limit) for radius, limit in balls)
        self.layers = nn.ModuleList(_layers(scale) for scale in widths)

    def forward(self, x: PointSet, first: Tensor | None = None) -> PointSet:
        """The level of the centres, with the features of all scales side by side.

        Args:
            x: the finer level.
            first: (clouds,) the row that sampling begins with in each cloud; the first row of each if None.
        """
        chosen = self.sample(x.points, x.batch, first)
        centres, batch = x.points[chosen], x.batch[chosen]
        scales = []
        for search, layers in zip(self.search, self.layers, strict=True):
            rows = search(x.points, x.batch, centres, batch).filled()
            grouped = group_neighbours(x.points, centres, x.feats, rows)
            described = layers(grouped.flatten(0, 1).to(_dtype(layers)))
            scales.append(described.unflatten(0, rows.shape).amax(dim=1))
        return PointSet(centres, batch, torch.cat(scales, dim=1))


class GlobalAbstraction(nn.Module):
    """Describe each cloud as one group, by places as they are and features.

    Args:
        widths: (c_in, c_out) of each layer; the first c_in is 3 + c.
    """

    def __init__(self, widths: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.layers = _layers(widths)

    def forward(self, x: PointSet, clouds: int) -> Tensor:
        """(clouds, c_out); 0 for a cloud without points."""
        places = x.points.to(_dtype(self.layers))
        rows = places if x.feats is None else torch.cat([places, x.feats.to(places.dtype)], dim=1)
        return max_pool(self.layers(rows), KernelMap.of_groups(x.batch, clouds))


class FeaturePropagation(nn.Module):
    """Interpolate features of a coarse level at the points of a finer one, by the three nearest.

    Args:
        widths: (c_in, c_out) of each layer; the first c_in is the coarse level's channels and then the finer
            one's.
    """

    def __init__(self, widths: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.search = NearestNeighbours(3)
        self.layers = _layers(widths)

    def forward(self, coarse: PointSet, fine: PointSet) -> PointSet:
        """The finer level with new features."""
        assert coarse.feats is not None
        found = self.search(coarse.points, coarse.batch, fine.points, fine.batch)
        feats = interpolate(coarse.feats, found)
        if fine.feats is not None:
            feats = torch.cat([feats, fine.feats.to(feats.dtype)], dim=1)
        return PointSet(fine.points, fine.batch, self.layers(feats))


def _dtype(layers: nn.Module) -> torch.dtype:
    return next(layers.parameters()).dtype
