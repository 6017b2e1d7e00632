"""Streets, blocks and towns: geometry that holds together, and labels for all of it."""

import numpy as np
import pytest

from pcsparse.data.synthetic import buildings, furniture, people, plants, vehicles
from pcsparse.data.synthetic.blocks import plan_blocks
from pcsparse.data.synthetic.frontage import KINDS
from pcsparse.data.synthetic.ground import ground
from pcsparse.data.synthetic.materials import POLE
from pcsparse.data.synthetic.mesh import Mesh, blob, boxes, tube
from pcsparse.data.synthetic.scene import MOVING, make_town
from pcsparse.data.synthetic.stats import GROUPS
from pcsparse.data.synthetic.street import make_street

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
    "person": (people.person, {30}, 0.2, 1.1),
    "bicycle": (people.bicycle, {11}, 1.5, 2.0),
    "motorcycle": (people.motorcycle, {15}, 1.9, 2.4),
    "bicyclist": (people.bicyclist, {31}, 1.5, 2.1),
    "motorcyclist": (people.motorcyclist, {32}, 1.9, 2.4),
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


def test_street_bends_but_land_does_not_overlap() -> None:
    street = make_street(np.random.default_rng(1), 400.0, 0.03)
    steps = np.linalg.norm(np.diff(street.line, axis=0), axis=1)
    np.testing.assert_allclose(steps, 1.0, atol=0.01)
    assert np.ptp(street.heading) > 0.3
    s = np.arange(-60.0, 460.0, 7.0)
    for side in (1, -1):
        t = 0.95 * street.limit(s, side) - 1.5
        x, y = street.world(s, side * t)
        gap = np.hypot(x[:, None] - street.line[:, 0], y[:, None] - street.line[:, 1]).min(1)
        # the nearest place of the street is the one the point was measured from
        assert (np.abs(gap - t) < 1.5).all()


def test_blocks_join_without_gaps_and_vary() -> None:
    plans = plan_blocks(np.random.default_rng(2), -100.0, 4000.0)
    ends = [plan.block.end for plan in plans]
    assert [plan.block.start for plan in plans[1:]] == ends[:-1]
    widths = np.array([2 * plan.block.half for plan in plans])
    assert widths.min() >= 5.6
    assert widths.max() <= 14.0
    assert np.ptp(widths) > 5
    seen = {kind for plan in plans for kind in plan.kinds}
    assert seen == set(KINDS)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ground_has_kerbs_and_closes_under_the_street(seed: int) -> None:
    town = make_town(seed, 80.0)
    for plan in town.plans[2:6]:
        block = plan.block
        mesh = ground(town.street, block)
        assert set(np.unique(mesh.semantic).tolist()) <= {40, 44, 48, 49, 60, 72}
        assert {40} < set(np.unique(mesh.semantic).tolist())
        middle = 0.5 * (block.start + block.end)
        for sign in (1, -1):
            kerb = block.lift(middle, sign * (block.half + block.side(sign).front - 0.1), sign)
            assert 0.0 <= float(kerb) <= 0.16


def test_a_town_follows_from_its_seed() -> None:
    one, two, other = make_town(3, 60.0), make_town(3, 60.0), make_town(4, 60.0)
    a, b = one.static_mesh(0.0, 20.0), two.static_mesh(0.0, 20.0)
    np.testing.assert_array_equal(a.corners, b.corners)
    np.testing.assert_array_equal(a.instance, b.instance)
    assert len(other.static_mesh(0.0, 20.0)) != len(a)


def test_town_meshes_are_labelled_and_bounded() -> None:
    town = make_town(6, 60.0)
    mesh = town.static_mesh(20.0, 20.0)
    assert 5e4 < len(mesh) < 1.5e6
    assert set(np.unique(mesh.semantic).tolist()) <= KNOWN
    assert np.isfinite(mesh.corners).all()
    things = np.isin(mesh.semantic, [10, 11, 15, 18, 20, 30, 31, 32])
    assert (mesh.instance[things] > 0).all()
    assert (mesh.instance[~things] == 0).all()
    # one instance, one class
    pairs = np.unique(np.stack([mesh.instance[things], mesh.semantic[things]]), axis=1)
    assert len(np.unique(pairs[0])) == pairs.shape[1]


@pytest.mark.parametrize("seed", range(4))
def test_nothing_solid_stands_in_the_lane(seed: int) -> None:
    town = make_town(seed, 120.0)
    mesh = town.static_mesh(60.0, 20.0)
    s = np.arange(0.0, 130.0, 0.5)
    lane = np.array([town.lane(float(at)) for at in s])
    x, y = town.street.world(s, lane)
    z = np.array([town.road_height(float(at), float(t)) for at, t in zip(s, lane, strict=True)])
    middle = mesh.corners.mean(1)
    solid = ~np.isin(mesh.semantic, (40, 44, 48, 49, 60, 72, 70))
    bad = []
    for i in range(len(s)):
        near = np.hypot(middle[:, 0] - x[i], middle[:, 1] - y[i]) < 1.0
        above = middle[:, 2] - z[i]
        bad += np.unique(mesh.semantic[near & solid & (above > 0.3) & (above < 2.5)]).tolist()
    assert not bad


def test_movers_move_and_keep_their_instance() -> None:
    town = make_town(0, 400.0)
    pairs = 0
    for s in np.arange(0.0, 400.0, 20.0):
        when = s / town.speed
        before, after = (town.moving_mesh(s, when + dt, 0.0, 0.1) for dt in (0.0, 0.5))
        assert set(np.unique(before.semantic).tolist()) <= set(MOVING.values())
        for instance in np.intersect1d(before.instance, after.instance):
            one, two = before.corners[before.instance == instance], after.corners[after.instance == instance]
            pairs += 1
            assert 0.2 < np.linalg.norm(two.mean((0, 1)) - one.mean((0, 1))) < 8.0
    assert pairs > 10
