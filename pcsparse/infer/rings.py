"""The lasers of a spinning sensor, estimated from where its points lie."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_MIN_POINTS = 1000
# degrees: motion and a sloping mount move the elevation of one laser in the course of a turn
_RUN_SPREAD = 2.0
# degrees of azimuth between the end of a laser's points and the start of the next one's; a view that is
# cropped to a camera has some 80
_FALL_BACK = 20.0
_MAX_RINGS = 256
_BIN = 0.04
# of a sensor's points, those that must lie on its rings
_PEAKED = 0.8
_FEWEST_RINGS = 4
_FAR_M = 3.0


@dataclass(frozen=True)
class Rings:
    """Lasers.

    Attributes:
        count: lasers that returned points.
        low, high: degrees, elevation of the lowest and of the highest.
        step: degrees of azimuth between points of one laser, median; None where the order hides it.
        source: how they were found: `column`, `order` (the file lists one laser after another) or
            `elevations` (peaks of a histogram).
    """

    count: int
    low: float
    high: float
    step: float | None
    source: str


def find_rings(points: npt.NDArray[np.float32], ring: npt.NDArray[np.int32] | None = None) -> Rings | None:
    """Rings of a sweep around the origin.

    Args:
        points: (n, 3) metres, finite, in the file's order, z up, the sensor in the origin.
        ring: (n,) numbers of lasers, or None.

    Returns:
        The rings; None where the points do not lie on any (a map, several sensors, a solid-state sensor).
    """
    away = np.hypot(points[:, 0], points[:, 1]) > 0.5
    points, ring = points[away], None if ring is None else ring[away]
    if len(points) < _MIN_POINTS:
        return None
    azimuth = np.degrees(np.arctan2(points[:, 1], points[:, 0]).astype(np.float64))
    elevation = np.degrees(np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1])).astype(np.float64))
    if ring is not None:
        return _of_groups(azimuth, elevation, ring, "column")
    # one laser after another: the azimuth runs on and falls back where the next begins, ahead or behind
    for angle in (azimuth % 360, azimuth):
        steps = np.diff(angle)
        way = np.sign(np.median(steps))
        turns = np.concatenate([[0], np.cumsum(way * steps < -_FALL_BACK)])
        if _FEWEST_RINGS <= turns[-1] < _MAX_RINGS:
            found = _of_groups(angle, elevation, turns, "order")
            if found is not None:
                return found
    # nearer points are off: lasers do not start in the same point
    return _of_peaks(elevation[np.hypot(points[:, 0], points[:, 1]) > _FAR_M])


def _of_groups(
    azimuth: npt.NDArray[np.float64], elevation: npt.NDArray[np.float64], group: npt.NDArray, source: str
) -> Rings | None:
    """Rings whose points are known; groups that are mere noise at a wrap do not count."""
    order = np.lexsort((azimuth, group))
    group, azimuth, elevation = group[order], azimuth[order], elevation[order]
    starts = np.flatnonzero(np.diff(group, prepend=group[0] - 1))
    sizes = np.diff(np.append(starts, len(group)))
    parts = [slice(s, s + n) for s, n in zip(starts, sizes, strict=True) if n > 0.1 * np.median(sizes)]
    middles = np.array([np.median(elevation[part]) for part in parts])
    spreads = np.array([np.subtract(*np.percentile(elevation[part], [90, 10])) for part in parts])
    if source == "order" and np.median(spreads) > _RUN_SPREAD:
        return None
    steps = np.concatenate([np.diff(azimuth[part]) for part in parts])
    steps = steps[steps > 1e-3]
    step = float(np.median(steps)) if len(steps) else None
    return Rings(len(parts), float(middles.min()), float(middles.max()), step, source)


def _of_peaks(elevation: npt.NDArray[np.float64]) -> Rings | None:
    """Rings as peaks of the elevations, for points in any order."""
    if len(elevation) < _MIN_POINTS:
        return None
    counts, edges = np.histogram(elevation, bins=np.arange(-90, 90 + _BIN, _BIN))
    smooth = np.convolve(counts, [0.25, 0.5, 0.25], mode="same")
    high = smooth > 0.25 * np.percentile(smooth[smooth > 0], 90)
    # most bins between two rings are empty: else these are no rings
    if high.sum() > 0.5 * (np.flatnonzero(high)[-1] - np.flatnonzero(high)[0] + 1):
        return None
    starts = np.flatnonzero(np.diff(high.astype(np.int8), prepend=0) == 1)
    ends = np.flatnonzero(np.diff(high.astype(np.int8), append=0) == -1) + 1
    inside = sum(int(counts[s - 1 : e + 1].sum()) for s, e in zip(starts, ends, strict=True))
    if not _FEWEST_RINGS <= len(starts) < _MAX_RINGS or inside < _PEAKED * len(elevation):
        return None
    middles = [float(edges[s : e + 1].mean()) for s, e in zip(starts, ends, strict=True)]
    return Rings(len(starts), min(middles), max(middles), None, "elevations")
