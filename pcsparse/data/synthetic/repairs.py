"""Where a road has been mended: trenches along it and across it, and patches, in fresh or in worn asphalt."""

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic.land import Land
from pcsparse.data.synthetic.materials import ROAD
from pcsparse.data.synthetic.mesh import EMPTY, Mesh, join
from pcsparse.data.synthetic.paint import bars, laid
from pcsparse.data.synthetic.section import Block

# metres: a repair lies this much above the road, and marks above it
_ABOVE = 0.003
# metres of road a repair, on average
_SPACING = 11.0


def mended(rng: Generator, land: Land, number: int, block: Block) -> Mesh:
    """Repairs of a block's road, raw class 40; `number` of its street in `land.streets`.

    Fresh bitumen is so dark that an HDL-64E reports much of it as 0; what is worn is lighter than the road.
    """
    street = land.streets[number]
    span = block.end - block.start
    if street.ring or span < 4.0 or rng.random() < 0.15:
        return EMPTY
    parts = []
    for _ in range(int(rng.poisson(span / _SPACING))):
        s, t = rng.uniform(block.start, block.end), rng.uniform(-0.8, 0.8) * block.half
        match int(rng.choice(4, p=[0.4, 0.12, 0.28, 0.2])):
            case 0:
                # a pipe's trench, in pieces that follow the road
                pieces = s + np.arange(0.0, rng.uniform(4.0, 25.0), 1.0)
                rows = bars(pieces[pieces < block.end], t, 1.0, float(rng.uniform(0.5, 1.3)))
            case 1:
                width = float(rng.uniform(0.5, 1.2))
                across = np.arange(-block.half + 0.5, block.half - 0.4, 1.0)
                rows = bars(np.full(len(across), s), across, width, 1.0)
            case 2:
                lanes = 0.5 * (block.half - 0.1) * np.array([-1.0, 1.0])
                pieces = s + np.arange(0.0, rng.uniform(4.0, 25.0), 1.0)
                pieces = pieces[pieces < block.end]
                rows = np.concatenate([bars(pieces, lane, 1.0, block.half - 0.2) for lane in lanes])
            case _:
                rows = bars(np.array([s]), t, float(rng.uniform(0.8, 4.0)), float(rng.uniform(0.8, 2.5)))
        bright = float(rng.uniform(0.1, 0.5) if rng.random() < 0.75 else rng.uniform(1.1, 1.3))
        parts.append(laid(land, number, rows, _ABOVE, ROAD.tinted(bright)))
    return join(parts) if parts else EMPTY
