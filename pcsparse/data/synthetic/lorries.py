"""Lorries, buses and trams. Local frame: x forward, z = 0 ground.

Each maker gives a mesh and the (length, width) of the whole in metres.
"""

from itertools import pairwise

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic.coachwork import PLASTIC, SEAT, lamps, livery, mirrors, panes, plates, wheels
from pcsparse.data.synthetic.materials import CAR_GLASS, Surface
from pcsparse.data.synthetic.mesh import Mesh, box, boxes, join, quads, tubes

TRUCK, BUS, ON_RAILS = 18, 13, 16
Sized = tuple[Mesh, tuple[float, float]]


def _cabin(rng: Generator, front: float, length: float, width: float, height: float, coat: Surface) -> Mesh:
    """A lorry's cab with a sloping windscreen, nose at x = front."""
    back, low, belt = front - length, 0.45, 0.55 * height
    rear = back + 0.55 * length
    outline = np.array(
        [
            [back, low],
            [front - 0.05, low],
            [front, belt],
            [front - 0.22, height - 0.12],
            [front - 0.4, height],
            [back, height],
        ]
    )
    left, right = (np.insert(outline, 1, side * width / 2, axis=1) for side in (1, -1))
    rims = np.stack([left, right, np.roll(right, -1, 0), np.roll(left, -1, 0)], 1)
    sides = [np.array([rim[[0, 1, 2, 5]], rim[[2, 3, 4, 5]]]) for rim in (left, right)]
    screen = rims[2] * [1, 0.94, 1] + [0.015, 0, 0]
    doors = np.array(
        [
            [
                [front - 0.3, y, belt],
                [rear, y, belt],
                [rear, y, 0.88 * height],
                [front - 0.4, y, 0.88 * height],
            ]
            for y in (width / 2 + 0.012, -width / 2 - 0.012)
        ]
    )
    solid = np.concatenate([rims[[0, 1, 3, 4, 5]], *sides])
    return join(
        [
            quads(solid, coat),
            # behind a pane that lets pulses in there are seats, and the wall behind them
            panes(rng, np.concatenate([screen[None], doors])),
            box((front - 0.8, 0, belt), (0.3, 0.9 * width, 0.8), SEAT),
            mirrors(front - 0.1, width, 0.78 * height, 0.42, PLASTIC),
        ]
    )


def _load(rng: Generator, back: float, length: float, width: float, floor: float, height: float) -> Mesh:
    """What a lorry or a trailer carries between x = back and back + length, from `floor` up to `height`."""
    coat, middle = livery(rng), back + length / 2
    kind = str(
        rng.choice(
            ["box", "curtain", "flat", "tipper", "tank", "skip"], p=[0.42, 0.22, 0.12, 0.1, 0.06, 0.08]
        )
    )
    rise = height - floor
    match kind:
        case "flat":
            stack = box((middle, 0, floor + 0.3), (0.7 * length, 0.8 * width, 0.6), coat)
            return join([box((middle, 0, floor), (length, width, 0.16), PLASTIC), stack])
        case "tipper" | "skip":
            top = min(rise, 1.5)
            walls = np.array(
                [[0, 0.5, top / 2], [0, -0.5, top / 2], [0.5, 0, top / 2], [-0.5, 0, top / 2], [0, 0, 0.25]]
            )
            centres = walls * [length, width, 1] + [middle, 0, floor]
            sizes = np.array(
                [
                    [length, 0.08, top],
                    [length, 0.08, top],
                    [0.08, width, top],
                    [0.08, width, top],
                    [length, width, 0.5],
                ]
            )
            return boxes(centres, sizes, coat)
        case "tank":
            radius = min(0.48 * width, 0.5 * rise)
            ends = np.array([[back, 0, floor + radius]]), np.array([[back + length, 0, floor + radius]])
            return tubes(*ends, np.array([[radius, radius]]), coat, sides=12)
        case _:
            body = box((middle, 0, floor + rise / 2), (length, width, rise), coat)
            if kind == "box":
                return body
            posts = np.arange(back + 0.3, back + length, 1.3)
            at = np.array(
                [[x, side * (width / 2 + 0.02), floor + rise / 2] for x in posts for side in (-1, 1)]
            )
            ribs = boxes(at, np.tile([0.09, 0.05, rise], (len(at), 1)), coat.tinted(0.7))
            return join([body, ribs])


def rigid(rng: Generator) -> Sized:
    """A rigid lorry of 5.5 to 12 m, raw class 18."""
    length, width = float(rng.uniform(5.5, 12.0)), float(rng.uniform(2.15, 2.55))
    cab, tall = float(rng.uniform(1.6, 2.3)), float(rng.uniform(2.4, 3.4))
    front, load = length / 2, length - cab - 0.2
    axles = [front - 0.7 * cab, -length / 2 + 0.25 * load]
    if length > 8.5:
        axles.append(axles[-1] + 1.3)
    parts = [
        _cabin(rng, front, cab, width * 0.96, tall, livery(rng)),
        _load(rng, -length / 2, load, width, 1.05, float(rng.uniform(2.6, 3.9))),
        box((0, 0, 0.8), (length * 0.94, 0.9, 0.3), PLASTIC),
        wheels(axles, width / 2 - 0.03, 0.48, 0.32),
        lamps(rng, length, width, 0.75),
        plates(length, (0.55, 0.8)),
    ]
    if rng.random() < 0.5:
        guard = np.array([[-0.05 * length, side * (width / 2 - 0.06), 0.7] for side in (-1, 1)])
        parts.append(boxes(guard, np.array([[0.35 * length, 0.05, 0.35]] * 2), PLASTIC))
    return join(parts).with_semantic(TRUCK), (length, width)


def articulated(rng: Generator) -> Sized:
    """A tractor with a semi-trailer of 14 to 16.5 m, raw class 18."""
    length, width = float(rng.uniform(14.0, 16.5)), 2.55
    front, back = length / 2, -length / 2
    trailer = length - 2.9
    parts = [
        _cabin(rng, front, 2.25, 2.45, float(rng.uniform(3.0, 3.8)), livery(rng)),
        _load(rng, back, trailer, width, 1.2, float(rng.uniform(3.4, 4.0))),
        box((0, 0, 0.95), (length * 0.92, 0.9, 0.3), PLASTIC),
        wheels([front - 1.4, front - 4.6, back + 2.0, back + 3.3, back + 4.6], width / 2 - 0.03, 0.5, 0.35),
        lamps(rng, length, width, 0.85),
        plates(length, (0.55, 0.9)),
    ]
    return join(parts).with_semantic(TRUCK), (length, width)


def truck(rng: Generator) -> Sized:
    """A lorry, rigid or articulated, raw class 18."""
    return articulated(rng) if rng.random() < 0.22 else rigid(rng)


def _coach(rng: Generator, size: tuple[float, float, float], floor: float, coat: Surface) -> Mesh:
    """A long box with a band of windows and seats behind it: the body of a bus or of a tram."""
    length, width, height = size
    belt, head = floor + 0.75, height - 0.35
    half, count = width / 2, max(3, int(length / 1.5))
    x = np.linspace(-length / 2 + 0.1, length / 2 - 0.1, count + 1)
    low = box((0, 0, 0.5 * (floor + belt)), (length, width, belt - floor), coat)
    roof = box((0, 0, 0.5 * (head + height)), (length, width, height - head), coat)
    posts = np.array([[at, side * (half - 0.03), 0.5 * (belt + head)] for at in x for side in (-1, 1)])
    band = [
        [[a + 0.06, y, belt], [b - 0.06, y, belt], [b - 0.06, y, head], [a + 0.06, y, head]]
        for a, b in pairwise(x)
        for y in (half - 0.02, 0.02 - half)
    ]
    ends = [
        [
            [at, -half + 0.1, belt - 0.2],
            [at, half - 0.1, belt - 0.2],
            [at, half - 0.1, head],
            [at, -half + 0.1, head],
        ]
        for at in (length / 2 + 0.01, -length / 2 - 0.01)
    ]
    seats = np.array([[at + 0.6, side * 0.62, belt + 0.05] for at in x[1:-1] for side in (-1, 1)])
    glass = CAR_GLASS.tinted(float(rng.uniform(0.5, 2.0)))
    return join(
        [
            low,
            roof,
            boxes(posts, np.tile([0.12, 0.06, head - belt], (len(posts), 1)), coat),
            panes(rng, np.array(band)),
            quads(np.array(ends), glass),
            boxes(seats, np.tile([0.12, 0.9, 0.7], (len(seats), 1)), SEAT),
            boxes(np.array([[0, 0, height + 0.12]]), np.array([[0.3 * length, 0.7 * width, 0.25]]), coat),
        ]
    )


def bus(rng: Generator) -> Sized:
    """A city bus or a coach of 8 to 18 m, raw class 13."""
    length = float(
        rng.choice([rng.uniform(8, 10), rng.uniform(11.5, 12.5), rng.uniform(17.5, 18)], p=[0.3, 0.5, 0.2])
    )
    width, height = 2.55, float(rng.uniform(2.9, 3.4))
    axles = [0.5 * length - 2.7, -0.5 * length + 3.2] + ([-0.5 * length + 9.0] if length > 15 else [])
    parts = [
        _coach(rng, (length, width, height), 0.32, livery(rng)),
        wheels(axles, width / 2 + 0.01, 0.48, 0.3),
        lamps(rng, length, width, 0.7),
        mirrors(0.5 * length + 0.1, width, 0.8 * height, 0.32, PLASTIC),
        plates(length, (0.45, 0.9)),
    ]
    return join(parts).with_semantic(BUS), (length, width)


def tram(rng: Generator) -> Sized:
    """A tram of two to four cars, raw class 16 (on rails)."""
    cars, each, width = int(rng.integers(2, 5)), float(rng.uniform(7.5, 9.5)), float(rng.uniform(2.3, 2.65))
    height, coat, parts = float(rng.uniform(3.2, 3.5)), livery(rng), []
    for i in range(cars):
        shift = np.array([(i - 0.5 * (cars - 1)) * (each + 0.5), 0, 0])
        parts.append(_coach(rng, (each, width, height), 0.35, coat).moved(np.eye(3), shift))
        parts.append(box((float(shift[0]), 0, 0.22), (0.7 * each, 0.8 * width, 0.4), PLASTIC))
    length = cars * each + 0.5 * (cars - 1)
    parts.append(box((0, 0, 1.8), (length - 2.0, 0.75 * width, 2.3), PLASTIC))
    return join(parts).with_semantic(ON_RAILS), (length, width)
