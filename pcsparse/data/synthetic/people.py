"""Persons, bicycles, motorcycles and their riders. Local frame: x forward, z = 0 ground."""

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic.arrays import Floats
from pcsparse.data.synthetic.materials import FRAME, SKIN, TYRE, Surface
from pcsparse.data.synthetic.mesh import Mesh, blob, box, join, quads, tube

PERSON, BICYCLIST, MOTORCYCLIST = 30, 31, 32
BICYCLE, MOTORCYCLE = 11, 15


def _vec(*values: float) -> Floats:
    return np.array(values, np.float64)


def person(rng: Generator) -> Mesh:
    """A standing or walking person of 1.1 to 1.95 m, raw class 30."""
    height = float(rng.uniform(1.55, 1.95)) if rng.random() < 0.9 else float(rng.uniform(1.1, 1.4))
    s = height / 1.75
    stride = float(rng.uniform(0.0, 0.32))
    swing = float(rng.uniform(-0.1, 0.25))
    trousers = SKIN.tinted(float(rng.uniform(0.4, 1.2)))
    coat = SKIN.tinted(float(rng.uniform(0.4, 1.5)))
    parts = [tube(_vec(0, 0, 0.82), _vec(0, 0, 1.45), (0.15, 0.19), coat)]
    for side in (-1.0, 1.0):
        hip, foot = _vec(0, side * 0.09, 0.85), _vec(side * stride, side * 0.11, 0.05)
        parts.append(tube(foot, hip, (0.06, 0.09), trousers, sides=6))
        parts.append(box((side * stride + 0.05, side * 0.11, 0.04), (0.26, 0.1, 0.08), trousers))
        hand = _vec(-side * swing, side * 0.28, 0.85)
        parts.append(tube(hand, _vec(0, side * 0.21, 1.42), (0.04, 0.06), coat, sides=6))
    parts.append(blob(_vec(0, 0, 1.62), _vec(0.10, 0.09, 0.13), SKIN))
    if rng.random() < 0.3:
        parts.append(box((-0.22, 0, 1.2), (0.16, 0.28, 0.42), coat))
    mesh = join(parts)
    return mesh.with_corners(mesh.corners * s)


def _ring(centre: Floats, radius: float, surface: Surface, width: float = 0.03) -> Mesh:
    """A wheel's tyre as a flat ring in the x-z plane and a hoop across it."""
    angle = np.linspace(0, 2 * np.pi, 17)
    rim = np.stack([np.cos(angle), np.zeros(17), np.sin(angle)], 1)
    outer, inner = centre + rim * radius, centre + rim * (radius - 0.045)
    across = _vec(0, width / 2, 0)
    flat = np.stack([outer[:-1], outer[1:], inner[1:], inner[:-1]], 1)
    hoop = np.stack([outer[:-1] - across, outer[1:] - across, outer[1:] + across, outer[:-1] + across], 1)
    return quads(np.concatenate([flat, hoop]), surface)


def bicycle(rng: Generator) -> Mesh:
    """A bicycle of about 1.75 m, raw class 11."""
    s = float(rng.uniform(0.92, 1.05))
    metal, rubber = FRAME, TYRE.of(BICYCLE)
    rear, front = _vec(-0.52, 0, 0.34), _vec(0.55, 0, 0.34)
    saddle, head, crank = _vec(-0.22, 0, 0.82), _vec(0.36, 0, 0.86), _vec(-0.08, 0, 0.32)
    lines = [(rear, crank), (crank, head), (crank, saddle), (saddle, head), (rear, saddle), (front, head)]
    parts = [tube(a, b, (0.022, 0.022), metal, sides=5) for a, b in lines]
    parts += [_ring(rear, 0.34, rubber), _ring(front, 0.34, rubber)]
    parts.append(box((-0.24, 0, 0.92), (0.26, 0.14, 0.07), rubber))
    parts.append(tube(saddle, saddle + _vec(-0.02, 0, 0.1), (0.02, 0.02), metal, sides=5))
    parts.append(tube(_vec(0.32, -0.29, 1.02), _vec(0.32, 0.29, 1.02), (0.02, 0.02), metal, sides=5))
    parts.append(tube(head, _vec(0.33, 0, 1.03), (0.02, 0.02), metal, sides=5))
    if rng.random() < 0.4:
        parts.append(box((0.52, 0, 0.9), (0.3, 0.34, 0.24), metal))
    mesh = join(parts).with_semantic(BICYCLE)
    return mesh.with_corners(mesh.corners * s)


def motorcycle(rng: Generator) -> Mesh:
    """A motorcycle or a scooter of about 2 m, raw class 15."""
    paint = FRAME.tinted(float(rng.uniform(0.2, 2.0)))
    parts = [
        tube(_vec(x, -0.07, 0.31), _vec(x, 0.07, 0.31), (0.31, 0.31), TYRE, sides=12) for x in (-0.68, 0.70)
    ]
    parts += [
        box((0.0, 0, 0.50), (0.75, 0.30, 0.36), paint),
        box((0.18, 0, 0.80), (0.50, 0.30, 0.26), paint),
        box((-0.42, 0, 0.80), (0.75, 0.28, 0.12), TYRE),
        box((-0.80, 0, 0.72), (0.30, 0.20, 0.14), paint),
        tube(_vec(0.70, 0, 0.31), _vec(0.46, 0, 1.0), (0.05, 0.05), paint, sides=6),
        tube(_vec(0.42, -0.36, 1.04), _vec(0.42, 0.36, 1.04), (0.025, 0.025), paint, sides=5),
        box((0.60, 0, 0.92), (0.16, 0.30, 0.34), paint),
    ]
    if rng.random() < 0.4:
        parts.append(box((-0.85, 0, 1.0), (0.36, 0.4, 0.32), paint))
    return join(parts).with_semantic(MOTORCYCLE)


def _rider(rng: Generator, lean: float, seat: float, foot: float) -> Mesh:
    coat, trousers = SKIN.tinted(float(rng.uniform(0.4, 1.5))), SKIN.tinted(float(rng.uniform(0.4, 1.2)))
    hip, neck = _vec(-0.25, 0, seat), _vec(-0.25 + lean, 0, seat + 0.56)
    parts = [
        tube(hip, neck, (0.16, 0.19), coat),
        blob(neck + _vec(0.06, 0, 0.2), _vec(0.13, 0.11, 0.14), SKIN),
    ]
    for side in (-1.0, 1.0):
        knee = _vec(0.16, side * 0.14, seat - 0.22 + side * 0.1)
        parts.append(tube(_vec(-0.25, side * 0.1, seat), knee, (0.09, 0.07), trousers, sides=6))
        parts.append(tube(knee, _vec(-0.02, side * 0.14, foot + side * 0.1), (0.06, 0.05), trousers, sides=6))
        grip = _vec(0.34, side * 0.27, 1.03)
        parts.append(tube(neck + _vec(0, side * 0.18, -0.06), grip, (0.06, 0.04), coat, sides=6))
    return join(parts)


def bicyclist(rng: Generator) -> Mesh:
    """A person on a bicycle, both raw class 31, as SemanticKITTI labels them."""
    return join([bicycle(rng), _rider(rng, float(rng.uniform(0.12, 0.38)), 0.95, 0.2)]).with_semantic(
        BICYCLIST
    )


def motorcyclist(rng: Generator) -> Mesh:
    """A person on a motorcycle, both raw class 32."""
    return join([motorcycle(rng), _rider(rng, float(rng.uniform(0.1, 0.3)), 0.88, 0.35)]).with_semantic(
        MOTORCYCLIST
    )
