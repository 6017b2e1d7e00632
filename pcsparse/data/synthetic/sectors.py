"""Where the car that carries a sensor is in the way of its beams: sectors of a ring.

A sector is a ring and two azimuths in degrees, from straight ahead to the left round. A model with fewer
beams keeps the sectors of those it has.
"""

import numpy as np

from pcsparse.data.synthetic.arrays import Bools, Floats

Sector = tuple[int, int, int]
"""Ring, first and last azimuth in degrees."""


def within(sectors: tuple[Sector, ...], rings: int, azimuth: Floats) -> Bools:
    """(rings, n) whether the azimuths (n,), in radians, lie in a sector of the ring."""
    inside = np.zeros((rings, len(azimuth)), np.bool_)
    degrees = np.degrees(azimuth) % 360.0
    for ring, first, last in sectors:
        if ring < rings:
            inside[ring] |= (degrees - first) % 360.0 < (last - first) % 360.0
    return inside


def aside(sectors: tuple[Sector, ...], rings: int, azimuth: Floats) -> Floats:
    """(rings, n) degrees from azimuths (n,), in radians, to the ring's nearest sector; inf: it has none."""
    nearest = np.full((rings, len(azimuth)), np.inf)
    degrees = np.degrees(azimuth) % 360.0
    for ring, first, last in sectors:
        if ring < rings:
            beyond = (degrees - first) % 360.0 - (last - first) % 360.0
            before = (first - degrees) % 360.0
            nearest[ring] = np.minimum(nearest[ring], np.maximum(np.minimum(beyond, before), 0.0))
    return nearest
