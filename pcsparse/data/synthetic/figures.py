"""The figures by which simulated sweeps are held against real ones, and how each is measured."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from pcsparse.data.synthetic.arrays import Floats, Ints
from pcsparse.data.synthetic.sensor import Sensor
from pcsparse.data.synthetic.stats import PERCENTILES, VOXEL_SIZES, pairs_a_voxel, voxels
from pcsparse.errors import FormatError

Group = Literal["beams", "figures", "profiles"]
"""Beams: of the sensor, exact; figures: of the sweep as a whole; profiles: bins of a histogram."""

LEVELS = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Metres: cells of a network that starts at 5 cm, at strides 1, 2, 4, 8 and 16."""
HEIGHTS = (-np.inf, -0.3, 0.15, 0.5, 1.0, 2.0, 4.0, 7.0, np.inf)
"""Metres above the ground nearby; the bins of the vertical profile."""
REACHES = (0.0, 5.0, 10.0, 20.0, 40.0, 80.0)
"""Metres from the sensor: bins of the intensity."""
RINGS = (3.0, 6.0, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0, 80.0)
"""Metres from the sensor, on the ground: rings of the density."""
BANDS = 8
"""Bundles of neighbouring beams, from the top down, whose missing share is counted."""

ANGLE_TOLERANCE = 0.01
"""Degrees by which any beam's angle may differ from the preset's; the least gap between beams is 0.25."""
RMS_TOLERANCE = 0.004
"""Degrees, root mean square of what all beams differ by; those of today's presets have 0.001 at most."""

_LIGHT = (25, 50, 75, 95, 99)
_GROUND_CELL = 2.0
# of a cell's points below the ground: pulses that a puddle or a car's paint mirrored
_BURIED = 0.05
# a sweep that is no whole turn has been cropped
_WHOLE_TURN_DEGREES = 350.0
# metres: nearer are the own roof, and pulses of nuScenes that never came back
_OWN_CAR = 1.0
# degrees around where the sensor looks half-way through a turn, and the share of a turn's pulses that a beam
# must return there
_STILL_DEGREES, _ENOUGH = 6.0, 0.01


@dataclass(frozen=True)
class Figure:
    """One number measured of a sweep.

    Args:
        name: as shown.
        unit: as shown; empty for a count.
        digits: behind the point, as shown.
        group: how it is judged.
        tolerance: of a beam's figure with a unit, which should be 0: the most it may be.
    """

    name: str
    unit: str
    digits: int
    group: Group = "figures"
    tolerance: float = 0.0

    def text(self, value: float) -> str:
        """The value as shown, without its unit."""
        return "-" if np.isnan(value) else f"{value:,.{self.digits}f}"


@dataclass(frozen=True, eq=False)
class Turn:
    """One turn of a sensor, as it is measured.

    Args:
        points: (n, 3) float32, metres, sensor frame: x forward, y left, z up.
        intensity: (n,) float32, 0 to 1.
        ring: (n,) int, the beam, 0 at the top.
    """

    points: Floats
    intensity: Floats
    ring: Ints

    def __len__(self) -> int:
        return len(self.points)


def make_turn(points: Floats, intensity: Floats, ring: Ints | None, sensor: Sensor, name: str) -> Turn:
    """A turn of `sensor`: points on the own car left out, beams counted from the top.

    Args:
        points: (n, 3) float32, metres, sensor frame.
        intensity: (n,) 0 to 1.
        ring: (n,) the beam, in any order; None where points come beam by beam, each by rising azimuth.
        sensor: what the sweep should come from.
        name: of the sweep, for messages.

    Raises:
        FormatError: no points; not the sensor's number of beams; or no whole turn.
    """
    distance = np.linalg.norm(points, axis=1)
    nearest = max(sensor.min_range, _OWN_CAR)
    far = distance >= nearest
    if not far.any():
        raise FormatError(
            f"{name} has {len(points)} points, none of them {nearest:g} m away or more; is it a sweep?"
        )
    azimuth = np.arctan2(points[far, 1], points[far, 0])
    ring = _turns(azimuth) if ring is None else ring[far]
    points, intensity, distance = points[far], intensity[far], distance[far]
    beams = np.unique(ring)
    if len(beams) != sensor.rings:
        raise FormatError(
            f"{name} has {len(beams)} beams, {sensor.name} has {sensor.rings}: another sensor (--sensor), a "
            "crop, or points that do not come beam by beam; leave it out"
        )
    covered = np.ptp(np.degrees(azimuth))
    if covered < _WHOLE_TURN_DEGREES:
        raise FormatError(
            f"{name} covers {covered:.0f} degrees, no whole turn: a crop for a camera; leave it out"
        )
    tilt = points[:, 2] / distance
    heights = [np.median(tilt[ring == beam]) for beam in beams]
    rank = np.empty(len(beams), np.int64)
    rank[np.argsort(heights)[::-1]] = np.arange(len(beams))
    return Turn(points, intensity, rank[np.searchsorted(beams, ring)])


def _turns(azimuth: Floats) -> Ints:
    """(n,) how often the azimuth has gone round before each point."""
    step = np.diff(azimuth % (2 * np.pi))
    wraps = (step < -np.pi).astype(np.int64) - (step > np.pi)
    return np.concatenate([[0], np.cumsum(wraps)])


def ring_angles(turn: Turn, sensor: Sensor) -> Floats:
    """(rings,) degrees: the angle of each beam's points half-way through the turn, NaN of too few.

    Angles are taken from where each beam leaves the sensor. A sweep is compensated to the moment half-way; an
    HDL-64E on KITTI's car looks straight ahead then. Elsewhere the car's motion tilts a near point's line of
    sight by up to two degrees: by the time since half-way, times height over the square of the distance.
    Around half-way that is fitted for each beam and taken off.
    """
    lift = sensor.lift[np.argsort(sensor.elevations)[::-1]]
    flat = np.hypot(turn.points[:, 0], turn.points[:, 1])
    height = turn.points[:, 2] - lift[turn.ring]
    tilt = np.degrees(np.arctan2(height, flat))
    since = sensor.phases(np.arctan2(turn.points[:, 1], turn.points[:, 0]))
    near = np.abs(since) < _STILL_DEGREES / 360.0
    angles = np.full(sensor.rings, np.nan)
    for ring in range(sensor.rings):
        mine = (turn.ring == ring) & near
        if mine.sum() >= _ENOUGH * sensor.columns:
            moved = since[mine] * height[mine] / flat[mine] ** 2
            angles[ring] = np.median(tilt[mine] - _slope(moved, tilt[mine]) * moved)
    return angles


def _slope(x: Floats, y: Floats) -> float:
    """Of the straight line nearest to the points; 0 where all x are the same."""
    aside = x - x.mean()
    square = float(aside @ aside)
    return float(aside @ (y - y.mean())) / square if square else 0.0


def angles_aside(turn: Turn, sensor: Sensor) -> Floats:
    """(rings,) degrees: how far each beam's angle lies above the preset's, NaN where it was not measured."""
    return ring_angles(turn, sensor) - np.sort(sensor.elevations)[::-1]


def _beams(turn: Turn, sensor: Sensor) -> list[tuple[Figure, float]]:
    counts = np.bincount(turn.ring, minlength=sensor.rings)
    azimuth = np.degrees(np.arctan2(turn.points[:, 1], turn.points[:, 0])) % 360.0
    # in each ring by azimuth: nuScenes' files go firing by firing
    order = np.lexsort((azimuth, turn.ring))
    steps = np.diff(azimuth[order])[np.diff(turn.ring[order]) == 0]
    aside = angles_aside(turn, sensor)
    aside = aside[np.isfinite(aside)]
    root = float(np.sqrt((aside**2).mean())) if len(aside) else float("nan")
    most = float(np.abs(aside).max()) if len(aside) else float("nan")
    return [
        (Figure("rings", "", 0, "beams"), float(sensor.rings)),
        (Figure("ring angles off the preset, rms", "deg", 4, "beams", RMS_TOLERANCE), root),
        (Figure("ring angles off the preset, at most", "deg", 4, "beams", ANGLE_TOLERANCE), most),
        (Figure("azimuth step, median", "deg", 4), float(np.median(steps[steps > 1e-3]))),
        (Figure("returns of the fullest ring", "", 0), float(counts.max())),
        (Figure("points", "", 0), float(len(turn))),
        (Figure("missing share", "%", 2), 100.0 * (1 - len(turn) / (sensor.rings * sensor.columns))),
    ]


def _light(turn: Turn, distance: Floats) -> list[tuple[Figure, float]]:
    light = turn.intensity.astype(np.float64)
    found = [
        (Figure("intensity, mean", "", 3), float(light.mean())),
        (Figure("intensity, standard deviation", "", 3), float(light.std())),
        *(
            (Figure(f"intensity, {p} %", "", 3), float(value))
            for p, value in zip(_LIGHT, np.percentile(light, _LIGHT), strict=True)
        ),
        (Figure("intensity, share of zeros", "%", 1), float(100.0 * (light == 0).mean())),
    ]
    for low, high in pairwise(REACHES):
        here = light[(distance >= low) & (distance < high)]
        mean = float(here.mean()) if len(here) else float("nan")
        found.append((Figure(f"intensity from {low:g} to {high:g} m", "", 3, "profiles"), mean))
    return found


def heights(points: Floats) -> Floats:
    """(n,) metres above the ground nearby: the lowest of the nine ground cells of 2 m around a point.

    A cell's ground is the height below which one of twenty of its points lies. Slopes blur it: up to a third
    of a metre on a slope of a tenth.
    """
    cell = np.floor(points[:, :2].astype(np.float64) / _GROUND_CELL).astype(np.int64)
    cell -= cell.min(0) - 1
    span = cell.max(0) + 2
    key = cell[:, 0] * span[1] + cell[:, 1]
    order = np.lexsort((points[:, 2], key))
    there, first, count = np.unique(key[order], return_index=True, return_counts=True)
    ground = np.full(int(span[0] * span[1]), np.inf)
    ground[there] = points[order[first + (_BURIED * count).astype(np.int64)], 2]
    ground = ground.reshape(span)
    lowest = ground.copy()
    for x in (-1, 0, 1):
        for y in (-1, 0, 1):
            np.minimum(lowest, np.roll(ground, (x, y), (0, 1)), out=lowest)
    above: Floats = points[:, 2] - lowest.ravel()[key]
    return above


def _profiles(turn: Turn, sensor: Sensor) -> list[tuple[Figure, float]]:
    found = []
    above = heights(turn.points)
    for low, high in pairwise(HEIGHTS):
        name = (
            f"below {high:g}"
            if low == -np.inf
            else f"above {low:g}"
            if high == np.inf
            else f"{low:g} to {high:g}"
        )
        share = 100.0 * ((above >= low) & (above < high)).mean()
        found.append((Figure(f"points {name} m over ground", "%", 2, "profiles"), float(share)))
    flat = np.hypot(turn.points[:, 0], turn.points[:, 1])
    for low, high in pairwise(RINGS):
        density = ((flat >= low) & (flat < high)).sum() / (np.pi * (high**2 - low**2))
        figure = Figure(f"density from {low:g} to {high:g} m", "1/m2", 3, "profiles")
        found.append((figure, float(density)))
    counts = np.array_split(np.bincount(turn.ring, minlength=sensor.rings), BANDS)
    angles = np.array_split(np.sort(sensor.elevations)[::-1], BANDS)
    for row, angle in zip(counts, angles, strict=True):
        figure = Figure(f"missing from {angle[0]:.1f} to {angle[-1]:.1f} deg", "%", 1, "profiles")
        found.append((figure, float(100.0 * (1 - row.mean() / sensor.columns))))
    return found


def measure(turn: Turn, sensor: Sensor) -> list[tuple[Figure, float]]:
    """All figures of a turn, always the same ones in the same order for a sensor."""
    distance = np.linalg.norm(turn.points, axis=1)
    found = _beams(turn, sensor)
    spread = np.percentile(distance, PERCENTILES)
    found += [(Figure(f"range, {p} %", "m", 2), float(v)) for p, v in zip(PERCENTILES, spread, strict=True)]
    pairs = [pairs_a_voxel(turn.points, size) for size in LEVELS]
    known = dict(zip(LEVELS, (count for count, _ in pairs), strict=True))
    for size in VOXEL_SIZES:
        count = known[size] if size in known else voxels(turn.points, size)
        found.append((Figure(f"voxels of {100 * size:g} cm", "", 0), float(count)))
    for size, (_, each) in zip(LEVELS, pairs, strict=True):
        found.append((Figure(f"pairs a voxel at {100 * size:g} cm", "of 27", 2), each))
    return found + _light(turn, distance) + _profiles(turn, sensor)
