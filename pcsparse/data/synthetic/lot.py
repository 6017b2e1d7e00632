"""One side of one block while it is being built: how things get their place, and rows of green and fence."""

from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic import furniture, plants
from pcsparse.data.synthetic.ground import Block
from pcsparse.data.synthetic.mesh import Mesh, yaw_rotation
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
        self.meshes.append(placed.moved(yaw_rotation(turn), np.array([float(x), float(y), z])))
        return True


def boundary(lot: Lot, start: float, end: float, t: float) -> None:
    """A hedge, shrubs, a wall or a fence along the street, in pieces with gates between them."""
    kinds, shares = (
        ["hedge", "shrubs", "wall", "picket", "mesh", "none"],
        [0.30, 0.24, 0.18, 0.12, 0.07, 0.09],
    )
    kind = str(lot.rng.choice(kinds, p=shares))
    height = lot.uniform(0.7, 2.3)
    at = start
    while at < end - 2.0 and kind != "none":
        length = min(lot.uniform(4.0, 9.0), end - at)
        if not lot.chance(0.08):
            piece(lot, kind, at + length / 2, t, length, height)
        at += length + (lot.uniform(1.0, 3.5) if lot.chance(0.35) else 0.0)


def piece(lot: Lot, kind: str, s: float, t: float, length: float, height: float) -> None:
    """A stretch of hedge, wall, picket or mesh along the street, centred at s."""
    match kind:
        case "hedge":
            depth = lot.uniform(0.5, 1.2)
            lot.drape(plants.hedge(lot.rng, length, height, depth), s, t + depth / 2)
        case "shrubs":
            lot.drape(plants.thicket(lot.rng, length, lot.uniform(0.8, 2.2), 0.9 * height), s, t)
        case "wall":
            lot.drape(furniture.wall(lot.rng, length, 0.8 * height), s, t + 0.2)
        case "picket":
            lot.drape(furniture.picket_fence(lot.rng, length, min(height, 1.5)), s, t + 0.1)
        case _:
            lot.drape(furniture.mesh_fence(lot.rng, length, height), s, t + 0.1)


def greenery(
    lot: Lot, start: float, end: float, near: float, far: float, trees: float, bushes: float
) -> None:
    """Trees and bushes at random.

    Args:
        lot: the side being built.
        start: metres along the street.
        end: metres along the street.
        near: metres from the middle of the road.
        far: metres from the middle of the road.
        trees: how many per 100 square metres.
        bushes: how many per 100 square metres.
    """
    area = max(0.0, end - start) * max(0.0, far - near) / 100.0
    for _ in range(int(lot.rng.poisson(min(trees * area, 40)))):
        t = lot.uniform(near, far)
        lot.put(plants.tree(lot.rng, detail(t)), lot.uniform(start, end), t, lot.uniform(0, 6.3))
    for _ in range(int(lot.rng.poisson(min(bushes * area, 60)))):
        t = lot.uniform(near, far)
        mesh = plants.bush(lot.rng, lot.uniform(0.5, 2.6), detail(t))
        lot.put(mesh, lot.uniform(start, end), t, lot.uniform(0, 6.3))


def detail(t: float) -> float:
    """How finely a plant `t` metres from the road is drawn: 1 up to 12 m, then less, since beams spread."""
    return float(np.clip(12.0 / max(t, 1.0), 0.22, 1.0))
