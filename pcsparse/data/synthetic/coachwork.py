"""What all vehicles are built with: paint, panes, wheels, lamps, plates.

Local frame: x forward, z = 0 ground.
"""

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic.arrays import Floats
from pcsparse.data.synthetic.materials import CAR_GLASS, PAINT, PLATE, TYRE, Material, Surface
from pcsparse.data.synthetic.mesh import Mesh, boxes, join, quads, tubes

RIM = Surface(10, Material.METAL, 0.25)
SEAT = Surface(10, Material.CLOTH, 0.04)
LAMP = Surface(10, Material.RETRO, 0.45)
TAIL_LAMP = Surface(10, Material.RETRO, 0.8)
PLASTIC = Surface(10, Material.RUBBER, 0.001)


def paint(rng: Generator) -> Surface:
    """Paint of a car: one in six returns next to nothing, light ones as much as a wall.

    Of ten cars in four real sweeps 15 to 83 % of the returns are 0, 43 % on average; the others have a median
    of 0.17 to 0.33.
    """
    low, high = ((0.0, 0.02), (0.03, 0.14), (0.14, 0.28), (0.28, 0.48))[
        int(rng.choice(4, p=[0.17, 0.15, 0.34, 0.34]))
    ]
    return Surface(PAINT.semantic, Material.PAINT, float(rng.uniform(low, high)))


def livery(rng: Generator) -> Surface:
    """Paint of lorries, buses and trailers: lighter than that of cars, with canvas among it."""
    value = float(rng.choice([0.02, 0.12, 0.28, 0.45], p=[0.15, 0.25, 0.35, 0.25])) * float(
        rng.uniform(0.7, 1.3)
    )
    return Surface(PAINT.semantic, Material.PAINT if rng.random() < 0.6 else Material.PLASTER, value)


def panes(rng: Generator, faces: Floats) -> Mesh:
    """Window panes (q, 4, 3), metres: some let pulses in to what is behind, the rest are glass.

    In real sweeps next to nothing comes back from most of a car's windows, not even returns of 0.
    """
    shut = rng.random(len(faces)) < 0.8
    return quads(faces[shut], CAR_GLASS.tinted(float(rng.uniform(0.3, 1.5))))


def wheels(xs: list[float], half_width: float, radius: float, width: float = 0.22) -> Mesh:
    """Wheels on both sides at `xs`, their outer faces `half_width` from the middle; rims in the tyres."""
    hubs = np.array([[x, side * half_width, radius] for x in xs for side in (-1.0, 1.0)])
    inward = -np.sign(hubs[:, 1])[:, None] * np.array([0.0, 1.0, 0.0])
    radii = np.full((len(hubs), 2), radius)
    # the rim stands out by a centimetre, or its face would flicker with that of the tyre
    return join(
        [
            tubes(hubs + width * inward, hubs, radii, TYRE, sides=14),
            tubes(hubs, hubs - 0.012 * inward, radii * 0.62, RIM, sides=9),
        ]
    )


def plates(length: float, heights: tuple[float, float] = (0.45, 0.75)) -> Mesh:
    """Retro-reflective number plates at the nose and the tail of a vehicle `length` metres long."""
    return boxes(
        np.array([[length / 2 + 0.012, 0.0, heights[0]], [-length / 2 - 0.012, 0.0, heights[1]]]),
        np.array([[0.02, 0.52, 0.11]] * 2),
        PLATE,
    )


def lamps(rng: Generator, length: float, width: float, height: float) -> Mesh:
    """Head lamps and tail lamps at `height` metres, a little inside the corners."""
    size = np.array([0.1, float(rng.uniform(0.22, 0.36)), float(rng.uniform(0.10, 0.20))])
    y = 0.36 * width
    front = np.array([[0.5 * length - 0.06, side * y, height] for side in (-1, 1)])
    back = np.array([[-0.5 * length + 0.04, side * (y + 0.03), height + 0.14] for side in (-1, 1)])
    return join(
        [
            boxes(front, np.tile(size, (2, 1)), LAMP.tinted(float(rng.uniform(0.3, 1.4)))),
            boxes(
                back, np.tile(size * [1, 0.7, 1.3], (2, 1)), TAIL_LAMP.tinted(float(rng.uniform(0.5, 1.3)))
            ),
        ]
    )


def mirrors(x: float, width: float, z: float, size: float, surface: Surface) -> Mesh:
    """A pair of mirrors of about `size` metres outside of `width`."""
    middles = np.array([[x, side * (width / 2 + 0.45 * size), z] for side in (-1, 1)])
    return boxes(middles, np.array([[0.4 * size, 0.9 * size, 0.75 * size]] * 2), surface)
