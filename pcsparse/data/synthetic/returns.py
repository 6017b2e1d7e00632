"""From hits to returns: small bumps, range noise, lost pulses, intensity."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic.arrays import Bools, Floats, Ints
from pcsparse.data.synthetic.materials import BUMPS, FUZZ, MIRROR, SPREAD
from pcsparse.data.synthetic.mesh import Mesh
from pcsparse.data.synthetic.sensor import Sensor

# metres: no bump moves a hit along its ray by more
_MOST_SHIFT = 0.45


def _hash(ix: Ints, iy: Ints, seed: int) -> Floats:
    """A random number in [-1, 1) that belongs to the lattice point (ix, iy)."""
    h = ix.astype(np.uint32) * np.uint32(0x9E3779B1) ^ iy.astype(np.uint32) * np.uint32(0x85EBCA77)
    h = (h ^ np.uint32(seed)) * np.uint32(0xC2B2AE3D)
    h = (h ^ (h >> np.uint32(15))) * np.uint32(0x27D4EB2F)
    return (h >> np.uint32(8)).astype(np.float64) / float(1 << 23) - 1.0


def value_noise(x: Floats, y: Floats, cell: float, seed: int) -> Floats:
    """Smooth noise in [-1, 1] on a lattice of `cell` metres, the same for the same world place."""
    u, v = x / cell, y / cell
    iu, iv = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    fu, fv = u - iu, v - iv
    fu, fv = fu * fu * (3 - 2 * fu), fv * fv * (3 - 2 * fv)
    a, b = _hash(iu, iv, seed), _hash(iu + 1, iv, seed)
    c, d = _hash(iu, iv + 1, seed), _hash(iu + 1, iv + 1, seed)
    return (a * (1 - fu) + b * fu) * (1 - fv) + (c * (1 - fu) + d * fu) * fv


@dataclass(frozen=True)
class Echoes:
    """What the sensor makes of n hits.

    Args:
        kept: (n,) which of them it reports.
        distance: (n,) float64, metres, as measured.
        intensity: (n,) float32, 0 to 1.
    """

    kept: Bools
    distance: Floats
    intensity: Floats


def echoes(
    distance: Floats,
    points: Floats,
    directions: Floats,
    struck: Mesh,
    sensor: Sensor,
    gain: float,
    seed: int,
    rng: Generator,
) -> Echoes:
    """Measure hits: bumps, range noise, the range's step, lost pulses and those out of range, intensity.

    Args:
        distance: (n,) metres along the ray.
        points: (n, 3) world metres.
        directions: (n, 3) unit vectors of the rays.
        struck: n triangles, the one that each ray met.
        sensor: what measures.
        gain: of its intensity.
        seed: of the place.
        rng: of the sweep.
    """
    cosine = np.abs(np.einsum("ij,ij->i", struck.normals(), directions))
    exact = bumped(distance, points, cosine, struck.material, seed, rng)
    exact = exact + rng.normal(0.0, sensor.range_noise, len(distance)) * (
        0.5 + 0.5 * np.minimum(exact / 25.0, 1.5)
    )
    exact = np.round(exact / sensor.range_quantum) * sensor.range_quantum
    kept = ~lost(distance, cosine, struck, sensor, rng)
    kept &= (exact >= sensor.min_range) & (exact <= sensor.max_range)
    return Echoes(kept, exact, intensity(points, cosine, struck, gain, seed, rng))


def bumped(
    distance: Floats, points: Floats, cosine: Floats, material: Ints, seed: int, rng: Generator
) -> Floats:
    """Distances after small bumps that the triangles do not have.

    A bump of height h in front of the hit shortens the ray by h / cosine: displacement mapping to first
    order, which leaves every point on its own beam. Blades of grass on soil shorten rays at random besides.

    Args:
        distance: (n,) metres.
        points: (n, 3) world metres.
        cosine: (n,) of the angle of incidence.
        material: (n,) rows of the material table.
        seed: of the town.
        rng: of the sweep.
    """
    size = BUMPS[material].astype(np.float64)
    height = np.zeros(len(distance))
    rough = size > 0
    x, y = points[rough, 0], points[rough, 1] + 0.7 * points[rough, 2]
    relief = 0.6 * value_noise(x, y, 1.1, seed) + 0.4 * value_noise(x, y, 0.23, seed + 1)
    height[rough] = relief * size[rough]
    fuzzy = np.flatnonzero(FUZZ[material])
    height[fuzzy] += FUZZ[material[fuzzy]] * rng.exponential(1.0, len(fuzzy))
    return distance - np.clip(height / np.maximum(cosine, 0.05), -_MOST_SHIFT, _MOST_SHIFT)


def lost(distance: Floats, cosine: Floats, struck: Mesh, sensor: Sensor, rng: Generator) -> Bools:
    """Which pulses never come back: too faint, mirrored away, or for no visible reason.

    Power is reflectivity x cosine / distance²; where it is `sensor.faint`, half of the pulses are lost.
    """
    material = struck.material
    power = np.maximum(struck.reflectivity, 0.02) * np.maximum(cosine, 0.01) / distance**2
    faint = 1.0 / (1.0 + np.exp((np.log(power) - np.log(sensor.faint)) / sensor.softness))
    # a mirror seen square on does answer
    mirrored = MIRROR[material] * np.clip(1.6 - 1.6 * cosine**8, 0.0, 1.0)
    kept = (1.0 - faint) * (1.0 - mirrored) * (1.0 - sensor.constant_drop)
    return rng.random(len(distance)) >= kept


def intensity(points: Floats, cosine: Floats, struck: Mesh, gain: float, seed: int, rng: Generator) -> Floats:
    """(n,) float32 in 0 … 1 at steps of 0.01: range-compensated, as the real sensor gives it.

    Args:
        points: (n, 3) world metres; stains and repairs of some metres belong to the place.
        cosine: (n,) of the angle of incidence.
        struck: n triangles, the one that each pulse met.
        gain: of this sensor.
        seed: of the town.
        rng: of the sweep.
    """
    facing = 0.55 + 0.45 * cosine
    grain = np.maximum(0.0, 1.0 + SPREAD[struck.material] * rng.normal(size=len(struck)))
    stains = 1.0 + 0.15 * value_noise(points[:, 0], points[:, 1] + 0.7 * points[:, 2], 3.1, seed + 2)
    value = np.clip(gain * struck.reflectivity * facing * grain * stains, 0.0, 1.0)
    return (np.round(value * 100.0) / 100.0).astype(np.float32)
