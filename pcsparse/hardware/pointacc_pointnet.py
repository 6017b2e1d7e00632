"""Traces of point networks by their sizes: PointNet, and PointNet++ for classification and segmentation.

Written down over given points: samples, balls and neighbours are the engine's, and nothing is computed with
features. How the chip interpolates is not known here: ours fetches three rows, and weights and adds them in
front of the array.
Left out: PointNet's two networks that turn points and features, dropout and norms, which move nothing through
the DRAM.

Source: Qi et al., PointNet (CVPR 2017, arXiv 1612.00593), section 4 and figure 2; Qi et al., PointNet++
(NeurIPS 2017, arXiv 1706.02413), sections 3.2 and 3.4.
"""

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from pcsparse.coords.neighbors import ball_query, farthest_points, nearest_neighbours
from pcsparse.errors import RangeError
from pcsparse.hardware.trace import LayerTrace, MappingStep, NearestStep, NetworkTrace, SampleStep


@dataclass(frozen=True)
class Ball:
    """Groups of one size, and the layers that describe them.

    Attributes:
        radius: in units of the points.
        k: points at most; the nearest is repeated where there are fewer.
        widths: of the layers, the last of which is pooled over a group.
    """

    radius: float
    k: int
    widths: tuple[int, ...]


@dataclass(frozen=True)
class Level:
    """A set abstraction that samples, and groups around the samples in balls of one size or several."""

    n_samples: int
    balls: tuple[Ball, ...]


POINTNET = (64, 64, 64, 128, 1024)
"""Widths of PointNet's layers on points."""
HEAD = (512, 256, 40)
"""Widths of its classifier, which PointNet++ has too."""
_INTERPOLATED = 3


def trace_pointnet(n_points: int, *, itemsize: int = 2) -> NetworkTrace:
    """PointNet on so many points.

    Raises:
        RangeError: no point.
    """
    if n_points < 1:
        raise RangeError(f"PointNet needs at least 1 point, got {n_points}")
    layers = _chain("points", 3, POINTNET, n_points, itemsize, pooled=n_points)
    return NetworkTrace("PointNet", (*layers, *_head(POINTNET[-1], HEAD, itemsize)))


def trace_pointnet2(
    points: Tensor,
    levels: tuple[Level, ...],
    pooled: tuple[int, ...],
    head: tuple[int, ...] = HEAD,
    *,
    itemsize: int = 2,
) -> NetworkTrace:
    """PointNet++ that classifies one cloud, of points without features.

    Args:
        points: (n, 3) float32, in units of the radii.
        levels: that sample and group, from fine to coarse.
        pooled: widths of the level over all that is left.
        head: widths of the classifier.
        itemsize: bytes of a feature and a weight.

    Raises:
        RangeError: fewer points than the first level samples.
    """
    steps, places, channels = _down(points, levels, itemsize)
    n = len(places[-1])
    steps += _chain("all", channels[-1] + 3, pooled, n, itemsize, pooled=n)
    return NetworkTrace("PointNet++", (*steps, *_head(pooled[-1], head, itemsize)))


def trace_pointnet2_segmentation(
    points: Tensor,
    levels: tuple[Level, ...],
    propagations: tuple[tuple[int, ...], ...],
    head: tuple[int, ...],
    *,
    itemsize: int = 2,
) -> NetworkTrace:
    """PointNet++ that classifies every point of one cloud, of points without features.

    Args:
        points: (n, 3) float32, in units of the radii.
        levels: that sample and group, from fine to coarse.
        propagations: widths of the layers on interpolated features, from the coarsest level to the points; as
            many as levels.
        head: widths of the classifier, which runs on every point.
        itemsize: bytes of a feature and a weight.

    Raises:
        RangeError: fewer points than the first level samples, or not as many propagations as levels.
    """
    if len(propagations) != len(levels):
        raise RangeError(f"{len(levels)} levels down need as many propagations up, got {len(propagations)}")
    steps, places, channels = _down(points, levels, itemsize)
    arriving = channels[-1]
    for i, widths in enumerate(propagations):
        coarse, fine, beside = places[-1 - i], places[-2 - i], channels[-2 - i]
        found = nearest_neighbours(coarse, _INTERPOLATED, queries=fine)
        steps.append(NearestStep(f"up{i} nearest", coarse, fine, _INTERPOLATED, None, found.rows))
        rows = found.filled().flatten()
        steps += _chain(
            f"up{i}", arriving + beside, widths, len(coarse), itemsize, gather=rows, summed=_INTERPOLATED,
            beside=beside,
        )  # fmt: skip
        arriving = widths[-1]
    return NetworkTrace("PointNet++ segmentation", (*steps, *_head(arriving, head, itemsize, len(points))))


def _down(
    points: Tensor, levels: tuple[Level, ...], itemsize: int
) -> tuple[list[LayerTrace | MappingStep], list[Tensor], list[int]]:
    """Set abstractions; and the points and channels of each level, those given first."""
    if len(points) < levels[0].n_samples:
        raise RangeError(
            f"the first level samples {levels[0].n_samples} of {len(points)} points; give more points, "
            "or smaller levels"
        )
    steps: list[LayerTrace | MappingStep] = []
    places, channels = [points], [0]
    for i, level in enumerate(levels):
        chosen = farthest_points(points, level.n_samples)
        centres = points[chosen]
        steps.append(SampleStep(f"level{i} sample", points, level.n_samples, chosen.int()))
        for j, ball in enumerate(level.balls):
            name = f"level{i}" + (f".{j}" if len(level.balls) > 1 else "")
            found = ball_query(points, ball.radius, ball.k, queries=centres)
            steps.append(NearestStep(f"{name} ball", points, centres, ball.k, ball.radius, found.rows))
            # coordinates relative to the centre go with the features
            rows = found.filled().flatten()
            steps += _chain(name, channels[-1] + 3, ball.widths, len(points), itemsize, ball.k, rows)
        points = centres
        places.append(centres)
        channels.append(sum(ball.widths[-1] for ball in level.balls))
    return steps, places, channels


def _chain(
    name: str,
    c_in: int,
    widths: tuple[int, ...],
    n_in: int,
    itemsize: int,
    pooled: int = 1,
    gather: Tensor | None = None,
    summed: int = 1,
    beside: int = 0,
) -> list[LayerTrace]:
    rows = n_in if gather is None else len(gather) // summed
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
            summed=1 if i else summed,
            beside=0 if i else beside,
        )
        for i, (before, after) in enumerate(pairwise((c_in, *widths)))
    ]


def _head(c_in: int, widths: tuple[int, ...], itemsize: int, rows: int = 1) -> list[LayerTrace]:
    return [
        LayerTrace(f"head.{i}", None, before, after, itemsize, rows, follows=True)
        for i, (before, after) in enumerate(pairwise((c_in, *widths)))
    ]
