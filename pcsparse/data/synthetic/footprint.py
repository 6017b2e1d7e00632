"""What pulses meet: one ray where the beam falls on one surface, seven where it may fall on several.

A beam is a cone, and where it meets an edge its light divides: a post in front of a wall darkens, the rim
of a car is smeared into what stands behind it, and a twig returns a pulse whose axis misses it. The axis of
each pulse is cast first. Where a neighbour met something else, six more rays are cast, and the seven share
the pulse: the axis stands for the inner seventh of the cone's area, the others for a sixth of the rest each,
and each carries what a Gaussian beam has there. `surface.merge` says what becomes of them.
"""

import numpy as np

from pcsparse.data.synthetic.arrays import Floats, Ints
from pcsparse.data.synthetic.beams import Pulses
from pcsparse.data.synthetic.mesh import rotate
from pcsparse.data.synthetic.returns import Contacts, brightness, received
from pcsparse.data.synthetic.sensor import Sensor
from pcsparse.data.synthetic.stage import Stage
from pcsparse.data.synthetic.surface import edges, merge

# metres: a step of less is no edge; returns would differ by less than the range's noise
_STEP = 0.04
# of the cone's half angle: where the six outer rays run, at the middle of their area
_RIM = 0.72
# exp(-2 (r / R)^2) over the inner seventh of the disc, and over a sixth of the rest
_SHARES = np.array([0.2878] + [0.1187] * 6)
# beyond the sensor's range: the noise may bring it back
_MARGIN = 1.0


def look(
    stage: Stage, pulses: Pulses, origins: Floats, ways: Floats, sensor: Sensor, turn: Floats
) -> tuple[Ints, Ints, Contacts]:
    """What the free pulses of a turn meet within range.

    Args:
        stage: the world, near its origin.
        pulses: n of them.
        origins: (n, 3) metres, in the frame of the stage.
        ways: (n, 3) unit vectors.
        sensor: whose beams they are.
        turn: (3, 3) rotation of the sensor in the world, in the middle of the turn.

    Returns:
        rows (m,) of the pulses that meet something, ascending; the triangle (m,) that each reports; and m
        contacts.
    """
    sent = np.flatnonzero(pulses.free)
    distance = np.full(len(ways), np.inf)
    triangle = np.full(len(ways), -1, np.int64)
    distance[sent], triangle[sent] = _cast(stage, origins[sent], ways[sent], sensor)
    normals = stage.normals(triangle)
    cosine = np.abs((normals * ways).sum(1))
    met = np.flatnonzero(triangle >= 0)
    power, light = np.zeros(len(ways)), np.zeros(len(ways))
    power[met] = received(distance[met], cosine[met], stage.reflectivity[triangle[met]], sensor)
    light[met] = brightness(cosine[met], stage.reflectivity[triangle[met]])

    if any(sensor.divergence):
        points = origins + np.where(np.isfinite(distance), distance, 0.0)[:, None] * ways
        split = np.flatnonzero(edges(distance, points, normals, pulses.free, sensor.columns, _STEP))
        axes = distance[split], triangle[split], cosine[split], power[split], light[split]
        merged = _divide(stage, pulses, origins[split], ways[split], sensor, turn, split, axes)
        distance[split], triangle[split], cosine[split], power[split], light[split] = merged
        met = np.flatnonzero(triangle >= 0)
    struck = triangle[met]
    light = light * pulses.passed
    return met, struck, Contacts(distance[met], cosine[met], stage.material[struck], power[met], light[met])


def _cast(stage: Stage, origins: Floats, ways: Floats, sensor: Sensor) -> tuple[Floats, Ints]:
    hits = stage.cast(origins.astype(np.float32), ways.astype(np.float32))
    near = hits.distance < sensor.max_range + _MARGIN
    return np.where(near, hits.distance, np.inf), np.where(near, hits.triangle, -1)


def _divide(
    stage: Stage,
    pulses: Pulses,
    origins: Floats,
    ways: Floats,
    sensor: Sensor,
    turn: Floats,
    rows: Ints,
    axes: tuple[Floats, Ints, Floats, Floats, Floats],
) -> tuple[Floats, Ints, Floats, Floats, Floats]:
    """Distance, triangle, cosine, power and light of the pulses `rows` when seven rays share each of them."""
    outer = _rim(pulses.azimuth[rows], pulses.elevation[rows], sensor, turn, ways)
    count = len(rows)
    distance, triangle = _cast(stage, np.repeat(origins, 6, axis=0), outer, sensor)
    met = triangle >= 0
    cosine = np.abs((stage.normals(triangle) * outer).sum(1))
    power, light = np.zeros(6 * count), np.zeros(6 * count)
    matter = stage.reflectivity[triangle[met]]
    power[met] = received(distance[met], cosine[met], matter, sensor)
    light[met] = brightness(cosine[met], matter)
    sides = (distance, triangle, cosine, power, light)
    seven = [
        np.concatenate([axis[:, None], side.reshape(count, 6)], axis=1)
        for axis, side in zip(axes, sides, strict=True)
    ]
    least = sensor.faint if sensor.reports == "first" else np.inf
    far, total, bright, chosen = merge(
        seven[0], seven[3] * _SHARES, seven[4] * _SHARES, sensor.separation, least
    )
    pick = np.arange(count), np.maximum(chosen, 0)
    return far, np.where(chosen >= 0, seven[1][pick], -1), seven[2][pick], total, bright


def _rim(azimuth: Floats, elevation: Floats, sensor: Sensor, turn: Floats, ways: Floats) -> Floats:
    """(6 n, 3) unit directions of the six outer rays of n pulses, pulse by pulse."""
    across = np.stack([-np.sin(azimuth), np.cos(azimuth), np.zeros_like(azimuth)], 1)
    steep = np.sin(elevation)
    upright = np.stack([-steep * np.cos(azimuth), -steep * np.sin(azimuth), np.cos(elevation)], 1)
    half = np.array(sensor.divergence) * 0.5e-3 * _RIM
    around = np.arange(6) * (np.pi / 3)
    shift = (
        rotate(across, turn)[:, None, :] * (half[0] * np.cos(around))[:, None]
        + rotate(upright, turn)[:, None, :] * (half[1] * np.sin(around))[:, None]
    )
    outer = (ways[:, None, :] + shift).reshape(-1, 3)
    return outer / np.sqrt((outer * outer).sum(1, keepdims=True))
