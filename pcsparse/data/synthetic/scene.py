"""A town: a street, its blocks, and what moves on it. Everything follows from one seed."""

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic import people, vehicles
from pcsparse.data.synthetic.blocks import Plan, plan_blocks
from pcsparse.data.synthetic.frontage import KINDS
from pcsparse.data.synthetic.ground import ground
from pcsparse.data.synthetic.kerbside import kerbside
from pcsparse.data.synthetic.lot import Lot
from pcsparse.data.synthetic.mesh import EMPTY, Mesh, join
from pcsparse.data.synthetic.street import Street, make_street

# instance ids: each block owns a range, movers come above them all; a label holds 16 bits
_PER_BLOCK = 220
_MOVERS = 60000
# metres: beyond the sensor's 80 m nothing is seen
SIGHT = 84.0
# raw ids of what moves (SemanticKITTI)
MOVING = {10: 252, 31: 253, 30: 254, 32: 255, 13: 257, 18: 258, 20: 259}


@dataclass(frozen=True)
class Mover:
    """Something on its way along the street.

    Args:
        mesh: local frame, x forward; moving raw ids and its instance id.
        start: metres along the street at time 0 of its encounter.
        time: seconds: when it is at `start`.
        speed: metres a second along the street, negative against it.
        across: metres from the middle of the road, positive to the left.
        length: metres that it needs along its lane.
    """

    mesh: Mesh
    start: float
    time: float
    speed: float
    across: float
    length: float

    def place(self, when: float) -> float:
        """Metres along the street at `when` seconds."""
        return self.start + self.speed * (when - self.time)


@dataclass
class Town:
    """The world of one sequence.

    Args:
        street: where it lies.
        plans: its blocks.
        movers: what moves.
        speed: of the ego vehicle, metres a second.
        seed: from which all of it follows.
    """

    street: Street
    plans: list[Plan]
    movers: list[Mover]
    speed: float
    seed: int
    _built: OrderedDict[int, Mesh] = field(default_factory=OrderedDict)

    def plan_at(self, s: float) -> Plan:
        """The block at `s` metres along the street."""
        for plan in self.plans:
            if s < plan.block.end:
                return plan
        return self.plans[-1]

    def lane(self, s: float) -> float:
        """Metres from the middle of the road at which one drives (negative, on the right)."""
        spots = s + np.array([-12.0, -6.0, 0.0, 6.0, 12.0])
        return -float(np.mean([self.plan_at(float(spot)).block.half / 2 for spot in spots]))

    def road_height(self, s: float, t: float) -> float:
        """World z of the road, metres."""
        x, y = self.street.world(s, t)
        return float(self.street.relief.height(x, y))

    def _block(self, index: int) -> Mesh:
        if index not in self._built:
            self._built[index] = _build_block(self.street, self.plans[index], index, self.seed)
        self._built.move_to_end(index)
        # a window of sight spans about ten blocks
        while len(self._built) > 24:
            self._built.popitem(last=False)
        return self._built[index]

    def static_mesh(self, s: float, slack: float) -> Mesh:
        """Everything that stands still and may be seen from `s` to `s + slack` metres along the street.

        Returns:
            the mesh in world metres.
        """
        low, high = s - SIGHT, s + slack + SIGHT
        near = [i for i, plan in enumerate(self.plans) if plan.block.end > low and plan.block.start < high]
        whole = join([self._block(i) for i in near])
        stops = np.stack(self.street.world(np.array([s, s + slack / 2, s + slack]), np.zeros(3)), 1)
        middle = whole.middles()
        gaps = [(middle[:, 0] - x) ** 2 + (middle[:, 1] - y) ** 2 for x, y in stops]
        return whole.select(np.minimum.reduce(gaps) < (SIGHT + slack / 4) ** 2)

    def moving_mesh(self, s: float, when: float, ego_yaw: float, period: float) -> Mesh:
        """What moves within sight, each posed at the moment at which the turning sensor looks at it.

        Args:
            s: metres along the street, of the ego vehicle.
            when: seconds, in the middle of the sweep.
            ego_yaw: world heading of the sensor, radians.
            period: seconds a sweep takes.
        """
        t_ego = self.lane(s)
        x_ego, y_ego = self.street.world(s, t_ego)
        taken: list[tuple[float, float, float]] = [(s, t_ego, 7.0)]
        parts = []
        for mover in self.movers:
            place = mover.place(when)
            clear = all(
                abs(place - other) > (mover.length + room) / 2 + 1.5 or abs(mover.across - across) > 1.6
                for other, across, room in taken
            )
            in_town = self.street.first + 2 < place < self.street.last - 2
            if not clear or not in_town or abs(place - s) > SIGHT or abs(when - mover.time) > 25:
                continue
            taken.append((place, mover.across, mover.length))
            x, y = self.street.world(place, mover.across)
            bearing = np.arctan2(y - y_ego, x - x_ego) - ego_yaw
            # the sensor starts and ends a turn looking back, and looks ahead in the middle of it
            delay = float((bearing + np.pi) % (2 * np.pi) / (2 * np.pi) - 0.5) * period
            place = mover.place(when + delay)
            z = self.road_height(place, mover.across)
            half = self.plan_at(place).block.half
            if abs(mover.across) > half:
                z = float(self.plan_at(place).block.height(self.street, place, mover.across))
            yaw = np.pi if mover.speed < 0 else 0.0
            parts.append(self.street.rigid(mover.mesh, place, mover.across, z, yaw, tilted=True))
        return join(parts) if parts else EMPTY


def _build_block(street: Street, plan: Plan, index: int, seed: int) -> Mesh:
    rng = np.random.default_rng([seed, 1, index])
    parts = [ground(street, plan.block)]
    instance = 1 + index * _PER_BLOCK
    for row, sign in enumerate((1, -1)):
        lot = Lot(street, plan.block, sign, rng, instance)
        KINDS[plan.kinds[row]](lot)
        if plan.block.arm == 0:
            kerbside(lot, plan.parking[row], plan.walks[row])
        parts += lot.meshes
        instance = lot.instance
    return join(parts)


def _mover(rng: Generator, kind: str, town: "Town", when: float, instance: int) -> Mover:
    start = town.speed * when + float(rng.uniform(-55, 65))
    plan = town.plan_at(start)
    half = plan.block.half
    forward = bool(rng.random() < 0.5)
    side = -1.0 if forward else 1.0
    length, speed, across = 1.0, float(rng.uniform(3, 14)), side * half * (0.5 if forward else 0.58)
    match kind:
        case "car" | "truck" | "bus" | "trailer":
            make = {
                "car": vehicles.car,
                "truck": vehicles.truck,
                "bus": vehicles.bus,
                "trailer": vehicles.trailer,
            }
            mesh, (length, _) = make[kind](rng)
        case "bicyclist":
            mesh, speed, across = people.bicyclist(rng), float(rng.uniform(2, 7)), side * (half - 0.6)
        case "motorcyclist":
            mesh, across = people.motorcyclist(rng), side * half / 2
        case _:
            near, far = plan.walks[0 if side > 0 else 1]
            mesh, speed = people.person(rng), float(rng.uniform(0.6, 1.8))
            across = side * float(rng.uniform(near + 0.3, far - 0.2))
    raw = int(mesh.semantic[0])
    speed = speed if forward else -speed
    return Mover(mesh.with_semantic(MOVING[raw]).with_instance(instance), start, when, speed, across, length)


def make_town(seed: int, length: float) -> Town:
    """A town whose street is `length` metres long.

    Args:
        seed: at least 0; the same seed and length give the same town.
        length: metres that the ego vehicle drives.
    """
    rng = np.random.default_rng([seed, 0])
    hilliness = float(rng.choice([0.008, 0.025, 0.05], p=[0.4, 0.4, 0.2]))
    street = make_street(rng, length, hilliness)
    plans = plan_blocks(rng, street.first, street.last)
    town = Town(street, plans, [], float(rng.uniform(6.0, 13.0)), seed)
    duration = length / town.speed
    density = float(rng.uniform(0.4, 1.6))
    shares = {
        "car": 0.42,
        "person": 0.22,
        "bicyclist": 0.14,
        "motorcyclist": 0.06,
        "truck": 0.07,
        "bus": 0.05,
    }
    kinds = [*shares, "trailer"]
    count = int(duration / 2.2 * density) + 2
    for i in range(count):
        kind = str(rng.choice(kinds, p=[*shares.values(), 1 - sum(shares.values())]))
        town.movers.append(_mover(rng, kind, town, float(rng.uniform(0, duration)), _MOVERS + i % 5000))
    return town
