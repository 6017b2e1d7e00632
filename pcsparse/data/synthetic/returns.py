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
# spread of ln(strength) by which a weak pulse is seen or not
_SPECKLE = 0.25
# cosine of the incidence at which a surface looks half as bright for its own shadows
_GRAZING = 0.02


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
class Contacts:
    """What n pulses meet.

    Args:
        distance: (n,) float64, metres along the beam.
        cosine: (n,) of the angle of incidence.
        material: (n,) rows of the material table.
        power: (n,) relative power received, see `received`.
        light: (n,) what the intensity is made of, see `brightness`.
    """

    distance: Floats
    cosine: Floats
    material: Ints
    power: Floats
    light: Floats


def contacts(distance: Floats, directions: Floats, struck: Mesh, sensor: Sensor) -> Contacts:
    """Pulses of one ray each.

    Args:
        distance: (n,) metres along the ray.
        directions: (n, 3) unit vectors of the rays.
        struck: n triangles, the one that each ray met.
        sensor: what measures.
    """
    cosine = np.abs((struck.normals() * directions).sum(1))
    power = received(distance, cosine, struck.reflectivity, sensor)
    return Contacts(distance, cosine, struck.material, power, brightness(cosine, struck.reflectivity))


def received(distance: Floats, cosine: Floats, reflectivity: Floats, sensor: Sensor) -> Floats:
    """Relative power of a return: reflectivity x cosine x exp(-2 haze distance) / distance², in 1 / m²."""
    air = np.exp(-2.0 * sensor.haze * distance)
    return np.maximum(reflectivity, 0.02) * np.maximum(cosine, 0.01) * air / np.maximum(distance, 0.1) ** 2


def stains(points: Floats, seed: int) -> Floats:
    """(n,) factors around 1 by which places differ: patches of metres and of a hand's breadth.

    Real rings on roads differ by 0.15 of their mean over 15 cm and by 0.29 over 2.4 m, pulse noise apart.
    """
    x, y = points[:, 0], points[:, 1] + 0.7 * points[:, 2]
    return 1.0 + 0.35 * value_noise(x, y, 3.1, seed + 2) + 0.25 * value_noise(x, y, 0.37, seed + 3)


def brightness(cosine: Floats, reflectivity: Floats) -> Floats:
    """Intensity before grain and gain: compensated for range, but only in part for incidence.

    Where light grazes a surface its bumps shade each other: in four real sweeps 38 % of the returns from
    ground 30 to 40 m away are 0, 14 % of those from what stands upright there.
    """
    graze = cosine**2 / (cosine**2 + _GRAZING**2)
    return reflectivity * (0.55 + 0.45 * cosine) * graze


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
    met: Contacts,
    points: Floats,
    sensor: Sensor,
    gain: float,
    seed: int,
    rng: Generator,
    ring: Ints | None = None,
) -> Echoes:
    """Measure hits: bumps, range noise, the range's step, lost pulses and those out of range, intensity.

    Args:
        met: what n pulses met.
        points: (n, 3) world metres.
        sensor: what measures.
        gain: of its intensity.
        seed: of the place.
        rng: of the sweep.
        ring: (n,) of the laser, where its own response matters.
    """
    exact = bumped(met.distance, points, met.cosine, met.material, seed, rng)
    exact = exact + rng.normal(0.0, sensor.range_noise, len(exact)) * (
        0.5 + 0.5 * np.minimum(exact / 25.0, 1.5)
    )
    exact = np.round(exact / sensor.range_quantum) * sensor.range_quantum
    kept = ~lost(met, points, sensor, seed, rng)
    kept &= (exact >= sensor.min_range) & (exact <= sensor.max_range)
    return Echoes(kept, exact, intensity(met, points, sensor, gain, seed, rng, ring))


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


def lost(met: Contacts, points: Floats, sensor: Sensor, seed: int, rng: Generator) -> Bools:
    """Which pulses never come back: too faint, mirrored away, or for no visible reason.

    Where the power received is `sensor.faint`, half of the pulses are lost. What is mirrored away is so
    from whole panes and patches of paint, as in real sweeps.

    Args:
        met: what n pulses met.
        points: (n, 3) world metres.
        sensor: what measures.
        seed: of the place.
        rng: of the sweep.
    """
    faint = 1.0 / (1.0 + np.exp((np.log(met.power) - np.log(sensor.faint)) / sensor.softness))
    # a mirror seen square on does answer
    mirrored = MIRROR[met.material] * np.clip(1.6 - 1.6 * met.cosine**8, 0.0, 1.0)
    shiny = np.flatnonzero(mirrored > 0)
    field = value_noise(points[shiny, 0] + points[shiny, 2], points[shiny, 1], 0.6, seed + 4)
    away = np.zeros(len(mirrored), np.bool_)
    # the noise as a number between 0 and 1, of which a tenth is the pulse's own
    even = np.clip(0.5 + 0.85 * field, 0.0, 1.0) + rng.normal(0.0, 0.1, len(shiny))
    away[shiny] = even < mirrored[shiny]
    return away | (rng.random(len(faint)) >= (1.0 - faint) * (1.0 - sensor.constant_drop))


def intensity(
    met: Contacts,
    points: Floats,
    sensor: Sensor,
    gain: float,
    seed: int,
    rng: Generator,
    ring: Ints | None = None,
) -> Floats:
    """(n,) float32 in 0 … 1 at the sensor's steps: range-compensated, as the real sensor gives it.

    Args:
        met: what n pulses met.
        points: (n, 3) world metres; stains and repairs of some metres belong to the place.
        sensor: what measures.
        gain: of this one.
        seed: of the town.
        rng: of the sweep.
        ring: (n,) of the laser; None: all answer alike.
    """
    spread = sensor.scale.grain * SPREAD[met.material]
    grain = np.maximum(0.0, 1.0 + spread * rng.normal(size=len(met.light)))
    value = gain * met.light * grain * stains(points, seed)
    speckle = np.exp(_SPECKLE * rng.normal(size=len(value))) if sensor.scale.reach else 1.0
    return sensor.scale.report(value, ring, met.distance, speckle)
