"""What is painted on a street: lines along it, crossings for pedestrians, stop lines."""

import numpy as np

from pcsparse.data.synthetic.arrays import Floats
from pcsparse.data.synthetic.land import Land
from pcsparse.data.synthetic.materials import LANE_MARK, Surface
from pcsparse.data.synthetic.mesh import EMPTY, Mesh, join, quads
from pcsparse.data.synthetic.section import Block

# metres: a line lies this much above the ground, so that rays meet it first
_ABOVE = 0.006
_PIECE = 1.0


def painted(land: Land, number: int, block: Block) -> Mesh:
    """Lane marks of a block, raw class 60; `number` of its street in `land.streets`."""
    street = land.streets[number]
    if street.ring:
        return EMPTY
    rows = []
    s = np.arange(block.start, block.end - _PIECE, _PIECE)
    if len(s) and block.built:
        isle = np.interp(s, np.arange(len(street.median)), street.median)
        half = street.half_at(s)
        if street.dash:
            dashed = (s % 9.0) < 4.0
            rows.append(bars(s[dashed & (isle < -0.5)], 0.0, _PIECE, 0.12))
        if street.dash and block.half > 4.6:
            for sign in (-1.0, 1.0):
                rows.append(bars(s, sign * (half - 0.4), _PIECE, 0.15))
                if block.half > 6.0:
                    dashed = (s % 9.0) < 4.0
                    middle = np.maximum(isle, 0.0) + 0.5 * (half - np.maximum(isle, 0.0))
                    rows.append(bars(s[dashed], sign * middle[dashed], _PIECE, 0.12))
    for node in street.nodes:
        for sign in (-1.0, 1.0):
            at = node.s + sign * (node.half + 2.5)
            if block.start <= at < block.end and street.caps[0] < at < street.caps[1]:
                half_here = float(street.half_at(at))
                if node.zebra:
                    across = np.arange(-half_here + 0.6, half_here - 0.4, 1.0)
                    rows.append(bars(np.full(len(across), at), across, 3.2, 0.5))
                elif street.dash:
                    # one stops on the right-hand side of one's own way
                    rows.append(bars(np.array([at]), sign * half_here / 2, 0.4, half_here - 0.4))
    marks = np.concatenate([row for row in rows if len(row)] or [np.zeros((0, 4))])
    return laid(land, number, marks, _ABOVE, LANE_MARK)


def bars(s: Floats, t: Floats | float, length: float, width: float) -> Floats:
    """(n, 4): middle along and across, length and width, metres."""
    s, t = np.broadcast_arrays(s + 0.0, t)
    return np.stack([s, t, np.full(s.shape, length), np.full(s.shape, width)], 1)


def laid(land: Land, number: int, rows: Floats, above: float, surface: Surface) -> Mesh:
    """Rectangles `rows` (n, 4) of `bars` on the carriageway of street `number`, `above` metres over it.

    Those that would reach beyond it, over a kerb or onto another street are left out.
    """
    if not len(rows):
        return EMPTY
    street = land.streets[number]
    corner = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
    s = rows[:, :1] + corner[:, 0] * rows[:, 2:3]
    t = rows[:, 1:2] + corner[:, 1] * rows[:, 3:4]
    x, y = street.world(s, t)
    spots = land.at(x.ravel(), y.ravel())
    # no lines across another street's carriageway, nor over kerbs
    own = (spots.street == number) & (spots.edge < -0.05) & (spots.other > 0.3) & (spots.isle < -0.05)
    keep = own.reshape(s.shape).all(1)
    if not keep.any():
        return EMPTY
    z = spots.z.reshape(s.shape) + above
    return join([quads(np.stack([x, y, z], -1)[keep], surface)])
