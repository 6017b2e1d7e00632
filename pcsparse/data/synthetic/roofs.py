"""Roofs with their dormers and chimneys. Local frame: the house stands on x 0 to width, y 0 to depth."""

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic.arrays import Floats
from pcsparse.data.synthetic.materials import Surface
from pcsparse.data.synthetic.mesh import Mesh, box, join, quads, triangles


def roof(rng: Generator, width: float, depth: float, height: float, wall: Surface) -> Mesh:
    """A flat, gable, hipped or mansard roof over walls of `height` metres; tiles are darker than the wall."""
    tiles = wall.tinted(float(rng.uniform(0.35, 0.9)))
    rise = float(rng.uniform(0.22, 0.5)) * min(depth, width)
    match str(rng.choice(["flat", "along", "across", "hip", "mansard"], p=[0.22, 0.42, 0.14, 0.14, 0.08])):
        case "flat":
            return _flat(width, depth, height, wall)
        case "along":
            slopes = gable(width, depth, height, rise, tiles, wall)
            return join([slopes, _dormers(rng, width, depth, height, rise, tiles)])
        case "across":
            return _turned(gable(depth, width, height, rise, tiles, wall))
        case "hip":
            return _pyramid(width, depth, height, rise, 0.5 * min(width, depth) * 0.96, tiles)
        case _:
            steep = _pyramid(width, depth, height, 2.4, 0.9, tiles)
            return join([steep, _dormers(rng, width, depth, height, 2.4, wall)])


def _turned(mesh: Mesh) -> Mesh:
    """The mesh with x and y exchanged."""
    return mesh.with_corners(mesh.corners[..., [1, 0, 2]])


def _flat(width: float, depth: float, height: float, wall: Surface) -> Mesh:
    lid = np.array([[0, 0, height], [width, 0, height], [width, depth, height], [0, depth, height]])
    edge = height + 0.2
    return join(
        [
            quads(lid[None], wall),
            box((width / 2, -0.05, edge), (width + 0.2, 0.3, 0.5), wall),
            box((width / 2, depth + 0.05, edge), (width + 0.2, 0.3, 0.5), wall),
        ]
    )


def gable(width: float, depth: float, height: float, rise: float, tiles: Surface, wall: Surface) -> Mesh:
    """A gable roof with its ridge along x and eaves of 0.4 m."""
    low = height - 0.1
    a, b = np.array([-0.2, -0.4, low]), np.array([width + 0.2, -0.4, low])
    c, d = np.array([width + 0.2, depth + 0.4, low]), np.array([-0.2, depth + 0.4, low])
    e, f = np.array([-0.2, depth / 2, height + rise]), np.array([width + 0.2, depth / 2, height + rise])
    ends = np.array([[a, d, e], [b, c, f]]) + np.array([[[0.2, 0, 0]], [[-0.2, 0, 0]]])
    return join([quads(np.array([[a, b, f, e], [d, c, f, e]]), tiles), triangles(ends, wall)])


def _pyramid(width: float, depth: float, height: float, rise: float, inset: float, tiles: Surface) -> Mesh:
    """Four slopes that climb by `rise` over `inset` metres, and a flat top."""

    def rim(step: float, z: float) -> Floats:
        x, y = width - step, depth - step
        return np.array([[step, step, z], [x, step, z], [x, y, z], [step, y, z]])

    low, high = rim(-0.3, height - 0.1), rim(inset, height + rise)
    slopes = np.stack([low, np.roll(low, -1, 0), np.roll(high, -1, 0), high], 1)
    return quads(np.concatenate([slopes, high[None]]), tiles)


def _dormers(rng: Generator, width: float, depth: float, height: float, rise: float, wall: Surface) -> Mesh:
    parts = []
    if rng.random() < 0.5:
        for x in np.arange(1.8, width - 1.2, float(rng.uniform(2.6, 4.5))):
            place = (float(x), 0.25 * depth, height + 0.35 * rise)
            parts.append(box(place, (1.5, 0.36 * depth, 0.8 * rise), wall))
    if rng.random() < 0.6:
        at = float(rng.uniform(0.2, 0.8)) * width, float(rng.uniform(0.35, 0.65)) * depth
        parts.append(box((*at, height + rise), (0.6, 0.5, 1.6), wall))
    return join(parts)
