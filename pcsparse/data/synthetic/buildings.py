"""Houses, shops, halls, garages, churches: raw class 50.

Local frame: x along the facade (0 to width), y away from the street (0 to depth), z = 0 ground at the facade.
"""

from itertools import pairwise

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic.facades import FOOT, Rect, Style, draw_style, facade
from pcsparse.data.synthetic.materials import BUILDING, WINDOW, Material, Surface
from pcsparse.data.synthetic.mesh import Mesh, box, boxes, join, quads, tube, tubes
from pcsparse.data.synthetic.roofs import gable, roof

ROOM = Surface(50, Material.CLOTH, 0.16)


def wall_of(rng: Generator) -> Surface:
    """What a house is made of: mostly smooth render, else brick or stone; 0.12 to 0.75 bright."""
    value = float(np.clip(BUILDING.reflectivity * rng.lognormal(0.0, 0.42), 0.12, 0.75))
    return Surface(BUILDING.semantic, Material.PLASTER if rng.random() < 0.75 else Material.STONE, value)


def house(rng: Generator, width: float, depth: float, height: float, detail: float = 1.0) -> Mesh:
    """A house with windows on all sides, doors, balconies, a bay and a roof.

    Args:
        rng: random numbers.
        width: metres along the street.
        depth: metres away from it.
        height: of the walls, metres.
        detail: below 0.5 without the relief of windows, for houses far off.
    """
    style, fine = draw_style(rng, wall_of(rng)), detail >= 0.5
    doors = _doors(rng, width) if fine else ()
    parts = [
        _front(rng, width, height, style, doors, fine),
        _others(rng, width, depth, height, style, fine),
        roof(rng, width, depth, height, style.wall),
        _rooms(rng, width, depth, height),
    ]
    if fine:
        parts.append(_entrances(rng, doors, style.wall))
        parts.append(_extras(rng, width, height, style))
    return join(parts)


def _doors(rng: Generator, width: float) -> tuple[Rect, ...]:
    """A door, and in some houses a garage or an entry to the yard."""
    x = float(rng.uniform(0.4, max(0.5, width - 1.8)))
    doors = [(x, x + 1.1, 0.0, 2.15)]
    if width > 7 and rng.random() < 0.35:
        wide = float(rng.uniform(2.4, 3.2))
        g = float(rng.uniform(0.5, width - wide - 0.5))
        if g > x + 1.4 or g + wide < x - 0.3:
            doors.append((g, g + wide, 0.0, float(rng.uniform(2.1, 2.8))))
    return tuple(sorted(doors))


def _front(
    rng: Generator, width: float, height: float, style: Style, doors: tuple[Rect, ...], fine: bool
) -> Mesh:
    """The facade; one in three has a part that stands back or forward by up to 1.2 metres."""
    if not fine or width < 7 or rng.random() > 0.35:
        return facade(rng, width, height, style, doors, fine=fine)
    cut, step = float(rng.uniform(0.35, 0.65)) * width, float(rng.uniform(-0.6, 1.2))
    left = tuple(door for door in doors if door[1] < cut - 0.2)
    right = tuple((a - cut, b - cut, c, d) for a, b, c, d in doors if a > cut + 0.2)
    back = facade(rng, width - cut, height, style, right, fine=fine)
    jamb = np.array([[cut, 0, -FOOT], [cut, step, -FOOT], [cut, step, height], [cut, 0, height]])
    return join(
        [
            facade(rng, cut, height, style, left, fine=fine),
            back.moved(np.eye(3), np.array([cut, step, 0.0])),
            quads(jamb[None], style.wall),
        ]
    )


def _others(rng: Generator, width: float, depth: float, height: float, style: Style, fine: bool) -> Mesh:
    """The flanks and the back."""
    parts = []
    for flip in (False, True):
        # half of all flanks are blank: party walls that lost their neighbour
        blank = rng.random() < 0.4
        side = _blank(depth, height, style.wall) if blank else facade(rng, depth, height, style, fine=fine)
        corners = side.corners[..., [1, 0, 2]].copy()
        if flip:
            corners[..., 0] = width - corners[..., 0]
        parts.append(side.with_corners(corners))
    back = facade(rng, width, height, style, fine=False)
    parts.append(back.with_corners(back.corners * np.array([1.0, -1.0, 1.0]) + np.array([0, depth, 0])))
    return join(parts)


def _blank(width: float, height: float, wall: Surface) -> Mesh:
    return quads(np.array([[[0, 0, -FOOT], [width, 0, -FOOT], [width, 0, height], [0, 0, height]]]), wall)


def _rooms(rng: Generator, width: float, depth: float, height: float) -> Mesh:
    """Inner walls, for pulses that come in by a window."""
    far = float(rng.uniform(0.25, 0.6)) * depth
    inner = np.array(
        [[0.2, far, -0.5], [width - 0.2, far, -0.5], [width - 0.2, far, height], [0.2, far, height]]
    )
    cross = [
        [[x, 0.5, -0.5], [x, depth - 0.5, -0.5], [x, depth - 0.5, height], [x, 0.5, height]]
        for x in np.arange(4.0, width - 2.0, 4.2)
    ]
    return quads(np.array([inner.tolist(), *cross]), ROOM)


def _entrances(rng: Generator, doors: tuple[Rect, ...], wall: Surface) -> Mesh:
    """Steps, canopies and porches before the doors."""
    parts = []
    for x0, x1, _, top in doors:
        if x1 - x0 > 2:
            continue
        x, wide = 0.5 * (x0 + x1), x1 - x0
        steps = int(rng.choice([0, 1, 2, 4], p=[0.4, 0.25, 0.2, 0.15]))
        for i in range(steps):
            parts.append(
                box((x, -0.15 - 0.3 * (steps - 1 - i), 0.08 + 0.16 * i), (wide + 0.5, 0.32, 0.16), wall)
            )
        if rng.random() < 0.35:
            parts.append(box((x, -0.6, top + 0.3), (wide + 0.9, 1.2, 0.12), wall))
            if rng.random() < 0.5:
                feet = np.array([[x - 0.9, -1.1, 0.0], [x + 0.9, -1.1, 0.0]])
                parts.append(
                    tubes(feet, feet + np.array([0, 0, top + 0.3]), np.full((2, 2), 0.07), wall, sides=6)
                )
    return join(parts)


def _extras(rng: Generator, width: float, height: float, style: Style) -> Mesh:
    """Downpipes, a bay, balconies, boxes on the wall."""
    parts, wall = [], style.wall
    for x in (0.12, width - 0.12):
        if rng.random() < 0.5:
            foot = np.array([x, -0.09, 0.0])
            parts.append(tube(foot, foot + np.array([0, 0, height]), (0.05, 0.05), wall.tinted(0.7), sides=6))
    if width > 6 and rng.random() < 0.25:
        x, reach = float(rng.uniform(1.8, width - 1.8)), float(rng.uniform(0.5, 1.2))
        low = float(rng.choice([-0.5, 2.9]))
        parts.append(box((x, -reach / 2, low + 1.6), (2.6, reach, 3.2), wall))
        parts.append(box((x, -reach - 0.012, low + 2.0), (1.8, 0.02, 1.3), WINDOW))
    if height > 5.5 and rng.random() < 0.3:
        parts.append(_balconies(rng, width, height, style))
    return join(parts)


def _balconies(rng: Generator, width: float, height: float, style: Style) -> Mesh:
    """Slabs with railings of bars, boards or glass; stacked floor over floor."""
    reach, wide = float(rng.uniform(0.8, 1.7)), float(rng.uniform(2.2, 3.6))
    kind = str(rng.choice(["bars", "boards", "glass"], p=[0.5, 0.3, 0.2]))
    spots = [
        (float(x), float(z))
        for z in style.storey * np.arange(1, max(2, int(height / style.storey)))
        for x in np.arange(2.0, width - 1.5, max(wide + 0.6, 4.0))
    ]
    if not spots:
        return join([])
    x, z = np.array(spots).T
    zero = np.zeros_like(x)
    parts = [
        boxes(np.stack([x, zero - reach / 2, z], 1), np.tile([wide, reach, 0.16], (len(x), 1)), style.wall)
    ]
    front = np.stack([x, zero - reach, z + 0.55], 1)
    if kind == "bars":
        spread = np.arange(-0.5, 0.51, 0.125) * wide
        posts = (front[:, None] + spread[:, None] * np.array([1.0, 0, 0])).reshape(-1, 3)
        parts.append(boxes(posts, np.tile([0.025, 0.025, 1.0], (len(posts), 1)), style.wall))
        parts.append(
            boxes(front + np.array([0, 0, 0.5]), np.tile([wide, 0.05, 0.05], (len(x), 1)), style.wall)
        )
    else:
        plate = WINDOW if kind == "glass" else style.wall.tinted(float(rng.uniform(0.6, 1.2)))
        parts.append(boxes(front, np.tile([wide, 0.04, 1.0], (len(x), 1)), plate))
    return join(parts)


def shop_front(rng: Generator, width: float, depth: float, height: float) -> Mesh:
    """A town house with a glazed ground floor between pillars, a fascia, and an awning over some."""
    style = draw_style(rng, wall_of(rng))
    count = max(1, int(width / 2.8))
    edges = np.linspace(0.3, width - 0.3, count + 1)
    panes: tuple[Rect, ...] = tuple(
        (float(a) + 0.15, float(b) - 0.15, float(rng.choice([0.1, 0.5])), 2.7) for a, b in pairwise(edges)
    )
    parts = [facade(rng, width, height, style, panes, fine=True, leaves=False)]
    for x0, x1, z0, z1 in panes:
        if rng.random() < 0.55:
            parts.append(box((0.5 * (x0 + x1), 0.15, 0.5 * (z0 + z1)), (x1 - x0, 0.02, z1 - z0), WINDOW))
    parts += [
        _others(rng, width, depth, height, style, True),
        roof(rng, width, depth, height, style.wall),
        _rooms(rng, width, depth, height),
        box((width / 2, -0.08, 2.95), (width - 0.4, 0.16, 0.45), style.wall.tinted(0.7)),
    ]
    if rng.random() < 0.4:
        reach = float(rng.uniform(0.6, 1.6))
        rim = np.array([[0.3, 0, 3.0], [width - 0.3, 0, 3.0], [width - 0.3, -reach, 2.5], [0.3, -reach, 2.5]])
        parts.append(quads(rim[None], style.wall))
    return join(parts)


def hall(rng: Generator, width: float, depth: float, height: float) -> Mesh:
    """A works or a store: corrugated or smooth sheet, gates, a band of windows, ramps."""
    wall = Surface(BUILDING.semantic, Material.PLASTER, float(rng.uniform(0.15, 0.6)))
    gates: list[Rect] = []
    at = float(rng.uniform(1.0, 5.0))
    while at < width - 5.0:
        gates.append((at, at + 3.6, 0.0, min(4.0, height - 0.8)))
        at += 3.6 + float(rng.uniform(1.5, 12.0))
    style = Style(wall, height, (2.4, 1.0), 1.2, 0.12, 0.0, False, False, 0.0, False)
    parts = [facade(rng, width, height, style, tuple(gates), fine=True)]
    parts.append(_others(rng, width, depth, height, style, False))
    parts.append(
        roof(rng, width, depth, height, wall) if rng.random() < 0.3 else _lid(width, depth, height, wall)
    )
    if rng.random() < 0.6:
        ribs = np.arange(0.4, width, max(0.7, width / 60))
        ribs = ribs[[all(r < g[0] - 0.2 or r > g[1] + 0.2 for g in gates) for r in ribs]]
        middles = np.stack([ribs, 0 * ribs - 0.03, 0 * ribs + height / 2], 1)
        parts.append(boxes(middles, np.tile([0.2, 0.06, height], (len(ribs), 1)), wall))
    return join(parts)


def _lid(width: float, depth: float, height: float, wall: Surface) -> Mesh:
    rim = np.array([[0, 0, height], [width, 0, height], [width, depth, height], [0, depth, height]])
    return quads(rim[None], wall)


def shed(rng: Generator) -> Mesh:
    """A garage, a row of them, a car port or a garden shed."""
    depth, height = float(rng.uniform(2.4, 6.0)), float(rng.uniform(2.0, 2.8))
    wall = wall_of(rng)
    match str(rng.choice(["shed", "garage", "port"], p=[0.4, 0.4, 0.2])):
        case "garage":
            count = int(rng.choice([1, 2, 4], p=[0.6, 0.3, 0.1]))
            width, height = 3.0 * count, max(height, 2.4)
            doors: tuple[Rect, ...] = tuple((3.0 * i + 0.25, 3.0 * i + 2.75, 0.0, 2.1) for i in range(count))
            style = Style(wall, height, (0.4, 0.4), 2.0, 0.15, 0.0, False, False, 0.0, False)
            front = facade(rng, width, height, style, doors, fine=True)
            body = box(
                (width / 2, depth / 2 + 0.15, (height - 0.6) / 2), (width, depth - 0.3, height + 0.59), wall
            )
            return join([front, body, _lid(width, depth, height, wall)])
        case "port":
            posts = np.array([[x, y, -0.3] for x in (0.1, 2.9) for y in (0.1, 4.8)])
            legs = tubes(posts, posts + np.array([0, 0, 2.6]), np.full((4, 2), 0.06), wall, sides=6)
            return join([legs, box((1.5, 2.5, 2.35), (3.3, 5.4, 0.15), wall)])
        case _:
            width = float(rng.uniform(2.2, 4.5))
            body = box((width / 2, depth / 2, (height - 0.6) / 2), (width, depth, height + 0.6), wall)
            return join([body, gable(width, depth, height, float(rng.uniform(0.2, 1.0)), wall, wall)])


def church(rng: Generator) -> Mesh:
    """A church with a tower at its street end, 8 to 12 m wide and 18 to 30 m deep."""
    wall = Surface(BUILDING.semantic, Material.STONE, float(rng.uniform(0.15, 0.4)))
    width, depth, height = float(rng.uniform(8, 12)), float(rng.uniform(18, 30)), float(rng.uniform(7, 12))
    tower, tall = float(rng.uniform(4, 6)), float(rng.uniform(18, 35))
    at = np.arange(7.0, depth - 1.0, 4.0)
    ribs = np.array([[x, y, 0.4 * height] for y in at for x in (-0.3, width + 0.3)])
    return join(
        [
            box((width / 2, depth / 2, (height - FOOT) / 2), (width, depth, height + FOOT), wall),
            gable(width, depth, height, 0.5, wall, wall),
            box((width / 2, 0.0, (tall - FOOT) / 2), (tower, tower, tall + FOOT), wall),
            boxes(ribs, np.tile([0.7, 0.8, 0.8 * height + 1.0], (len(ribs), 1)), wall),
            box((width / 2, -tower / 2 - 0.05, 1.4), (2.0, 0.12, 2.8), wall.tinted(0.4)),
        ]
    )
