"""The ground: one surface without gaps, kerbs of their height, every kind of ground somewhere."""

import numpy as np
import pytest

from pcsparse.data.synthetic.caster import MISS, make_caster
from pcsparse.data.synthetic.mesh import Mesh, join
from pcsparse.data.synthetic.scene import Town, make_town
from pcsparse.data.synthetic.section import BAY, KERB_RUN
from pcsparse.data.synthetic.tiles import TILE, Pad, tile_mesh

GROUND = {40, 44, 48, 49, 72}


def paved(town: Town, x: np.ndarray, y: np.ndarray) -> Mesh:
    """The bare ground under all of the places."""
    tiles = np.unique(np.stack([x, y], 1) // TILE, axis=0).astype(int).tolist()
    return join([tile_mesh(town.land, column, row, []) for column, row in tiles])


def dropped(mesh: Mesh, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """World z and raw class of the ground at the places, by rays straight down."""
    origin = np.array([x.mean(), y.mean(), 0.0])
    top = mesh.corners[..., 2].max() + 1.0
    starts = np.stack([x, y, np.full(len(x), top)], 1) - origin
    down = np.tile(np.float32([0, 0, -1]), (len(x), 1))
    hits = make_caster("bvh", mesh.with_corners(mesh.corners - origin)).cast(starts.astype(np.float32), down)
    assert (hits.triangle != MISS).all()
    return top - hits.distance.astype(np.float64), mesh.semantic[hits.triangle]


@pytest.mark.parametrize("seed", range(5))
def test_the_road_is_one_surface_along_the_way(seed: int) -> None:
    town = make_town(seed, 150.0)
    s = np.arange(-60.0, 200.0, 0.2)
    for across in (0.0, -0.8):
        x, y = town.route.world(s, across)
        z, semantic = dropped(paved(town, x, y), x, y)
        assert set(np.unique(semantic).tolist()) == {40}
        # no step: a slope of 12 % at most, bends of the slope included
        assert np.abs(np.diff(z)).max() < 0.12 * 0.2
        np.testing.assert_allclose(z, town.height(x, y), atol=0.015)


def test_kerbs_have_their_height_and_the_land_its_surfaces() -> None:
    steps, seen = [], set()
    for seed in range(6):
        town = make_town(seed, 60.0)
        mesh = paved(town, *town.route.world(np.arange(0.0, 60.0)))
        assert set(np.unique(mesh.semantic).tolist()) <= GROUND
        seen |= set(np.unique(mesh.semantic).tolist())
        street = town.network.streets[0]
        for block in street.blocks:
            if not block.built or block.end - block.start < 16:
                continue
            s = np.full(2, 0.5 * (block.start + block.end))
            for sign in (1, -1):
                if float(street.node_gap(s[0])) < 12.0 or not block.side(sign).kerb:
                    continue
                edge = street.half_at(s) + block.side(sign).bay
                x, y = street.world(s, sign * (edge + np.array([-0.3, KERB_RUN + 0.3])))
                spots = town.land.at(x, y)
                if spots.other.min() > 12 and (spots.isle < 0).all():
                    z, _ = dropped(paved(town, x, y), x, y)
                    steps.append((z[1] - z[0]) - np.diff(town.land.relief.height(x, y))[0])
    assert seen == GROUND
    assert len(steps) > 20
    # parking bays narrow here and there between the blocks, so a few are measured beside the kerb
    assert np.mean((np.array(steps) > 0.10) & (np.array(steps) < 0.16)) > 0.9
    assert 0.1 < np.median(steps) < 0.16


def test_parking_bays_lie_before_the_kerb() -> None:
    found = 0
    for seed in range(8):
        town = make_town(seed, 60.0)
        for street in town.network.streets[:3]:
            for block in street.blocks:
                middle = 0.5 * (block.start + block.end)
                for sign in (1, -1):
                    side = block.side(sign)
                    wide = street.table[int(middle), 0 if sign > 0 else 1, 0] > 1.8
                    if not wide or side.codes[0] != BAY or float(street.node_gap(middle)) < 12:
                        continue
                    x, y = street.world(np.full(1, middle), sign * (street.half_at(middle) + 0.5 * side.bay))
                    if town.land.at(x, y).other[0] > 12:
                        assert dropped(paved(town, x, y), x, y)[1].tolist() == [44]
                        found += 1
    assert found > 4


def test_tiles_meet_and_cover_their_square() -> None:
    town = make_town(1, 60.0)
    x, y = (float(v) for v in town.route.world(20.0))
    column, row = int(x // TILE), int(y // TILE)
    flat = tile_mesh(town.land, column, row, []).corners
    ab, ac = flat[:, 1, :2] - flat[:, 0, :2], flat[:, 2, :2] - flat[:, 0, :2]
    area = 0.5 * np.abs(ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0])
    assert area.sum() == pytest.approx(TILE * TILE, rel=1e-6)
    # the heights of two neighbours agree where they meet
    rim = (column + 1) * TILE
    at = np.linspace(row * TILE + 0.01, (row + 1) * TILE - 0.01, 400)
    other = tile_mesh(town.land, column + 1, row, [])
    ours, _ = dropped(tile_mesh(town.land, column, row, []), np.full(400, rim - 1e-4), at)
    theirs, _ = dropped(other, np.full(400, rim + 1e-4), at)
    np.testing.assert_allclose(ours, theirs, atol=0.005)


def test_a_pad_gives_private_ground_its_surface_with_a_straight_rim() -> None:
    town = make_town(2, 60.0)
    street = town.network.streets[0]
    block = max(street.blocks, key=lambda block: block.end - block.start)
    s, t = 0.5 * (block.start + block.end), block.half + block.left.front + 6.0
    x, y = (float(v) for v in street.world(s, t))
    pad = Pad(x, y, 0.4, (5.3, 3.7), BAY)
    tile = tile_mesh(town.land, int(x // TILE), int(y // TILE), [pad])
    bay = tile.select(tile.semantic == 44)
    # its corners, turned by hand
    u, v = (bay.middles()[:, :2] - [x, y]).T
    along, across = np.cos(0.4) * u + np.sin(0.4) * v, np.cos(0.4) * v - np.sin(0.4) * u
    assert np.abs(along).max() < 5.3 / 2
    assert np.abs(across).max() < 3.7 / 2
    assert np.abs(along).max() > 2.2
    assert np.abs(across).max() > 1.4


@pytest.mark.slow
def test_car_parks_traffic_islands_and_gravel_occur() -> None:
    shares = {44: 0.0, 49: 0.0}
    for seed in range(10):
        mesh = make_town(seed, 60.0).static_mesh(20.0, 20.0, 84.0)
        flat = np.isin(mesh.semantic, tuple(GROUND))
        for raw in shares:
            shares[raw] += float((mesh.semantic[flat] == raw).mean()) / 10
    assert shares[44] > 0.01
    assert shares[49] > 0.002
