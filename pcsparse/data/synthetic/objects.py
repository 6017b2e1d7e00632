"""Single objects as a LiDAR on a car's roof sees them: a small classification task that costs seconds.

Each stands at random on open ground, mostly with something else beside it that hides a part of it or sticks
out into the crop; its points are cropped by a box that is as imprecise as a detector's. That is how
ScanObjectNN (Uy et al., ICCV 2019, section 3) differs from clean models, from which a network learns too
easily.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic import furniture, people, plants, vehicles
from pcsparse.data.synthetic.arrays import Bools, Floats, Ints
from pcsparse.data.synthetic.caster import make_caster, resolve_caster
from pcsparse.data.synthetic.materials import ROAD, SIDEWALK, TERRAIN
from pcsparse.data.synthetic.mesh import Mesh, join, quads, yaw_rotation
from pcsparse.data.synthetic.returns import contacts, echoes
from pcsparse.data.synthetic.sensor import Sensor
from pcsparse.errors import RangeError

_MAKERS: dict[str, Callable[[Generator], Mesh]] = {
    "car": lambda rng: vehicles.car(rng)[0],
    "truck": lambda rng: vehicles.truck(rng)[0],
    "bus": lambda rng: vehicles.bus(rng)[0],
    "trailer": lambda rng: vehicles.trailer(rng)[0],
    "person": people.person,
    "bicycle": people.bicycle,
    "motorcycle": people.motorcycle,
    "bicyclist": people.bicyclist,
    "motorcyclist": people.motorcyclist,
    "tree": plants.tree,
    "bush": lambda rng: plants.bush(rng, float(rng.uniform(0.5, 2.6))),
    "lamp": furniture.lamp,
    "sign": furniture.sign,
    "traffic light": furniture.traffic_light,
    "clutter": furniture.clutter,
}
CLASSES = tuple(_MAKERS)

LEAST_ECHOES = 16
"""Points of the object itself, and points of the crop in all, that a sample has at least."""

# metres from the sensor to the object at the first try
_NEAR, _FAR = 5.0, 30.0
_TRIES = 8
_NEIGHBOURED = 0.6


@dataclass(frozen=True, eq=False)
class Objects:
    """Labelled crops.

    Attributes:
        points: (n, n_points, 3) float32, metres from the middle of the crop: x away from the sensor, y left,
            z up.
        intensity: (n, n_points) float32, 0 to 1.
        labels: (n,) int64, positions in `CLASSES`, the classes in turns.
        distance: (n,) float32, metres from the sensor.
        echoes: (n,) int64, points of the crop before n_points were drawn from them.
    """

    points: Floats
    intensity: Floats
    labels: Ints
    distance: Floats
    echoes: Ints

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class _View:
    """A crop as it was measured."""

    points: Floats
    intensity: Floats
    distance: float


def make_objects(per_class: int, n_points: int, sensor: Sensor, *, seed: int, caster: str = "bvh") -> Objects:
    """Simulate `per_class` objects of each of `CLASSES`.

    An object follows from `seed`, its class and its number alone. Another seed gives other shapes, places and
    neighbours: what is held out. Of more echoes than `n_points`, that many are drawn; of fewer, all are
    taken and some of them again.

    Args:
        per_class: at least 1.
        n_points: points a sample, at least 1.
        sensor: what looks.
        seed: at least 0.
        caster: "bvh", "embree" or "auto"; they agree in all but what numerical noise decides.

    Raises:
        RangeError: a count below 1 or a seed below 0; or a sensor that does not see a class even nearby.
        UnsupportedError: no such caster.
    """
    if min(per_class, n_points) < 1 or seed < 0:
        raise RangeError(
            f"need per_class and n_points of at least 1 and a seed of at least 0, got {per_class}, "
            f"{n_points} and {seed}"
        )
    chosen = resolve_caster(caster)
    samples, views = [], []
    for index in range(per_class):
        for label in range(len(CLASSES)):
            rng = np.random.default_rng([seed, 5, label, index])
            view = _look(rng, CLASSES[label], sensor, chosen)
            samples.append(_draw(rng, len(view.points), n_points))
            views.append(view)
    return Objects(
        np.stack([view.points[rows] for view, rows in zip(views, samples, strict=True)]),
        np.stack([view.intensity[rows] for view, rows in zip(views, samples, strict=True)]),
        np.tile(np.arange(len(CLASSES), dtype=np.int64), per_class),
        np.array([view.distance for view in views], np.float32),
        np.array([len(view.points) for view in views], np.int64),
    )


def _draw(rng: Generator, n: int, wanted: int) -> Ints:
    if n >= wanted:
        return np.sort(rng.permutation(n)[:wanted])
    return np.concatenate([np.arange(n), np.sort(rng.integers(0, n, wanted - n))])


def _look(rng: Generator, name: str, sensor: Sensor, caster: str) -> _View:
    """One object from the first distance at which enough of it is seen."""
    mesh = _MAKERS[name](rng)
    mesh = mesh.moved(yaw_rotation(float(rng.uniform(0, 2 * np.pi))), np.zeros(3))
    low, high = _bounds(mesh)
    distance = float(rng.uniform(_NEAR, _FAR))
    for _ in range(_TRIES):
        others = join([_open_ground(rng), _neighbour(rng, low, high)])
        view, own = _measure(rng, mesh, others, _crop(rng, low, high), distance, sensor, caster)
        if min(own, len(view.points)) >= LEAST_ECHOES:
            return view
        # too far away, or hidden: nearer, and with another neighbour
        distance = max(0.75 * distance, float(np.hypot(*high[:2])) + sensor.min_range)
    raise RangeError(
        f"sensor {sensor.name!r} gets fewer than {LEAST_ECHOES} echoes from a {name} {distance:.1f} m away "
        f"in {_TRIES} tries; use one with more beams"
    )


def _bounds(mesh: Mesh) -> tuple[Floats, Floats]:
    return mesh.corners.min((0, 1)), mesh.corners.max((0, 1))


def _open_ground(rng: Generator) -> Mesh:
    """A square of 80 m with a slope of a degree or so through the foot of the object."""
    slope = rng.normal(0.0, 0.015, 2)
    rim = 40.0 * np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    surface = (ROAD, SIDEWALK, TERRAIN)[int(rng.integers(3))]
    return quads(np.column_stack([rim, rim[:, 0] * slope[0] + rim[:, 1] * slope[1]])[None], surface)


def _neighbour(rng: Generator, low: Floats, high: Floats) -> Mesh:
    """In most cases something else, in any direction, that nearly touches the box from `low` to `high`."""
    if rng.random() >= _NEIGHBOURED:
        return join([])
    other = _MAKERS[CLASSES[int(rng.integers(len(CLASSES)))]](rng)
    other = other.moved(yaw_rotation(float(rng.uniform(0, 2 * np.pi))), np.zeros(3))
    its_low, its_high = _bounds(other)
    way = float(rng.uniform(0, 2 * np.pi))
    heading = np.array([np.cos(way), np.sin(way)])
    # the boxes of both meet where the first of their two axes has no room left
    room = (high - low + its_high - its_low)[:2] / 2
    reach = float((room / np.maximum(np.abs(heading), 1e-6)).min()) + float(rng.uniform(-0.1, 0.6))
    middle = (low + high)[:2] / 2 - (its_low + its_high)[:2] / 2
    return other.moved(np.eye(3), np.append(middle + reach * heading, 0.0))


def _crop(rng: Generator, low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """The box around the object: up to a sixth too large or too small, shifted by as much, 10 cm wider."""
    size = high - low
    middle = (low + high) / 2 + rng.uniform(-1, 1, 3) * size / 12
    half = size / 2 * (1 + rng.uniform(-1, 1, 3) / 6) + 0.1
    return middle - half, middle + half


def _measure(
    rng: Generator,
    mesh: Mesh,
    others: Mesh,
    crop: tuple[Floats, Floats],
    distance: float,
    sensor: Sensor,
    caster: str,
) -> tuple[_View, int]:
    """The echoes inside the crop, and how many of them are the object's own."""
    eye = np.array([-distance, 0.0, sensor.height + float(rng.normal(0.0, 0.05))])
    scene = join([mesh, others])
    scene = scene.with_corners(scene.corners - eye)
    low, high = crop[0] - eye, crop[1] - eye
    starts, ways = _beams_at(rng, low, high, sensor)
    hits = make_caster(caster, scene).cast(starts.astype(np.float32), ways.astype(np.float32))
    rows = np.flatnonzero(hits.distance < sensor.max_range)
    starts, ways, far = starts[rows], ways[rows], hits.distance[rows].astype(np.float64)
    struck = scene.select(hits.triangle[rows])
    gain = float(np.exp(rng.normal(0.0, 0.1)))
    # stains and bumps belong to a place, and each object stands at its own
    place = int(rng.integers(1 << 30))
    met = contacts(far, ways, struck, sensor)
    back = echoes(met, starts + far[:, None] * ways + eye, sensor, gain, place, rng)
    points = starts + back.distance[:, None] * ways
    kept = back.kept & ((points >= low) & (points <= high)).all(1)
    own = int((hits.triangle[rows][kept] < len(mesh)).sum())
    centred = (points[kept] - (low + high) / 2).astype(np.float32)
    return _View(centred, back.intensity[kept], distance), own


def _beams_at(rng: Generator, low: Floats, high: Floats, sensor: Sensor) -> tuple[Floats, Floats]:
    """Origins and unit directions (n, 3) of the pulses that may meet the box from `low` to `high`."""
    # the object is straight ahead here, but may be anywhere around the car
    facing = float(rng.uniform(0, 2 * np.pi))
    around = sensor.azimuths(float(rng.random()))
    ahead = (around - facing + np.pi) % (2 * np.pi) - np.pi
    near = _within(ahead, low, high)
    azimuth = np.tile(ahead[near], sensor.rings)
    elevation = np.repeat(np.radians(np.array(sensor.elevations)), int(near.sum()))
    free = sensor.free(around[near]).ravel()
    lift = np.repeat(sensor.lift, int(near.sum()))[free]
    azimuth, elevation = azimuth[free], elevation[free]
    ways = np.stack(
        [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], 1
    )
    return lift[:, None] * np.array([0.0, 0.0, 1.0]), ways


def _within(azimuth: Floats, low: Floats, high: Floats) -> Bools:
    corners = np.array([[x, y] for x in (low[0], high[0]) for y in (low[1], high[1])])
    if (low[:2] < 0).all() and (high[:2] > 0).all():
        return np.ones(len(azimuth), bool)
    sides = np.arctan2(corners[:, 1], corners[:, 0])
    return (azimuth >= sides.min()) & (azimuth <= sides.max())
