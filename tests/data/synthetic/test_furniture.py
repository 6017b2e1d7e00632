"""Poles, signs, fences and clutter: their classes, their sizes, and how much of a fence is air."""

import numpy as np
import pytest

from pcsparse.data.synthetic import fences, furniture, poles
from pcsparse.data.synthetic.caster import make_caster
from pcsparse.data.synthetic.materials import Material
from pcsparse.data.synthetic.mesh import Mesh


def through(mesh: Mesh, height: float) -> float:
    """Share of rays along y that pass a fence of 6 m along x and `height` metres."""
    x, z = np.meshgrid(np.linspace(-2.8, 2.8, 91), np.linspace(0.1, height - 0.1, 31))
    origins = np.stack([x.ravel(), np.full(x.size, -9.0), z.ravel()], 1).astype(np.float32)
    hits = make_caster("bvh", mesh).cast(origins, np.tile(np.float32([0, 1, 0]), (x.size, 1)))
    return float((hits.triangle < 0).mean())


@pytest.mark.parametrize(
    ("make", "least", "most"),
    [
        (fences.noise_wall, 0.0, 0.0),
        (fences.picket_fence, 0.0, 0.7),
        (fences.railing, 0.6, 0.95),
        (fences.mesh_fence, 0.6, 0.97),
    ],
)
def test_fences_are_as_open_as_they_are(make, least: float, most: float) -> None:
    shares = []
    for seed in range(6):
        mesh = make(np.random.default_rng(seed), 6.0, 1.5)
        assert set(np.unique(mesh.semantic).tolist()) == {51}
        shares.append(through(mesh, 1.5))
    assert least <= min(shares)
    assert max(shares) <= most
    # boards close up in some fences and stand apart in others
    assert make is not fences.picket_fence or np.ptp(shares) > 0.2


def test_a_wall_is_closed_up_to_its_top() -> None:
    for seed in range(10):
        mesh = fences.wall(np.random.default_rng(seed), 6.0, 0.9)
        assert through(mesh, 0.9) == 0.0
        assert 0.85 < mesh.corners[..., 2].max() < 1.1


def test_barriers_stand_on_a_wide_foot() -> None:
    mesh = fences.jersey_barrier(np.random.default_rng(0), 8.0)
    low = mesh.corners[mesh.corners[..., 2] < 0.0]
    high = mesh.corners[mesh.corners[..., 2] > 0.7]
    assert np.ptp(low[:, 1]) > 2.5 * np.ptp(high[:, 1])
    assert 0.75 < mesh.corners[..., 2].max() < 0.9


@pytest.mark.parametrize(
    ("make", "classes"),
    [
        (poles.lamp, {80}),
        (lambda r: poles.bollards(r, 8.0), {80}),
        (lambda r: poles.delineators(60.0), {80, 81}),
        (poles.sign, {80, 81}),
        (poles.traffic_light, {80, 99}),
        (lambda r: poles.gantry(r, 9.0), {80, 81}),
        (furniture.clutter, {99}),
        (furniture.statue, {99}),
        (furniture.playground, {99}),
        (furniture.shelter, {52}),
        (lambda r: furniture.scaffold(r, 8.0, 6.0), {52}),
        (furniture.planter, {99, 70}),
        (lambda r: furniture.guard_rail(8.0), {51}),
        (lambda r: furniture.gate(r, 3.0, 1.4), {51}),
    ],
)
def test_everything_has_its_class_and_stands_on_the_ground(make, classes: set[int]) -> None:
    for seed in range(12):
        one, two = (make(np.random.default_rng(seed)) for _ in range(2))
        np.testing.assert_array_equal(one.corners, two.corners)
        assert set(np.unique(one.semantic).tolist()) == classes
        assert np.isfinite(one.corners).all()
        assert -0.7 < one.corners[..., 2].min() < 0.35
        assert len(one) < 800


def test_poles_are_thin_and_plates_shine_on_one_side() -> None:
    for seed in range(20):
        mesh = poles.sign(np.random.default_rng(seed))
        post = mesh.corners[mesh.semantic == 80]
        assert np.ptp(post[..., 0]) < 0.12
        plate = mesh.select(mesh.semantic == 81)
        front = plate.material == Material.RETRO
        # it faces -x: the bright side is the nearer one, and the other is bare metal
        assert plate.middles()[front, 0].max() < plate.middles()[~front, 0].min()
        assert plate.reflectivity[front].min() > 0.3
        assert plate.reflectivity[~front].max() < 0.3
        assert 1.0 < plate.corners[..., 2].max() < 3.5
    radii = []
    for seed in range(20):
        mesh = poles.lamp(np.random.default_rng(seed))
        shaft = mesh.corners[(np.abs(mesh.corners[..., 2] - 1.0) < 1.5).all(1)]
        radii.append(0.5 * float(np.ptp(shaft[..., 0])) if shaft.size else 0.1)
    assert max(radii) < 0.2
