"""The sensor's beams against what was measured on real sweeps, and what surfaces return."""

import numpy as np
import pytest

from pcsparse.data.synthetic.beams import roll_shutter, send
from pcsparse.data.synthetic.materials import BUILDING, ROAD, SIGN, WINDOW, Material
from pcsparse.data.synthetic.returns import (
    Contacts,
    brightness,
    bumped,
    intensity,
    lost,
    received,
    value_noise,
)
from pcsparse.data.synthetic.sensor import SENSORS, sensor_named
from pcsparse.errors import UnsupportedError


def test_hdl64e_has_the_measured_beams() -> None:
    sensor = sensor_named("hdl64e")
    gaps = -np.diff(sensor.elevations)
    assert sensor.rings == 64
    assert sensor.elevations[0] == 2.43
    assert sensor.elevations[-1] == -23.75
    assert sensor.elevations[31:33] == (-7.80, -8.38)
    assert (gaps > 0).all()
    # two blocks with their own pitch: a linspace would fail both
    assert np.mean(gaps[:31]) == pytest.approx(0.33, abs=0.01)
    assert np.mean(gaps[32:]) == pytest.approx(0.496, abs=0.01)


def test_hdl64e_steps_are_those_of_a_real_sweep() -> None:
    azimuth = np.degrees(sensor_named("hdl64e").azimuths(0.4))
    steps = np.diff(azimuth)
    assert len(azimuth) == 2160
    assert azimuth.min() > 0
    assert azimuth.max() < 360
    assert np.median(steps) == pytest.approx(0.179, abs=0.001)
    assert np.mean(steps < 0.1) == pytest.approx(0.138, abs=0.01)


@pytest.mark.parametrize("name", SENSORS)
def test_beams_leave_ring_by_ring_with_rising_azimuth(name: str) -> None:
    sensor = sensor_named(name)
    sent = send(sensor, np.random.default_rng(0))
    assert (np.diff(sent.ring) >= 0).all()
    wraps = np.diff(sent.azimuth) < -np.pi
    assert wraps.sum() == sensor.rings - 1
    np.testing.assert_array_equal(sent.elevation, np.radians(np.array(sensor.elevations))[sent.ring])
    np.testing.assert_array_equal(sent.column + sent.ring * sensor.columns, np.arange(len(sent.ring)))


def test_the_own_roof_hides_the_steepest_rings_behind() -> None:
    sensor = sensor_named("hdl64e")
    sent = send(sensor, np.random.default_rng(0))
    last = sent.ring == 63
    assert not sent.free[last & (np.abs(sent.azimuth - np.pi) < 0.3)].any()
    assert sent.free[last & (np.abs(sent.azimuth - np.pi / 2) < 0.2)].any()


def test_unknown_sensors_are_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"'hdl128'.*hdl64e"):
        sensor_named("hdl128")


def _returned(surface, metres: float, cosine: float) -> float:
    n = 20000
    met = _met(surface, np.full(n, metres), np.full(n, cosine))
    rng = np.random.default_rng(1)
    points = rng.uniform(-40, 40, (n, 3))
    return 1 - lost(met, points, sensor_named("hdl64e"), 5, rng).mean()


def _met(surface, distance, cosine) -> Contacts:
    power = received(distance, cosine, np.float64(surface.reflectivity), sensor_named("hdl64e"))
    material = np.full(len(distance), int(surface.material))
    return Contacts(distance, cosine, material, power, brightness(cosine, surface.reflectivity))


def test_near_road_returns_and_far_grazing_road_does_not() -> None:
    # real rings on the road at 10 m are 99.5 % full
    assert _returned(ROAD, 10.0, 0.17) > 0.985
    assert _returned(ROAD, 79.0, 0.02) < 0.5
    assert _returned(BUILDING, 60.0, 0.9) > 0.97


def test_windows_swallow_most_pulses() -> None:
    assert _returned(WINDOW, 10.0, 0.7) < 0.4


def test_intensity_is_quantised_and_follows_reflectivity() -> None:
    n, rng = 4000, np.random.default_rng(2)
    points = rng.uniform(-50, 50, (n, 3))
    means = []
    for surface in (ROAD, SIGN):
        met = _met(surface, np.full(n, 10.0), np.full(n, 0.5))
        value = intensity(met, points, sensor_named("hdl64e"), 1.0, 5, rng)
        assert value.dtype == np.float32
        assert value.min() >= 0
        assert value.max() <= 1
        np.testing.assert_allclose(value * 100, np.round(value * 100), atol=1e-4)
        means.append(value.mean())
    assert means[0] == pytest.approx(0.25, abs=0.05)
    assert means[1] > 2 * means[0]


def test_bumps_are_of_the_place_and_bounded() -> None:
    rng = np.random.default_rng(3)
    points = rng.uniform(-40, 40, (5000, 3))
    kind = np.zeros(5000, int)
    flat = bumped(np.full(5000, 20.0), points, np.ones(5000), kind, 9, rng)
    again = bumped(np.full(5000, 20.0), points, np.ones(5000), kind, 9, np.random.default_rng(99))
    np.testing.assert_array_equal(flat, again)
    assert 0.0005 < np.std(flat) < 0.004
    soil = np.full(5000, int(Material.SOIL))
    grazing = bumped(np.full(5000, 20.0), points, np.full(5000, 0.01), soil, 9, rng)
    assert np.abs(grazing - 20.0).max() == pytest.approx(0.45)


def test_noise_is_smooth_and_centred() -> None:
    x = np.linspace(-30, 30, 20001)
    value = value_noise(x, np.zeros_like(x), 1.1, 4)
    assert np.abs(value).max() <= 1
    assert np.abs(np.diff(value)).max() < 0.02
    assert abs(value.mean()) < 0.2
    assert value.std() > 0.2


def test_rays_leave_from_where_the_car_is_at_their_moment() -> None:
    early, middle, late = np.eye(4), np.eye(4), np.eye(4)
    early[0, 3], late[0, 3] = -1.0, 1.0
    # a quarter turn between the middle and the end
    late[:2, :2] = [[0, -1], [1, 0]]
    phase = np.array([-0.5, -0.25, 0.0, 0.25, 0.5])
    local = np.tile([1.0, 0.0, 0.0], (5, 1))
    origins, directions = roll_shutter(early, middle, late, phase, local)
    np.testing.assert_allclose(origins[:, 0], [-1.0, -0.5, 0.0, 0.5, 1.0])
    np.testing.assert_allclose(directions[:3], local[:3])
    np.testing.assert_allclose(directions[3], [0.5**0.5, 0.5**0.5, 0.0])
    np.testing.assert_allclose(directions[4], [0.0, 1.0, 0.0], atol=1e-12)
