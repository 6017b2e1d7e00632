"""One turn of the sensor through a town: rays, hits, returns, labels."""

from dataclasses import dataclass

import numpy as np

from pcsparse.data.synthetic.arrays import Floats, Ints
from pcsparse.data.synthetic.beams import roll_shutter, send
from pcsparse.data.synthetic.caster import Caster, make_caster
from pcsparse.data.synthetic.footprint import look
from pcsparse.data.synthetic.mesh import Mesh, rotate, unit
from pcsparse.data.synthetic.own import OUTLIER, own_returns
from pcsparse.data.synthetic.returns import echoes
from pcsparse.data.synthetic.scene import Town, sight_of
from pcsparse.data.synthetic.sensor import Sensor
from pcsparse.data.synthetic.shutter import Shutter
from pcsparse.data.synthetic.stage import Stage

# metres of road that one static mesh serves: building its caster costs as much as casting a sweep
_WINDOW = 40.0


@dataclass(frozen=True)
class Sweep:
    """What one turn of the sensor sees, motion-compensated to the middle of the turn, ring by ring.

    Args:
        points: (n, 3) float32, metres, sensor frame: x forward, y left, z up.
        intensity: (n,) float32, 0 to 1.
        semantic: (n,) uint16 raw SemanticKITTI ids.
        instance: (n,) uint16.
        ring: (n,) uint8, row of the sensor's elevations.
        column: (n,) uint16, which firing of the turn, by azimuth; with `ring` the pulse.
        time: (n,) float32, seconds from the middle of the turn.
        pose: (4, 4) float64, sensor to world.
        stamp: seconds since the start of the sequence.
    """

    points: Floats
    intensity: Floats
    semantic: Ints
    instance: Ints
    ring: Ints
    column: Ints
    time: Floats
    pose: Floats
    stamp: float

    def labels(self) -> Ints:
        """(n,) uint32 as SemanticKITTI has them: semantic in the low 16 bits, instance in the high ones."""
        return self.semantic.astype(np.uint32) | (self.instance.astype(np.uint32) << np.uint32(16))


@dataclass(frozen=True)
class _Ride:
    """How the car is loaded and sprung: lasting and momentary tilt, in radians, and height in metres."""

    roll: float
    pitch: float
    yaw: float
    height: float


class Drive:
    """An ego vehicle that carries a sensor through a town.

    Args:
        town: the world.
        sensor: what it carries.
        caster: "embree" or "bvh".
    """

    def __init__(self, town: Town, sensor: Sensor, caster: str) -> None:
        self.town, self.sensor, self.caster = town, sensor, caster
        self.sight = sight_of(sensor.max_range)
        rng = np.random.default_rng([town.seed, 2])
        self._mount = _Ride(*rng.normal(0, [0.004, 0.006, 0.004, 0.03]).tolist())
        self._gain = float(np.exp(rng.normal(0.0, 0.06)))
        self._window: tuple[float, Mesh, Caster, Floats] | None = None

    def _static(self, s: float) -> tuple[Mesh, Caster, Floats]:
        start = float(np.floor(s / _WINDOW) * _WINDOW)
        if self._window is None or self._window[0] != start:
            mesh = self.town.static_mesh(start, _WINDOW, self.sight)
            # world coordinates reach kilometres; float32 rays want an origin nearby
            origin = np.append(np.stack(self.town.route.world(start)), self.town.road_height(start, 0.0))
            mesh = mesh.with_corners(mesh.corners - origin)
            self._window = (start, mesh, make_caster(self.caster, mesh), origin)
        return self._window[1:]

    def pose(self, s: float, ride: _Ride) -> Floats:
        """(4, 4) sensor to world at `s` metres along the ego's way."""
        # four wheels, and the place between them
        along = s + np.array([1.4, -1.4, 0.0, 0.0, 0.0])
        x, y = self.town.route.world(along, np.array([0.0, 0.0, 0.8, -0.8, 0.0]))
        front, back, left, right, place = np.stack([x, y, self.town.height(x, y)], 1)
        x_axis = unit(front - back)
        z = unit(np.cross(x_axis, left - right))
        frame = np.stack([x_axis, np.cross(z, x_axis), z], 1)
        pose = np.eye(4)
        tilt = _tilt(self._mount.roll + ride.roll, self._mount.pitch + ride.pitch, self._mount.yaw + ride.yaw)
        pose[:3, :3] = rotate(tilt.T, frame).T
        pose[:3, 3] = place + z * (self.sensor.height + self._mount.height + ride.height)
        return pose

    def _ride(self, index: int) -> _Ride:
        rng = np.random.default_rng([self.town.seed, 4, index])
        return _Ride(*rng.normal(0, [0.006, 0.006, 0.008, 0.012]).tolist())

    def pose_of(self, index: int, stride: float) -> tuple[Floats, float]:
        """Pose (4, 4), sensor to world, and time in seconds of the sweep `index`, without casting a ray."""
        return self.pose(index * stride, self._ride(index)), index * stride / self.town.speed

    def sweep(self, index: int, stride: float) -> Sweep:
        """The sweep taken `index` * `stride` metres along the ego's way.

        It depends on the town, the sensor, the caster, index and stride alone, not on the sweeps before it.
        """
        sensor, s = self.sensor, index * stride
        rng = np.random.default_rng([self.town.seed, 3, index])
        ride = self._ride(index)
        pose, stamp = self.pose_of(index, stride)
        pulses = send(sensor, rng)
        phase = sensor.phases(pulses.azimuth)
        early, late = (self.pose(s + side * self.town.speed * sensor.period / 2, ride) for side in (-1, 1))
        origins, ways = roll_shutter(early, pose, late, phase, pulses.directions())
        origins += sensor.lift[pulses.ring][:, None] * pose[:3, 2]
        stage, origin = self._stage(s, stamp, early, pose, late)
        rows, struck, met = look(stage, pulses, origins - origin, ways, sensor, pose[:3, :3])

        hits = origins[rows] + met.distance[:, None] * ways[rows]
        back = echoes(met, hits, sensor, self._gain, self.town.seed, rng, pulses.ring[rows])
        own = own_returns(sensor, pulses, rng)
        keep = back.kept & ~np.isin(rows, own.row)
        # ring by ring, with the own car's returns where their pulses stand
        row = np.concatenate([rows[keep], own.row])
        order = np.argsort(row, kind="stable")
        row = row[order]
        distance = np.concatenate([back.distance[keep], own.distance])[order]
        world = origins[row] + distance[:, None] * ways[row]
        bare = np.zeros(len(own.row), np.uint16)
        return Sweep(
            rotate(world - pose[:3, 3], pose[:3, :3].T).astype(np.float32),
            np.concatenate([back.intensity[keep], own.intensity])[order],
            np.concatenate([stage.semantic[struck[keep]], bare + OUTLIER])[order],
            np.concatenate([stage.instance[struck[keep]], bare])[order],
            pulses.ring[row].astype(np.uint8),
            pulses.column[row].astype(np.uint16),
            (phase[row] * sensor.period).astype(np.float32),
            pose,
            stamp,
        )

    def frozen(self, index: int, stride: float) -> tuple[Mesh, Mesh, Stage, Floats]:
        """What stands and what moves around the sweep `index`, all of it as at the middle of its turn.

        Returns:
            what stands still and what moves, in metres from an origin; the stage of both; the origin (3,) in
            the world.
        """
        s = index * stride
        still, caster, origin = self._static(s)
        _, stamp = self.pose_of(index, stride)
        moving = self.town.moving_mesh(s, stamp, None, self.sight)
        moving = moving.with_corners(moving.corners - origin)
        return still, moving, Stage(still, caster, moving, self.caster), origin

    def _stage(
        self, s: float, stamp: float, early: Floats, pose: Floats, late: Floats
    ) -> tuple[Stage, Floats]:
        """What may be seen from `s`, and the world point (3,) that is its origin."""
        still, caster, origin = self._static(s)
        drift = (late[:2, 3] - early[:2, 3]) / self.sensor.period
        shutter = Shutter(self.sensor, pose[:2, 3], drift, float(np.arctan2(pose[1, 0], pose[0, 0])))
        moving = self.town.moving_mesh(s, stamp, shutter, self.sight)
        return Stage(still, caster, moving.with_corners(moving.corners - origin), self.caster), origin


def _tilt(roll: float, pitch: float, yaw: float) -> Floats:
    """(3, 3) rotation about x, then y, then z, in radians."""
    (cr, cp, cy), (sr, sp, sy) = np.cos([roll, pitch, yaw]), np.sin([roll, pitch, yaw])
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )
