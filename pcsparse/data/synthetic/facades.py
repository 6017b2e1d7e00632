"""One wall of a house: rows of recessed windows that swallow pulses or let them in, doors, shutters, ledges.

Local frame: the wall lies in the plane y = 0 from x = 0 to `width`, the street at y < 0, z = 0 ground.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic.arrays import Floats
from pcsparse.data.synthetic.materials import WINDOW, Material, Surface
from pcsparse.data.synthetic.mesh import Mesh, boxes, join, quads

# walls reach below the ground, so that slopes leave no gap under them
FOOT = 2.5
_CURTAIN = Surface(WINDOW.semantic, Material.CLOTH, 0.22)
# metres: above, relief is smaller than what the beams of a car's sensor resolve
_FINE = 6.0

Rect = tuple[float, float, float, float]
"""x0, x1, z0, z1 in metres."""


@dataclass(frozen=True)
class Style:
    """What the walls of one house share, in metres.

    Args:
        wall: what they are made of.
        storey: height of a floor.
        pane: width and height of a window.
        gap: between windows.
        recess: how deep windows and doors lie.
        sill: how far sills stand out; 0 for none.
        bars: whether windows have a bar in the middle.
        shutters: whether open shutters hang beside the windows.
        plinth: how far the base stands out; 0 for none.
        bands: whether ledges run between the floors.
    """

    wall: Surface
    storey: float
    pane: tuple[float, float]
    gap: float
    recess: float
    sill: float
    bars: bool
    shutters: bool
    plinth: float
    bands: bool


def draw_style(rng: Generator, wall: Surface) -> Style:
    """A style at random."""

    def chance(share: float) -> bool:
        return bool(rng.random() < share)

    pane = float(rng.uniform(0.8, 1.8)), float(rng.uniform(1.0, 1.7))
    return Style(
        wall,
        float(rng.uniform(2.7, 3.4)),
        pane,
        float(rng.uniform(0.5, 1.9)),
        float(rng.choice([0.06, 0.14, 0.25], p=[0.25, 0.45, 0.3])),
        float(rng.choice([0.0, 0.06, 0.14], p=[0.3, 0.4, 0.3])),
        chance(0.6),
        pane[0] < 1.3 and chance(0.25),
        float(rng.choice([0.0, 0.05], p=[0.55, 0.45])),
        chance(0.25),
    )


def facade(
    rng: Generator,
    width: float,
    height: float,
    style: Style,
    ground: tuple[Rect, ...] = (),
    *,
    fine: bool,
    leaves: bool = True,
) -> Mesh:
    """A wall with windows.

    Args:
        rng: random numbers.
        width: metres.
        height: metres.
        style: of the house.
        ground: openings of the ground floor other than windows (doors, gates), ascending in x, metres.
        fine: with sills, bars, reveals; else panes alone.
        leaves: whether the openings of the ground floor are closed by doors.
    """
    solid: list[Rect] = []
    panes: list[Rect] = []
    floors = max(1, round(height / style.storey))
    storey = height / floors
    for floor in range(floors):
        low, high, sill = -FOOT if floor == 0 else floor * storey, (floor + 1) * storey, floor * storey + 0.9
        doors = ground if floor == 0 else ()
        row = _row(rng, width, sill, min(sill + style.pane[1], high - 0.2), style)
        row = [w for w in row if all(w[1] < d[0] - 0.25 or w[0] > d[1] + 0.25 for d in doors)]
        panes += row
        solid += _around(width, low, high, sorted([*row, *doors]))
    parts = [quads(_upright(np.array(solid), 0.0), style.wall)]
    near = [pane for pane in panes if pane[2] < _FINE] if fine else []
    far = [pane for pane in panes if pane[2] >= _FINE or not fine]
    parts.append(_windows(rng, near, style))
    if far:
        parts.append(quads(_upright(np.array(far), 0.04), WINDOW))
    if ground:
        parts.append(_doors(rng, ground, style, leaves))
    if fine:
        parts.append(_ledges(width, floors, ground, style))
    return join(parts)


def _row(rng: Generator, width: float, low: float, high: float, style: Style) -> list[Rect]:
    """Windows of one floor, evenly spaced, some left out."""
    count = int((width - 0.5) / (style.pane[0] + style.gap))
    if count < 1 or high - low < 0.4:
        return []
    middles = (np.arange(count) + 0.5) * (width / count)
    kept = middles[rng.random(count) < 0.9]
    half = style.pane[0] / 2
    return [(float(x - half), float(x + half), low, high) for x in kept]


def _around(width: float, low: float, high: float, holes: list[Rect]) -> list[Rect]:
    """Rectangles that cover a floor but for its holes, which are ascending in x."""
    solid, at = [], 0.0
    for x0, x1, z0, z1 in holes:
        solid.append((at, x0, low, high))
        solid.append((x0, x1, low, z0))
        solid.append((x0, x1, z1, high))
        at = x1
    solid.append((at, width, low, high))
    return [r for r in solid if r[1] - r[0] > 1e-6 and r[3] - r[2] > 1e-6]


def _upright(rects: Floats, y: Floats | float) -> Floats:
    """Quadrilaterals (n, 4, 3) of rectangles (n, 4) in the planes y."""
    x0, x1, z0, z1 = rects.T
    plane = np.broadcast_to(np.asarray(y, np.float64), x0.shape)
    rim = [(x0, z0), (x1, z0), (x1, z1), (x0, z1)]
    return np.stack([np.stack([x, plane, z], -1) for x, z in rim], 1)


def _reveals(rects: Floats, depth: float) -> Floats:
    """The four sides (4 n, 4, 3) of recesses of `depth` behind the rectangles (n, 4)."""
    front, back = _upright(rects, 0.0), _upright(rects, depth)
    sides = [np.stack([front[:, i], front[:, j], back[:, j], back[:, i]], 1) for i, j in _EDGES]
    return np.concatenate(sides)


_EDGES = ((0, 1), (1, 2), (2, 3), (3, 0))


def _windows(rng: Generator, rects: list[Rect], style: Style) -> Mesh:
    """Recessed windows: glass, a curtain behind it, a closed shutter, or a view of the room."""
    if not rects:
        return join([])
    holes = np.array(rects)
    kind = rng.choice(4, len(holes), p=[0.42, 0.2, 0.1, 0.28])
    parts = [quads(_reveals(holes, style.recess), style.wall)]
    parts.append(quads(_upright(holes[kind == 0], style.recess), WINDOW))
    cloth = holes[kind == 1]
    parts.append(quads(_upright(cloth, style.recess + rng.uniform(0.08, 0.3, len(cloth))), _CURTAIN))
    parts.append(quads(_upright(holes[kind == 2], 0.7 * style.recess), style.wall.tinted(0.75)))
    x, z = 0.5 * (holes[:, 0] + holes[:, 1]), 0.5 * (holes[:, 2] + holes[:, 3])
    tall, wide = holes[:, 3] - holes[:, 2], holes[:, 1] - holes[:, 0]
    zero = np.zeros_like(x)
    if style.bars:
        middle = np.stack([x, zero + style.recess - 0.03, z], 1)
        parts.append(boxes(middle, np.stack([zero + 0.09, zero + 0.06, tall], 1), style.wall.tinted(0.9)))
    if style.sill:
        under = np.stack([x, zero - style.sill / 2, holes[:, 2] - 0.03], 1)
        parts.append(boxes(under, np.stack([wide + 0.1, zero + style.sill, zero + 0.06], 1), style.wall))
    if style.shutters:
        wing = 0.48 * wide
        for side in (-1, 1):
            beside = np.stack([x + side * (wide / 2 + wing / 2 + 0.02), zero - 0.04, z], 1)
            parts.append(boxes(beside, np.stack([wing, zero + 0.05, tall], 1), style.wall.tinted(0.6)))
    return join(parts)


def _doors(rng: Generator, rects: tuple[Rect, ...], style: Style, leaves: bool) -> Mesh:
    holes, depth = np.array(rects), max(0.1, style.recess)
    sides = quads(_reveals(holes, depth), style.wall)
    leaf = style.wall.tinted(float(rng.uniform(0.3, 1.1)))
    return join([sides, quads(_upright(holes, depth), leaf)]) if leaves else sides


def _ledges(width: float, floors: int, doors: tuple[Rect, ...], style: Style) -> Mesh:
    """The plinth between the doors, and bands between the floors."""
    rects: list[Rect] = []
    if style.plinth:
        at = 0.0
        for x0, x1, _, _ in [*sorted(doors), (width, width, 0.0, 0.0)]:
            rects.append((at, x0, -0.4, 0.55))
            at = x1
    if style.bands:
        rects += [(0.0, width, z - 0.1, z + 0.1) for z in style.storey * np.arange(1, min(floors, 3))]
    if not rects:
        return join([])
    x0s, x1s, low, high = np.array(rects).T
    middle = np.stack([0.5 * (x0s + x1s), 0 * x0s - 0.03, 0.5 * (low + high)], 1)
    return boxes(middle, np.stack([x1s - x0s, 0 * x0s + 0.06, high - low], 1), style.wall)
