"""Points to pixels with NumPy alone: two projections, discs with a depth buffer, shaded edges."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SUPERSAMPLING = 2
"""Pixels are drawn this many times finer on each axis, then averaged: smooth edges."""

_EDGE_RADII = (1, 3)
_EDGE_STRENGTH = 5.0
# in perspective a step of an eighth of the distance is a full edge
_EDGE_PER_OCTAVE = 6.0
_DARKEST = 0.25
_HAZE = 0.45
_RINGS = 3


@dataclass(frozen=True)
class Frame:
    """The part of a cloud that a picture shows.

    Attributes:
        center: x, y, z, metres: the sensor, or the middle of a cloud not around it; z is the ground.
        reach: metres from the centre to the edge of the bird's-eye view.
    """

    center: tuple[float, float, float]
    reach: float

    @classmethod
    def of(cls, points: npt.NDArray[np.floating]) -> "Frame":
        """A frame that holds 94 of 100 points; points must be finite, (n, 3)."""
        if len(points) == 0:
            return cls((0.0, 0.0, 0.0), 1.0)
        low, high = np.percentile(points, (5, 95), axis=0)
        surrounds = bool(((low[:2] < 0) & (high[:2] > 0)).all())
        x, y = (0.0, 0.0) if surrounds else (float(v) for v in np.median(points[:, :2], axis=0))
        distance = np.hypot(points[:, 0] - x, points[:, 1] - y)
        reach = float(np.percentile(distance, 94))
        # a single point, or a vertical line, still needs a scale
        return cls((x, y, float(low[2])), max(reach, float(high[2] - low[2]), 1e-3))


def ring_step(reach: float) -> float:
    """Metres between range rings: 1, 2 or 5 times a power of ten, so that about three fit."""
    power = 10.0 ** np.floor(np.log10(reach / _RINGS))
    return float(max((m * power for m in (1, 2, 5) if m * power * _RINGS <= reach), default=power))


@dataclass(frozen=True)
class Projection:
    """Points on a panel.

    Attributes:
        column: (n,) float, pixels from the left.
        row: (n,) float, pixels from the top.
        depth: (n,) float, larger is further.
        relief: (n,) float, depth on the scale on which edges are shaded.
        radius: (n,) float, pixels.
        haze: (n,) float, 0-1: how much of the background shines through.
        source: (n,) int, row of each point in the cloud; those that cannot be seen are left out.
    """

    column: npt.NDArray[np.float64]
    row: npt.NDArray[np.float64]
    depth: npt.NDArray[np.float64]
    relief: npt.NDArray[np.float64]
    radius: npt.NDArray[np.float64]
    haze: npt.NDArray[np.float64]
    source: npt.NDArray[np.intp]


def perspective(points: npt.NDArray[np.floating], frame: Frame, width: int, height: int) -> Projection:
    """From behind and above the centre, looking forward (x) and down.

    Points nearer to the camera than a third of its distance to the centre are left out: a crown beside the
    camera would hide the street.
    """
    x, y, ground = frame.center
    eye = np.array([x - 0.34 * frame.reach, y, ground + 0.27 * frame.reach])
    aim = np.array([x + 0.33 * frame.reach, y, ground])
    forward = (aim - eye) / np.linalg.norm(aim - eye)
    right = np.array([forward[1], -forward[0], 0.0]) / np.hypot(forward[0], forward[1])
    up = np.cross(right, forward)
    local = (points.astype(np.float64) - eye) @ np.stack([right, up, forward], axis=1)
    near = 0.33 * float(np.linalg.norm(np.array(frame.center) - eye))
    source = np.flatnonzero(local[:, 2] > near)
    local = local[source]
    depth = local[:, 2]
    # 70 degrees across
    focal = 0.5 * width / np.tan(np.radians(35.0))
    size = frame.reach / 600.0
    far = np.clip((depth - frame.reach) / (2.0 * frame.reach), 0, 1)
    return Projection(
        column=0.5 * width + focal * local[:, 0] / depth,
        row=0.5 * height - focal * local[:, 1] / depth,
        depth=depth,
        relief=_EDGE_PER_OCTAVE * np.log2(depth),
        radius=np.clip(focal * size / depth, 0.8, 4.0 * SUPERSAMPLING),
        haze=_HAZE * far,
        source=source,
    )


def birds_eye(points: npt.NDArray[np.floating], frame: Frame, width: int, height: int) -> Projection:
    """From straight above, x up and y to the left, the frame's reach to each side."""
    x, y, ground = frame.center
    scale = 0.5 * min(width, height) / frame.reach
    xyz = points.astype(np.float64)
    depth = ground - xyz[:, 2]
    return Projection(
        column=0.5 * width - scale * (xyz[:, 1] - y),
        row=0.5 * height - scale * (xyz[:, 0] - x),
        depth=depth,
        relief=depth / (0.08 * frame.reach),
        radius=np.full(len(points), 0.8 * SUPERSAMPLING),
        haze=np.zeros(len(points)),
        source=np.arange(len(points)),
    )


def paint(
    projection: Projection, colors: npt.NDArray[np.uint8], canvas: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """The canvas with the points on it.

    Args:
        projection: in pixels of the canvas.
        colors: (n, 3) RGB of all points, also those that the projection left out.
        canvas: (h, w, 3) RGB background, left as it is.

    Returns:
        (h, w, 3) RGB.
    """
    height, width = canvas.shape[:2]
    owner = _nearest(projection, height, width)
    seen = owner >= 0
    at = owner[seen]
    relief = np.full((height, width), np.inf, dtype=np.float32)
    relief[seen] = projection.relief[at]
    haze = projection.haze[at, None]
    shade = _edges(relief)[seen][:, None]
    rgb = canvas.copy()
    rgb[seen] = np.round(colors[projection.source[at]] * shade * (1 - haze) + canvas[seen] * haze)
    return rgb


def _nearest(projection: Projection, height: int, width: int) -> npt.NDArray[np.intp]:
    """(h, w) the point that is seen in each pixel, -1 for none."""
    # far first: of several writes to one pixel NumPy keeps the last; stable, so that ties never vary
    order = np.argsort(-projection.depth, kind="stable")
    column = np.floor(projection.column[order])
    row = np.floor(projection.row[order])
    reach = int(np.ceil(projection.radius.max(initial=0)))
    inside = (column > -reach) & (column < width + reach) & (row > -reach) & (row < height + reach)
    order, column, row = order[inside], column[inside].astype(np.intp), row[inside].astype(np.intp)
    depth, radius = projection.depth[order], projection.radius[order]
    owner = np.full(height * width, -1, dtype=np.intp)
    buffer = np.full(height * width, np.inf)
    # most points are small: the wide offsets concern the few near ones
    large_enough = {d: np.flatnonzero(radius * radius >= d) for d in {x * x + y * y for x, y in _disc(reach)}}
    for dx, dy in _disc(reach):
        rows = large_enough[dx * dx + dy * dy]
        c, r = column[rows] + dx, row[rows] + dy
        inside = (c >= 0) & (c < width) & (r >= 0) & (r < height)
        rows, pixel = rows[inside], (r * width + c)[inside]
        front = depth[rows] < buffer[pixel]
        rows, pixel = rows[front], pixel[front]
        owner[pixel] = order[rows]
        buffer[pixel] = depth[rows]
    return owner.reshape(height, width)


def _disc(radius: int) -> list[tuple[int, int]]:
    steps = range(-radius, radius + 1)
    return [(dx, dy) for dy in steps for dx in steps if dx * dx + dy * dy <= radius * radius]


def _edges(relief: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Brightness of each pixel: darker where a neighbour is nearer (eye-dome lighting).

    Source: C. Boucheny, Interactive scientific visualisation of large datasets, 2009, chapter 5.
    """
    height, width = relief.shape
    total = np.zeros_like(relief)
    here = np.where(np.isfinite(relief), relief, np.float32(-np.inf))
    for radius in _EDGE_RADII:
        padded = np.pad(relief, radius, constant_values=np.inf)
        for dy in (-radius, 0, radius):
            for dx in (-radius, 0, radius):
                there = padded[radius + dy : radius + dy + height, radius + dx : radius + dx + width]
                # an empty neighbour is infinitely far, an empty pixel has none nearer: both add nothing
                total += np.minimum(np.maximum(here - there, 0), 1.0)
    share = total / (8.0 * len(_EDGE_RADII))
    return np.maximum(np.exp(-_EDGE_STRENGTH * share), np.float32(_DARKEST))
