"""Who and what is on a pavement: people, groups of them, racks of two-wheelers, bus stops, benches, bins."""

import numpy as np

from pcsparse.data.synthetic import furniture, people
from pcsparse.data.synthetic.lot import Lot


def crowd(lot: Lot, near: float, far: float) -> None:
    """People and two-wheelers between `near` and `far` metres from the middle of the road."""
    for _ in range(int(lot.rng.poisson(lot.span / 95))):
        lot.thing(people.person(lot.rng), *_spot(lot, near, far), lot.uniform(0, 6.3))
    if lot.chance(lot.span / 350):
        _group(lot, *_spot(lot, near, far))
    for make, metres in ((people.bicyclist, 280), (people.motorcyclist, 300)):
        if lot.chance(lot.span / metres):
            lot.thing(make(lot.rng), *_spot(lot, near, far), lot.uniform(-0.2, 0.2))
    if lot.chance(lot.span / 130):
        _bicycles(lot, near, far)
    if lot.chance(lot.span / 190):
        s, t = _spot(lot, near, far)
        for i in range(int(lot.rng.choice([1, 2, 4], p=[0.65, 0.25, 0.1]))):
            lot.thing(people.motorcycle(lot.rng), s + 0.9 * i, t, np.pi / 2 + lot.uniform(-0.25, 0.25))


def _spot(lot: Lot, near: float, far: float) -> tuple[float, float]:
    return lot.along(0.0), lot.uniform(near + 0.3, max(near + 0.4, far - 0.2))


def _group(lot: Lot, s: float, t: float) -> None:
    """Two to five who stand or walk together; or two who sit on a bench."""
    if lot.chance(0.3):
        yaw = -np.pi / 2 if lot.sign > 0 else np.pi / 2
        if lot.put(furniture.bench(lot.rng), s, t, yaw + np.pi / 2):
            for shift in (-0.35, 0.35)[: int(lot.rng.integers(1, 3))]:
                lot.thing(people.sitter(lot.rng), s + shift, t - 0.1, yaw)
        return
    heading = lot.uniform(0, 6.3)
    for _ in range(int(lot.rng.integers(2, 6))):
        place = s + lot.uniform(-0.9, 0.9), t + lot.uniform(-0.6, 0.6)
        lot.thing(people.person(lot.rng), *place, heading + lot.uniform(-0.5, 0.5))


def _bicycles(lot: Lot, near: float, far: float) -> None:
    """A rack of three to nine side by side, or one to three along a wall."""
    s = lot.along(1.0)
    if lot.chance(0.4) and far - near > 1.9:
        count, step = int(lot.rng.integers(3, 10)), lot.uniform(0.45, 0.75)
        for i in range(count):
            yaw = np.pi / 2 * (1 if lot.chance(0.8) else -1) + lot.uniform(-0.12, 0.12)
            lot.thing(people.bicycle(lot.rng), s + step * i, far - 1.1, yaw)
        return
    for i in range(int(lot.rng.integers(1, 4))):
        yaw = np.pi * float(lot.rng.integers(2)) + lot.uniform(-0.12, 0.12)
        lot.thing(people.bicycle(lot.rng), s + 2.0 * i, far - 0.35, yaw)


def things(lot: Lot, near: float, far: float, *, urban: bool) -> None:
    """Bins, benches, boards and the like at the back of a pavement; bus stops."""
    for _ in range(int(lot.rng.poisson(lot.span / (40 if urban else 200)))):
        s = lot.along(1)
        # at the kerb as often as at the wall
        t = far - 0.4 if lot.chance(0.7) else near + 0.5
        lot.put(furniture.clutter(lot.rng), s, t, np.pi * float(lot.sign < 0) + lot.uniform(-0.1, 0.1))
    if urban and far - near > 2.2 and lot.chance(lot.span / 250):
        s = lot.along(3)
        # its open side looks at the road
        lot.put(furniture.shelter(lot.rng), s, far - 1.8, 0.0 if lot.sign > 0 else np.pi)
        for _ in range(int(lot.rng.integers(0, 4))):
            place = s + lot.uniform(-1.8, 1.8), far - lot.uniform(0.8, 1.7)
            lot.thing(people.person(lot.rng), *place, lot.uniform(0, 6.3))
