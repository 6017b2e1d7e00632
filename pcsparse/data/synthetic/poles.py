"""Lamps, masts, bollards (raw 80), traffic signs (plates raw 81), signal heads (raw 99).

Local frame: x along the street, +y towards the road or away from it, z = 0 ground.
"""

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic.arrays import Floats
from pcsparse.data.synthetic.materials import OBJECT, POLE, SIGN, SIGN_BACK, Material, Surface
from pcsparse.data.synthetic.mesh import Mesh, blob, box, boxes, join, triangles, tube, tubes

_WOOD = Surface(POLE.semantic, Material.BARK, 0.3)


def _up(x: float, y: float, low: float, high: float) -> tuple[Floats, Floats]:
    return np.array([x, y, low]), np.array([x, y, high])


def _metal(rng: Generator) -> Surface:
    return POLE.tinted(float(np.clip(rng.lognormal(-0.1, 0.6), 0.2, 2.4)))


def lamp(rng: Generator) -> Mesh:
    """A street lamp with an arm, two, or a lantern on top, or a wooden mast; raw 80; arms point along +y."""
    metal = _metal(rng)
    kind = str(rng.choice(["arm", "double", "lantern", "mast"], p=[0.5, 0.1, 0.25, 0.15]))
    if kind == "mast":
        thick = float(rng.uniform(0.09, 0.16))
        parts = [tube(*_up(0, 0, -0.3, 8.5), (thick, 0.75 * thick), _WOOD)]
        return join([*parts, box((0, 0, 7.9), (0.1, 1.6, 0.12), _WOOD)])
    high = float(rng.uniform(3.0, 4.5) if kind == "lantern" else rng.uniform(5.0, 10.0))
    thick = float(rng.uniform(0.05, 0.11))
    parts = [tube(*_up(0, 0, -0.3, high), (thick, thick * 0.65), metal)]
    if rng.random() < 0.5:
        # a sleeve with the fuses
        parts.append(tube(*_up(0, 0, -0.3, float(rng.uniform(0.7, 1.4))), (thick * 1.6, thick * 1.5), metal))
    if kind == "lantern":
        parts.append(blob(np.array([0, 0, high + 0.2]), np.array([0.22, 0.22, 0.28]), metal))
        return join(parts)
    reach = float(rng.uniform(0.5, 2.2))
    for side in (1.0, -1.0) if kind == "double" else (1.0,):
        tip = np.array([0, side * reach, high + 0.25])
        parts.append(tube(np.array([0, 0, high]), tip, (0.05, 0.04), metal, sides=6))
        parts.append(box((0, side * reach, high + 0.2), (0.25, 0.6, 0.12), metal))
    return join(parts)


def bollards(rng: Generator, length: float) -> Mesh:
    """A row of bollards along x, raw class 80: thin steel, thick stone, or flexible."""
    count = max(1, int(length / float(rng.uniform(1.4, 2.8))))
    high, thick = float(rng.uniform(0.6, 1.1)), float(rng.choice([0.04, 0.06, 0.12], p=[0.3, 0.5, 0.2]))
    foot = np.zeros((count, 3))
    foot[:, 0] = np.linspace(-length / 2, length / 2, count)
    radii = np.tile([thick, 0.9 * thick], (count, 1))
    return tubes(foot - np.array([0, 0, 0.1]), foot + np.array([0, 0, high]), radii, _metal(rng), sides=6)


def delineators(length: float) -> Mesh:
    """Marker posts beside a country road along x, raw 80, with a reflector (raw 81) on each."""
    x = np.arange(-length / 2, length / 2 + 0.1, 25.0)
    at = np.stack([x, 0 * x, 0 * x + 0.45], 1)
    posts = boxes(at, np.tile([0.1, 0.12, 1.1], (len(x), 1)), POLE.tinted(1.6))
    spots = boxes(at + np.array([-0.055, 0, 0.35]), np.tile([0.01, 0.05, 0.16], (len(x), 1)), SIGN)
    return join([posts, spots])


def _plate(rng: Generator, kind: str, x: float, z: float) -> Mesh:
    """One plate that faces -x at height z; its back is bare metal."""
    sides = {"disc": 14, "triangle": 3, "octagon": 8}.get(kind, 4)
    half = float(rng.uniform(0.28, 0.45))
    stretch = {"slip": (1.0, 0.55), "arrow": (2.4, 0.5), "town": (1.6, 1.1)}
    wide, tall = stretch.get(kind, (1.0, 1.0))
    turn = np.pi / 2 if sides == 3 else np.pi / sides
    angle = np.arange(sides) * (2 * np.pi / sides) + turn
    size = half / np.cos(np.pi / 4) if sides == 4 else half
    rim = np.stack([np.zeros(sides), np.cos(angle) * size * wide, np.sin(angle) * size * tall], 1)
    fan = np.stack([np.zeros_like(rim), rim, np.roll(rim, -1, 0)], 1) + np.array([x, 0.0, z])
    face = SIGN.tinted(float(rng.uniform(0.35, 1.25)))
    return join([triangles(fan, face), triangles(fan + np.array([0.02, 0, 0]), SIGN_BACK)])


def sign(rng: Generator) -> Mesh:
    """One to three plates (raw 81) on a pole (raw 80), facing -x."""
    kinds = ["disc", "triangle", "square", "octagon", "arrow", "town"]
    kind = str(rng.choice(kinds, p=[0.36, 0.16, 0.26, 0.04, 0.12, 0.06]))
    radius, metal = float(rng.uniform(0.028, 0.045)), _metal(rng)
    high = float(rng.uniform(1.6, 2.4) if kind == "town" else rng.uniform(2.1, 3.1))
    feet = [-0.25, 0.25] if kind == "town" else [0.0]
    parts = [tube(*_up(0, y, -0.2, high), (radius, radius), metal, sides=6) for y in feet]
    z, x = high - 0.45, -radius - 0.03
    parts.append(_plate(rng, kind, x, z))
    if kind != "town" and rng.random() < 0.35:
        parts.append(_plate(rng, str(rng.choice(["slip", "disc"])), x, z - 0.72))
    return join(parts)


def traffic_light(rng: Generator) -> Mesh:
    """Signal heads (raw 99) on a pole (raw 80), now and then with an arm over the road."""
    high, dark = float(rng.uniform(2.6, 3.4)), OBJECT.tinted(0.25)
    metal = _metal(rng)
    parts = [tube(*_up(0, 0, -0.2, high), (0.075, 0.06), metal)]
    parts.append(box((-0.16, 0, high - 0.3), (0.22, 0.3, 0.9), dark))
    if rng.random() < 0.4:
        parts.append(box((-0.14, 0.1, 1.1), (0.1, 0.12, 0.25), dark))
    if rng.random() < 0.3:
        reach = float(rng.uniform(2.5, 5.0))
        parts.append(tube(*_up(0, 0, high, 5.6), (0.09, 0.08), metal))
        parts.append(tube(np.array([0, 0, 5.5]), np.array([0, reach, 5.8]), (0.08, 0.05), metal, sides=6))
        parts.append(box((-0.1, reach, 5.4), (0.25, 0.35, 0.95), dark))
    return join(parts)


def gantry(rng: Generator, span: float) -> Mesh:
    """A frame across the road, along y from 0 to `span` metres: legs and beam raw 80, boards raw 81."""
    metal, high = _metal(rng), float(rng.uniform(5.5, 6.5))
    ends = np.array([[0, 0, -0.2], [0, span, -0.2]])
    legs = tubes(ends, ends + np.array([0, 0, high]), np.full((2, 2), 0.16), metal)
    count = max(1, int(span / 4.0))
    at = np.array([[-0.15, span * (i + 0.5) / count, high] for i in range(count)])
    boards = boxes(at, np.tile([0.03, 2.6, 1.6], (count, 1)), SIGN.tinted(0.9))
    return join([legs, box((0, span / 2, high - 0.3), (0.4, span, 0.5), metal), boards])
