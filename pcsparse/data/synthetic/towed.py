"""What is towed, and machines that build roads: raw class 20. Local frame: x forward, z = 0 ground.

Each maker gives a mesh and the (length, width) of the whole in metres.
"""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic.coachwork import PLASTIC, livery, plates, wheels
from pcsparse.data.synthetic.lorries import Sized
from pcsparse.data.synthetic.materials import CAR_GLASS
from pcsparse.data.synthetic.mesh import Mesh, box, boxes, join, quads, tube, tubes

TRAILER = 20


def trailer(rng: Generator) -> Sized:
    """A caravan, a box or an open trailer without a car, or a building machine; raw class 20."""
    make: Callable[[Generator], Sized] = (caravan, box_trailer, open_trailer, digger, roller)[
        int(rng.choice(5, p=[0.3, 0.25, 0.2, 0.15, 0.1]))
    ]
    return make(rng)


def _hitch(length: float) -> Mesh:
    ends = np.array([[length / 2, s, 0.45] for s in (-0.5, 0.5)]), np.array([[length / 2 + 1.1, 0, 0.45]] * 2)
    return tubes(*ends, np.full((2, 2), 0.04), PLASTIC, sides=5)


def caravan(rng: Generator) -> Sized:
    """A caravan of 4 to 6.5 m with its drawbar, raw class 20."""
    length, width, height = (
        float(rng.uniform(3.5, 5.8)),
        float(rng.uniform(2.0, 2.4)),
        float(rng.uniform(2.4, 2.65)),
    )
    coat = livery(rng).tinted(1.3)
    slope = np.array(
        [
            [-0.5, 0.45],
            [-0.47, 0.97],
            [-0.2, 1.0],
            [0.3, 1.0],
            [0.45, 0.9],
            [0.5, 0.55],
            [0.46, 0.2],
            [-0.46, 0.2],
        ]
    )
    left, right = (np.insert(slope * [length, height], 1, s * width / 2, axis=1) for s in (1, -1))
    rims = np.stack([left, right, np.roll(right, -1, 0), np.roll(left, -1, 0)], 1)
    sides = np.concatenate(
        [[rim[[0, 1, 2, 7]], rim[[7, 2, 3, 6]], rim[[6, 3, 4, 5]]] for rim in (left, right)]
    )
    window = boxes(
        np.array([[0.1 * length, s * width / 2, 1.6] for s in (-1, 1)]),
        np.array([[1.2, 0.03, 0.55]] * 2),
        CAR_GLASS,
    )
    parts = [
        quads(np.concatenate([rims, sides]), coat),
        window,
        _hitch(length),
        wheels([-0.05 * length], width / 2, 0.32),
    ]
    return join(parts).with_semantic(TRAILER), (length + 1.1, width)


def box_trailer(rng: Generator) -> Sized:
    """A closed trailer of 2.5 to 4.5 m, raw class 20."""
    length, width = float(rng.uniform(2.2, 4.2)), float(rng.uniform(1.4, 2.0))
    height = float(rng.uniform(1.5, 2.3))
    parts = [
        box((0, 0, 0.55 + (height - 0.55) / 2), (length, width, height - 0.55), livery(rng)),
        _hitch(length),
        wheels([-0.1 * length], width / 2 + 0.2, 0.3),
        plates(length, (0.5, 0.6)),
    ]
    return join(parts).with_semantic(TRAILER), (length + 1.1, width)


def open_trailer(rng: Generator) -> Sized:
    """A low trailer with side boards, empty or loaded, raw class 20."""
    length, width = float(rng.uniform(2.0, 3.5)), float(rng.uniform(1.2, 1.7))
    coat = livery(rng)
    walls = np.array([[0, 0.5, 0.75], [0, -0.5, 0.75], [0.5, 0, 0.75], [-0.5, 0, 0.75], [0, 0, 0.58]])
    sizes = np.array(
        [
            [length, 0.04, 0.4],
            [length, 0.04, 0.4],
            [0.04, width, 0.4],
            [0.04, width, 0.4],
            [length, width, 0.06],
        ]
    )
    parts = [
        boxes(walls * [length, width, 1], sizes, coat),
        _hitch(length),
        wheels([-0.05 * length], width / 2 + 0.18, 0.29),
    ]
    if rng.random() < 0.5:
        parts.append(box((0, 0, 0.9), (0.7 * length, 0.8 * width, float(rng.uniform(0.3, 0.8))), livery(rng)))
    return join(parts).with_semantic(TRAILER), (length + 1.1, width)


def digger(rng: Generator) -> Sized:
    """An excavator on tracks with its arm ahead, raw class 20."""
    coat = livery(rng)
    reach, lift = float(rng.uniform(2.0, 3.5)), float(rng.uniform(1.0, 2.2))
    elbow = np.array([1.2 + 0.5 * reach, 0.2, 1.6 + lift])
    parts = [
        boxes(np.array([[0, s * 0.95, 0.4] for s in (-1, 1)]), np.array([[2.8, 0.5, 0.8]] * 2), PLASTIC),
        box((-0.4, 0, 1.25), (2.2, 2.2, 0.8), coat),
        box((0.3, 0.55, 1.9), (1.1, 0.9, 1.5), coat.tinted(0.6)),
        tube(np.array([0.7, -0.2, 1.3]), elbow, (0.2, 0.15), coat, sides=6),
        tube(elbow, np.array([1.2 + reach, 0.2, 0.7]), (0.15, 0.1), coat, sides=6),
        box((1.2 + reach, 0.2, 0.45), (0.6, 0.8, 0.7), PLASTIC),
    ]
    return join(parts).with_semantic(TRAILER), (3.0 + reach, 2.4)


def roller(rng: Generator) -> Sized:
    """A road roller, raw class 20."""
    coat, radius = livery(rng), float(rng.uniform(0.5, 0.65))
    drums = (
        np.array([[x, -0.75, radius] for x in (-1.2, 1.2)]),
        np.array([[x, 0.75, radius] for x in (-1.2, 1.2)]),
    )
    posts = np.array([[x, y, 1.0] for x in (-0.5, 0.5) for y in (-0.6, 0.6)])
    parts = [
        tubes(*drums, np.full((2, 2), radius), PLASTIC, sides=14),
        box((0, 0, 1.05), (2.4, 1.2, 0.6), coat),
        tubes(posts, posts + np.array([0, 0, 1.5]), np.full((4, 2), 0.04), PLASTIC, sides=5),
        box((0, 0, 2.5), (1.4, 1.4, 0.08), coat),
    ]
    return join(parts).with_semantic(TRAILER), (2.4 + 2 * radius, 1.5)
