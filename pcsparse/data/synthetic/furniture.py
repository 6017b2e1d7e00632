"""Poles, lamps, signs, lights, fences, walls, bins. Local frame: x along the street, z = 0 ground."""

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic.arrays import Floats
from pcsparse.data.synthetic.materials import FENCE, LEAVES, OBJECT, POLE, RAIL, SIGN, SIGN_BACK, Surface
from pcsparse.data.synthetic.mesh import Mesh, box, boxes, join, triangles, tube


def _up(x: float, y: float, low: float, high: float) -> tuple[Floats, Floats]:
    return np.array([x, y, low]), np.array([x, y, high])


def lamp(rng: Generator) -> Mesh:
    """A street lamp or a power pole of 4 to 9 m, raw class 80; its arm points along +y."""
    height, radius = float(rng.uniform(4.0, 9.0)), float(rng.uniform(0.05, 0.13))
    metal = POLE.tinted(float(rng.uniform(0.4, 1.8)))
    parts = [tube(*_up(0, 0, -0.3, height), (radius, radius * 0.7), metal)]
    if rng.random() < 0.5:
        parts.append(tube(*_up(0, 0, -0.3, 1.1), (radius * 1.6, radius * 1.6), metal))
    if rng.random() < 0.7:
        reach = float(rng.uniform(0.6, 2.0))
        parts.append(
            tube(np.array([0, 0, height]), np.array([0, reach, height + 0.2]), (0.05, 0.04), metal, sides=6)
        )
        parts.append(box((0, reach, height + 0.15), (0.25, 0.6, 0.12), metal))
    return join(parts)


def bollards(rng: Generator, length: float) -> Mesh:
    """A row of bollards along x, raw class 80."""
    count = max(1, int(length / float(rng.uniform(1.5, 2.5))))
    xs = np.linspace(-length / 2, length / 2, count)
    height = float(rng.uniform(0.7, 1.1))
    return join([tube(*_up(float(x), 0, -0.1, height), (0.06, 0.06), POLE, sides=6) for x in xs])


def sign(rng: Generator) -> Mesh:
    """A traffic sign on its pole; the plate (raw 81) faces -x and +x, the pole is raw 80."""
    height, radius = float(rng.uniform(2.0, 3.0)), float(rng.uniform(0.025, 0.045))
    parts = [tube(*_up(0, 0, -0.2, height), (radius, radius), POLE, sides=6)]
    kind = rng.choice(["disc", "triangle", "square", "board"], p=[0.4, 0.2, 0.3, 0.1])
    sides = {"disc": 12, "triangle": 3, "square": 4, "board": 4}[str(kind)]
    half = float(rng.uniform(0.30, 0.45))
    angle = np.arange(sides) * (2 * np.pi / sides) + (np.pi / 2 if sides == 3 else np.pi / 4)
    stretch = np.array([2.2, 1.0]) if kind == "board" else np.array([1.0, 1.0])
    rim = np.stack([np.zeros(sides), np.cos(angle) * half * stretch[0], np.sin(angle) * half * stretch[1]], 1)
    middle = np.array([0.0, 0.0, height - half])
    fan = np.stack([np.zeros_like(rim), rim, np.roll(rim, -1, 0)], 1) + middle
    face = SIGN.tinted(float(rng.uniform(0.5, 1.2)))
    parts.append(triangles(fan + np.array([-radius - 0.02, 0, 0]), face))
    parts.append(triangles(fan + np.array([-radius - 0.005, 0, 0]), SIGN_BACK))
    return join(parts)


def traffic_light(rng: Generator) -> Mesh:
    """A signal head (raw 99, other-object) on a pole (raw 80)."""
    height = float(rng.uniform(2.6, 3.4))
    return join(
        [tube(*_up(0, 0, -0.2, height), (0.07, 0.06), POLE), box((-0.1, 0, height), (0.25, 0.3, 0.9), OBJECT)]
    )


def clutter(rng: Generator) -> Mesh:
    """Bins, cabinets, benches, skips, post boxes: raw 99."""
    surface = OBJECT.tinted(float(rng.uniform(0.3, 1.8)))
    match str(rng.choice(["bin", "cabinet", "bench", "skip"], p=[0.45, 0.3, 0.2, 0.05])):
        case "bin":
            count = int(rng.integers(1, 4))
            xs = np.arange(count) * 0.7
            sizes = np.tile([0.58, 0.65, float(rng.uniform(0.95, 1.15))], (count, 1))
            return boxes(np.stack([xs, 0 * xs, sizes[:, 2] / 2], 1), sizes, surface)
        case "cabinet":
            height = float(rng.uniform(0.9, 1.6))
            return box((0, 0, height / 2), (float(rng.uniform(0.5, 1.4)), 0.4, height), surface)
        case "bench":
            return boxes(
                np.array([[0, 0, 0.45], [0, 0.2, 0.75], [-0.6, 0, 0.2], [0.6, 0, 0.2]]),
                np.array([[1.6, 0.4, 0.06], [1.6, 0.05, 0.4], [0.08, 0.4, 0.4], [0.08, 0.4, 0.4]]),
                surface,
            )
        case _:
            return box((0, 0, 0.75), (3.2, 1.7, 1.5), surface)


def wall(rng: Generator, length: float, height: float) -> Mesh:
    """A garden wall along x, raw class 51."""
    thick = float(rng.uniform(0.15, 0.4))
    tint = FENCE.tinted(float(rng.uniform(0.6, 1.3)))
    parts = [box((0, 0, height / 2 - 0.3), (length, thick, height + 0.6), tint)]
    if rng.random() < 0.5:
        count = max(2, int(length / 3.0))
        xs = np.linspace(-length / 2, length / 2, count)
        centres = np.stack([xs, 0 * xs, np.full(count, height / 2)], 1)
        parts.append(boxes(centres, np.tile([0.4, thick + 0.12, height + 0.15], (count, 1)), tint))
    return join(parts)


def picket_fence(rng: Generator, length: float, height: float) -> Mesh:
    """Posts, two rails and slats along x, raw class 51."""
    pitch, slat = float(rng.uniform(0.12, 0.25)), float(rng.uniform(0.03, 0.10))
    wood: Surface = FENCE.tinted(float(rng.uniform(0.6, 1.4)))
    # beyond 160 slats a fence costs more rays than it teaches
    xs = np.arange(-length / 2, length / 2, max(pitch, length / 160))
    centres = np.stack([xs, 0 * xs, np.full_like(xs, height / 2)], 1)
    parts = [boxes(centres, np.tile([slat, 0.02, height], (len(xs), 1)), wood)]
    posts = np.arange(-length / 2, length / 2 + 0.1, 2.4)
    parts.append(
        boxes(np.stack([posts, 0 * posts + 0.05, 0 * posts + height / 2 - 0.15], 1),
              np.tile([0.09, 0.09, height + 0.3], (len(posts), 1)), wood)
    )  # fmt: skip
    parts.append(
        boxes(
            np.array([[0, 0.03, 0.2 * height], [0, 0.03, 0.85 * height]]),
            np.array([[length, 0.04, 0.07]] * 2),
            wood,
        )
    )
    return join(parts)


def mesh_fence(rng: Generator, length: float, height: float) -> Mesh:
    """A wire fence along x that most rays pass, raw class 51: thin strands between posts."""
    metal = RAIL.tinted(float(rng.uniform(0.7, 1.3)))
    count = int(min(26 * length * height, 1500))
    start = np.stack(
        [rng.uniform(-length / 2, length / 2, count), np.zeros(count), rng.uniform(0, height, count)], 1
    )
    along = np.stack([rng.choice([-0.25, 0.25], count), np.zeros(count), np.full(count, 0.25)], 1)
    thick = np.array([0.0, 0.0, 0.035])
    strands = triangles(np.stack([start, start + along, start + thick], 1), metal)
    posts = np.arange(-length / 2, length / 2 + 0.1, 2.5)
    return join(
        [
            strands,
            *(tube(*_up(float(x), 0, -0.3, height + 0.05), (0.03, 0.03), metal, sides=5) for x in posts),
        ]
    )


def guard_rail(length: float) -> Mesh:
    """A crash barrier along x, raw class 51."""
    posts = np.arange(-length / 2, length / 2 + 0.1, 2.0)
    feet = np.stack([posts, 0 * posts + 0.08, 0 * posts + 0.3], 1)
    beams = boxes(
        np.array([[0, 0, 0.68], [0, 0.03, 0.55], [0, 0, 0.5]]), np.array([[length, 0.04, 0.12]] * 3), RAIL
    )
    return join([beams, boxes(feet, np.tile([0.06, 0.12, 0.8], (len(posts), 1)), RAIL)])


def planter(rng: Generator) -> Mesh:
    """A tub with a small plant: raw 99 and 70."""
    leaves = (
        rng.normal(size=(120, 3, 3)) * 0.06 + rng.normal(size=(120, 1, 3)) * 0.18 + np.array([0, 0, 0.75])
    )
    return join([box((0, 0, 0.25), (0.7, 0.7, 0.5), OBJECT), triangles(leaves, LEAVES)])
