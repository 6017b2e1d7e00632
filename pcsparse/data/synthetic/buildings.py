"""Houses and halls: walls, recessed doors, windows that swallow pulses, bays, balconies, steps, roofs.

Local frame: x along the facade (0 to width), y away from the street (0 to depth), z = 0 ground at the facade.
"""

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic.materials import BUILDING, WINDOW, Surface
from pcsparse.data.synthetic.mesh import Mesh, box, boxes, join, quads, triangles, tube

# walls reach below the ground, so that slopes leave no gap under them
_FOOT = 2.5


def _roof(width: float, depth: float, height: float, rise: float, wall: Surface) -> Mesh:
    """A gable roof with its ridge along x and eaves of 0.4 m."""
    a, b = np.array([-0.2, -0.4, height - 0.1]), np.array([width + 0.2, -0.4, height - 0.1])
    c, d = np.array([width + 0.2, depth + 0.4, height - 0.1]), np.array([-0.2, depth + 0.4, height - 0.1])
    e, f = np.array([-0.2, depth / 2, height + rise]), np.array([width + 0.2, depth / 2, height + rise])
    slopes = quads(np.array([[a, b, f, e], [d, c, f, e]]), wall)
    return join([slopes, triangles(np.array([[a, d, e], [b, c, f]]), wall)])


def _openings(rng: Generator, width: float, height: float, y: float, normal: float, wall: Surface) -> Mesh:
    """Windows with sills and frames on a wall in the plane y; `normal` = -1 towards the street, +1 away."""
    storey = float(rng.uniform(2.6, 3.2))
    pane = float(rng.uniform(0.9, 1.6)), float(rng.uniform(1.1, 1.6))
    pitch = pane[0] + float(rng.uniform(0.6, 1.8))
    count = int((width - 0.6) / pitch)
    floors = int(height / storey)
    if count < 1 or floors < 1:
        return join([])
    xs = (np.arange(count) + 0.5) * (width / count)
    zs = 0.9 + np.arange(floors) * storey + pane[1] / 2
    xs, zs = (grid.ravel() for grid in np.meshgrid(xs, zs))
    keep = rng.random(len(xs)) < 0.92
    xs, zs = xs[keep], zs[keep]
    ones = np.ones_like(xs)
    out = y + normal * 0.015
    glass = boxes(np.stack([xs, ones * out, zs], 1), np.tile([pane[0], 0.02, pane[1]], (len(xs), 1)), WINDOW)
    near = zs < 7.0
    xs, zs, ones = xs[near], zs[near], ones[near]
    sill = np.stack([xs, ones * (y + normal * 0.06), zs - pane[1] / 2 - 0.04], 1)
    bars = np.stack([xs, ones * (y + normal * 0.03), zs], 1)
    lintel = np.stack([xs, ones * (y + normal * 0.05), zs + pane[1] / 2 + 0.06], 1)
    return join(
        [
            glass,
            boxes(sill, np.tile([pane[0] + 0.2, 0.14, 0.08], (len(xs), 1)), wall),
            boxes(bars, np.tile([0.07, 0.05, pane[1]], (len(xs), 1)), wall),
            boxes(lintel, np.tile([pane[0] + 0.1, 0.10, 0.10], (len(xs), 1)), wall),
        ]
    )


def _entrance(rng: Generator, width: float, wall: Surface) -> Mesh:
    """Doors, steps, garages, bays, pipes, porches: relief at the height of the beams."""
    parts = []
    x = float(rng.uniform(0.8, max(0.9, width - 0.8)))
    door = Surface(wall.semantic, wall.material, wall.reflectivity * float(rng.uniform(0.5, 1.2)))
    parts.append(box((x, -0.03, 1.05), (1.1, 0.06, 2.1), door))
    for side in (-0.62, 0.62):
        parts.append(box((x + side, -0.08, 1.1), (0.14, 0.16, 2.3), wall))
    steps = int(rng.integers(0, 4))
    for i in range(steps):
        parts.append(box((x, -0.15 - 0.3 * (steps - 1 - i), 0.08 + 0.16 * i), (1.6, 0.32, 0.16), wall))
    if rng.random() < 0.4:
        parts.append(box((x, -0.6, 2.45), (2.0, 1.2, 0.12), wall))
        for side in (-0.9, 0.9):
            parts.append(box((x + side, -1.1, 1.2), (0.12, 0.12, 2.5), wall))
    if width > 8 and rng.random() < 0.35:
        g = float(rng.uniform(1.6, width - 1.6))
        parts.append(box((g, -0.02, 1.05), (2.5, 0.04, 2.1), door))
    if rng.random() < 0.35:
        b, reach = float(rng.uniform(1.4, max(1.5, width - 1.4))), float(rng.uniform(0.4, 1.2))
        parts.append(box((b, -reach / 2, 1.5), (2.4, reach, 3.0), wall))
        parts.append(box((b, -reach - 0.01, 1.7), (1.8, 0.02, 1.3), WINDOW))
    for pipe in (0.15, width - 0.15):
        if rng.random() < 0.6:
            parts.append(
                tube(np.array([pipe, -0.08, 0.0]), np.array([pipe, -0.08, 6.0]), (0.05, 0.05), wall, sides=6)
            )
    if rng.random() < 0.6:
        parts.append(box((width / 2, -0.03, 0.25), (width, 0.06, 0.5), wall))
    return join(parts)


def _balconies(rng: Generator, width: float, height: float, wall: Surface) -> Mesh:
    parts = []
    reach = float(rng.uniform(0.8, 1.6))
    for z in np.arange(2.8, height - 2.0, 2.9):
        for x in np.arange(2.0, width - 1.5, float(rng.uniform(3.5, 6.0))):
            parts.append(box((float(x), -reach / 2, float(z)), (2.6, reach, 0.16), wall))
            parts.append(box((float(x), -reach, float(z) + 0.5), (2.6, 0.05, 1.0), wall))
    return join(parts)


def house(rng: Generator, width: float, depth: float, height: float) -> Mesh:
    """A house with windows on all sides, a detailed ground floor and a flat or gable roof, raw class 50."""
    wall = BUILDING.tinted(float(rng.uniform(0.55, 1.5)))
    parts = [
        box((width / 2, depth / 2, (height - _FOOT) / 2), (width, depth, height + _FOOT), wall),
        _openings(rng, width, height, 0.0, -1.0, wall),
        _openings(rng, width, height, depth, 1.0, wall),
        _entrance(rng, width, wall),
    ]
    sides = _openings(rng, depth, height, 0.0, -1.0, wall)
    corners = sides.corners
    turned = np.stack([corners[..., 1], corners[..., 0], corners[..., 2]], -1)
    parts.append(sides.with_corners(turned))
    parts.append(sides.with_corners(np.stack([width - turned[..., 0], turned[..., 1], turned[..., 2]], -1)))
    if rng.random() < 0.65:
        parts.append(_roof(width, depth, height, float(rng.uniform(0.2, 0.45)) * depth, wall))
    if height > 7 and rng.random() < 0.35:
        parts.append(_balconies(rng, width, height, wall))
    return join(parts)


def shop_front(rng: Generator, width: float, depth: float, height: float) -> Mesh:
    """A town house with a glazed ground floor under an awning."""
    wall = BUILDING.tinted(float(rng.uniform(0.55, 1.5)))
    parts = [house(rng, width, depth, height)]
    panes = max(1, int(width / 2.5))
    xs = (np.arange(panes) + 0.5) * (width / panes)
    centres = np.stack([xs, 0 * xs - 0.1, 0 * xs + 1.5], 1)
    parts.append(boxes(centres, np.tile([width / panes - 0.4, 0.02, 2.0], (panes, 1)), WINDOW))
    parts.append(boxes(centres - [0, -0.05, 1.2], np.tile([width / panes, 0.2, 0.5], (panes, 1)), wall))
    if rng.random() < 0.5:
        reach = float(rng.uniform(0.6, 1.6))
        rim = np.array([[0.3, 0, 3.0], [width - 0.3, 0, 3.0], [width - 0.3, -reach, 2.5], [0.3, -reach, 2.5]])
        parts.append(quads(rim[None], wall))
    return join(parts)


def hall(rng: Generator, width: float, depth: float, height: float) -> Mesh:
    """An industrial hall: corrugated walls, gates, few windows."""
    wall = BUILDING.tinted(float(rng.uniform(0.6, 1.4)))
    parts = [box((width / 2, depth / 2, (height - _FOOT) / 2), (width, depth, height + _FOOT), wall)]
    ribs = np.arange(0.5, width, max(1.0, width / 60))
    sizes = np.tile([0.2, 0.08, height], (len(ribs), 1))
    parts.append(boxes(np.stack([ribs, 0 * ribs - 0.04, 0 * ribs + height / 2], 1), sizes, wall))
    for x in np.arange(4.0, width - 4.0, float(rng.uniform(6.0, 14.0))):
        parts.append(box((float(x), -0.1, 2.0), (3.6, 0.06, 4.0), wall.tinted(0.7)))
    return join(parts)


def shed(rng: Generator) -> Mesh:
    """A garage or a garden shed."""
    width, depth, height = (
        float(rng.uniform(2.2, 6.0)),
        float(rng.uniform(2.2, 6.0)),
        float(rng.uniform(2.0, 2.8)),
    )
    wall = BUILDING.tinted(float(rng.uniform(0.55, 1.5)))
    body = box((width / 2, depth / 2, (height - 0.6) / 2), (width, depth, height + 0.6), wall)
    return join([body, _roof(width, depth, height, float(rng.uniform(0.1, 1.0)), wall)])
