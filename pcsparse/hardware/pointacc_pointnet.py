"""Traces of two point networks by their published sizes: PointNet, and PointNet++ for classification.

Written down from the tables of their papers, over given points: samples and balls are the engine's, and
nothing is computed with features. Left out: PointNet's two networks that turn points and features, dropout
and norms, which move nothing through the DRAM.

Source: Qi et al., PointNet (CVPR 2017, arXiv 1612.00593), section 4 and figure 2; Qi et al., PointNet++
(NeurIPS 2017, arXiv 1706.02413), section B.1: single scale grouping, ModelNet40.
"""

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from pcsparse.coords.neighbors import ball_query, farthest_points
from pcsparse.errors import RangeError
from pcsparse.hardware.trace import LayerTrace, MappingStep, NearestStep, NetworkTrace, SampleStep


@dataclass(frozen=True)
class Grouping:
    """A set abstraction level that samples and groups.

    Attributes:
        n_samples: centres.
        radius: of a ball, in units of the cloud's radius.
        k: points of a ball; the nearest is repeated where there are fewer.
        widths: of its layers, the last of which is pooled over a ball.
    """

    n_samples: int
    radius: float
    k: int
    widths: tuple[int, ...]


POINTNET = (64, 64, 64, 128, 1024)
"""Widths of PointNet's layers on points."""
POINTNET2 = (Grouping(512, 0.2, 32, (64, 64, 128)), Grouping(128, 0.4, 64, (128, 128, 256)))
"""PointNet++'s levels but the last."""
POINTNET2_LAST = (256, 512, 1024)
"""Widths of PointNet++'s last level, on all points that are left."""
HEAD = (512, 256, 40)
"""Widths of both classifiers."""


def trace_pointnet(n_points: int, *, itemsize: int = 2) -> NetworkTrace:
    """PointNet on so many points.

    Raises:
        RangeError: no point.
    """
    if n_points < 1:
        raise RangeError(f"PointNet needs at least 1 point, got {n_points}")
    layers = _chain("points", 3, POINTNET, n_points, itemsize, pooled=n_points)
    return NetworkTrace("PointNet", (*layers, *_head(POINTNET[-1], itemsize)))


def trace_pointnet2(
    points: Tensor,
    *,
    levels: tuple[Grouping, ...] = POINTNET2,
    last: tuple[int, ...] = POINTNET2_LAST,
    itemsize: int = 2,
) -> NetworkTrace:
    """PointNet++ on a cloud.

    Args:
        points: (n, 3) float32, scaled to a ball of radius 1.
        levels: that sample and group.
        last: widths of the level over all that is left.
        itemsize: bytes of a feature and a weight.

    Raises:
        RangeError: fewer points than the first level samples.
    """
    if len(points) < levels[0].n_samples:
        raise RangeError(
            f"the first level samples {levels[0].n_samples} of {len(points)} points; give more points, "
            "or smaller levels"
        )
    channels = 0
    steps: list[LayerTrace | MappingStep] = []
    for i, level in enumerate(levels):
        chosen = farthest_points(points, level.n_samples)
        centres = points[chosen]
        ball = ball_query(points, level.radius, level.k, queries=centres)
        rows = ball.filled().flatten()
        steps.append(SampleStep(f"level{i} sample", points, level.n_samples, chosen.int()))
        steps.append(NearestStep(f"level{i} ball", points, centres, level.k, level.radius, ball.rows))
        # coordinates relative to the centre go with the features
        steps += _chain(f"level{i}", channels + 3, level.widths, len(points), itemsize, level.k, rows)
        points, channels = centres, level.widths[-1]
    steps += _chain("all", channels + 3, last, len(points), itemsize, pooled=len(points))
    return NetworkTrace("PointNet++", (*steps, *_head(last[-1], itemsize)))


def _chain(
    name: str,
    c_in: int,
    widths: tuple[int, ...],
    n_in: int,
    itemsize: int,
    pooled: int = 1,
    gather: Tensor | None = None,
) -> list[LayerTrace]:
    rows = n_in if gather is None else len(gather)
    last = len(widths) - 1
    return [
        LayerTrace(
            f"{name}.{i}",
            None,
            before,
            after,
            itemsize,
            rows if i else n_in,
            gather=None if i else gather,
            follows=i > 0,
            pooled=pooled if i == last else 1,
        )
        for i, (before, after) in enumerate(pairwise((c_in, *widths)))
    ]


def _head(c_in: int, itemsize: int) -> list[LayerTrace]:
    return [
        LayerTrace(f"head.{i}", None, before, after, itemsize, 1, follows=True)
        for i, (before, after) in enumerate(pairwise((c_in, *HEAD)))
    ]
