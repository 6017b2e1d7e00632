"""When the turning sensor looks where, and where moving things are at that moment."""

from dataclasses import dataclass

import numpy as np

from pcsparse.data.synthetic.arrays import Floats
from pcsparse.data.synthetic.mesh import Mesh
from pcsparse.data.synthetic.sensor import Sensor


@dataclass(frozen=True)
class Shutter:
    """One turn of a sensor in the world.

    Args:
        sensor: what turns.
        eye: (2,) world x and y in the middle of the turn, metres.
        drift: (2,) metres a second, of the eye.
        yaw: heading of the sensor in the world, radians.
    """

    sensor: Sensor
    eye: Floats
    drift: Floats
    yaw: float

    def delay(self, x: Floats, y: Floats) -> Floats:
        """(n,) seconds from the middle of the turn until the sensor looks at world x and y (n,)."""
        bearing = np.arctan2(y - self.eye[1], x - self.eye[0]) - self.yaw
        return self.sensor.phases(bearing) * self.sensor.period

    def seen(self, mesh: Mesh, velocity: Floats) -> Mesh:
        """A moving thing as the turn finds it: each corner where it is when the sensor looks at it.

        What comes towards the beam is seen shorter than it is, what runs along with it longer. A thing at the
        seam, where a turn ends and the next one starts, is seen at both its times, each part at its own.

        Args:
            mesh: where it is in the middle of the turn, world metres.
            velocity: (3,) metres a second.
        """
        middle, period = mesh.middles(), self.sensor.period
        # each triangle belongs to one side of the seam
        whole = self._when(middle, velocity, np.zeros(len(mesh)))
        moment = np.empty(mesh.corners.shape[:2])
        for corner in range(3):
            when = self._when(mesh.corners[:, corner], velocity, whole)
            moment[:, corner] = np.where(np.abs(when - whole) > period / 2, whole, when)
        return mesh.with_corners(mesh.corners + moment[..., None] * velocity)

    def _when(self, points: Floats, velocity: Floats, guess: Floats) -> Floats:
        """(n,) seconds at which points (n, 3) that move at `velocity` (3,) are looked at."""
        when = guess
        # the beam is faster than anything else by far: each round leaves a hundredth of the error
        for _ in range(3):
            relative = velocity[:2] - self.drift
            when = self.delay(
                points[:, 0] + when * relative[0],
                points[:, 1] + when * relative[1],
            )
        return when
