"""What stands beside the road: one function a kind of side, each from the same few objects."""

from collections.abc import Callable

import numpy as np

from pcsparse.data.synthetic import buildings, furniture, plants, vehicles
from pcsparse.data.synthetic.lot import Lot
from pcsparse.data.synthetic.planting import boundary, greenery, piece
from pcsparse.data.synthetic.section import BAY, GRAVEL, PAVED


def backdrop(lot: Lot, near: float) -> None:
    """What closes the view beyond the first row: more houses, a belt of trees, or nothing."""
    match str(lot.rng.choice(["houses", "trees", "open"], p=[0.42, 0.45, 0.13])):
        case "houses":
            at = lot.block.start + lot.uniform(0.0, 6.0)
            while at < lot.block.end - 8.0:
                width, depth = lot.uniform(8.0, 18.0), lot.uniform(8.0, 12.0)
                mesh = buildings.house(lot.rng, width, depth, lot.uniform(4.0, 16.0), 0.3)
                lot.build(mesh, at, near + lot.uniform(2.0, 8.0), width, depth)
                at += width + lot.uniform(2.0, 12.0)
            greenery(lot, lot.block.start, lot.block.end, near, near + 4, 1.0, 2.0)
        case "trees":
            greenery(lot, lot.block.start, lot.block.end, near + 4, near + 12, 4.0, 6.0)
        case _:
            greenery(lot, lot.block.start, lot.block.end, near, near + 25, 0.2, 0.3)


def terrace(lot: Lot) -> None:
    """Town houses wall to wall, with or without a strip of garden in front."""
    setback = 0.1 if lot.chance(0.4) else lot.uniform(1.5, 5.0)
    shops = setback < 1.0 and lot.chance(0.4)
    at = lot.block.start + lot.uniform(0.0, 2.0)
    while at < lot.block.end - 5.0:
        width = min(lot.uniform(6.0, 16.0), lot.block.end - at)
        depth, height = lot.uniform(9.0, 13.0), lot.uniform(6.0, 19.0)
        make = buildings.shop_front if shops and lot.chance(0.6) else buildings.house
        facade = lot.front + setback + lot.uniform(0.0, 0.4)
        if lot.build(make(lot.rng, width, depth, height), at, facade, width, depth):
            _before(lot, at, facade, width, height, setback)
        else:
            # a corner, or a street behind: a smaller house may fit
            width, depth = min(width, 7.0), 6.5
            lot.build(make(lot.rng, width, depth, height), at, facade, width, depth)
        gap = lot.uniform(2.0, 5.0) if lot.chance(0.25) else 0.0
        if gap > 2.4:
            _drive(lot, at + width + 0.2, at + width + gap - 0.2, setback + depth, car=0.4)
        at += width + gap
    if setback > 1.0:
        boundary(lot, lot.block.start, lot.block.end, lot.front)
        greenery(lot, lot.block.start, lot.block.end, lot.front + 0.8, lot.front + setback - 0.4, 3.0, 7.0)
    backdrop(lot, lot.front + setback + 16)


def _before(lot: Lot, start: float, facade: float, width: float, height: float, setback: float) -> None:
    """Now and then a scaffold before a house, or something that climbs up its facade."""
    if lot.chance(0.04):
        mesh = furniture.scaffold(lot.rng, width, min(height, 9.0))
        lot.put(mesh, start + width / 2, facade - 1.0, np.pi * (lot.sign < 0))
    elif setback > 1.0 and lot.chance(0.12):
        mesh = plants.climber(lot.rng, 0.7 * width, lot.uniform(1.5, 5.0))
        mesh = mesh.with_corners(mesh.corners * np.array([1.0, float(lot.sign), 1.0]))
        lot.put(mesh, start + lot.uniform(0.0, 0.3) * width, facade - 0.03)


def _drive(lot: Lot, start: float, end: float, depth: float, car: float) -> None:
    """A paved way from the pavement into a plot, now and then with a car on it."""
    code = int(lot.rng.choice([BAY, PAVED, GRAVEL], p=[0.55, 0.35, 0.1]))
    verge = lot.block.side(lot.sign).verge + lot.block.side(lot.sign).walk
    lot.pave((start, end), (lot.front - verge, lot.front + depth), code)
    if depth > 5.5 and lot.chance(car):
        yaw = np.pi / 2 * float(lot.rng.choice([-1, 1])) + lot.uniform(-0.06, 0.06)
        lot.thing(vehicles.car(lot.rng)[0], 0.5 * (start + end), lot.front + lot.uniform(2.7, 3.5), yaw)


def detached(lot: Lot) -> None:
    """Houses in gardens, each with hedges, a drive, a shed."""
    at = lot.block.start
    while at < lot.block.end - 9.0:
        plot = min(lot.uniform(12.0, 26.0), lot.block.end - at)
        setback, width = lot.uniform(2.0, 9.0), min(lot.uniform(8.0, 16.0), plot - 2.5)
        depth, height = lot.uniform(8.0, 12.0), lot.uniform(4.0, 9.0)
        drive = lot.uniform(2.6, 3.6) if plot - width > 4.2 else 0.0
        house = at + lot.uniform(0.5, max(0.6, plot - drive - width - 0.5))
        facade = lot.front + setback
        if lot.build(buildings.house(lot.rng, width, depth, height), house, facade, width, depth):
            _before(lot, house, facade, width, height, setback)
        else:
            lot.build(buildings.house(lot.rng, 7.0, 6.5, height), house + width / 2 - 3.5, facade, 7.0, 6.5)
        if drive:
            _drive(lot, at + plot - drive - 0.4, at + plot - 0.4, setback + lot.uniform(0.0, 6.0), car=0.5)
        boundary(lot, at, at + plot - drive - 0.5, lot.front + 0.1)
        if lot.chance(0.65):
            length, tall = setback + 8.0, lot.uniform(1.0, 2.2)
            make = (plants.hedge(lot.rng, length, tall, 0.8), furniture.wall(lot.rng, length, tall))
            lot.put(make[int(lot.chance(0.4))], at, lot.front + length / 2, np.pi / 2)
        if lot.chance(0.35):
            lot.put(buildings.shed(lot.rng), at + plot - 4.0, facade + lot.uniform(0.0, 5.0))
        greenery(lot, at, at + plot - drive, lot.front + 0.8, facade - 0.6, 3.8, 7.0)
        greenery(lot, at, at + plot, facade + depth + 2, facade + depth + 12, 1.8, 1.5)
        at += plot
    backdrop(lot, lot.front + 28)


def park(lot: Lot) -> None:
    """Grass with trees and bushes, now and then a path through it."""
    if lot.chance(0.5):
        boundary(lot, lot.block.start, lot.block.end, lot.front)
    near = lot.front + 1.5
    trees, bushes = lot.uniform(1.0, 3.4), lot.uniform(1.0, 6.0)
    if lot.chance(0.4):
        s = lot.along(0.0)
        lot.pave((s - 1.2, s + 1.2), (lot.front, lot.front + 40.0), lot.pick([PAVED, GRAVEL]))
    if lot.chance(0.12):
        lot.put(
            furniture.playground(lot.rng),
            lot.along(0.0),
            near + lot.uniform(4, 14),
        )
    greenery(lot, lot.block.start, lot.block.end, near, near + 18, trees, bushes)
    greenery(lot, lot.block.start, lot.block.end, near + 18, near + 40, lot.uniform(0.3, 1.2), 1.0)
    backdrop(lot, near + 40)


def meadow(lot: Lot) -> None:
    """Open land; now and then a fence, tall grass, a bush, a line of trees far off."""
    if lot.chance(0.35):
        boundary(lot, lot.block.start, lot.block.end, lot.front + 0.5)
    if lot.chance(0.25):
        rail = furniture.guard_rail(lot.span - 1.0)
        lot.drape(rail, lot.block.start + lot.span / 2, max(lot.block.half + 0.7, lot.front - 0.4))
    elif lot.chance(0.3):
        lot.drape(furniture.delineators(lot.span - 2.0), lot.block.start + lot.span / 2, lot.front + 0.2)
    if lot.chance(0.6):
        depth, height = lot.uniform(1.5, 8.0), lot.uniform(0.3, 1.1)
        for s in np.arange(lot.block.start + 3, lot.block.end - 2.9, 6.0):
            mesh = plants.tall_grass(lot.rng, 6.0, depth, height)
            lot.drape(mesh, float(s), lot.front + 0.3)
    greenery(lot, lot.block.start, lot.block.end, lot.front + 2, lot.front + 40, 0.08, 1.2)
    if lot.chance(0.6):
        back = lot.front + lot.uniform(15, 50)
        greenery(lot, lot.block.start, lot.block.end, back, back + 7, 5.0, 8.0)
    else:
        backdrop(lot, lot.front + lot.uniform(25, 45))


def thicket(lot: Lot) -> None:
    """Undergrowth close to the road, trees behind."""
    near = lot.front + lot.uniform(0.5, 4.0)
    at = lot.block.start
    while at < lot.block.end - 3.0:
        length = min(lot.uniform(5.0, 10.0), lot.block.end - at)
        if lot.chance(0.88):
            mesh = plants.thicket(lot.rng, length, lot.uniform(2.5, 6.0), lot.uniform(1.5, 4.5))
            lot.drape(mesh, at + length / 2, near + lot.uniform(0, 1.0))
        at += length
    greenery(lot, lot.block.start, lot.block.end, near + 1, near + 22, 3.2, 3.0)


def _rows(lot: Lot, near: float, far: float, share: float) -> None:
    """Cars side by side in rows from `near` to `far` metres beyond the front, aisles between the rows."""
    row = near + 2.6
    turned = 0
    while row < far - 2.0:
        for s in np.arange(lot.block.start + 2.0, lot.block.end - 1.5, 2.6):
            if lot.chance(share):
                yaw = np.pi / 2 * float(lot.rng.choice([-1, 1])) + lot.uniform(-0.05, 0.05)
                mesh = vehicles.car(lot.rng)[0]
                lot.thing(mesh, float(s), lot.front + row + lot.uniform(-0.3, 0.3), yaw)
        # two rows stand nose to nose, then comes an aisle
        row += 5.2 if turned % 2 else 11.0
        turned += 1


def car_park(lot: Lot) -> None:
    """Rows of parked cars, a building beyond."""
    if lot.chance(0.4):
        boundary(lot, lot.block.start, lot.block.end, lot.front)
    depth = lot.uniform(14.0, 34.0)
    lot.pave((lot.block.start, lot.block.end), (lot.front - 0.5, lot.front + depth), BAY)
    _rows(lot, 0.6, depth, lot.uniform(0.25, 0.8))
    for s in np.arange(lot.block.start + 5.0, lot.block.end - 4.0, lot.uniform(10.0, 22.0)):
        lot.put(plants.tree(lot.rng, 0.7), float(s), lot.front + 13.8)
    if lot.span > 20 and lot.chance(0.6):
        width = lot.span - 6.0
        mesh = buildings.hall(lot.rng, width, 20.0, lot.uniform(4, 9))
        lot.build(mesh, lot.block.start + 3, lot.front + depth + 1.5, width, 20.0)
    else:
        backdrop(lot, lot.front + depth + 2)


def works(lot: Lot) -> None:
    """A hall behind a fence, with lorries and trailers in the yard."""
    boundary(lot, lot.block.start, lot.block.end, lot.front)
    width, setback = max(8.0, lot.span - lot.uniform(2.0, 12.0)), lot.uniform(5.0, 15.0)
    mesh = buildings.hall(lot.rng, width, 24.0, lot.uniform(5, 12))
    lot.build(mesh, lot.block.start + 1, lot.front + setback, width, 24.0)
    for s in np.arange(lot.block.start + 6, lot.block.end - 6, 9.0):
        pick = float(lot.rng.random())
        if setback > 8 and pick < 0.45:
            make = vehicles.truck if pick < 0.2 else vehicles.trailer if pick < 0.3 else vehicles.car
            lot.thing(make(lot.rng)[0], float(s), lot.front + setback / 2, lot.uniform(-0.2, 0.2))


def yard(lot: Lot) -> None:
    """A square or a yard: paved or gravelled ground with trees, furniture, parked cars and houses behind."""
    depth = lot.uniform(6.0, 22.0)
    lot.pave((lot.block.start, lot.block.end), (lot.front, lot.front + depth), lot.pick([GRAVEL, PAVED]))
    if lot.chance(0.4):
        _rows(lot, 1.0, min(depth, 8.0), 0.4)
    for _ in range(int(lot.rng.poisson(lot.span * depth / 120))):
        s, t = lot.along(0.0), lot.front + lot.uniform(1.0, depth)
        make = (furniture.clutter, furniture.planter, plants.tree, furniture.lamp)
        lot.put(make[int(lot.rng.integers(len(make)))](lot.rng), s, t, lot.uniform(0, 6.3))
    if lot.chance(0.12):
        lot.put(furniture.statue(lot.rng), lot.block.start + lot.span / 2, lot.front + 0.5 * depth)
    at = lot.block.start
    if lot.span > 20 and lot.chance(0.12):
        lot.build(buildings.church(lot.rng), at, lot.front + depth, 12.0, 30.0)
        at += 15.0
    while at < lot.block.end - 7.0:
        width = min(lot.uniform(8.0, 18.0), lot.block.end - at)
        mesh = buildings.house(lot.rng, width, 11.0, lot.uniform(6.0, 18.0))
        lot.build(mesh, at, lot.front + depth + lot.uniform(0.0, 1.0), width, 11.0)
        at += width + (lot.uniform(1.0, 6.0) if lot.chance(0.3) else 0.0)


def walled(lot: Lot) -> None:
    """A long wall or a tall hedge, with trees and roofs looking over it."""
    kind = str(lot.rng.choice(["wall", "hedge", "mesh"], p=[0.35, 0.5, 0.15]))
    height = lot.uniform(2.0, 3.4)
    for s in np.arange(lot.block.start + 4, lot.block.end - 3.9, 8.0):
        piece(lot, kind, float(s), lot.front + 0.3, 8.0, height)
    greenery(lot, lot.block.start, lot.block.end, lot.front + 1.5, lot.front + 20, 1.4, 2.0)
    backdrop(lot, lot.front + 22)


def barrier(lot: Lot) -> None:
    """A wall against noise beside a fast road, trees behind."""
    height = lot.uniform(2.5, 4.5)
    for s in np.arange(lot.block.start + 4, lot.block.end - 3.9, 8.0):
        lot.drape(furniture.noise_wall(lot.rng, 8.0, height), float(s), lot.front + 1.5)
    greenery(lot, lot.block.start, lot.block.end, lot.front + 2.5, lot.front + 12, 1.5, 3.0)


def mound(lot: Lot) -> None:
    """The middle of a roundabout: grass, bushes, a tree or two; signs that point around it."""
    reach = lot.street.last / (2 * np.pi) - 0.5
    near, far = lot.front + 0.6, lot.block.half + 0.8 * (reach - lot.block.half)
    greenery(lot, 0.0, lot.block.end, near, far, lot.uniform(0.0, 1.0), lot.uniform(0.0, 9.0))
    for node in lot.street.nodes:
        lot.put(furniture.sign(lot.rng), node.s, lot.block.half + 0.5, np.pi / 2)


def rim(lot: Lot) -> None:
    """Around a roundabout: lamps, bushes, a house now and then."""
    for s in np.arange(4.0, lot.block.end, lot.uniform(14.0, 30.0)):
        lot.put(furniture.lamp(lot.rng), float(s), lot.block.half + 0.8, 0.0)
    greenery(lot, 0.0, lot.block.end, lot.front + 1, lot.front + 16, 0.8, 2.5)
    for s in np.arange(lot.uniform(0.0, 10.0), lot.block.end - 10, 15.0):
        if lot.chance(0.6):
            mesh = buildings.house(lot.rng, 10.0, 9.0, lot.uniform(5.0, 14.0))
            lot.build(mesh, float(s), lot.front + lot.uniform(4.0, 9.0), 10.0, 9.0)


KINDS: dict[str, Callable[[Lot], None]] = {
    "terrace": terrace,
    "detached": detached,
    "park": park,
    "meadow": meadow,
    "thicket": thicket,
    "car_park": car_park,
    "works": works,
    "yard": yard,
    "walled": walled,
    "barrier": barrier,
    "mound": mound,
    "rim": rim,
}
