"""Plants: rough skins that stop most pulses, crowns that let some through, bark only below the fork."""

import numpy as np
import pytest

from pcsparse.data.synthetic import plants, trees
from pcsparse.data.synthetic.caster import make_caster
from pcsparse.data.synthetic.mesh import Mesh

KINDS = (trees.broadleaf, trees.young, trees.many_stemmed, trees.conifer, trees.poplar, trees.bare)


def through(
    mesh: Mesh, low: tuple[float, float], high: tuple[float, float], rng: np.random.Generator
) -> float:
    """Share of rays along y that cross the window (x, z) from `low` to `high` and meet nothing."""
    count = 1500
    at = np.stack([rng.uniform(low[i], high[i], count) for i in (0, 1)], 1)
    origins = np.stack([at[:, 0], np.full(count, -30.0), at[:, 1]], 1).astype(np.float32)
    hits = make_caster("bvh", mesh).cast(origins, np.tile(np.float32([0, 1, 0]), (count, 1)))
    return float((hits.triangle < 0).mean())


@pytest.mark.parametrize("make", KINDS)
def test_bark_ends_at_the_fork_and_height_is_a_trees(make) -> None:
    for seed in range(6):
        mesh = make(np.random.default_rng(seed), 1.0)
        low, high = mesh.corners.min((0, 1)), mesh.corners.max((0, 1))
        assert 2.5 < high[2] < 18.0
        assert -0.6 < low[2] < -0.2
        assert set(np.unique(mesh.semantic).tolist()) == {70, 71}
        bark = mesh.corners[mesh.semantic == 71]
        if make in (trees.broadleaf, trees.young, trees.bare):
            assert bark[..., 2].max() < 0.75 * high[2]
        # a trunk is no thicker than a metre at the height of the sensor
        waist = bark[(np.abs(bark[..., 2] - 1.7) < 1.2).all(1)]
        assert waist.size == 0 or np.ptp(waist[..., 1]) < 3.2
        assert len(mesh) < 6000


def test_crowns_let_some_pulses_through_and_differ() -> None:
    rng, shares = np.random.default_rng(2), []
    for seed in range(12):
        mesh = trees.broadleaf(np.random.default_rng(seed))
        crown = mesh.corners[mesh.semantic == 70].reshape(-1, 3)
        middle, spread = crown.mean(0), crown.std(0)
        window = [(middle[i] - 1.2 * spread[i], middle[i] + 1.2 * spread[i]) for i in (0, 2)]
        shares.append(through(mesh, (window[0][0], window[1][0]), (window[0][1], window[1][1]), rng))
    assert 0.03 < np.mean(shares) < 0.45
    assert np.std(shares) > 0.05


def test_a_hedge_stops_pulses_within_its_skin() -> None:
    mesh = plants.hedge(np.random.default_rng(1), 6.0, 1.4, 0.9)
    assert through(mesh, (-2.8, 0.1), (2.8, 1.2), np.random.default_rng(0)) < 0.005
    x = np.linspace(-2.7, 2.7, 1000, dtype=np.float32)
    origins = np.stack([x, np.full(1000, -8.0), np.full(1000, 0.7)], 1).astype(np.float32)
    hits = make_caster("bvh", mesh).cast(origins, np.tile(np.float32([0, 1, 0]), (1000, 1)))
    # rough at a few centimetres, and never half a hedge deep
    assert 0.015 < hits.distance.std() < 0.12
    assert np.ptp(hits.distance) < 0.6


def test_a_coarser_tree_keeps_its_shade() -> None:
    fine, coarse = (
        np.mean(
            [
                through(
                    trees.broadleaf(np.random.default_rng(s), d),
                    (-1.5, 4),
                    (1.5, 7),
                    np.random.default_rng(1),
                )
                for s in range(10)
            ]
        )
        for d in (1.0, 0.3)
    )
    sizes = [len(trees.broadleaf(np.random.default_rng(3), d)) for d in (1.0, 0.3)]
    assert abs(fine - coarse) < 0.12
    assert sizes[1] < 0.75 * sizes[0]


def test_grass_and_climbers_stay_where_they_are_put() -> None:
    rng = np.random.default_rng(0)
    grass = plants.tall_grass(rng, 4.0, 2.0, 0.8)
    assert 0.5 < grass.corners[..., 2].max() < 1.3
    assert through(grass, (-2.0, 0.05), (2.0, 0.5), rng) > 0.2
    ivy = plants.climber(rng, 3.0, 2.5)
    assert np.median(ivy.corners[..., 1]) > -0.2
    assert ivy.corners[..., 1].max() < 0.2


@pytest.mark.parametrize("make", [trees.tree, lambda r: plants.thicket(r, 6.0, 3.0, 2.0)])
def test_a_plant_follows_from_its_numbers(make) -> None:
    one, two, other = (make(np.random.default_rng(seed)) for seed in (4, 4, 5))
    np.testing.assert_array_equal(one.corners, two.corners)
    np.testing.assert_array_equal(one.reflectivity, two.reflectivity)
    assert one.corners.shape != other.corners.shape or (one.corners != other.corners).any()
