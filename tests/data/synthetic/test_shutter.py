"""Moving things as a turning sensor sees them, against rays cast into the things' own frame."""

import numpy as np
import pytest

from pcsparse.data.synthetic.beams import send
from pcsparse.data.synthetic.caster import make_caster
from pcsparse.data.synthetic.materials import PAINT
from pcsparse.data.synthetic.mesh import Mesh, join, quads
from pcsparse.data.synthetic.sensor import sensor_named
from pcsparse.data.synthetic.shutter import Shutter


def panel(corner: tuple, along: tuple, up: tuple, pieces: int = 24) -> Mesh:
    """A rectangle of many quads: corner, and the two edges from it."""
    u, v = np.meshgrid(np.arange(pieces), np.arange(3), indexing="ij")
    steps = [(u, v), (u + 1, v), (u + 1, v + 1), (u, v + 1)]
    cells = np.stack(
        [
            np.array(corner) + a[..., None] / pieces * np.array(along) + b[..., None] / 3 * np.array(up)
            for a, b in steps
        ],
        2,
    )
    return quads(cells.reshape(-1, 4, 3), PAINT)


def crate(low: tuple, high: tuple) -> Mesh:
    (x, y, z), (u, v, w) = low, high
    up = (0, 0, w - z)
    return join(
        [
            panel((x, y, z), (u - x, 0, 0), up),
            panel((x, v, z), (u - x, 0, 0), up),
            panel((x, y, z), (0, v - y, 0), up),
            panel((u, y, z), (0, v - y, 0), up),
        ]
    )


def slab(low: np.ndarray, high: np.ndarray, origins: np.ndarray, ways: np.ndarray) -> np.ndarray:
    """Distance at which rays enter a box from outside, inf where they miss it."""
    with np.errstate(divide="ignore"):
        a, b = (low - origins) / ways, (high - origins) / ways
    near, far = np.minimum(a, b).max(1), np.maximum(a, b).min(1)
    return np.where((near <= far) & (near > 0), near, np.inf)


@pytest.mark.parametrize("name", ["hdl64e", "vlp32c"])
def test_a_passing_car_is_where_each_ray_finds_it(name: str) -> None:
    sensor = sensor_named(name)
    low, high = np.array([4.0, 3.0, -1.7]), np.array([8.4, 4.8, 0.5])
    velocity, drift = np.array([-22.0, 3.0, 0.0]), np.array([12.0, 0.0])
    sent = send(sensor, np.random.default_rng(0))
    ways, moment = sent.directions(), sensor.phases(sent.azimuth) * sensor.period
    origins = np.append(drift, 0.0) * moment[:, None]
    exact = slab(low, high, origins - velocity * moment[:, None], ways)

    shutter = Shutter(sensor, np.zeros(2), drift, 0.0)
    mesh = shutter.seen(crate(tuple(low), tuple(high)), velocity)
    hits = make_caster("bvh", mesh).cast(origins.astype(np.float32), ways.astype(np.float32))

    both = np.isfinite(exact) & np.isfinite(hits.distance)
    assert both.sum() > 300
    assert (np.isfinite(exact) != np.isfinite(hits.distance)).sum() < 0.02 * both.sum()
    # at a rim a hair decides which face a ray meets
    assert (np.abs(exact[both] - hits.distance[both]) < 0.01).mean() > 0.998
    # posed once for all rays it would be off by more, for most of them
    once = velocity * float(shutter.delay(np.array([6.2]), np.array([3.9]))[0])
    frozen = slab(low + once, high + once, origins, ways)
    both &= np.isfinite(frozen)
    assert (np.abs(exact[both] - frozen[both]) < 0.01).mean() < 0.5


def test_a_wall_that_comes_nearer_leans() -> None:
    sensor = sensor_named("hdl64e")
    wall = panel((10.0, -6.0, -1.0), (0.0, 12.0, 0.0), (0.0, 0.0, 2.0))
    seen = Shutter(sensor, np.zeros(2), np.zeros(2), 0.0).seen(wall, np.array([-20.0, 0.0, 0.0]))
    for x, y, _ in seen.corners.reshape(-1, 3):
        # a turn of 0.1 s looks ahead at time 0 and turns to the left
        moment = np.arctan2(y, x) / (2 * np.pi) * 0.1
        assert x == pytest.approx(10.0 - 20.0 * moment, abs=1e-6)


def test_what_moves_with_the_sensor_is_carried_along() -> None:
    velocity = np.array([9.0, 2.0, 0.0])
    shutter = Shutter(sensor_named("hdl64e"), np.array([50.0, 20.0]), velocity[:2], 0.7)
    thing = crate((55.0, 22.0, -1.0), (58.0, 24.0, 0.0))
    seen = shutter.seen(thing, velocity)
    moment = shutter.delay(thing.corners[..., 0], thing.corners[..., 1])
    np.testing.assert_allclose(seen.corners, thing.corners + moment[..., None] * velocity, atol=1e-9)


def test_the_seam_of_a_turn_tears_things_but_no_triangle() -> None:
    sensor = sensor_named("hdl64e")
    # right behind the car, where the turn starts and ends
    thing = crate((-9.0, -1.0, -1.5), (-7.0, 1.0, 0.0))
    seen = Shutter(sensor, np.zeros(2), np.zeros(2), 0.0).seen(thing, np.array([10.0, 0.0, 0.0]))
    shift = seen.corners - thing.corners
    assert np.ptp(shift[..., 0]) == pytest.approx(10.0 * sensor.period, rel=0.05)
    assert np.ptp(shift[..., 0], axis=1).max() < 0.05


def test_what_stands_still_stays() -> None:
    ground = panel((-9.0, -9.0, -1.7), (18.0, 0.0, 0.0), (0.0, 18.0, 0.0))
    shutter = Shutter(sensor_named("hdl32e"), np.zeros(2), np.array([8.0, 0.0]), 0.2)
    np.testing.assert_array_equal(shutter.seen(ground, np.zeros(3)).corners, ground.corners)
