"""What stands beside the road: one function a kind of side, each from the same few objects."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic import buildings, furniture, people, plants, vehicles
from pcsparse.data.synthetic.ground import Block
from pcsparse.data.synthetic.mesh import Mesh
from pcsparse.data.synthetic.street import Street


@dataclass
class Lot:
    """One side of one block while it is being built.

    Args:
        street, block: where it lies.
        sign: +1 left, -1 right.
        rng: the block's random numbers.
        instance: the next free instance id.
        meshes: what has been placed, in world metres.
    """

    street: Street
    block: Block
    sign: int
    rng: Generator
    instance: int
    meshes: list[Mesh] = field(default_factory=list)

    @property
    def front(self) -> float:
        """Metres from the middle of the road to private ground."""
        return self.block.half + self.block.side(self.sign).front

    @property
    def span(self) -> float:
        """Metres along the street."""
        return self.block.end - self.block.start

    def uniform(self, low: float, high: float) -> float:
        """A random number."""
        return float(self.rng.uniform(low, high))

    def chance(self, share: float) -> bool:
        """True in that share of cases."""
        return bool(self.rng.random() < share)

    def _fits(self, s: float, t: float) -> bool:
        inside = self.street.first + 1 < s < self.street.last - 1
        return inside and t < float(self.street.limit(s, self.sign)) - 1.0

    def put(self, mesh: Mesh, s: float, t: float, yaw: float = 0.0, *, tilted: bool = False) -> None:
        """Stand `mesh` at `s` along and `t` metres from the middle; yaw 0 faces along the street."""
        if self._fits(s, t):
            z = float(self.block.height(self.street, s, self.sign * t))
            self.meshes.append(self.street.rigid(mesh, s, self.sign * t, z, yaw, tilted=tilted))

    def thing(self, mesh: Mesh, s: float, t: float, yaw: float = 0.0) -> None:
        """Stand `mesh` as one instance."""
        self.put(mesh.with_instance(self.instance), s, t, yaw, tilted=True)
        self.instance += 1

    def drape(self, mesh: Mesh, s: float, t: float) -> None:
        """Lay `mesh` along the street (its x along, its y away from the road), following bend and ground."""
        along = s + mesh.corners[..., 0]
        across = t + mesh.corners[..., 1]
        reach = float(np.min(self.street.limit(along, self.sign)))
        if across.max() > reach - 0.5 or along.min() < self.street.first or along.max() > self.street.last:
            return
        x, y = self.street.world(along, self.sign * across)
        z = self.block.height(self.street, along, self.sign * across) + mesh.corners[..., 2]
        self.meshes.append(mesh.with_corners(np.stack([x, y, z], -1)))

    def build(self, mesh: Mesh, s: float, t: float, width: float, depth: float) -> bool:
        """Put a building with its facade at `t` from s to s + width; False where it does not fit."""
        if (
            not self._fits(s + width / 2, t + depth)
            or not self._fits(s, t + depth)
            or not self._fits(s + width, t)
        ):
            return False
        along = np.array([s, s + width, s, s + width])
        z = float(self.block.height(self.street, along, self.sign * np.array([t, t, t + 4, t + 4])).min())
        middle = s + width / 2
        x, y = self.street.world(middle, self.sign * t)
        turn = float(self.street.heading_at(middle))
        corners = mesh.corners - np.array([width / 2, 0, 0])
        corners = corners * np.array([1.0, float(self.sign), 1.0])
        placed = mesh.with_corners(corners)
        c, n = np.cos(turn), np.sin(turn)
        rotation = np.array([[c, -n, 0], [n, c, 0], [0, 0, 1]])
        self.meshes.append(placed.moved(rotation, np.array([float(x), float(y), z])))
        return True


def boundary(lot: Lot, start: float, end: float, t: float) -> None:
    """A hedge, a wall or a fence along the street, in pieces with gates between them."""
    kind = str(lot.rng.choice(["hedge", "wall", "picket", "mesh", "none"], p=[0.34, 0.2, 0.16, 0.1, 0.2]))
    height = lot.uniform(0.7, 1.9)
    at = start
    while at < end - 2.0 and kind != "none":
        length = min(lot.uniform(4.0, 9.0), end - at)
        if not lot.chance(0.08):
            _piece(lot, kind, at + length / 2, t, length, height)
        at += length + (lot.uniform(1.0, 3.5) if lot.chance(0.35) else 0.0)


def _piece(lot: Lot, kind: str, s: float, t: float, length: float, height: float) -> None:
    match kind:
        case "hedge":
            depth = lot.uniform(0.5, 1.2)
            lot.drape(plants.hedge(lot.rng, length, height, depth), s, t + depth / 2)
        case "wall":
            lot.drape(furniture.wall(lot.rng, length, 0.8 * height), s, t + 0.2)
        case "picket":
            lot.drape(furniture.picket_fence(lot.rng, length, min(height, 1.5)), s, t + 0.1)
        case _:
            lot.drape(furniture.mesh_fence(lot.rng, length, height), s, t + 0.1)


def greenery(
    lot: Lot, start: float, end: float, near: float, far: float, trees: float, bushes: float
) -> None:
    """Trees and bushes at random; `trees` and `bushes` count per 100 square metres."""
    area = max(0.0, end - start) * max(0.0, far - near) / 100.0
    for _ in range(int(lot.rng.poisson(min(trees * area, 26)))):
        lot.put(plants.tree(lot.rng), lot.uniform(start, end), lot.uniform(near, far), lot.uniform(0, 6.3))
    for _ in range(int(lot.rng.poisson(min(bushes * area, 40)))):
        mesh = plants.bush(lot.rng, lot.uniform(0.5, 2.4))
        lot.put(mesh, lot.uniform(start, end), lot.uniform(near, far), lot.uniform(0, 6.3))


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
        greenery(lot, lot.block.start, lot.block.end, lot.front + 0.8, lot.front + setback - 0.6, 0.5, 6.0)
    greenery(
        lot, lot.block.start, lot.block.end, lot.front + setback + 16, lot.front + setback + 36, 0.35, 0.5
    )


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
            side = plants.hedge(lot.rng, setback + 8.0, lot.uniform(1.0, 2.2), 0.8)
            lot.put(side, at, lot.front + (setback + 8.0) / 2, np.pi / 2)
        if lot.chance(0.5) and setback > 5.5:
            lot.thing(vehicles.car(lot.rng)[0], at + plot - 2.2, lot.front + 3.0, np.pi / 2 * lot.sign)
        if lot.chance(0.35):
            lot.put(buildings.shed(lot.rng), at + plot - 4.0, facade + lot.uniform(0.0, 5.0))
        greenery(lot, at, at + plot, lot.front + 1.0, facade - 0.8, 1.0, 5.0)
        greenery(lot, at, at + plot, facade + depth + 2, facade + depth + 25, 0.5, 0.8)
        at += plot


def park(lot: Lot) -> None:
    """Grass with trees and bushes."""
    if lot.chance(0.5):
        boundary(lot, lot.block.start, lot.block.end, lot.front)
    near = lot.front + 1.5
    greenery(
        lot, lot.block.start, lot.block.end, near, near + 22, lot.uniform(0.3, 1.6), lot.uniform(0.3, 2.5)
    )
    greenery(lot, lot.block.start, lot.block.end, near + 22, near + 50, lot.uniform(0.2, 0.8), 0.4)


def meadow(lot: Lot) -> None:
    """Open land; now and then a fence, a bush, a line of trees far off."""
    if lot.chance(0.35):
        boundary(lot, lot.block.start, lot.block.end, lot.front + 0.5)
    if lot.chance(0.25):
        lot.drape(furniture.guard_rail(lot.span - 1.0), lot.block.start + lot.span / 2, lot.block.half + 0.7)
    greenery(lot, lot.block.start, lot.block.end, lot.front + 2, lot.front + 40, 0.06, 0.5)
    if lot.chance(0.6):
        back = lot.front + lot.uniform(15, 50)
        greenery(lot, lot.block.start, lot.block.end, back, back + 6, 3.0, 4.0)


def thicket(lot: Lot) -> None:
    """Undergrowth close to the road, trees behind."""
    near = lot.front + lot.uniform(0.3, 3.0)
    at = lot.block.start
    while at < lot.block.end - 3.0:
        length = min(lot.uniform(5.0, 10.0), lot.block.end - at)
        if lot.chance(0.88):
            mesh = plants.thicket(lot.rng, length, lot.uniform(2.5, 6.0), lot.uniform(1.0, 3.5))
            lot.drape(mesh, at + length / 2, near + lot.uniform(0, 1.0))
        at += length
    greenery(lot, lot.block.start, lot.block.end, near + 2, near + 22, 1.6, 1.0)


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
    kind = str(lot.rng.choice(["wall", "hedge", "mesh"], p=[0.5, 0.35, 0.15]))
    height = lot.uniform(1.5, 2.8)
    for s in np.arange(lot.block.start + 4, lot.block.end - 3.9, 8.0):
        _piece(lot, kind, float(s), lot.front + 0.3, 8.0, height)
    greenery(lot, lot.block.start, lot.block.end, lot.front + 2, lot.front + 24, 0.8, 0.8)


KINDS: dict[str, Callable[[Lot], None]] = {
    "terrace": terrace,
    "detached": detached,
    "park": park,
    "meadow": meadow,
    "thicket": thicket,
    "car_park": car_park,
    "works": works,
    "walled": walled,
}


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
    spacing = lot.uniform(22, 45)
    while at < lot.block.end - 1:
        lot.put(furniture.lamp(lot.rng), at, near + 0.35, np.pi if lot.sign > 0 else 0.0)
        at += spacing
    trees = lot.uniform(7, 16) if lot.chance(0.35) and far - near > 1.2 else 0.0
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
    if lot.chance(0.12):
        lot.drape(furniture.bollards(lot.rng, lot.span * 0.6), lot.block.start + lot.span / 2, near + 0.25)
    _people(lot, near, far)


def _parked(lot: Lot, parking: float) -> None:
    middle = lot.block.half + parking / 2 if parking else lot.block.half + lot.uniform(0.0, 0.4)
    share = lot.uniform(0.3, 0.95) if parking else (lot.uniform(0.15, 0.7) if lot.chance(0.35) else 0.0)
    at = lot.block.start + lot.uniform(1.0, 4.0)
    while share and at < lot.block.end - 3:
        pick = float(lot.rng.random())
        make = vehicles.truck if pick < 0.03 else vehicles.trailer if pick < 0.06 else vehicles.car
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

    for _ in range(int(lot.rng.poisson(lot.span / 28))):
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
