"""Cars, vans, lorries, buses, trailers: shells over a side profile. Local frame: x forward, z = 0 ground."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic.materials import CAR_GLASS, PAINT, PLATE, TYRE, Surface
from pcsparse.data.synthetic.mesh import Mesh, box, boxes, join, quads, tube

CAR, TRUCK, BUS, TRAILER = 10, 18, 13, 20


@dataclass(frozen=True)
class _Shape:
    """A car in fractions: stations of (x / length, belt / height, top / height, width / full width)."""

    length: tuple[float, float]
    width: tuple[float, float]
    height: tuple[float, float]
    stations: tuple[tuple[float, float, float, float], ...]


# x from nose (0) to tail (1); where belt equals top there is no glass at the side
_SHAPES = {
    "hatchback": _Shape(
        (3.5, 4.3),
        (1.62, 1.80),
        (1.42, 1.55),
        ((0, 0.42, 0.42, 0.78), (0.04, 0.50, 0.50, 0.94), (0.26, 0.63, 0.63, 1), (0.46, 0.64, 0.97, 1),
         (0.70, 0.66, 1.0, 1), (0.88, 0.67, 0.94, 0.98), (0.98, 0.66, 0.68, 0.92), (1, 0.45, 0.45, 0.82)),
    ),
    "saloon": _Shape(
        (4.3, 5.0),
        (1.72, 1.90),
        (1.38, 1.48),
        ((0, 0.42, 0.42, 0.78), (0.04, 0.50, 0.50, 0.94), (0.28, 0.64, 0.64, 1), (0.44, 0.65, 0.98, 1),
         (0.64, 0.67, 1.0, 1), (0.82, 0.69, 0.73, 0.99), (0.97, 0.66, 0.69, 0.93), (1, 0.45, 0.45, 0.82)),
    ),
    "estate": _Shape(
        (4.3, 4.9),
        (1.72, 1.88),
        (1.42, 1.58),
        ((0, 0.42, 0.42, 0.78), (0.04, 0.50, 0.50, 0.94), (0.26, 0.62, 0.62, 1), (0.42, 0.63, 0.96, 1),
         (0.60, 0.65, 1.0, 1), (0.92, 0.66, 0.94, 0.98), (0.99, 0.65, 0.68, 0.93), (1, 0.45, 0.45, 0.84)),
    ),
    "suv": _Shape(
        (4.2, 4.9),
        (1.78, 1.98),
        (1.60, 1.85),
        ((0, 0.44, 0.44, 0.82), (0.03, 0.56, 0.56, 0.95), (0.26, 0.64, 0.64, 1), (0.42, 0.65, 0.97, 1),
         (0.62, 0.66, 1.0, 1), (0.93, 0.67, 0.96, 0.98), (0.99, 0.66, 0.69, 0.94), (1, 0.46, 0.46, 0.86)),
    ),
    "van": _Shape(
        (4.6, 6.0),
        (1.85, 2.05),
        (1.9, 2.6),
        ((0, 0.36, 0.36, 0.84), (0.02, 0.44, 0.44, 0.95), (0.15, 0.52, 0.52, 1), (0.28, 0.54, 0.97, 1),
         (0.40, 0.98, 1.0, 1), (0.97, 0.98, 1.0, 1), (0.995, 0.70, 0.95, 0.97), (1, 0.30, 0.60, 0.95)),
    ),
}  # fmt: skip
_NAMES = ("hatchback", "saloon", "estate", "suv", "van")
_SHARES = (0.34, 0.22, 0.20, 0.14, 0.10)


def _paint(rng: Generator) -> Surface:
    # black and grey cars return next to nothing (the median of a real sweep is 0), white ones plenty
    value = rng.choice([0.01, 0.05, 0.15, 0.35], p=[0.40, 0.25, 0.20, 0.15])
    return PAINT.tinted(float(value) / PAINT.reflectivity)


def _wheels(xs: list[float], half_width: float, radius: float) -> Mesh:
    parts = []
    for x in xs:
        for side in (-1.0, 1.0):
            outer, inner = side * (half_width + 0.01), side * (half_width - 0.22)
            ends = np.array([x, inner, radius]), np.array([x, outer, radius])
            parts.append(tube(*ends, (radius, radius), TYRE, sides=12))
    return join(parts)


def _shell(shape: _Shape, size: tuple[float, float, float], paint: Surface) -> Mesh:
    length, width, height = size
    clearance = 0.20
    stations = np.array(shape.stations)
    x = length * (0.5 - stations[:, 0])
    belt, top = height * stations[:, 1], height * stations[:, 2]
    half = 0.5 * width * stations[:, 3]
    # the cabin leans in by up to a seventh of the half width
    lean = np.clip((top - belt) / height * 0.40, 0.0, 0.16)
    rim = np.stack(
        [
            np.stack([x, half * 0.94, np.full_like(x, clearance)], 1),
            np.stack([x, half, 0.5 * (clearance + belt)], 1),
            np.stack([x, half * 0.97, belt], 1),
            np.stack([x, half * (0.97 - lean), np.maximum(top - 0.03, belt)], 1),
            np.stack([x, half * 0.5, top + 0.015], 1),
        ],
        axis=1,
    )
    mirrored = rim[:, ::-1] * np.array([1.0, -1.0, 1.0])
    section = np.concatenate([rim, mirrored], axis=1)  # (station, 10, 3)
    faces = np.stack([section[:-1, :-1], section[1:, :-1], section[1:, 1:], section[:-1, 1:]], axis=2)
    # side faces 2 and 6 are windows where the roof is well above the belt at both ends; steep tops are panes
    tall = (top - belt) > 0.2 * height
    window = np.zeros(faces.shape[:2], bool)
    window[:, [2, 6]] = (tall[:-1] & tall[1:])[:, None]
    pane = tall[:-1] != tall[1:]
    window[:, 2:7] |= pane[:, None]
    caps = [section[0], section[-1]]
    ends = np.concatenate([np.stack([c[:4], c[1:5], c[::-1][1:5], c[::-1][:4]], axis=1) for c in caps])
    return join([quads(faces[~window], paint), quads(faces[window], CAR_GLASS), quads(ends, paint)])


def car(rng: Generator) -> tuple[Mesh, tuple[float, float]]:
    """A car or a van of random shape and paint, and its (length, width) in metres."""
    shape = _SHAPES[str(rng.choice(_NAMES, p=_SHARES))]
    length, width, height = (float(rng.uniform(*span)) for span in (shape.length, shape.width, shape.height))
    radius = 0.30 + 0.03 * float(rng.random()) + 0.03 * (height > 1.6)
    plates = boxes(
        np.array([[s * (length / 2 + 0.005), 0.0, 0.55 + 0.15 * (s < 0)] for s in (-1, 1)]),
        np.array([[0.02, 0.5, 0.11]] * 2),
        PLATE,
    )
    mirrors = boxes(
        np.array([[0.22 * length, s * (width / 2 + 0.07), 0.66 * height] for s in (-1, 1)]),
        np.array([[0.08, 0.16, 0.14]] * 2),
        PAINT,
    )
    body = _shell(shape, (length, width, height), _paint(rng))
    wheels = _wheels([0.31 * length, -0.29 * length], width / 2 - 0.02, radius)
    return join([body, plates, mirrors, wheels]), (length, width)


def _cabin(front: float, length: float, width: float, height: float, paint: Surface) -> Mesh:
    """A lorry's cab with a windscreen, nose at x = front."""
    body = box((front - length / 2, 0, 0.5 + (height - 0.5) / 2), (length, width, height - 0.5), paint)
    screen = box((front + 0.01, 0, 0.68 * height), (0.02, 0.88 * width, 0.30 * height), CAR_GLASS)
    doors = boxes(
        np.array([[front - length / 2, s * (width / 2 + 0.01), 0.70 * height] for s in (-1, 1)]),
        np.array([[0.6 * length, 0.02, 0.22 * height]] * 2),
        CAR_GLASS,
    )
    return join([body, screen, doors])


def truck(rng: Generator) -> tuple[Mesh, tuple[float, float]]:
    """A rigid lorry with a box, a flat bed or a tipper; raw class 18; and its (length, width)."""
    length, width = float(rng.uniform(6.0, 10.0)), float(rng.uniform(2.2, 2.55))
    height, cab = float(rng.uniform(2.5, 3.8)), float(rng.uniform(1.6, 2.3))
    paint = PAINT.tinted(float(rng.uniform(0.5, 4.5)))
    load = length - cab - 0.2
    top = float(rng.choice([height, 1.5, 2.2], p=[0.6, 0.2, 0.2]))
    middle = -length / 2 + load / 2
    parts = [
        _cabin(length / 2, cab, width * 0.96, min(height, 2.9), paint),
        box(
            (middle, 0, 1.0 + (top - 1.0) / 2),
            (load, width, top - 1.0),
            PAINT.tinted(float(rng.uniform(1, 5))),
        ),
        box((0, 0, 0.8), (length * 0.94, 0.9, 0.3), TYRE),
        _wheels([0.36 * length, -0.25 * length, -0.38 * length], width / 2 - 0.03, 0.48),
    ]
    return join(parts).with_semantic(TRUCK), (length, width)


def bus(rng: Generator) -> tuple[Mesh, tuple[float, float]]:
    """A bus, raw class 13, and its (length, width)."""
    length, width, height = float(rng.uniform(8.0, 12.0)), 2.55, float(rng.uniform(2.8, 3.2))
    paint = PAINT.tinted(float(rng.uniform(1.0, 5.0)))
    body = box((0, 0, 0.3 + (height - 0.3) / 2), (length, width, height - 0.3), paint)
    band = box((0, 0, 0.62 * height), (length * 0.94, width + 0.03, 0.32 * height), CAR_GLASS)
    screen = box((0, 0, 0.58 * height), (length + 0.03, 0.9 * width, 0.4 * height), CAR_GLASS)
    wheels = _wheels([0.3 * length, -0.26 * length], width / 2, 0.48)
    return join([body, band, screen, wheels]).with_semantic(BUS), (length, width)


def trailer(rng: Generator) -> tuple[Mesh, tuple[float, float]]:
    """A caravan, a car trailer or a digger-like machine, raw class 20, and its (length, width)."""
    length, width = float(rng.uniform(2.5, 6.0)), float(rng.uniform(1.6, 2.3))
    height = float(rng.choice([1.1, 2.0, 2.5]))
    paint = PAINT.tinted(float(rng.uniform(0.5, 5.0)))
    parts = [
        box((0, 0, 0.5 + (height - 0.5) / 2), (length, width, height - 0.5), paint),
        box((length / 2 + 0.5, 0, 0.5), (1.1, 0.1, 0.1), TYRE),
        _wheels([-0.1 * length], width / 2, 0.32),
    ]
    if rng.random() < 0.3:
        arm = np.array([length / 2, 0, height]), np.array([length / 2 + 1.5, 0, height + 1.2])
        parts.append(tube(*arm, (0.2, 0.12), paint, sides=6))
    return join(parts).with_semantic(TRAILER), (length, width)
