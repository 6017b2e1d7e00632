"""Walls, fences, rails, barriers: raw class 51. Local frame: x along, centred; z = 0 ground."""

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic.materials import FENCE, RAIL, Material, Surface
from pcsparse.data.synthetic.mesh import Mesh, boxes, join, quads, triangles, tubes


def _shade(rng: Generator) -> Surface:
    """Render, brick or wood."""
    value = FENCE.reflectivity * float(np.clip(rng.lognormal(0.0, 0.35), 0.4, 2.0))
    return Surface(FENCE.semantic, Material.STONE if rng.random() < 0.35 else Material.PLASTER, value)


def _posts(xs: np.ndarray, y: float, high: float, size: float, surface: Surface) -> Mesh:
    at = np.stack([xs, 0 * xs + y, 0 * xs + high / 2 - 0.15], 1)
    return boxes(at, np.tile([size, size, high + 0.3], (len(xs), 1)), surface)


def wall(rng: Generator, length: float, height: float) -> Mesh:
    """A garden wall, some with pillars, a coping, or a railing on top."""
    thick, stone = float(rng.uniform(0.15, 0.4)), _shade(rng)
    railed = height > 0.9 and rng.random() < 0.2
    top = 0.5 * height if railed else height
    parts = [boxes(np.array([[0, 0, top / 2 - 0.3]]), np.array([[length, thick, top + 0.6]]), stone)]
    if rng.random() < 0.4:
        xs = np.linspace(-length / 2, length / 2, max(2, int(length / 3.0)))
        at = np.stack([xs, 0 * xs, np.full(len(xs), height / 2)], 1)
        parts.append(boxes(at, np.tile([0.4, thick + 0.12, height + 0.15], (len(xs), 1)), stone))
    if rng.random() < 0.35:
        parts.append(boxes(np.array([[0, 0, top + 0.03]]), np.array([[length, thick + 0.1, 0.07]]), stone))
    if railed:
        rail = railing(rng, length, height - top)
        parts.append(rail.with_corners(rail.corners + np.array([0, 0, top])))
    return join(parts)


def picket_fence(rng: Generator, length: float, height: float) -> Mesh:
    """Slats upright or lying, with gaps from none to twice their width, on posts and rails."""
    wood, slat = _shade(rng), float(rng.uniform(0.05, 0.14))
    posts = _posts(np.arange(-length / 2, length / 2 + 0.1, 2.2), 0.05, height, 0.09, wood)
    if rng.random() < 0.3:
        z = np.arange(0.15, height, slat * float(rng.uniform(1.1, 2.0)))
        at = np.stack([0 * z, 0 * z, z], 1)
        return join([posts, boxes(at, np.tile([length, 0.025, slat], (len(z), 1)), wood)])
    # beyond 160 slats a fence costs more rays than it teaches
    pitch = max(slat * float(rng.choice([1.02, 1.5, 2.2, 3.0])), length / 160)
    xs = np.arange(-length / 2, length / 2, pitch)
    at = np.stack([xs, 0 * xs, np.full_like(xs, height / 2 + 0.03)], 1)
    rails = np.array([[0, 0.03, 0.2 * height], [0, 0.03, 0.85 * height]])
    return join(
        [
            boxes(at, np.tile([slat, 0.02, height - 0.06], (len(xs), 1)), wood),
            posts,
            boxes(rails, np.array([[length, 0.04, 0.07]] * 2), wood),
        ]
    )


def railing(rng: Generator, length: float, height: float) -> Mesh:
    """Upright steel bars between two rails: nine rays of ten pass."""
    metal = RAIL.tinted(float(rng.uniform(0.3, 1.3)))
    xs = np.arange(-length / 2, length / 2, max(float(rng.uniform(0.10, 0.14)), length / 120))
    foot = np.stack([xs, 0 * xs, 0 * xs], 1)
    side, top = np.array([0.009, 0, 0]), np.array([0, 0, height])
    bars = quads(np.stack([foot - side, foot + side, foot + side + top, foot - side + top], 1), metal)
    rails = np.array([[0, 0, 0.12], [0, 0, height]])
    posts = _posts(np.arange(-length / 2, length / 2 + 0.1, 2.2), 0.0, height, 0.05, metal)
    return join([bars, boxes(rails, np.array([[length, 0.04, 0.04]] * 2), metal), posts])


def mesh_fence(rng: Generator, length: float, height: float) -> Mesh:
    """Chain link or welded mats that most rays pass: thin strands between posts, or a railing."""
    if rng.random() < 0.35:
        return railing(rng, length, height)
    metal = RAIL.tinted(float(rng.uniform(0.5, 1.3)))
    count = int(min(26 * length * height, 1200))
    start = np.stack(
        [rng.uniform(-length / 2, length / 2, count), np.zeros(count), rng.uniform(0, height, count)], 1
    )
    along = np.stack([rng.choice([-0.25, 0.25], count), np.zeros(count), np.full(count, 0.25)], 1)
    strands = triangles(np.stack([start, start + along, start + np.array([0, 0, 0.03])], 1), metal)
    xs = np.arange(-length / 2, length / 2 + 0.1, 2.5)
    foot = np.stack([xs, 0 * xs, 0 * xs - 0.3], 1)
    radii = np.full((len(xs), 2), 0.03)
    return join([strands, tubes(foot, foot + np.array([0, 0, height + 0.35]), radii, metal, sides=5)])


def guard_rail(length: float) -> Mesh:
    """A crash barrier of steel with the fold of its beam."""
    xs = np.arange(-length / 2, length / 2 + 0.1, 2.0)
    feet = np.stack([xs, 0 * xs + 0.10, 0 * xs + 0.3], 1)
    at = np.array([[0, -0.03, 0.70], [0, 0.02, 0.60], [0, -0.03, 0.50]])
    beams = boxes(at, np.array([[length, 0.03, 0.10], [length, 0.03, 0.10], [length, 0.03, 0.10]]), RAIL)
    return join([beams, boxes(feet, np.tile([0.06, 0.12, 0.8], (len(xs), 1)), RAIL)])


def jersey_barrier(rng: Generator, length: float) -> Mesh:
    """Concrete pieces of a barrier, wide at the foot."""
    tint = FENCE.tinted(float(rng.uniform(0.8, 1.4)))
    xs = np.arange(-length / 2, length / 2 - 0.5, 2.0) + 1.0
    half = np.array(
        [
            [-0.3, -0.2],
            [-0.28, 0.1],
            [-0.12, 0.32],
            [-0.09, 0.82],
            [0.09, 0.82],
            [0.12, 0.32],
            [0.28, 0.1],
            [0.3, -0.2],
        ]
    )
    ends = [np.insert(half, 0, side * 0.97, axis=1) for side in (-1, 1)]
    rim = np.stack([ends[0][:-1], ends[0][1:], ends[1][1:], ends[1][:-1]], 1)
    caps = np.concatenate([np.stack([end[:3], end[1:4], end[::-1][1:4], end[::-1][:3]], 1) for end in ends])
    one = np.concatenate([rim, caps])
    return quads((one[None] + np.stack([xs, 0 * xs, 0 * xs], 1)[:, None, None]).reshape(-1, 4, 3), tint)


def noise_wall(rng: Generator, length: float, height: float) -> Mesh:
    """A wall against noise: tall panels between posts."""
    panel = _shade(rng)
    body = boxes(np.array([[0, 0, height / 2 - 0.2]]), np.array([[length, 0.12, height + 0.4]]), panel)
    xs = np.arange(-length / 2, length / 2 + 0.1, 4.0)
    seams = np.arange(0.5, height, 0.5)
    at = np.stack([0 * seams, 0 * seams - 0.07, seams], 1)
    ledges = boxes(at, np.tile([length, 0.03, 0.06], (len(seams), 1)), panel)
    return join([body, ledges, _posts(xs, -0.06, height, 0.2, RAIL)])


def gate(rng: Generator, width: float, height: float) -> Mesh:
    """A garden or yard gate between two pillars: bars or boards."""
    stone = _shade(rng)
    pillars = _posts(np.array([-width / 2, width / 2]), 0.0, height + 0.2, 0.35, stone)
    leaf = railing(rng, width - 0.4, height) if rng.random() < 0.6 else picket_fence(rng, width - 0.4, height)
    return join([pillars, leaf])
