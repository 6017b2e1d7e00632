"""Returns of the car that carries the sensor."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic.arrays import Floats, Ints
from pcsparse.data.synthetic.beams import Pulses
from pcsparse.data.synthetic.sensor import Sensor

# SemanticKITTI's "outlier", which training ignores
OUTLIER = 1
# share of the pulses onto the roof that come back, how far it bulges in metres, and in how many sectors
_ANSWERS = 0.8
_BULGE = 0.03
_SECTORS = 24


@dataclass(frozen=True)
class OwnReturns:
    """Pulses that the own car sends back.

    Args:
        row: (m,) of the pulses, ascending.
        distance: (m,) float64, metres.
        intensity: (m,) float32, 0 to 1.
    """

    row: Ints
    distance: Floats
    intensity: Floats


def own_returns(sensor: Sensor, pulses: Pulses, rng: Generator) -> OwnReturns:
    """What roof, rack and rails of the own car answer in one turn."""
    roof = np.flatnonzero(~pulses.free & (rng.random(len(pulses.free)) < _ANSWERS))
    roof = roof[: len(roof) if sensor.roof_depth else 0]
    knots = np.arange(_SECTORS) * (2 * np.pi / _SECTORS)
    turn = pulses.azimuth[roof]
    depth = (
        sensor.roof_depth
        + sensor.lift[pulses.ring[roof]]
        + np.interp(turn, knots, rng.normal(0.0, _BULGE, _SECTORS), period=2 * np.pi)
    )
    noise = rng.normal(0.0, 0.5 * sensor.range_noise, len(roof))
    far = np.maximum(depth / -np.sin(pulses.elevation[roof]) + noise, 0.0)
    # dark paint and bright metal, each some sectors wide
    sheen = np.minimum(rng.exponential(0.09, _SECTORS), 1.0)
    grey = np.interp(turn, knots, sheen, period=2 * np.pi)
    rows, spots = _fittings(sensor, rng)
    row = np.concatenate([roof, rows])
    distance = np.concatenate([far, spots])
    row, first = np.unique(row, return_index=True)
    grey = np.concatenate([grey, np.zeros(len(rows))])[first]
    distance = np.round(distance[first] / sensor.range_quantum) * sensor.range_quantum
    keep = distance >= sensor.min_range
    light = (np.round(grey / sensor.scale.step) * sensor.scale.step).astype(np.float32)
    return OwnReturns(row[keep], distance[keep], light[keep])


def _fittings(sensor: Sensor, rng: Generator) -> tuple[Ints, Floats]:
    """Rows of pulses that meet what stands out, and how far away it is."""
    rows, far = [np.zeros(0, np.int64)], [np.zeros(0)]
    for x, y, z, spread, often in sensor.fittings:
        spots = np.array([x, y, z]) + rng.normal(0.0, spread, (int(rng.poisson(often)), 3))
        flat = np.hypot(spots[:, 0], spots[:, 1])
        # a row a spot, a column a beam: how far below the beam's own origin it lies
        below = spots[:, 2, None] - sensor.lift
        tilt = np.degrees(np.arctan2(below, flat[:, None]))
        ring = np.abs(np.array(sensor.elevations) - tilt).argmin(1)
        reach = np.hypot(flat, below[np.arange(len(spots)), ring])
        turn = np.arctan2(spots[:, 1], spots[:, 0]) % (2 * np.pi)
        column = (turn * (sensor.columns / (2 * np.pi))).astype(np.int64) % sensor.columns
        rows.append(ring * sensor.columns + column)
        far.append(reach)
    return np.concatenate(rows), np.concatenate(far)
