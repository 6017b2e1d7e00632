"""Streets, blocks and towns: geometry that holds together, and labels for all of it."""

import numpy as np
import pytest

from pcsparse.data.synthetic import buildings, furniture, people, plants, vehicles
from pcsparse.data.synthetic.materials import POLE
from pcsparse.data.synthetic.mesh import Mesh, blob, boxes, tube
from pcsparse.data.synthetic.scene import MOVING, Town, make_town
from pcsparse.data.synthetic.sensor import sensor_named
from pcsparse.data.synthetic.shutter import Shutter
from pcsparse.data.synthetic.stats import GROUPS

KNOWN = {raw for ids in GROUPS.values() for raw in ids}


def volume(mesh: Mesh) -> float:
    """Signed volume of a closed mesh by the divergence theorem."""
    a, b, c = mesh.corners[:, 0], mesh.corners[:, 1], mesh.corners[:, 2]
    return float(np.abs(np.einsum("ij,ij->i", a, np.cross(b, c)).sum()) / 6)


def test_solids_are_closed() -> None:
    assert volume(boxes(np.array([[5.0, 1, 2]]), np.array([[2.0, 3, 4]]), POLE)) == pytest.approx(24.0)
    wheel = tube(np.array([1.0, 2, 3]), np.array([1.0, 2, 5]), (1.0, 1.0), POLE, sides=64)
    assert volume(wheel) == pytest.approx(2 * np.pi, rel=0.01)
    assert volume(blob(np.array([1.0, 0, 0]), np.array([1.0, 2, 3]), POLE, 32)) == pytest.approx(
        8 * np.pi, rel=0.3
    )


OBJECTS = {
    "car": (lambda r: vehicles.car(r)[0], {10}, 3.4, 6.3),
    "truck": (lambda r: vehicles.truck(r)[0], {18}, 5.4, 16.8),
    "bus": (lambda r: vehicles.bus(r)[0], {13}, 7.9, 18.4),
    "trailer": (lambda r: vehicles.trailer(r)[0], {20}, 2.9, 8.1),
    "person": (people.person, {30}, 0.2, 1.8),
    "bicycle": (people.bicycle, {11}, 1.0, 2.0),
    "motorcycle": (people.motorcycle, {15}, 1.7, 2.4),
    "bicyclist": (people.bicyclist, {31}, 1.5, 2.1),
    "motorcyclist": (people.motorcyclist, {32}, 1.7, 2.4),
    "tree": (plants.tree, {70, 71}, 1.0, 14.0),
    "hedge": (lambda r: plants.hedge(r, 6.0, 1.5, 0.8), {70}, 5.5, 7.0),
    "lamp": (furniture.lamp, {80}, 0.1, 0.6),
    "sign": (furniture.sign, {80, 81}, 0.04, 0.3),
    "house": (lambda r: buildings.house(r, 10.0, 9.0, 7.0), {50}, 9.9, 13.0),
}


@pytest.mark.parametrize("kind", OBJECTS)
def test_objects_have_their_class_and_their_size(kind: str) -> None:
    make, classes, shortest, longest = OBJECTS[kind]
    for seed in range(12):
        mesh = make(np.random.default_rng(seed))
        assert set(np.unique(mesh.semantic).tolist()) <= classes
        low, high = mesh.corners.reshape(-1, 3).min(0), mesh.corners.reshape(-1, 3).max(0)
        assert shortest <= high[0] - low[0] <= longest
        assert np.isfinite(mesh.corners).all()
        # nothing hangs in the air
        assert low[2] < 0.3


def test_rays_pass_a_crown_but_not_a_trunk() -> None:
    from pcsparse.data.synthetic.caster import make_caster

    rng = np.random.default_rng(5)
    through = []
    for seed in range(8):
        mesh = plants.tree(np.random.default_rng(seed))
        crown = mesh.corners[mesh.semantic == 70].reshape(-1, 3)
        middle, spread = crown.mean(0), crown.std(0)
        targets = middle + rng.uniform(-0.8, 0.8, (400, 3)) * spread * [0, 1, 1]
        origins = (targets - [30.0, 0, 0]).astype(np.float32)
        hits = make_caster("bvh", mesh).cast(origins, np.tile(np.float32([1, 0, 0]), (400, 1)))
        through.append((hits.triangle < 0).mean())
        assert (hits.triangle >= 0).any()
    assert 0.05 < np.mean(through) < 0.8


def test_a_town_follows_from_its_seed() -> None:
    one, two, other = make_town(3, 60.0), make_town(3, 60.0), make_town(4, 60.0)
    # also where another window was looked at before
    two._block(9)
    a, b = one._block(4)[0], two._block(4)[0]
    np.testing.assert_array_equal(a.corners, b.corners)
    np.testing.assert_array_equal(a.instance, b.instance)
    x, y = (int(v // 32) for v in one.route.world(20.0))
    np.testing.assert_array_equal(one._tile(x, y).corners, two._tile(x, y).corners)
    assert len(other._block(4)[0]) != len(a)


def test_a_block_shorter_than_a_bus_stop_is_built() -> None:
    town = make_town(1030, 160.0)
    number, row = town._numbers()[15]
    block = town.network.streets[number].blocks[row]
    assert block.end - block.start < 3
    mesh, _, _ = town._block(15)
    x, y = town.network.streets[number].world((block.start + block.end) / 2, 0.0)
    assert np.abs(mesh.middles()[:, :2] - np.hstack([x, y])).max() < 60


@pytest.fixture(scope="module", params=[2, 8])
def seen(request: pytest.FixtureRequest) -> tuple[Town, Mesh]:
    """A town, and what stands still around its 60th to 80th metre."""
    town = make_town(request.param, 120.0)
    return town, town.static_mesh(60.0, 20.0, 84.0)


def test_town_meshes_are_labelled_and_bounded(seen: tuple[Town, Mesh]) -> None:
    _, mesh = seen
    assert 5e4 < len(mesh) < 1.2e6
    assert set(np.unique(mesh.semantic).tolist()) <= KNOWN
    assert np.isfinite(mesh.corners).all()
    things = np.isin(mesh.semantic, [10, 11, 15, 18, 20, 30, 31, 32])
    assert (mesh.instance[things] > 0).all()
    assert (mesh.instance[~things] == 0).all()
    # one instance, one class
    pairs = np.unique(np.stack([mesh.instance[things], mesh.semantic[things]]), axis=1)
    assert len(np.unique(pairs[0])) == pairs.shape[1]


def test_nothing_solid_stands_on_the_way_or_on_a_carriageway(seen: tuple[Town, Mesh]) -> None:
    town, mesh = seen
    x, y = town.route.world(np.arange(0.0, 130.0, 0.5))
    # what stands far from the way cannot be on it
    wide = np.abs(mesh.middles()[:, :2] - town.route.world(70.0)).max(1) < 45
    mesh = mesh.select(wide & ~np.isin(mesh.semantic, (40, 44, 48, 49, 60, 72)))
    middle = mesh.middles()
    spots = town.land.at(middle[:, 0], middle[:, 1])
    above = middle[:, 2] - spots.z

    # nothing that stops a car where the ego drives
    solid = (mesh.semantic != 70) & (above > 0.3) & (above < 2.5) & (spots.edge < 0.5)
    gap = np.min(
        [np.hypot(middle[solid, 0] - u, middle[solid, 1] - v) for u, v in zip(x, y, strict=True)], axis=0
    )
    assert np.unique(mesh.semantic[solid][gap < 1.0]).tolist() == []

    # branches over the way are cut as high as a lorry needs
    leaf = (mesh.semantic == 70) & (above > 0.3) & (above < 2.8) & (spots.edge < -1.0)
    gap = np.min([np.hypot(middle[leaf, 0] - u, middle[leaf, 1] - v) for u, v in zip(x, y, strict=True)], 0)
    assert (gap > 1.0).all()

    # houses, fences, trunks and poles keep off all roads and parking bays, junctions included
    rooted = np.isin(mesh.semantic, (50, 51, 71, 80)) & (above < 1.0)
    on_road = (spots.kerb < -0.25) & (spots.isle < -0.3)
    assert np.unique(mesh.semantic[rooted & on_road]).tolist() == []


def test_movers_move_and_what_waits_does_not() -> None:
    town = make_town(0, 400.0)
    moved = 0
    for s in np.arange(0.0, 400.0, 20.0):
        when = s / town.speed
        eye = np.stack(town.route.world(s))
        shutter = Shutter(sensor_named("hdl64e"), eye, np.zeros(2), 0.0)
        before, after = (town.moving_mesh(s, when + dt, shutter, 84.0) for dt in (0.0, 0.5))
        assert set(np.unique(before.semantic).tolist()) <= {10, *MOVING.values()}
        for instance in np.intersect1d(before.instance, after.instance):
            mine, later = before.instance == instance, after.instance == instance
            step = np.linalg.norm(after.corners[later].mean((0, 1)) - before.corners[mine].mean((0, 1)))
            if before.semantic[mine][0] == 10:
                assert step == 0.0
            else:
                moved += 1
                assert 0.2 < step < 14.0
    assert moved > 10


def test_cars_queue_on_the_road_before_junctions() -> None:
    waiting = 0
    for seed in range(6):
        town = make_town(seed, 150.0)
        for mover in town.movers:
            if mover.speed == 0.0:
                waiting += 1
                assert set(mover.mesh.semantic.tolist()) == {10}
                assert mover.pose(mover.time) == mover.pose(mover.time + 20.0)
                x, y, _ = mover.pose(mover.time)
                if mover.underway(mover.time):
                    assert town.land.at(x, y).edge[0] < -0.5
    assert waiting > 4
