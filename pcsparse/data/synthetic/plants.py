"""Bushes, hedges, undergrowth, climbers and tall grass: raw class 70. Trees come from `trees`.

Local frame: x along, y away from the street, z = 0 ground.
"""

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic.arrays import Floats
from pcsparse.data.synthetic.foliage import cores, in_ball, leaves, skin
from pcsparse.data.synthetic.materials import LEAVES, Surface
from pcsparse.data.synthetic.mesh import Mesh, join, quads, triangles
from pcsparse.data.synthetic.trees import tree as tree


def _shade(rng: Generator) -> Surface:
    return LEAVES.tinted(float(rng.uniform(0.65, 1.25)))


def _grounded(mesh: Mesh) -> Mesh:
    """The mesh with what lies under the ground mirrored above it."""
    corners = mesh.corners.copy()
    corners[..., 2] = np.abs(corners[..., 2])
    return mesh.with_corners(corners)


def bush(rng: Generator, size: float, detail: float = 1.0) -> Mesh:
    """A bush about `size` metres high that stands on the ground; `detail` as for `tree`."""
    radii = np.array([rng.uniform(0.5, 0.9), rng.uniform(0.5, 0.9), 0.42]) * size
    count = int(rng.integers(5, 14))
    hearts = np.array([0, 0, 0.45 * size]) + in_ball(rng, count, 0.3) * radii * 0.75
    lumps = size * rng.uniform(0.18, 0.36, (count, 1)) * np.ones(3)
    surface = _shade(rng)
    # some are thin enough to look through
    dense = rng.random(count) < float(rng.choice([0.95, 0.6, 0.2], p=[0.55, 0.25, 0.2]))
    n_leaves = int(np.clip(180 * size**1.5, 70, 800) * detail)
    span = (0.07 + 0.035 * size) / float(np.sqrt(detail))
    places = skin(rng, hearts, lumps, n_leaves, 0.25)
    mesh = join([cores(rng, hearts[dense], 0.85 * lumps[dense], surface), leaves(rng, places, span, surface)])
    return _grounded(mesh)


def _crust(rng: Generator, length: float, height: float, depth: float, surface: Surface) -> Mesh:
    """The skin of a hedge along x, open below: a bumpy tunnel of cells of about 0.3 m with closed ends."""
    along = max(3, int(length / 0.3))
    upwards, across = max(2, int(height / 0.35)), max(2, int(depth / 0.35))
    rise, flat = np.linspace(0, 1, upwards + 1), np.linspace(-0.5, 0.5, across + 1)
    y = np.concatenate([np.full(upwards, -0.5), flat, np.full(upwards, 0.5)]) * depth
    z = np.concatenate([rise[:-1], np.ones(across + 1), rise[::-1][1:]]) * height
    x = np.linspace(-length / 2, length / 2, along + 1)
    grid = np.stack(np.broadcast_arrays(x[:, None], y[None], z[None]), -1).copy()
    grid += rng.normal(0, 0.045, grid.shape)
    grid[..., 2] = np.where(z[None] == 0, -0.1, np.maximum(grid[..., 2], 0.0))
    # long waves keep hedges from being boxes
    wave = 1 + 0.07 * np.sin(x * float(rng.uniform(0.6, 2.0)) + float(rng.uniform(0, 6)))[:, None]
    grid[..., 1] *= wave
    grid[..., 2] *= wave
    cells = np.stack([grid[:-1, :-1], grid[1:, :-1], grid[1:, 1:], grid[:-1, 1:]], 2)
    ends = [_fan(grid[0]), _fan(grid[-1])]
    return join([quads(cells.reshape(-1, 4, 3), surface), *(triangles(end, surface) for end in ends)])


def _fan(rim: Floats) -> Floats:
    heart = np.broadcast_to(rim.mean(0), (len(rim) - 1, 3))
    return np.stack([heart, rim[:-1], rim[1:]], 1)


def hedge(rng: Generator, length: float, height: float, depth: float) -> Mesh:
    """A clipped hedge along x, centred: a skin that no pulse crosses, rough with leaves and twigs."""
    surface = _shade(rng)
    area = 2 * height * length + length * depth
    count = int(min(24 * area, 1400))
    x = rng.uniform(-length / 2, length / 2, count)
    around = rng.uniform(0, 2 * height + depth, count)
    left, right = around < height, around > height + depth
    y = np.where(left, -depth / 2, np.where(right, depth / 2, around - height - depth / 2))
    z = np.where(left, around, np.where(right, 2 * height + depth - around, height))
    out = rng.normal(0.02, 0.06, count)
    y = y + np.where(left, -1.0, np.where(right, 1.0, 0.0)) * out
    z = z + np.where(left | right, 0.0, 1.0) * out + (rng.random(count) < 0.03) * 0.2
    places = np.stack([x, y, np.maximum(z, 0.02)], 1)
    crust = _crust(rng, length, 0.97 * height, 0.94 * depth, surface)
    return join([crust, leaves(rng, places, 0.11, surface)])


def thicket(rng: Generator, length: float, depth: float, height: float) -> Mesh:
    """Undergrowth: ragged shrubs along x and `depth` metres away from y = 0, rising towards the back."""
    area = length * depth
    hills = int(np.clip(2.2 * area / (0.4 + 0.25 * height) ** 2, 6, 64))
    back = rng.random(hills)
    tall = height * np.clip(rng.normal(1.0, 0.35, hills), 0.25, 1.6) * (0.3 + 0.7 * np.sqrt(back))
    wide = np.clip(0.45 * tall * rng.uniform(0.7, 1.4, hills), 0.18, 0.9)
    x = rng.uniform(-length / 2, length / 2, hills)
    # every shrub is a lump on its top and, where it is tall, another under it
    tops = np.stack([x, back * depth, np.maximum(tall - wide, 0.3 * tall)], 1)
    feet = tops * [1, 1, 0.45] + rng.normal(0, 0.2, tops.shape) * [1, 1, 0.3]
    hearts, radii = np.concatenate([tops, feet]), np.tile(wide[:, None], (2, 3))
    surface = _shade(rng)
    dense = rng.random(len(hearts)) < float(rng.uniform(0.45, 0.95))
    count = int(min(20 * area * np.sqrt(height), 1300))
    places = skin(rng, hearts, radii, count, 0.3)
    span = float(rng.uniform(0.11, 0.17))
    mesh = join([cores(rng, hearts[dense], 0.85 * radii[dense], surface), leaves(rng, places, span, surface)])
    return _grounded(mesh)


def climber(rng: Generator, width: float, height: float) -> Mesh:
    """Ivy or wine on a wall in the plane y = 0 (street side y < 0), x from 0 to `width`."""
    count = int(min(60 * width * height, 1200))
    patches = rng.uniform(0, 1, (max(2, int(width * height / 2)), 2)) * [width, 0.8 * height]
    owner = rng.integers(0, len(patches), count)
    place = patches[owner] + rng.normal(0, 0.45, (count, 2))
    place = np.clip(place, 0.0, [width, height])
    out = -0.03 - rng.exponential(0.07, count)
    return leaves(rng, np.stack([place[:, 0], out, place[:, 1]], 1), 0.14, _shade(rng))


def tall_grass(rng: Generator, length: float, depth: float, height: float) -> Mesh:
    """Blades of `height` metres in tufts, along x and `depth` metres away from y = 0."""
    tufts = int(np.clip(5 * length * depth, 4, 160))
    roots = np.stack(
        [rng.uniform(-0.5, 0.5, tufts) * length, rng.random(tufts) * depth, 0 * np.ones(tufts)], 1
    )
    owner = np.repeat(np.arange(tufts), 9)
    foot = roots[owner] + rng.normal(0, 0.09, (len(owner), 3)) * [1, 1, 0]
    tall = height * rng.uniform(0.5, 1.2, tufts)[owner] * rng.uniform(0.6, 1.1, len(owner))
    tip = foot + rng.normal(0, 0.22, (len(owner), 3)) * tall[:, None] * [1, 1, 0] + [0, 0, 1] * tall[:, None]
    side = rng.normal(0, 1, (len(owner), 3)) * [1, 1, 0]
    side *= 0.03 / np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-6)
    return triangles(np.stack([foot - side, foot + side, tip], 1), _shade(rng))
