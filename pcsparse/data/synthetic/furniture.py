"""Things on pavements and squares: other-object (raw 99) and other-structure (raw 52).

Both are left out of training and of scores; they hide parts of what counts.
Poles, signs and fences come from `poles` and `fences`. Local frame: x along the street, z = 0 ground.
"""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic.fences import gate as gate
from pcsparse.data.synthetic.fences import guard_rail as guard_rail
from pcsparse.data.synthetic.fences import jersey_barrier as jersey_barrier
from pcsparse.data.synthetic.fences import mesh_fence as mesh_fence
from pcsparse.data.synthetic.fences import noise_wall as noise_wall
from pcsparse.data.synthetic.fences import picket_fence as picket_fence
from pcsparse.data.synthetic.fences import railing as railing
from pcsparse.data.synthetic.fences import wall as wall
from pcsparse.data.synthetic.materials import LEAVES, OBJECT, WINDOW, Material, Surface
from pcsparse.data.synthetic.mesh import Mesh, blob, box, boxes, join, triangles, tube, tubes
from pcsparse.data.synthetic.poles import bollards as bollards
from pcsparse.data.synthetic.poles import delineators as delineators
from pcsparse.data.synthetic.poles import gantry as gantry
from pcsparse.data.synthetic.poles import lamp as lamp
from pcsparse.data.synthetic.poles import sign as sign
from pcsparse.data.synthetic.poles import traffic_light as traffic_light

STRUCTURE = 52


def _shade(rng: Generator) -> Surface:
    value = float(np.clip(0.25 * rng.lognormal(0.0, 0.7), 0.02, 0.8))
    return Surface(OBJECT.semantic, Material.METAL if rng.random() < 0.5 else Material.PLASTER, value)


def clutter(rng: Generator) -> Mesh:
    """Something at random of what stands about, raw 99."""
    makers, shares = list(_CLUTTER), np.array(list(_CLUTTER.values()))
    return makers[int(rng.choice(len(makers), p=shares / shares.sum()))](rng)


def bins(rng: Generator) -> Mesh:
    """One to five wheeled bins with lids, or a litter bin."""
    count = int(rng.choice([1, 2, 3, 5], p=[0.4, 0.3, 0.2, 0.1]))
    high, surface = float(rng.uniform(0.9, 1.15)), _shade(rng)
    x = np.arange(count) * 0.68
    turn = rng.normal(0, 0.05, count)
    body = np.stack([x, turn, 0 * x + 0.5 * high], 1)
    lids = np.stack([x, turn - 0.03, 0 * x + high + 0.03], 1)
    return join(
        [
            boxes(body, np.tile([0.55, 0.62, high], (count, 1)), surface),
            boxes(lids, np.tile([0.6, 0.7, 0.07], (count, 1)), surface.tinted(0.8)),
        ]
    )


def container(rng: Generator) -> Mesh:
    """A skip, a bottle bank or a site container."""
    size = ((3.4, 1.7, 1.4), (1.3, 1.2, 1.7), (6.0, 2.4, 2.6))[int(rng.choice(3, p=[0.35, 0.45, 0.2]))]
    return box((0, 0, size[2] / 2), size, _shade(rng))


def cabinet(rng: Generator) -> Mesh:
    """A cabinet of the telephone or power company."""
    high = float(rng.uniform(0.8, 1.7))
    return box((0, 0, high / 2), (float(rng.uniform(0.4, 1.5)), 0.4, high), _shade(rng))


def bench(rng: Generator) -> Mesh:
    """A bench, some with a table before it."""
    surface = _shade(rng)
    parts = [
        boxes(
            np.array([[0, 0, 0.45], [0, 0.22, 0.72], [-0.65, 0.02, 0.21], [0.65, 0.02, 0.21]]),
            np.array([[1.6, 0.42, 0.05], [1.6, 0.05, 0.36], [0.07, 0.4, 0.42], [0.07, 0.4, 0.42]]),
            surface,
        )
    ]
    if rng.random() < 0.3:
        parts.append(
            boxes(
                np.array([[0, -0.6, 0.74], [0, -0.6, 0.37]]),
                np.array([[1.5, 0.7, 0.05], [0.3, 0.3, 0.7]]),
                surface,
            )
        )
    return join(parts)


def column(rng: Generator) -> Mesh:
    """An advertising column, a planter, a stone or a hydrant: round and upright."""
    radius, high = ((0.65, 3.0), (0.45, 0.55), (0.12, 0.85), (0.3, 0.4))[
        int(rng.choice(4, p=[0.2, 0.3, 0.3, 0.2]))
    ]
    surface = _shade(rng).tinted(1.3)
    foot, top = np.array([0, 0, -0.1]), np.array([0, 0, high])
    parts = [tube(foot, top, (radius, radius), surface, sides=14)]
    if high > 2:
        parts.append(tube(top, top + np.array([0, 0, 0.3]), (radius * 1.12, radius * 0.4), surface, sides=14))
    return join(parts)


def booth(rng: Generator) -> Mesh:
    """A telephone booth, a ticket machine or a post box."""
    surface = _shade(rng)
    if rng.random() < 0.4:
        posts = np.array([[x, y, 1.1] for x in (-0.43, 0.43) for y in (-0.43, 0.43)])
        pane = Surface(OBJECT.semantic, Material.GLASS, WINDOW.reflectivity)
        return join(
            [
                boxes(posts, np.tile([0.07, 0.07, 2.2], (4, 1)), surface),
                box((0, 0, 2.25), (0.95, 0.95, 0.15), surface),
                boxes(
                    np.array([[0, 0.43, 1.2], [0.43, 0, 1.2]]),
                    np.array([[0.8, 0.02, 1.8], [0.02, 0.8, 1.8]]),
                    pane,
                ),
            ]
        )
    high = float(rng.uniform(1.1, 1.8))
    return join(
        [box((0, 0, high - 0.35), (0.5, 0.35, 0.7), surface), box((0, 0, 0.5), (0.2, 0.2, 1.0), surface)]
    )


def board(rng: Generator) -> Mesh:
    """A poster on two legs, or a sandwich board of a shop."""
    surface = _shade(rng).tinted(1.4)
    if rng.random() < 0.4:
        return box((0, 0, 0.5), (0.6, 0.3, 1.0), surface)
    wide = float(rng.choice([1.3, 3.6]))
    legs = np.array([[s * 0.4 * wide, 0, 0] for s in (-1, 1)])
    posts = tubes(legs, legs + np.array([0, 0, 1.0]), np.full((2, 2), 0.05), surface, sides=6)
    return join([posts, box((0, 0, 1.7), (wide, 0.15, 1.8), surface)])


def cones(rng: Generator) -> Mesh:
    """Traffic cones and beacons of a building site."""
    count = int(rng.integers(2, 6))
    foot = np.stack(
        [np.arange(count) * float(rng.uniform(1.0, 2.5)), rng.normal(0, 0.15, count), np.zeros(count)], 1
    )
    surface = Surface(OBJECT.semantic, Material.RETRO, 0.6)
    if rng.random() < 0.5:
        return tubes(foot, foot + np.array([0, 0, 0.6]), np.tile([0.18, 0.03], (count, 1)), surface, sides=8)
    return boxes(foot + np.array([0, 0, 0.55]), np.tile([0.04, 0.25, 1.0], (count, 1)), surface)


def terrace_seats(rng: Generator) -> Mesh:
    """Tables and chairs before a café, some under a parasol."""
    surface, parts = _shade(rng), []
    for i in range(int(rng.integers(1, 4))):
        x = 1.9 * i
        at = np.array(
            [
                [x, 0, 0.72],
                [x, 0, 0.36],
                [x - 0.6, 0.1, 0.45],
                [x + 0.6, -0.1, 0.45],
                [x - 0.78, 0.1, 0.7],
                [x + 0.78, -0.1, 0.7],
            ]
        )
        size = np.array(
            [
                [0.7, 0.7, 0.04],
                [0.07, 0.07, 0.72],
                [0.42, 0.42, 0.04],
                [0.42, 0.42, 0.04],
                [0.04, 0.42, 0.45],
                [0.04, 0.42, 0.45],
            ]
        )
        parts.append(boxes(at, size, surface))
        if rng.random() < 0.35:
            top = np.array([x, 0, 2.5])
            parts.append(tube(np.array([x, 0, 0]), top, (0.025, 0.025), surface, sides=5))
            parts.append(tube(top - np.array([0, 0, 0.45]), top, (1.3, 0.05), surface, sides=8))
    return join(parts)


def statue(rng: Generator) -> Mesh:
    """A figure or a fountain on a plinth."""
    surface = Surface(OBJECT.semantic, Material.STONE, float(rng.uniform(0.15, 0.5)))
    high = float(rng.uniform(0.8, 1.8))
    lumps = [
        blob(np.array([*rng.normal(0, 0.12, 2), high + z]), np.array([0.3, 0.3, 0.4]), surface)
        for z in (0.3, 0.9, 1.4)
    ]
    return join([box((0, 0, high / 2), (1.0, 1.0, high), surface), *lumps])


def playground(rng: Generator) -> Mesh:
    """A frame with a slide and swings."""
    surface = _shade(rng)
    posts = np.array(
        [[x, y, 0.0] for x in (0, 1.4) for y in (0, 1.4)]
        + [[s, 0.7 + d, 0.0] for s in (3.0, 6.0) for d in (-0.8, 0.8)]
    )
    tops = np.concatenate([posts[:4] + np.array([0, 0, 2.4]), [[s, 0.7, 2.3] for s in (3.0, 3.0, 6.0, 6.0)]])
    parts = [tubes(posts, tops, np.full((8, 2), 0.06), surface, sides=6)]
    parts.append(tube(np.array([3.0, 0.7, 2.3]), np.array([6.0, 0.7, 2.3]), (0.05, 0.05), surface, sides=6))
    parts.append(
        boxes(
            np.array([[0.7, 0.7, 1.2], [4.0, 0.7, 0.5], [5.0, 0.7, 0.5]]),
            np.array([[1.4, 1.4, 0.1], [0.4, 0.2, 0.04], [0.4, 0.2, 0.04]]),
            surface,
        )
    )
    slide = np.array([[-1.8, 0.4, 0.1], [0, 0.4, 1.2], [0, 1.0, 1.2], [-1.8, 1.0, 0.1]])
    return join([*parts, triangles(slide[[[0, 1, 2], [0, 2, 3]]], surface)])


_CLUTTER: dict[Callable[[Generator], Mesh], float] = {
    bins: 0.30, cabinet: 0.17, bench: 0.13, column: 0.10, container: 0.06, booth: 0.07, board: 0.08,
    cones: 0.04, terrace_seats: 0.05,
}  # fmt: skip


def shelter(rng: Generator) -> Mesh:
    """A bus stop with a roof, glass on three sides and a bench, open towards -y; raw 52."""
    frame = Surface(STRUCTURE, Material.METAL, float(rng.uniform(0.1, 0.4)))
    glass = Surface(STRUCTURE, Material.GLASS, WINDOW.reflectivity)
    wide = float(rng.uniform(2.6, 4.5))
    posts = np.array([[x, y, 1.2] for x in (-wide / 2, 0, wide / 2) for y in (0.0, 1.4)])
    sides = np.array([[0, 1.4, 1.2], [-wide / 2, 0.7, 1.2], [wide / 2, 0.7, 1.2]])
    sizes = np.array([[wide, 0.02, 1.9], [0.02, 1.3, 1.9], [0.02, 1.3, 1.9]])
    return join(
        [
            boxes(posts, np.tile([0.08, 0.08, 2.4], (len(posts), 1)), frame),
            boxes(sides, sizes, glass),
            box((0, 0.65, 2.45), (wide + 0.4, 1.8, 0.12), frame),
            box((0, 1.1, 0.45), (0.7 * wide, 0.35, 0.06), frame),
        ]
    )


def scaffold(rng: Generator, length: float, height: float) -> Mesh:
    """A scaffold along x before a house, with decks and rails; raw 52."""
    metal = Surface(STRUCTURE, Material.METAL, float(rng.uniform(0.2, 0.5)))
    xs = np.arange(-length / 2, length / 2 + 0.1, 2.5)
    feet = np.array([[x, y, 0.0] for x in xs for y in (0.0, 0.8)])
    decks = np.arange(2.0, height, 2.0)
    at = np.stack([0 * decks, 0 * decks + 0.4, decks], 1)
    rails = np.array([[0, 0.0, z + up] for z in decks for up in (0.5, 1.0)])
    return join(
        [
            tubes(feet, feet + np.array([0, 0, height]), np.full((len(feet), 2), 0.03), metal, sides=5),
            boxes(at, np.tile([length, 0.7, 0.06], (len(decks), 1)), metal),
            boxes(rails, np.tile([length, 0.04, 0.04], (len(rails), 1)), metal),
        ]
    )


def planter(rng: Generator) -> Mesh:
    """A tub with a small plant: raw 99 and 70."""
    size = float(rng.uniform(0.5, 1.0))
    leaves = (
        rng.normal(size=(90, 3, 3)) * 0.06
        + rng.normal(size=(90, 1, 3)) * 0.18
        + np.array([0, 0, size + 0.25])
    )
    return join([box((0, 0, size / 2), (size, size, size), OBJECT), triangles(leaves, LEAVES)])
