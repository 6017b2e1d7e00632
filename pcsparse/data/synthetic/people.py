"""Persons on foot and seated; those who ride come from `two_wheelers`.

Local frame: x forward, z = 0 ground.
"""

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic.body import Dress, draw_dress, figure, sitting, vec, walking
from pcsparse.data.synthetic.materials import FRAME, TYRE
from pcsparse.data.synthetic.mesh import Mesh, boxes, join, tubes
from pcsparse.data.synthetic.two_wheelers import bicycle as bicycle
from pcsparse.data.synthetic.two_wheelers import bicyclist as bicyclist
from pcsparse.data.synthetic.two_wheelers import motorcycle as motorcycle
from pcsparse.data.synthetic.two_wheelers import motorcyclist as motorcyclist

PERSON = 30


def _size(rng: Generator) -> float:
    """Height relative to 1.75 m: grown-ups of 1.5 to 1.95 m, one in eight a child of 1.0 to 1.45 m."""
    if rng.random() < 0.12:
        return float(rng.uniform(1.0, 1.45)) / 1.75
    return float(np.clip(rng.normal(1.72, 0.09), 1.5, 1.95)) / 1.75


def person(rng: Generator, phase: float | None = None) -> Mesh:
    """A standing or walking person of 1.0 to 1.95 m, raw class 30.

    Args:
        rng: random numbers.
        phase: of the step, 0 to 1; random if None.
    """
    return _posed(rng, 0.0 if rng.random() < 0.3 else float(rng.uniform(0.5, 1.1)), phase)


def walker(rng: Generator, phase: float | None = None) -> Mesh:
    """A person who walks: like `person`, and never stands."""
    return _posed(rng, float(rng.uniform(0.6, 1.1)), phase)


def _posed(rng: Generator, stride: float, phase: float | None) -> Mesh:
    # drawn in any case, so that clothes do not depend on the pose
    own = float(rng.random())
    dress = draw_dress(rng)
    mesh = join([figure(walking(own if phase is None else phase, stride), dress), _carried(rng, dress)])
    return mesh.with_corners(mesh.corners * _size(rng)).with_semantic(PERSON)


def _carried(rng: Generator, dress: Dress) -> Mesh:
    """A rucksack, a bag, an umbrella, a pram, a suitcase, or nothing."""
    match str(
        rng.choice(
            ["none", "rucksack", "bag", "umbrella", "pram", "case"], p=[0.5, 0.17, 0.17, 0.05, 0.06, 0.05]
        )
    ):
        case "rucksack":
            return boxes(vec(-0.22, 0, 1.2)[None], vec(0.17, 0.3, 0.44)[None], dress.coat.tinted(0.7))
        case "bag":
            side = float(rng.choice([-1, 1]))
            return boxes(vec(0.03, side * 0.3, 0.62)[None], vec(0.32, 0.12, 0.3)[None], dress.trousers)
        case "umbrella":
            top, stick = vec(0.12, 0.1, 2.1), vec(0.12, 0.1, 1.15)
            pole = tubes(stick[None], top[None], np.array([[0.012, 0.012]]), dress.coat, sides=4)
            return join(
                [
                    pole,
                    tubes(
                        (top - vec(0, 0, 0.22))[None],
                        top[None],
                        np.array([[0.52, 0.04]]),
                        dress.coat,
                        sides=9,
                    ),
                ]
            )
        case "pram":
            hubs = np.array([[x, y, 0.13] for x in (0.65, 1.15) for y in (-0.24, 0.24)])
            return join(
                [
                    boxes(
                        np.array([[0.92, 0, 0.68], [1.02, 0, 0.95]]),
                        np.array([[0.75, 0.4, 0.3], [0.4, 0.42, 0.3]]),
                        dress.coat,
                    ),
                    tubes(
                        hubs - vec(0, 0.03, 0), hubs + vec(0, 0.03, 0), np.full((4, 2), 0.13), TYRE, sides=8
                    ),
                    tubes(
                        hubs,
                        hubs * np.array([0.4, 1, 0]) + np.array([0.55, 0, 0.6]),
                        np.full((4, 2), 0.015),
                        FRAME,
                        sides=4,
                    ),
                    tubes(
                        np.array([[0.6, -0.2, 0.75], [0.6, 0.2, 0.75]]),
                        np.array([[0.3, -0.2, 1.0], [0.3, 0.2, 1.0]]),
                        np.full((2, 2), 0.015),
                        FRAME,
                        sides=4,
                    ),
                ]
            )
        case "case":
            return boxes(vec(-0.3, 0.3, 0.35)[None], vec(0.25, 0.42, 0.6)[None], dress.trousers)
        case _:
            return join([])


def sitter(rng: Generator, seat: float = 0.42) -> Mesh:
    """A person who sits at x = 0 on a seat `seat` metres high, raw class 30."""
    return figure(sitting(seat), draw_dress(rng)).with_semantic(PERSON)
