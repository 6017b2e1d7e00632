"""The pulses of one turn: where each leaves the car, and where it stands in the world at that moment."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic.arrays import Bools, Floats, Ints
from pcsparse.data.synthetic.mesh import rotate
from pcsparse.data.synthetic.sensor import Sensor

# radians: the encoder's jitter, a few thousandths of a degree
_JITTER = 5e-5


@dataclass(frozen=True)
class Pulses:
    """All pulses of a turn, ring by ring with rising azimuth; n = rings x columns.

    Args:
        azimuth: (n,) float64, radians in [0, 2 pi), from straight ahead to the left.
        elevation: (n,) float64, radians.
        ring: (n,) row of the sensor's elevations.
        column: (n,) which firing of the turn, by azimuth.
        free: (n,) whether it passes the own vehicle.
        passed: (n,) how much of its light does, 0 to 1.
    """

    azimuth: Floats
    elevation: Floats
    ring: Ints
    column: Ints
    free: Bools
    passed: Floats

    def directions(self) -> Floats:
        """(n, 3) float64 unit vectors in the sensor's frame."""
        level = np.cos(self.elevation)
        return np.stack(
            [level * np.cos(self.azimuth), level * np.sin(self.azimuth), np.sin(self.elevation)], 1
        )


def send(sensor: Sensor, rng: Generator) -> Pulses:
    """The pulses of one turn of `sensor`, at a phase of its own."""
    columns = sensor.azimuths(float(rng.random()))
    azimuth = np.tile(columns, sensor.rings) + rng.normal(0, _JITTER, sensor.rings * sensor.columns)
    azimuth = np.clip(azimuth, 0.0, 2 * np.pi - 1e-9)
    ring = np.repeat(np.arange(sensor.rings), sensor.columns)
    elevation = np.radians(np.array(sensor.elevations))[ring]
    free, passed = sensor.free(columns).ravel(), sensor.passed(columns).ravel()
    return Pulses(azimuth, elevation, ring, np.tile(np.arange(sensor.columns), sensor.rings), free, passed)


def roll_shutter(
    early: Floats, middle: Floats, late: Floats, phase: Floats, local: Floats
) -> tuple[Floats, Floats]:
    """World origins and unit directions of rays sent at `phase` of a turn.

    Args:
        early: (4, 4) pose of the sensor in the world when the turn starts.
        middle: (4, 4) half-way.
        late: (4, 4) when it ends.
        phase: (n,) -0.5 to 0.5 of a turn.
        local: (n, 3) unit directions in the sensor's frame.
    """
    weight = np.abs(phase)[:, None] * 2.0
    before = phase[:, None] < 0
    origins = middle[:3, 3] * (1 - weight) + np.where(before, early[:3, 3], late[:3, 3]) * weight
    # both sides by one product each: rows before the middle turn towards `early`, the others towards `late`
    first, second = np.flatnonzero(before[:, 0]), np.flatnonzero(~before[:, 0])
    directions = rotate(local, middle[:3, :3]) * (1 - weight)
    for rows, pose in ((first, early), (second, late)):
        directions[rows] += rotate(local[rows], pose[:3, :3]) * weight[rows]
    return origins, directions / np.sqrt((directions * directions).sum(1, keepdims=True))
