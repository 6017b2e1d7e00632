"""What stands beside the road: one function a kind of side, each from the same few objects."""

from collections.abc import Callable

import numpy as np

from pcsparse.data.synthetic import buildings, furniture, plants, vehicles
from pcsparse.data.synthetic.lot import Lot, boundary, greenery, piece


def backdrop(lot: Lot, near: float) -> None:
    """What closes the view beyond the first row: more houses, a belt of trees, or nothing."""
    match str(lot.rng.choice(["houses", "trees", "open"], p=[0.45, 0.35, 0.2])):
        case "houses":
            at = lot.block.start + lot.uniform(0.0, 6.0)
            while at < lot.block.end - 8.0:
                width, depth = lot.uniform(8.0, 18.0), lot.uniform(8.0, 12.0)
                mesh = buildings.house(lot.rng, width, depth, lot.uniform(4.0, 16.0))
                lot.build(mesh, at, near + lot.uniform(2.0, 8.0), width, depth)
                at += width + lot.uniform(2.0, 12.0)
            greenery(lot, lot.block.start, lot.block.end, near, near + 4, 1.0, 2.0)
        case "trees":
            greenery(lot, lot.block.start, lot.block.end, near + 4, near + 12, 4.0, 6.0)
        case _:
            greenery(lot, lot.block.start, lot.block.end, near, near + 25, 0.2, 0.3)


def side_street(lot: Lot) -> None:
    """Both flanks of a crossing street: walls, hedges, fences, houses and parked cars along it."""
    middle = 0.5 * (lot.block.start + lot.block.end)
    walk = 0.5 * lot.span - lot.block.arm
    for flank in (-1.0, 1.0):
        edge = middle + flank * (lot.block.arm + walk)
        at = lot.front + lot.uniform(1.0, 12.0)
        while at < lot.front + 60.0:
            length = lot.uniform(6.0, 14.0)
            pick = float(lot.rng.random())
            s, t = edge + flank * 0.4, at + length / 2
            if pick < 0.35:
                lot.put(
                    plants.hedge(lot.rng, length, lot.uniform(0.8, 2.2), 0.9), s + 0.4 * flank, t, np.pi / 2
                )
            elif pick < 0.6:
                lot.put(furniture.wall(lot.rng, length, lot.uniform(0.8, 2.2)), s, t, np.pi / 2)
            elif pick < 0.8:
                height = lot.uniform(4.0, 14.0)
                mesh = buildings.house(lot.rng, length, 9.0, height)
                # its facade looks at the crossing street
                corner = t + flank * lot.sign * length / 2
                lot.put(mesh, edge + flank * lot.uniform(0.3, 4.0), corner, -flank * np.pi / 2)
            elif pick < 0.92:
                lot.put(furniture.picket_fence(lot.rng, length, 1.2), s, t, np.pi / 2)
            if lot.chance(0.35):
                yaw = flank * np.pi / 2
                lot.thing(vehicles.car(lot.rng)[0], middle + flank * (lot.block.arm - 0.6), at + 3.0, yaw)
            if lot.chance(0.2):
                lot.put(plants.tree(lot.rng, 0.6), edge - 0.6 * flank, at)
            at += length + (lot.uniform(1.0, 6.0) if lot.chance(0.3) else 0.0)


def terrace(lot: Lot) -> None:
    """Town houses wall to wall, with or without a strip of garden in front."""
    setback = 0.1 if lot.chance(0.5) else lot.uniform(1.5, 5.0)
    shops = setback < 1.0 and lot.chance(0.4)
    at = lot.block.start + lot.uniform(0.0, 2.0)
    while at < lot.block.end - 5.0:
        width = min(lot.uniform(6.0, 16.0), lot.block.end - at)
        depth, height = lot.uniform(9.0, 13.0), lot.uniform(6.0, 19.0)
        make = buildings.shop_front if shops and lot.chance(0.6) else buildings.house
        lot.build(
            make(lot.rng, width, depth, height), at, lot.front + setback + lot.uniform(0.0, 0.4), width, depth
        )
        at += width + (lot.uniform(2.0, 5.0) if lot.chance(0.25) else 0.0)
    if setback > 1.0:
        boundary(lot, lot.block.start, lot.block.end, lot.front)
        greenery(lot, lot.block.start, lot.block.end, lot.front + 0.8, lot.front + setback - 0.4, 1.0, 14.0)
    backdrop(lot, lot.front + setback + 16)


def detached(lot: Lot) -> None:
    """Houses in gardens, each with hedges, a drive, a shed."""
    at = lot.block.start
    while at < lot.block.end - 9.0:
        plot = min(lot.uniform(12.0, 26.0), lot.block.end - at)
        setback, width = lot.uniform(3.0, 13.0), min(lot.uniform(8.0, 14.0), plot - 2.5)
        depth, height = lot.uniform(8.0, 12.0), lot.uniform(4.0, 9.0)
        house = at + lot.uniform(0.5, max(0.6, plot - width - 0.5))
        facade = lot.front + setback
        lot.build(buildings.house(lot.rng, width, depth, height), house, facade, width, depth)
        boundary(lot, at, at + plot - 0.3, lot.front + 0.1)
        if lot.chance(0.5):
            length, tall = setback + 8.0, lot.uniform(1.0, 2.2)
            make = (plants.hedge(lot.rng, length, tall, 0.8), furniture.wall(lot.rng, length, tall))
            lot.put(make[int(lot.chance(0.4))], at, lot.front + length / 2, np.pi / 2)
        if lot.chance(0.5) and setback > 5.5:
            lot.thing(vehicles.car(lot.rng)[0], at + plot - 2.2, lot.front + 3.0, np.pi / 2 * lot.sign)
        if lot.chance(0.35):
            lot.put(buildings.shed(lot.rng), at + plot - 4.0, facade + lot.uniform(0.0, 5.0))
        greenery(lot, at, at + plot, lot.front + 0.8, facade - 0.6, 2.0, 14.0)
        greenery(lot, at, at + plot, facade + depth + 2, facade + depth + 12, 0.8, 1.5)
        at += plot
    backdrop(lot, lot.front + 28)


def park(lot: Lot) -> None:
    """Grass with trees and bushes."""
    if lot.chance(0.5):
        boundary(lot, lot.block.start, lot.block.end, lot.front)
    near = lot.front + 1.5
    trees, bushes = lot.uniform(0.4, 2.4), lot.uniform(1.5, 9.0)
    greenery(lot, lot.block.start, lot.block.end, near, near + 18, trees, bushes)
    greenery(lot, lot.block.start, lot.block.end, near + 18, near + 40, lot.uniform(0.3, 1.2), 1.0)
    backdrop(lot, near + 40)


def meadow(lot: Lot) -> None:
    """Open land; now and then a fence, a bush, a line of trees far off."""
    if lot.chance(0.35):
        boundary(lot, lot.block.start, lot.block.end, lot.front + 0.5)
    if lot.chance(0.25):
        lot.drape(furniture.guard_rail(lot.span - 1.0), lot.block.start + lot.span / 2, lot.block.half + 0.7)
    greenery(lot, lot.block.start, lot.block.end, lot.front + 2, lot.front + 40, 0.08, 1.2)
    if lot.chance(0.6):
        back = lot.front + lot.uniform(15, 50)
        greenery(lot, lot.block.start, lot.block.end, back, back + 7, 5.0, 8.0)
    else:
        backdrop(lot, lot.front + lot.uniform(25, 45))


def thicket(lot: Lot) -> None:
    """Undergrowth close to the road, trees behind."""
    near = lot.front + lot.uniform(0.3, 3.0)
    at = lot.block.start
    while at < lot.block.end - 3.0:
        length = min(lot.uniform(5.0, 10.0), lot.block.end - at)
        if lot.chance(0.88):
            mesh = plants.thicket(lot.rng, length, lot.uniform(2.5, 6.0), lot.uniform(1.0, 4.0))
            lot.drape(mesh, at + length / 2, near + lot.uniform(0, 1.0))
        at += length
    greenery(lot, lot.block.start, lot.block.end, near + 1, near + 22, 2.6, 3.0)


def car_park(lot: Lot) -> None:
    """Rows of parked cars, a building beyond."""
    if lot.chance(0.5):
        boundary(lot, lot.block.start, lot.block.end, lot.front)
    for row in (4.0, 15.0, 20.5):
        for s in np.arange(lot.block.start + 2.0, lot.block.end - 2.0, 2.7):
            if lot.chance(0.55):
                yaw = np.pi / 2 * float(lot.rng.choice([-1, 1])) + lot.uniform(-0.05, 0.05)
                lot.thing(vehicles.car(lot.rng)[0], float(s), lot.front + row + lot.uniform(-0.3, 0.3), yaw)
    if lot.span > 20:
        width = lot.span - 6.0
        lot.build(
            buildings.hall(lot.rng, width, 20.0, lot.uniform(4, 9)),
            lot.block.start + 3,
            lot.front + 28,
            width,
            20.0,
        )


def works(lot: Lot) -> None:
    """A hall behind a fence, with lorries and trailers in the yard."""
    boundary(lot, lot.block.start, lot.block.end, lot.front)
    width, setback = max(8.0, lot.span - lot.uniform(2.0, 12.0)), lot.uniform(5.0, 15.0)
    lot.build(
        buildings.hall(lot.rng, width, 24.0, lot.uniform(5, 12)),
        lot.block.start + 1,
        lot.front + setback,
        width,
        24.0,
    )
    for s in np.arange(lot.block.start + 6, lot.block.end - 6, 9.0):
        pick = float(lot.rng.random())
        if setback > 8 and pick < 0.45:
            make = vehicles.truck if pick < 0.2 else vehicles.trailer if pick < 0.3 else vehicles.car
            lot.thing(make(lot.rng)[0], float(s), lot.front + setback / 2, lot.uniform(-0.2, 0.2))


def walled(lot: Lot) -> None:
    """A long wall or a tall hedge, with trees and roofs looking over it."""
    kind = str(lot.rng.choice(["wall", "hedge", "mesh"], p=[0.4, 0.45, 0.15]))
    height = lot.uniform(1.5, 2.8)
    for s in np.arange(lot.block.start + 4, lot.block.end - 3.9, 8.0):
        piece(lot, kind, float(s), lot.front + 0.3, 8.0, height)
    greenery(lot, lot.block.start, lot.block.end, lot.front + 1.5, lot.front + 20, 1.4, 2.0)
    backdrop(lot, lot.front + 22)


KINDS: dict[str, Callable[[Lot], None]] = {
    "terrace": terrace,
    "detached": detached,
    "park": park,
    "meadow": meadow,
    "thicket": thicket,
    "car_park": car_park,
    "works": works,
    "walled": walled,
    "side_street": side_street,
}
