"""What stands between the road's edge and private ground: parked cars, lamps, signs, trees, people."""

import numpy as np

from pcsparse.data.synthetic import furniture, people, plants, vehicles
from pcsparse.data.synthetic.lot import Lot


def kerbside(lot: Lot, parking: float, walk: tuple[float, float]) -> None:
    """Parked cars, lamps, signs, street trees, people and clutter between the road's edge and the front.

    Args:
        lot: the side being built.
        parking: width of the parking lane, metres; 0 for none.
        walk: where people walk, metres from the middle of the road: (near, far).
    """
    _parked(lot, parking)
    near, far = walk
    at = lot.block.start + lot.uniform(2, 20)
    spacing = lot.uniform(26, 60)
    while at < lot.block.end - 1:
        lot.put(furniture.lamp(lot.rng), at, near + 0.35, np.pi if lot.sign > 0 else 0.0)
        at += spacing
    trees = lot.uniform(7, 16) if lot.chance(0.45) and far - near > 1.2 else 0.0
    if trees:
        for s in np.arange(lot.block.start + 3, lot.block.end - 2, trees):
            lot.put(plants.tree(lot.rng), float(s), near + 0.6, lot.uniform(0, 6.3))
    for _ in range(int(lot.rng.poisson(lot.span / 40))):
        yaw = np.pi if lot.sign > 0 else 0.0
        lot.put(
            furniture.sign(lot.rng),
            lot.uniform(lot.block.start, lot.block.end),
            near + 0.3,
            yaw + lot.uniform(-0.3, 0.3),
        )
    for _ in range(int(lot.rng.poisson(lot.span / 45))):
        lot.put(furniture.clutter(lot.rng), lot.uniform(lot.block.start + 1, lot.block.end - 1), far - 0.4)
    if near > lot.block.half + 1.5 and lot.chance(0.35):
        # a planted strip between the road and the pavement
        depth = min(2.0, near - lot.block.half - 0.9)
        mesh = plants.thicket(lot.rng, lot.span * 0.8, depth, lot.uniform(0.5, 1.6))
        lot.drape(mesh, lot.block.start + lot.span / 2, near - depth - 0.2)
    if lot.chance(0.08):
        lot.drape(furniture.bollards(lot.rng, lot.span * 0.6), lot.block.start + lot.span / 2, near + 0.25)
    _people(lot, near, far)


def _parked(lot: Lot, parking: float) -> None:
    middle = lot.block.half + parking / 2 if parking else lot.block.half + lot.uniform(0.1, 0.7)
    # on a narrow road without a lane for them, cars would stand in the way
    kerbed = lot.block.half > 3.7 and lot.chance(0.5)
    share = lot.uniform(0.3, 0.95) if parking else lot.uniform(0.15, 0.75) if kerbed else 0.0
    at = lot.block.start + lot.uniform(1.0, 4.0)
    while share and at < lot.block.end - 3:
        pick = float(lot.rng.random())
        make = vehicles.truck if pick < 0.02 else vehicles.trailer if pick < 0.05 else vehicles.car
        mesh, (length, _) = make(lot.rng)
        if lot.chance(share) and at + length < lot.block.end:
            yaw = (
                (0.0 if lot.sign < 0 else np.pi)
                + (np.pi if lot.chance(0.12) else 0.0)
                + lot.uniform(-0.04, 0.04)
            )
            lot.thing(mesh, at + length / 2, middle + lot.uniform(-0.15, 0.15), yaw)
        at += length + lot.uniform(0.5, 1.6)


def _people(lot: Lot, near: float, far: float) -> None:
    def spot() -> tuple[float, float]:
        return lot.uniform(lot.block.start, lot.block.end), lot.uniform(
            near + 0.3, max(near + 0.4, far - 0.2)
        )

    for _ in range(int(lot.rng.poisson(lot.span / 40))):
        lot.thing(people.person(lot.rng), *spot(), lot.uniform(0, 6.3))
    for make, metres in (
        (people.bicycle, 45),
        (people.motorcycle, 80),
        (people.bicyclist, 90),
        (people.motorcyclist, 160),
    ):
        if lot.chance(lot.span / metres * 0.6):
            s, t = spot()
            for i in range(int(lot.rng.integers(1, 4)) if make is people.bicycle else 1):
                yaw = lot.uniform(-0.2, 0.2) + (np.pi / 2 if make is people.bicycle else 0.0)
                lot.thing(make(lot.rng), s + 0.7 * i, t, yaw)
