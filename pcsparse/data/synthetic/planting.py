"""Rows and beds: hedges, walls and fences along the street, trees and bushes at random."""

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic import furniture, plants
from pcsparse.data.synthetic.lot import Lot
from pcsparse.data.synthetic.mesh import Mesh


def boundary(lot: Lot, start: float, end: float, t: float) -> None:
    """A hedge, shrubs, a wall or a fence along the street, in pieces with gates between them."""
    kinds, shares = (
        ["hedge", "shrubs", "wall", "picket", "mesh", "none"],
        [0.26, 0.19, 0.25, 0.16, 0.10, 0.04],
    )
    kind = str(lot.rng.choice(kinds, p=shares))
    # most front gardens are enclosed below eye level
    height = lot.uniform(0.5, 1.4) if lot.chance(0.8) else lot.uniform(1.4, 2.3)
    at = start
    while at < end - 2.0 and kind != "none":
        length = min(lot.uniform(4.0, 9.0), end - at)
        if not lot.chance(0.08):
            piece(lot, kind, at + length / 2, t, length, height)
        gap = lot.uniform(1.0, 3.0) if lot.chance(0.2) else 0.0
        if gap > 1.5 and kind != "shrubs" and lot.chance(0.5):
            leaf = furniture.gate(lot.rng, gap, min(height, 1.6))
            lot.drape(leaf, at + length + gap / 2, t + 0.2)
        at += length + gap


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
    if lot.remote:
        trees, bushes = 0.7 * trees, 0.3 * bushes
    grown = lot.rng.poisson([min(trees * area, 40), min(bushes * area, 60)])
    for count, make in zip(grown.tolist(), (_tree, _bush), strict=True):
        s, t = lot.rng.uniform(start, end, count), lot.rng.uniform(near, max(near, far), count)
        lot.scatter(make, s, t)


def _tree(rng: Generator, fine: float) -> Mesh:
    return plants.tree(rng, fine)


def _bush(rng: Generator, fine: float) -> Mesh:
    return plants.bush(rng, float(np.clip(rng.lognormal(0.3, 0.5), 0.4, 3.8)), fine)
