"""One turn of the sensor through a town: rays, hits, returns, labels."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic.arrays import Floats, Ints
from pcsparse.data.synthetic.caster import Caster, make_caster
from pcsparse.data.synthetic.mesh import Mesh, join, rotate, unit
from pcsparse.data.synthetic.returns import echoes
from pcsparse.data.synthetic.scene import Town
from pcsparse.data.synthetic.sensor import Sensor

# metres of road that one static mesh serves
_WINDOW = 20.0


@dataclass(frozen=True)
class Sweep:
    """What one turn of the sensor sees, motion-compensated to the middle of the turn, ring by ring.

    Args:
        points: (n, 3) float32, metres, sensor frame: x forward, y left, z up.
        intensity: (n,) float32, 0 to 1.
        semantic: (n,) uint16 raw SemanticKITTI ids.
        instance: (n,) uint16.
        ring: (n,) uint8, row of the sensor's elevations.
        time: (n,) float32, seconds from the middle of the turn.
        pose: (4, 4) float64, sensor to world.
        stamp: seconds since the start of the sequence.
    """

    points: Floats
    intensity: Floats
    semantic: Ints
    instance: Ints
    ring: Ints
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
        rng = np.random.default_rng([town.seed, 2])
        self._mount = _Ride(*rng.normal(0, [0.004, 0.006, 0.004, 0.03]).tolist())
        self._gain = float(np.exp(rng.normal(0.0, 0.1)))
        self._window: tuple[float, Mesh, Caster, Floats] | None = None

    def _static(self, s: float) -> tuple[Mesh, Caster, Floats]:
        start = float(np.floor(s / _WINDOW) * _WINDOW)
        if self._window is None or self._window[0] != start:
            mesh = self.town.static_mesh(start, _WINDOW)
            # world coordinates reach kilometres; float32 rays want an origin nearby
            origin = np.append(
                np.stack(self.town.street.world(start, 0.0)), self.town.road_height(start, 0.0)
            )
            mesh = mesh.with_corners(mesh.corners - origin)
            self._window = (start, mesh, make_caster(self.caster, mesh), origin)
        return self._window[1:]

    def pose(self, s: float, ride: _Ride) -> Floats:
        """(4, 4) sensor to world at `s` metres along the street."""
        ahead, behind, here = s + 1.4, s - 1.4, self.town.lane(s)
        front = np.append(np.stack(self.town.street.world(ahead, self.town.lane(ahead))), 0.0)
        back = np.append(np.stack(self.town.street.world(behind, self.town.lane(behind))), 0.0)
        front[2] = self.town.road_height(ahead, self.town.lane(ahead))
        back[2] = self.town.road_height(behind, self.town.lane(behind))
        x = unit(front - back)
        left = np.append(
            np.stack(self.town.street.world(s, here + 0.8)), self.town.road_height(s, here + 0.8)
        )
        right = np.append(
            np.stack(self.town.street.world(s, here - 0.8)), self.town.road_height(s, here - 0.8)
        )
        z = unit(np.cross(x, left - right))
        frame = np.stack([x, np.cross(z, x), z], 1)
        place = np.append(np.stack(self.town.street.world(s, here)), self.town.road_height(s, here))
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
        """The sweep taken `index` * `stride` metres along the street.

        It depends on the town, the sensor, the caster, index and stride alone, not on the sweeps before it.
        """
        sensor, s = self.sensor, index * stride
        rng = np.random.default_rng([self.town.seed, 3, index])
        ride = self._ride(index)
        pose, stamp = self.pose_of(index, stride)
        azimuth, elevation, ring = _beams(sensor, rng)
        # the turn starts and ends looking back, so that the middle of it looks ahead
        phase = ((azimuth + np.pi) % (2 * np.pi)) / (2 * np.pi) - 0.5
        local = np.stack(
            [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], 1
        )
        early, late = (self.pose(s + side * self.town.speed * sensor.period / 2, ride) for side in (-1, 1))
        origins, directions = _roll_shutter(early, pose, late, phase, local)
        rows, distance, struck = self._cast(s, stamp, pose, origins, directions)

        hits = origins[rows] + distance[:, None] * directions[rows]
        back = echoes(distance, hits, directions[rows], struck, sensor, self._gain, self.town.seed, rng)
        keep, seen = back.kept, rows[back.kept]
        world = origins[seen] + back.distance[keep, None] * directions[seen]
        points = rotate(world - pose[:3, 3], pose[:3, :3].T)
        return Sweep(
            points.astype(np.float32),
            back.intensity[keep],
            struck.semantic[keep],
            struck.instance[keep],
            ring[seen].astype(np.uint8),
            (phase[seen] * sensor.period).astype(np.float32),
            pose,
            stamp,
        )

    def _cast(
        self, s: float, stamp: float, pose: Floats, origins: Floats, directions: Floats
    ) -> tuple[Ints, Floats, Mesh]:
        """Rays that meet something within range, their distances, and the triangle that each of them met."""
        still, caster, origin = self._static(s)
        starts, ways = (origins - origin).astype(np.float32), directions.astype(np.float32)
        hits = caster.cast(starts, ways)
        yaw = float(np.arctan2(pose[1, 0], pose[0, 0]))
        moving = self.town.moving_mesh(s, stamp, yaw, self.sensor.period)
        moving = moving.with_corners(moving.corners - origin)
        other = make_caster(self.caster, moving).cast(starts, ways)

        nearer = other.distance < hits.distance
        distance = np.where(nearer, other.distance, hits.distance)
        rows = np.flatnonzero(distance < self.sensor.max_range + 1.0)
        first, second = rows[~nearer[rows]], rows[nearer[rows]]
        struck = join([still.select(hits.triangle[first]), moving.select(other.triangle[second])])
        # back into the order of the rays
        order = np.argsort(np.concatenate([first, second]), kind="stable")
        return rows, distance[rows].astype(np.float64), struck.select(order)


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


def _beams(sensor: Sensor, rng: Generator) -> tuple[Floats, Floats, Ints]:
    """Azimuth and elevation in radians and ring of every pulse that leaves the car, ring by ring."""
    azimuth = sensor.azimuths(float(rng.random()))
    # the encoder's jitter, a hundredth of a degree
    azimuth = np.tile(azimuth, sensor.rings) + rng.normal(0, 5e-5, sensor.rings * sensor.columns)
    azimuth = np.clip(azimuth, 0.0, 2 * np.pi - 1e-9)
    ring = np.repeat(np.arange(sensor.rings), sensor.columns)
    elevation = np.radians(np.array(sensor.elevations))[ring]
    free = elevation > sensor.shaded(azimuth)
    return azimuth[free], elevation[free], ring[free]


def _roll_shutter(
    early: Floats, middle: Floats, late: Floats, phase: Floats, local: Floats
) -> tuple[Floats, Floats]:
    """World origins and unit directions of rays sent at `phase` (-0.5 to 0.5) of a turn."""
    weight = np.abs(phase)[:, None] * 2.0
    other = np.where(phase[:, None] < 0, early[:3, 3], late[:3, 3])
    origins = middle[:3, 3] * (1 - weight) + other * weight
    base = rotate(local, middle[:3, :3])
    turned = np.where(phase[:, None] < 0, rotate(local, early[:3, :3]), rotate(local, late[:3, :3]))
    directions = base * (1 - weight) + turned * weight
    return origins, directions / np.linalg.norm(directions, axis=1, keepdims=True)
