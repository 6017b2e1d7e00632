"""Beams with a width: where they divide, and what becomes of the parts."""

import dataclasses

import numpy as np
import pytest

from pcsparse.data.synthetic import footprint
from pcsparse.data.synthetic.beams import Pulses
from pcsparse.data.synthetic.caster import make_caster
from pcsparse.data.synthetic.footprint import look
from pcsparse.data.synthetic.materials import BUILDING, POLE, ROAD
from pcsparse.data.synthetic.mesh import EMPTY, Mesh, box, join, quads
from pcsparse.data.synthetic.sensor import sensor_named
from pcsparse.data.synthetic.stage import Stage
from pcsparse.data.synthetic.surface import edges, merge, normals_at

# 41 columns half a milliradian apart ahead, 5 rings
AZIMUTH, ELEVATION = np.arange(-20, 21) * 5e-4, np.radians([1.0, 0.5, 0.0, -0.5, -1.0])
SENSOR = dataclasses.replace(
    sensor_named("hdl64e"),
    columns=len(AZIMUTH),
    elevations=(1.0, 0.5, 0.0, -0.5, -1.0),
    lifts=(),
    blocked=(),
    dimmed=(),
    haze=0.0,
)


def pulses(free: np.ndarray | None = None) -> Pulses:
    n = len(AZIMUTH) * len(ELEVATION)
    ring, column = np.divmod(np.arange(n), len(AZIMUTH))
    passed = np.ones(n, bool) if free is None else free
    return Pulses(AZIMUTH[column], ELEVATION[ring], ring, column, passed, np.ones(n))


def seen(mesh: Mesh, sensor=SENSOR):
    sent = pulses()
    stage = Stage(mesh, make_caster("bvh", mesh), EMPTY, "bvh")
    ways = sent.directions()
    return look(stage, sent, np.zeros_like(ways), ways, sensor, np.eye(3))


def wall(x: float, surface=BUILDING) -> Mesh:
    return quads(np.array([[[x, -50, -50], [x, 50, -50], [x, 50, 50], [x, -50, 50]]]), surface)


def test_a_beam_on_one_surface_is_one_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "_divide", lambda *_: pytest.fail("cast more rays than it needs"))
    # all pulses are neighbours of pulses that met the same plane, at the rim too
    flat = dataclasses.replace(SENSOR, divergence=(0.0, 0.0))
    rows, _, met = seen(wall(20.0), flat)
    assert len(rows) == 205
    np.testing.assert_allclose(met.distance, 20.0 / pulses().directions()[:, 0], rtol=1e-6)


def test_seven_rays_on_one_surface_give_what_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, one = seen(wall(20.0))
    monkeypatch.setattr(footprint, "edges", lambda *_: np.ones(205, bool))
    rows, _, seven = seen(wall(20.0))
    assert len(rows) == 205
    np.testing.assert_allclose(seven.distance, one.distance, atol=1e-3)
    np.testing.assert_allclose(seven.power, one.power, rtol=1e-3)
    np.testing.assert_allclose(seven.light, one.light, rtol=1e-3)


def test_a_post_just_before_a_wall_is_smeared_and_dark() -> None:
    # 4 cm wide at 20 m, that is 2 milliradians, as wide as the beam; 0.5 m before the wall
    rows, struck, met = seen(join([wall(20.0), box((19.5, 0.0, 0.0), (0.02, 0.04, 40.0), POLE)]))
    assert len(rows) == 205
    depth = met.distance * pulses().directions()[:, 0]
    between = (depth > 19.51) & (depth < 19.98)
    azimuth = pulses().azimuth
    assert between.sum() == 20
    assert (np.abs(azimuth[between]) < 2.1e-3).all()
    assert (np.abs(azimuth[between]) > 1e-4).all()
    # wall and post each lend their share, and the nearer the axis is to the post the nearer the point
    row = slice(2 * 41, 3 * 41)
    assert (np.diff(depth[row][20:26]) > -1e-3).all()
    assert set(np.unique(struck // 2 > 0)) == {False, True}


def test_a_post_far_before_a_wall_is_never_between() -> None:
    rows, struck, met = seen(join([wall(20.0), box((15.0, 0.0, 0.0), (0.02, 0.03, 40.0), POLE)]))
    assert len(rows) == 205
    depth = met.distance * pulses().directions()[:, 0]
    assert ((depth < 15.05) | (depth > 19.95)).all()
    post = depth < 16
    np.testing.assert_array_equal(post, struck >= 2)
    assert post.sum() == 25
    # at its rims a part of the light went by
    assert met.light[post].min() < 0.75 * met.light[post].max()
    first = seen(
        join([wall(20.0), box((15.0, 0.0, 0.0), (0.02, 0.03, 40.0), POLE)]),
        dataclasses.replace(SENSOR, reports="first"),
    )
    assert (first[2].distance < 16).sum() > post.sum()


def test_a_thin_edge_against_the_sky_returns_less_power() -> None:
    _, _, met = seen(box((20.0, 0.0, 0.0), (0.02, 0.06, 40.0), POLE))
    assert 30 < len(met.power) < 100
    assert met.power.min() < 0.5 * met.power.max()


def test_own_vehicle_pulses_see_nothing() -> None:
    free = np.ones(205, bool)
    free[50:60] = False
    mesh = wall(20.0)
    sent = pulses(free)
    stage = Stage(mesh, make_caster("bvh", mesh), EMPTY, "bvh")
    rows, _, _ = look(stage, sent, np.zeros((205, 3)), sent.directions(), SENSOR, np.eye(3))
    np.testing.assert_array_equal(rows, np.flatnonzero(free))


def test_edges_are_steps_and_not_slants_or_corners() -> None:
    def on_grid(points: np.ndarray, normals: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
        n = len(points)
        distance = np.where(np.isnan(points[:, 0]), np.inf, np.linalg.norm(points, axis=1))
        return edges(
            distance, np.nan_to_num(points), normals, np.ones(n, bool) if known is None else known, n, 0.04
        )

    # one ring that runs away over flat ground: metres from point to point, but one plane
    away = np.stack([np.array([10.0, 20.0, 40.0, 80.0, 40.0, 20.0]), np.zeros(6), np.full(6, -1.7)], 1)
    up = np.tile([0.0, 0.0, 1.0], (6, 1))
    assert not on_grid(away, up).any()
    # ground that meets a wall, finely seen
    corner = np.array(
        [[8.0, 0, -1.7], [9.5, 0, -1.7], [10, 0, -1.67], [10, 0, -1.5], [9.5, 0, -1.7], [8.5, 0, -1.7]]
    )
    corner[3, 2] = -1.67
    faces = np.where(corner[:, :1] == 10.0, [1.0, 0, 0], [0, 0, 1.0])
    assert not on_grid(corner, faces).any()
    # a kerb, and the sky
    stepped = away.copy()
    stepped[2:4, 2] = -1.58
    np.testing.assert_array_equal(on_grid(stepped, up), [False, True, True, True, True, False])
    away[3] = np.nan
    np.testing.assert_array_equal(on_grid(away, up), [False, False, True, True, True, False])
    known = np.array([True, True, True, False, True, True])
    assert not on_grid(away, up, known).any()


def test_merged_returns_are_those_worked_out_by_hand() -> None:
    inf = np.inf
    distance = np.array([[10.0, 10.4, 20.0, inf], [10.0, 10.9, 20.0, 20.1], [inf] * 4, [5.0, inf, inf, inf]])
    power = np.array([[3.0, 1.0, 2.0, 0.0], [1.0, 1.0, 2.0, 2.0], [0.0] * 4, [1e-9, 0.0, 0.0, 0.0]])
    light = power * [[0.5], [0.25], [1.0], [1.0]]
    far, total, bright, chosen = merge(distance, power, light, 0.75, np.inf)
    np.testing.assert_allclose(far, [10.1, 20.05, inf, 5.0])
    np.testing.assert_allclose(total, [4.0, 4.0, 0.0, 1e-9])
    np.testing.assert_allclose(bright, [2.0, 1.0, 0.0, 1e-9])
    np.testing.assert_array_equal(chosen, [0, 2, -1, 0])
    # the first that is bright enough, else the brightest
    far, _, _, chosen = merge(distance, power, light, 0.75, 0.9)
    np.testing.assert_allclose(far, [10.1, 10.0, inf, 5.0])
    np.testing.assert_array_equal(chosen, [0, 0, -1, 0])


def test_normals_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(5, 3, 3)), rng.normal(size=(4, 3, 3))
    second[1, 2] = second[1, 1]
    rows = np.array([0, 8, -1, 6, 4, 5])
    mesh = dataclasses.replace(quads(np.zeros((0, 4, 3)), ROAD), corners=np.concatenate([first, second]))
    expected = np.where((rows >= 0)[:, None], mesh.normals()[rows], 0.0)
    np.testing.assert_allclose(normals_at(first, second, rows), expected, atol=1e-12)
    assert not expected[3].any()
