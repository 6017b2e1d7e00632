"""Human figures from joints: limbs of two links that reach where they must.

Local frame: metres, x forward, z = 0 ground.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic.arrays import Floats
from pcsparse.data.synthetic.materials import SKIN, Surface
from pcsparse.data.synthetic.mesh import Mesh, blob, boxes, join, tubes, unit

# of a person of 1.75 m: thigh, shin, upper arm, forearm
_LEG, _ARM = (0.43, 0.43), (0.30, 0.27)


def vec(*values: float) -> Floats:
    """(3,) float64."""
    return np.array(values, np.float64)


@dataclass(frozen=True)
class Joints:
    """Where the ends of a body are; knees and elbows follow from them.

    Args:
        hip: (3,) metres, the middle of the pelvis.
        neck: (3,) metres, between the shoulders.
        feet: (2, 3) metres, ankles, right and left (y < 0 first).
        hands: (2, 3) metres.
        toes: (3,) unit vector, where the feet point.
    """

    hip: Floats
    neck: Floats
    feet: Floats
    hands: Floats
    toes: Floats


@dataclass(frozen=True)
class Dress:
    """What a body wears.

    Args:
        coat: of trunk and arms.
        trousers: of legs and shoes.
        skin: of the head.
        bulk: how stout, 1 for slim.
        skirt: how far a skirt or a long coat reaches down from the hip towards the feet, 0 for none.
        cap: radius of the head with hair, hat or helmet, metres.
    """

    coat: Surface
    trousers: Surface
    skin: Surface
    bulk: float
    skirt: float
    cap: float


def draw_dress(rng: Generator, *, helmet: bool = False) -> Dress:
    """Clothes at random: cloth answers anything from next to nothing to a wall's worth."""
    coat, trousers = (SKIN.tinted(float(np.clip(rng.lognormal(-0.15, 0.55), 0.12, 2.0))) for _ in range(2))
    skirt = float(rng.uniform(0.35, 0.85)) if rng.random() < 0.2 and not helmet else 0.0
    cap = 0.135 if helmet else float(rng.uniform(0.095, 0.115))
    return Dress(coat, trousers, SKIN, float(rng.uniform(0.95, 1.35)), skirt, cap)


def bent(start: Floats, end: Floats, links: tuple[float, float], way: Floats) -> Floats:
    """The joint between two links from `start` towards `end` (3,), pushed out towards `way` (3,).

    Where the end is out of reach the limb is stretched.
    """
    gap = end - start
    reach = max(float(np.sqrt((gap * gap).sum())), 1e-6)
    along = min(0.5 * (reach + (links[0] ** 2 - links[1] ** 2) / reach), reach)
    out = np.sqrt(max(links[0] ** 2 - along**2, 0.0))
    axis = gap / reach
    side = way - axis * float((way * axis).sum())
    return start + along * axis + out * unit(side + 1e-9)


def figure(joints: Joints, dress: Dress) -> Mesh:
    """A body at the size of 1.75 m; scale it for others."""
    hip, neck, wide = joints.hip, joints.neck, dress.bulk
    waist = 0.55 * hip + 0.45 * neck
    starts, ends, radii = [hip - vec(0, 0, 0.06), waist], [waist, neck], [(0.15, 0.135), (0.14, 0.17)]
    parts = [tubes(np.array(starts), np.array(ends), wide * np.array(radii), dress.coat, sides=8)]
    head = neck + 0.19 * unit(neck - hip + vec(0.05, 0, 0.5))
    parts.append(blob(head, vec(dress.cap * 1.08, dress.cap * 0.95, dress.cap * 1.3), dress.skin, sides=7))
    legs, arms, feet = [], [], []
    for side, foot, hand in zip((-1.0, 1.0), joints.feet, joints.hands, strict=True):
        root = hip + vec(0, side * 0.09, -0.02)
        knee = bent(root, foot, _LEG, joints.toes + vec(0, 0.15 * side, 0.1))
        legs += [(root, knee, 0.085, 0.062), (knee, foot, 0.06, 0.042)]
        feet.append(foot + 0.08 * joints.toes - vec(0, 0, 0.03))
        shoulder = neck + vec(-0.01, side * 0.18 * wide, -0.06)
        elbow = bent(shoulder, hand, _ARM, vec(-0.6, side * 0.5, -0.5))
        arms += [(shoulder, elbow, 0.052, 0.045), (elbow, hand, 0.045, 0.035)]
    for limbs, surface in ((legs, dress.trousers), (arms, dress.coat)):
        a, b, thick, thin = (np.array(column) for column in zip(*limbs, strict=True))
        parts.append(tubes(a, b, wide * np.stack([thick, thin], 1), surface, sides=6))
    parts.append(boxes(np.array(feet), np.tile([0.25, 0.09, 0.09], (2, 1)), dress.trousers))
    if dress.skirt:
        low = hip + dress.skirt * (joints.feet.mean(0) - hip)
        parts.append(tubes(hip[None], low[None], np.array([[0.17 * wide, 0.24 * wide]]), dress.coat, sides=8))
    return join(parts)


def walking(phase: float, stride: float, lean: float = 0.03) -> Joints:
    """A step: `phase` 0 to 1 is one cycle of both legs, `stride` 0 (stands) to 1 (strides out)."""
    turn = 2 * np.pi * phase
    feet, hands = [], []
    for side, shift in ((-1.0, 0.0), (1.0, np.pi)):
        swing = np.sin(turn + shift)
        # the foot is lifted while it comes forward
        lift = 0.13 * stride * max(0.0, float(np.cos(turn + shift)))
        feet.append(vec(0.36 * stride * swing, side * 0.09, 0.08 + lift))
        hands.append(vec(-0.30 * stride * swing + 0.05, side * 0.27, 0.86 + 0.06 * stride * abs(swing)))
    hip = vec(0, 0, 0.93 - 0.05 * stride * abs(float(np.sin(turn))))
    return Joints(hip, hip + vec(lean, 0, 0.52), np.array(feet), np.array(hands), vec(1, 0, 0))


def sitting(seat: float) -> Joints:
    """On a seat `seat` metres high, the hip at x = 0."""
    feet = np.array([[0.46, side * 0.11, 0.08] for side in (-1, 1)])
    hands = np.array([[0.30, side * 0.16, seat + 0.14] for side in (-1, 1)])
    return Joints(vec(0, 0, seat + 0.1), vec(-0.06, 0, seat + 0.62), feet, hands, vec(1, 0, 0))
