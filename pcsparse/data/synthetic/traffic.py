"""What moves through a town, and what waits at its junctions: who goes where, and when."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic import people, vehicles
from pcsparse.data.synthetic.land import Land
from pcsparse.data.synthetic.mesh import Mesh
from pcsparse.data.synthetic.network import Leg, Network
from pcsparse.data.synthetic.route import Route, backwards, make_route

# instance ids above those of what stands still; a label holds 16 bits
_FIRST_ID, _IDS = 60000, 5000
# raw ids of what moves (SemanticKITTI)
MOVING = {10: 252, 31: 253, 30: 254, 32: 255, 16: 256, 13: 257, 18: 258, 20: 259}
_SHARES = {
    "car": 0.463, "person": 0.24, "bicyclist": 0.14, "motorcyclist": 0.06, "truck": 0.045, "bus": 0.03,
    "trailer": 0.015, "tram": 0.007,
}  # fmt: skip
_VEHICLES: dict[str, Callable[[Generator], tuple[Mesh, tuple[float, float]]]] = {
    "car": vehicles.car,
    "truck": vehicles.truck,
    "bus": vehicles.bus,
    "trailer": vehicles.trailer,
    "tram": vehicles.tram,
}


@dataclass(frozen=True)
class Gait:
    """One and the same walker or rider at any phase of a step.

    Args:
        make: a mesh from random numbers and a phase of 0 to 1.
        seed: of the random numbers.
    """

    make: Callable[[Generator, float], Mesh]
    seed: int

    def at(self, phase: float) -> Mesh:
        """The mesh at `phase`."""
        return self.make(np.random.default_rng(self.seed), phase)


@dataclass(frozen=True)
class Mover:
    """Something on its way along a path, or waiting on it.

    Args:
        mesh: local frame, x forward; its raw ids (moving ones unless it waits) and its instance id.
        path: where it goes.
        start: metres along the path at `time`.
        time: seconds.
        speed: metres a second along the path; 0: it waits.
        across: metres to the left of the path.
        size: length and width that it needs, metres.
        gait: how it walks or pedals; None: always `mesh`.
        cycle: metres along the path that a whole step takes.
    """

    mesh: Mesh
    path: Route
    start: float
    time: float
    speed: float
    across: float
    size: tuple[float, float]
    gait: Gait | None = None
    cycle: float = 1.0

    def body(self, when: float) -> Mesh:
        """Its mesh at `when` seconds, legs and pedals where they are by then."""
        if self.gait is None:
            return self.mesh
        posed = self.gait.at(self.place(when) / self.cycle % 1.0)
        return posed.with_semantic(int(self.mesh.semantic[0])).with_instance(int(self.mesh.instance[0]))

    def place(self, when: float) -> float:
        """Metres along the path at `when` seconds."""
        return self.start + self.speed * (when - self.time)

    def pose(self, when: float) -> tuple[float, float, float]:
        """World x, y in metres and heading in radians at `when` seconds."""
        s = self.place(when)
        x, y = self.path.world(s, self.across)
        return float(x), float(y), float(self.path.heading_at(s))

    def underway(self, when: float) -> bool:
        """Whether its path has begun and not ended."""
        return self.path.first + 1 < self.place(when) < self.path.last - 1


def nearest(path: Route, x: float, y: float) -> float:
    """Metres along `path` of its row nearest to a place."""
    return path.first + float(((path.line[:, 0] - x) ** 2 + (path.line[:, 1] - y) ** 2).argmin())


class _Ways:
    """The paths of a town, each made when it is first asked for."""

    def __init__(self, network: Network, land: Land, route: Route) -> None:
        self.network, self.land, self.route = network, land, route
        self._lanes: dict[tuple[int, bool], Route] = {}

    @cached_property
    def oncoming(self) -> Route:
        """The ego's way the other way round."""
        return make_route(self.network.streets, backwards(self.network.streets, self.network.legs))

    def lane(self, number: int, forward: bool) -> Route:
        """One lane of a street from end to end."""
        key = number, forward
        if key not in self._lanes:
            low, high = self.network.streets[number].caps
            leg = Leg(number, low, high) if forward else Leg(number, high, low)
            self._lanes[key] = make_route(self.network.streets, [leg])
        return self._lanes[key]

    def streets_near(self, x: float, y: float, reach: float) -> list[int]:
        """Numbers of streets, roundabouts apart, within `reach` metres."""
        return [
            number
            for number, street in enumerate(self.network.streets)
            if not street.ring
            and street.caps[1] - street.caps[0] > 12
            and float(np.hypot(street.line[:, 0] - x, street.line[:, 1] - y).min()) < reach
        ]


def _path(rng: Generator, ways: _Ways, s: float) -> tuple[Route, float]:
    """A lane near `s` on the ego's way, and metres along it."""
    x, y = (float(v) for v in ways.route.world(s))
    pick = float(rng.random())
    if pick < 0.35:
        return ways.route, s
    side = ways.streets_near(x, y, 60.0)
    if pick < 0.65 or not side:
        path = ways.oncoming
    else:
        path = ways.lane(side[int(rng.integers(len(side)))], bool(rng.random() < 0.5))
    return path, nearest(path, x, y) + float(rng.uniform(-30, 30))


def _walk(rng: Generator, ways: _Ways, s: float) -> tuple[Route, float]:
    """A pedestrian's path along a pavement or across the road near `s`, and metres along it."""
    x, y = (float(v) for v in ways.route.world(s))
    spot = ways.land.at(x, y)
    near = ways.streets_near(x, y, 40.0) or [0]
    number = near[int(rng.integers(len(near)))]
    street = ways.network.streets[number]
    along = float(spot.along[0]) if number == int(spot.street[0]) else float(rng.uniform(0, street.last))
    along = float(np.clip(along, 5.0, street.last - 5.0))
    sign = float(rng.choice([-1, 1]))
    row = street.table[int(along), 0 if sign > 0 else 1]
    half = float(street.half_at(along))
    if rng.random() < 0.15:
        t = np.arange(-half - 3.0, half + 3.5, 0.5)
        points = street.world(np.full(len(t), along), sign * t)
    else:
        near_t = half + row[0] + row[1] + max(0.5 * row[2], 0.3)
        points = street.world(along + sign * np.arange(-25.0, 25.0), np.full(50, sign * near_t))
    line = np.stack(points, 1)
    heading = np.unwrap(np.arctan2(np.gradient(line[:, 1]), np.gradient(line[:, 0])))
    if len(line) < 50:
        # half metres are too fine for a path of metres
        line, heading = line[::2], heading[::2]
    return Route(line, heading, 0.0), float(rng.uniform(2.0, len(line) - 3.0))


def _mover(rng: Generator, kind: str, ways: _Ways, place: float, when: float, instance: int) -> Mover:
    speed, across, size = float(rng.uniform(3, 14)), 0.0, (1.8, 0.9)
    gait: Gait | None = None
    cycle = 1.0
    if kind == "person":
        path, start = _walk(rng, ways, place)
        speed, across, size = float(rng.uniform(0.6, 1.8)), float(rng.uniform(-0.5, 0.5)), (0.8, 0.8)
        gait, cycle = Gait(people.walker, int(rng.integers(1 << 62))), 1.4
        mesh = gait.at(0.0)
    else:
        path, start = _path(rng, ways, place)
        if kind in _VEHICLES:
            mesh, size = _VEHICLES[kind](rng)
        elif kind == "bicyclist":
            speed, across = float(rng.uniform(2, 7)), float(rng.uniform(-1.1, 0.2))
            gait, cycle = Gait(people.bicyclist, int(rng.integers(1 << 62))), 5.0
            mesh = gait.at(0.0)
        else:
            mesh = people.motorcyclist(rng)
    mesh = mesh.with_instance(instance).with_semantic(MOVING[int(mesh.semantic[0])])
    return Mover(mesh, path, start, when, speed, across, size, gait, cycle)


def _queue(rng: Generator, ways: _Ways, number: int, s: float, when: float, first: int) -> list[Mover]:
    """Cars that wait on street `number` before the node at `s`."""
    street = ways.network.streets[number]
    forward = bool(rng.random() < 0.5)
    path = ways.lane(number, forward)
    gap = next(node.half for node in street.nodes if abs(node.s - s) < 0.5) + float(rng.uniform(2.0, 4.0))
    x, y = street.world(s, 0.0)
    at, out = nearest(path, float(x), float(y)) - gap, []
    for i in range(int(rng.integers(1, 5))):
        mesh, size = vehicles.car(rng)
        at -= size[0] / 2
        out.append(Mover(mesh.with_instance(first + i), path, at, when, 0.0, 0.0, size))
        at -= size[0] / 2 + float(rng.uniform(1.2, 3.0))
    return out


def make_movers(
    rng: Generator, network: Network, land: Land, route: Route, drive: tuple[float, float, float]
) -> list[Mover]:
    """What moves near the ego vehicle during a drive.

    Args:
        rng: the town's random numbers.
        network: its streets.
        land: the ground they lie on.
        route: the ego's way, s = 0 at time 0.
        drive: metres that the ego drives, its speed in metres a second, how busy the town is (1: as usual).
    """
    length, speed, busy = drive
    ways = _Ways(network, land, route)
    duration = length / speed
    movers: list[Mover] = []
    for _ in range(int(duration / 2.0 * busy) + 2):
        kind = str(rng.choice(list(_SHARES), p=list(_SHARES.values())))
        when = float(rng.uniform(0, duration))
        place = speed * when + float(rng.uniform(-50, 60))
        movers.append(_mover(rng, kind, ways, place, when, _FIRST_ID + len(movers) % _IDS))
    for number, street in enumerate(network.streets):
        for node in street.nodes:
            x, y = street.world(node.s, 0.0)
            when = nearest(route, float(x), float(y)) / speed
            if street.ring or street.caps[1] - street.caps[0] < 30 or rng.random() > 0.12 * busy:
                continue
            first = _FIRST_ID + len(movers) % (_IDS - 8)
            movers += _queue(rng, ways, number, node.s, when, first)
    return movers
