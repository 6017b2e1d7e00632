"""Houses: walls without holes but for windows; some of those answer, some swallow pulses or let them in."""

import numpy as np
import pytest

from pcsparse.data.synthetic import buildings
from pcsparse.data.synthetic.arrays import Floats
from pcsparse.data.synthetic.caster import Hits, make_caster
from pcsparse.data.synthetic.facades import Style, draw_style, facade
from pcsparse.data.synthetic.materials import BUILDING, MIRROR, Material
from pcsparse.data.synthetic.mesh import Mesh

STYLE = Style(BUILDING, 3.0, (1.2, 1.3), 0.9, 0.2, 0.0, False, False, 0.0, False)


def frontal(mesh: Mesh, x: Floats, z: Floats) -> Hits:
    """Rays from the street, 10 m before the facade, square on."""
    origins = np.stack([x, np.full(len(x), -10.0), z], 1).astype(np.float32)
    return make_caster("bvh", mesh).cast(origins, np.tile(np.float32([0, 1, 0]), (len(x), 1)))


def grid(width: float, height: float) -> tuple[Floats, Floats]:
    x, z = np.meshgrid(np.linspace(0.03, width - 0.03, 83), np.linspace(0.05, height - 0.05, 41))
    return x.ravel(), z.ravel()


def test_a_wall_is_one_plane_and_windows_lie_behind_it() -> None:
    door = (2.0, 3.1, 0.0, 2.15)
    mesh = facade(np.random.default_rng(0), 9.0, 6.0, STYLE, (door,), fine=True)
    x, z = grid(9.0, 6.0)
    hits = frontal(mesh, x, z)
    seen = hits.triangle >= 0
    depth = hits.distance[seen] - 10.0
    flush = np.abs(depth) < 1e-4
    # most of it is wall; the rest lies in recesses or behind them
    assert 0.6 < flush.mean() < 0.95
    assert depth.min() > -1e-4
    assert (depth[~flush] > 0.1).all()
    in_door = (x > 2.05) & (x < 3.05) & (z < 2.1)
    np.testing.assert_allclose(hits.distance[in_door], 10.2, atol=1e-4)
    # where nothing answers at all a window lies open: never in the lowest 0.8 m
    assert (~seen).any()
    assert z[~seen].min() > 0.8
    # nothing of a recess stands out of the wall, seen from the side either
    way = np.float32([1.0, 1.0, 0.0]) / np.sqrt(np.float32(2))
    origins = np.stack([x - 5.0, np.full(len(x), -5.0), z], 1).astype(np.float32)
    hits = make_caster("bvh", mesh).cast(origins, np.tile(way, (len(x), 1)))
    assert (hits.distance * way[1] > 5.0 - 1e-3).all()


def test_windows_answer_swallow_and_let_in() -> None:
    glass, inside, total = 0, 0, 0
    for seed in range(10):
        mesh = buildings.house(np.random.default_rng(seed), 11.0, 9.0, 6.0)
        x, z = grid(11.0, 5.0)
        hits = frontal(mesh, x, z)
        met = hits.triangle >= 0
        glass += (mesh.material[hits.triangle[met]] == Material.GLASS).sum()
        inside += (hits.distance[met] > 11.5).sum() + (~met).sum()
        total += len(x)
    assert 0.02 < glass / total < 0.3
    assert 0.01 < inside / total < 0.25
    # of the pulses on glass most never come back
    assert MIRROR[Material.GLASS] > 0.5


@pytest.mark.parametrize(
    "make",
    [
        lambda r: buildings.house(r, 11.0, 9.0, 7.0),
        lambda r: buildings.house(r, 11.0, 9.0, 7.0, 0.3),
        lambda r: buildings.shop_front(r, 11.0, 9.0, 9.0),
        lambda r: buildings.hall(r, 30.0, 20.0, 7.0),
        buildings.shed,
        buildings.church,
    ],
)
def test_buildings_are_of_one_class_and_modest(make) -> None:
    for seed in range(8):
        one, two = (make(np.random.default_rng(seed)) for _ in range(2))
        np.testing.assert_array_equal(one.corners, two.corners)
        assert set(np.unique(one.semantic).tolist()) == {50}
        assert np.isfinite(one.corners).all()
        assert len(one) < 4000


def test_far_houses_are_cheap() -> None:
    near, far = (
        np.mean([len(buildings.house(np.random.default_rng(s), 11.0, 9.0, 7.0, d)) for s in range(10)])
        for d in (1.0, 0.3)
    )
    assert far < 0.6 * near


def test_walls_differ_in_brightness_and_grain() -> None:
    walls = [buildings.wall_of(np.random.default_rng(seed)) for seed in range(200)]
    bright = np.array([wall.reflectivity for wall in walls])
    assert 0.26 < np.median(bright) < 0.34
    assert bright.std() > 0.1
    assert bright.min() >= 0.12
    assert bright.max() <= 0.75
    rough = np.mean([wall.material == Material.STONE for wall in walls])
    assert 0.1 < rough < 0.4
    assert draw_style(np.random.default_rng(0), walls[0]) != draw_style(np.random.default_rng(1), walls[0])
