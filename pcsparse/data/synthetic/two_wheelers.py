"""Bicycles, motorcycles, scooters, alone and ridden. Local frame: x forward, z = 0 ground.

A rider and what is ridden are one thing of one class, as SemanticKITTI labels them.
"""

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic.arrays import Floats
from pcsparse.data.synthetic.body import Joints, draw_dress, figure, vec
from pcsparse.data.synthetic.materials import FRAME, TYRE, Material, Surface
from pcsparse.data.synthetic.mesh import Mesh, boxes, join, quads, tubes

BICYCLE, MOTORCYCLE, BICYCLIST, MOTORCYCLIST = 11, 15, 31, 32
_CRANK, _AXLE = vec(-0.08, 0, 0.29), 0.17
_REFLECTOR = Surface(BICYCLE, Material.RETRO, 0.7)


def _ring(centre: Floats, radius: float, surface: Surface, width: float = 0.035) -> Mesh:
    """A wheel's tyre as a flat ring in the x-z plane and a hoop across it."""
    angle = np.linspace(0, 2 * np.pi, 15)
    rim = np.stack([np.cos(angle), np.zeros(15), np.sin(angle)], 1)
    outer, inner = centre + rim * radius, centre + rim * (radius - 0.045)
    across = vec(0, width / 2, 0)
    flat = np.stack([outer[:-1], outer[1:], inner[1:], inner[:-1]], 1)
    hoop = np.stack([outer[:-1] - across, outer[1:] - across, outer[1:] + across, outer[:-1] + across], 1)
    return quads(np.concatenate([flat, hoop]), surface)


def _rods(lines: list[tuple[Floats, Floats]], radius: float, surface: Surface) -> Mesh:
    starts, ends = (np.array(column) for column in zip(*lines, strict=True))
    return tubes(starts, ends, np.full((len(lines), 2), radius), surface, sides=5)


def _bicycle(rng: Generator, phase: float) -> Mesh:
    """A bicycle whose right pedal stands at `phase` of a turn."""
    metal = FRAME.tinted(float(rng.uniform(0.3, 1.4)))
    rubber = TYRE.of(BICYCLE)
    wheel = float(rng.uniform(0.32, 0.35))
    rear, front = vec(-0.52, 0, wheel), vec(0.55, 0, wheel)
    saddle, head = vec(-0.22, 0, 0.82), vec(0.36, 0, 0.86)
    lines = [(rear, _CRANK), (_CRANK, head), (_CRANK, saddle), (rear, saddle), (front, head)]
    # ladies' frames have no upper tube
    if rng.random() < 0.6:
        lines.append((saddle, head - vec(0, 0, 0.05)))
    lines += [(saddle, saddle + vec(-0.02, 0, 0.12)), (head, head + vec(-0.03, 0, 0.17))]
    lines += [(vec(0.32, -0.29, 1.03), vec(0.32, 0.29, 1.03))]
    pedals = _pedals(phase)
    lines += [(_CRANK + vec(0, 0.08 * s, 0), pedal) for s, pedal in zip((-1, 1), pedals, strict=True)]
    parts = [_rods(lines, 0.02, metal), _ring(rear, wheel, rubber), _ring(front, wheel, rubber)]
    parts.append(
        boxes(
            np.array([[-0.24, 0, 0.95], [0.36, 0, 0.9]]),
            np.array([[0.26, 0.16, 0.07], [0.06, 0.1, 0.1]]),
            rubber,
        )
    )
    parts.append(boxes(pedals, np.array([[0.09, 0.09, 0.03]] * 2), rubber))
    parts.append(boxes(np.array([[-0.62, 0, 0.62]]), np.array([[0.03, 0.07, 0.07]]), _REFLECTOR))
    if rng.random() < 0.55:
        # mudguards and a carrier
        parts.append(boxes(np.array([[-0.58, 0, 0.74]]), np.array([[0.36, 0.14, 0.03]]), metal))
    if rng.random() < 0.3:
        parts.append(boxes(np.array([[0.55, 0, 0.92]]), np.array([[0.3, 0.36, 0.24]]), metal.tinted(0.7)))
    if rng.random() < 0.2:
        parts.append(
            boxes(
                np.array([[-0.58, s * 0.16, 0.58] for s in (-1, 1)]),
                np.array([[0.34, 0.14, 0.3]] * 2),
                rubber,
            )
        )
    return join(parts)


def _pedals(phase: float) -> Floats:
    turn = 2 * np.pi * phase
    return np.array(
        [_CRANK + _AXLE * vec(s * np.cos(turn), 0, s * np.sin(turn)) + vec(0, -0.13 * s, 0) for s in (1, -1)]
    )


def bicycle(rng: Generator) -> Mesh:
    """A bicycle of about 1.75 m, raw class 11, upright or leaning on its stand or a wall."""
    mesh = _bicycle(rng, float(rng.random())).with_semantic(BICYCLE)
    roll = float(rng.normal(0, 0.08))
    c, s = np.cos(roll), np.sin(roll)
    size = float(rng.uniform(0.92, 1.05)) if rng.random() < 0.9 else float(rng.uniform(0.6, 0.8))
    return mesh.moved(size * np.array([[1, 0, 0], [0, c, -s], [0, s, c]]), np.zeros(3))


def bicyclist(rng: Generator, phase: float | None = None) -> Mesh:
    """A person on a bicycle, both raw class 31; `phase` of the pedals, 0 to 1, random if None."""
    # drawn in any case, so that clothes do not depend on the pose
    own = float(rng.random())
    turn = own if phase is None else phase
    lean = float(rng.uniform(0.06, 0.42))
    hip = vec(-0.25, 0, 1.03)
    hands = np.array([[0.30, s * 0.27, 1.06] for s in (-1, 1)])
    neck = hip + vec(lean, 0, np.sqrt(0.53**2 - lean**2))
    joints = Joints(hip, neck, _pedals(turn) + vec(0, 0, 0.06), hands, vec(1, 0, 0))
    rider = figure(joints, draw_dress(rng, helmet=bool(rng.random() < 0.5)))
    parts = [_bicycle(rng, turn), rider]
    if rng.random() < 0.3:
        parts.append(boxes((neck + vec(-0.24, 0, -0.2))[None], np.array([[0.18, 0.3, 0.42]]), FRAME))
    return join(parts).with_semantic(BICYCLIST)


def _wheels(rear: Floats, front: Floats, radius: float, width: float) -> Mesh:
    hubs = np.array([rear, front])
    across = vec(0, width / 2, 0)
    return tubes(hubs - across, hubs + across, np.full((2, 2), radius), TYRE, sides=12)


def _motorbike(rng: Generator, *, scooter: bool) -> Mesh:
    paint = FRAME.tinted(float(rng.choice([0.05, 0.5, 1.2])) * float(rng.uniform(0.6, 1.3)))
    dark = TYRE.of(MOTORCYCLE)
    if scooter:
        parts = [
            _wheels(vec(-0.55, 0, 0.24), vec(0.62, 0, 0.24), 0.24, 0.12),
            boxes(
                np.array([[-0.45, 0, 0.55], [0.05, 0, 0.25], [0.45, 0, 0.65], [-0.35, 0, 0.80]]),
                np.array([[0.75, 0.34, 0.4], [0.5, 0.36, 0.1], [0.12, 0.44, 0.8], [0.7, 0.3, 0.1]]),
                paint,
            ),
        ]
    else:
        parts = [
            _wheels(vec(-0.70, 0, 0.31), vec(0.72, 0, 0.31), 0.31, 0.15),
            boxes(
                np.array([[0.0, 0, 0.50], [0.18, 0, 0.82], [-0.80, 0, 0.74]]),
                np.array([[0.62, 0.34, 0.38], [0.5, 0.32, 0.26], [0.34, 0.22, 0.14]]),
                paint,
            ),
            boxes(np.array([[-0.40, 0, 0.82]]), np.array([[0.72, 0.28, 0.12]]), dark),
        ]
    fork = [(vec(0.68, s * 0.08, 0.31), vec(0.46, s * 0.08, 1.0)) for s in (-1, 1)]
    parts.append(_rods([*fork, (vec(0.40, -0.36, 1.05), vec(0.40, 0.36, 1.05))], 0.028, dark))
    parts.append(_rods([(vec(-0.2, -0.14, 0.3), vec(-0.85, -0.18, 0.42))], 0.05, paint.tinted(1.5)))
    parts.append(boxes(np.array([[0.56, 0, 0.94]]), np.array([[0.16, 0.26, 0.26]]), paint))
    parts.append(boxes(np.array([[-0.97, 0, 0.62]]), np.array([[0.02, 0.2, 0.2]]), _REFLECTOR))
    if rng.random() < 0.35:
        parts.append(boxes(np.array([[-0.82, 0, 1.02]]), np.array([[0.36, 0.4, 0.32]]), dark))
    if rng.random() < 0.3:
        parts.append(boxes(np.array([[0.55, 0, 1.25]]), np.array([[0.03, 0.4, 0.4]]), paint))
    return join(parts)


def motorcycle(rng: Generator) -> Mesh:
    """A motorcycle or a scooter of about 2 m, raw class 15, on its stand."""
    mesh = _motorbike(rng, scooter=bool(rng.random() < 0.4)).with_semantic(MOTORCYCLE)
    roll = 0.12 * float(rng.random())
    c, s = np.cos(roll), np.sin(roll)
    return mesh.moved(np.array([[1, 0, 0], [0, c, -s], [0, s, c]]), np.zeros(3))


def motorcyclist(rng: Generator) -> Mesh:
    """A person on a motorcycle or a scooter, both raw class 32."""
    scooter = bool(rng.random() < 0.35)
    lean = float(rng.uniform(0.02, 0.12) if scooter else rng.uniform(0.08, 0.35))
    hip = vec(-0.3, 0, 0.98)
    feet = np.array([[0.12, s * 0.17, 0.36] if scooter else [-0.05, s * 0.2, 0.36] for s in (-1, 1)])
    hands = np.array([[0.36, s * 0.33, 1.08] for s in (-1, 1)])
    neck = hip + vec(lean, 0, np.sqrt(0.53**2 - lean**2))
    rider = figure(Joints(hip, neck, feet, hands, vec(1, 0, 0)), draw_dress(rng, helmet=True))
    return join([_motorbike(rng, scooter=scooter), rider]).with_semantic(MOTORCYCLIST)
