"""Vehicles: sizes of the road, arches over wheels, panes that let pulses in, paint that hardly answers."""

import numpy as np
import pytest

from pcsparse.data.synthetic import lorries, towed, vehicles
from pcsparse.data.synthetic.cars import BODIES, car_of
from pcsparse.data.synthetic.caster import make_caster
from pcsparse.data.synthetic.coachwork import paint
from pcsparse.data.synthetic.materials import Material
from pcsparse.data.synthetic.mesh import Mesh

# (raw id, length, width with mirrors, height), metres; the longest are those of directive 96/53/EC
MAKERS = {
    "car": (vehicles.car, 10, (3.4, 6.3), (1.6, 2.6), (1.2, 2.8)),
    "rigid": (lorries.rigid, 18, (5.4, 12.2), (2.1, 3.4), (2.3, 4.0)),
    "articulated": (lorries.articulated, 18, (13.9, 16.8), (2.5, 3.4), (2.9, 4.0)),
    "bus": (vehicles.bus, 13, (7.9, 18.4), (2.5, 3.2), (2.9, 3.8)),
    "tram": (vehicles.tram, 16, (15.0, 40.0), (2.3, 2.7), (3.2, 4.0)),
    "caravan": (towed.caravan, 20, (4.5, 7.0), (2.0, 2.5), (2.3, 2.7)),
    "digger": (towed.digger, 20, (4.0, 7.5), (2.0, 2.6), (2.0, 4.2)),
}


def beside(mesh: Mesh, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Triangles that rays meet which cross the vehicle along y at places x and heights z."""
    origins = np.stack([x, np.full(len(x), -4.0), z], 1).astype(np.float32)
    return make_caster("bvh", mesh).cast(origins, np.tile(np.float32([0, 1, 0]), (len(x), 1))).triangle


@pytest.mark.parametrize("kind", MAKERS)
def test_vehicles_have_the_size_they_say_and_one_class(kind: str) -> None:
    make, raw, *spans = MAKERS[kind]
    for seed in range(8):
        mesh, (length, width) = make(np.random.default_rng(seed))
        assert set(np.unique(mesh.semantic).tolist()) == {raw}
        low, high = mesh.corners.min((0, 1)), mesh.corners.max((0, 1))
        for axis, (least, most) in enumerate(spans):
            assert least <= high[axis] - low[axis] <= most
        # what it says of itself is what it takes up on the road, mirrors aside
        assert abs(length - (high[0] - low[0])) < 0.8
        assert width <= high[1] - low[1] + 0.01
        assert -0.01 < low[2] < 0.03
        assert len(mesh) < 2000


def test_bodies_add_up() -> None:
    assert sum(body.share for body in BODIES.values()) == pytest.approx(1.0)
    for body in BODIES.values():
        at, z = np.array(body.line).T
        assert (np.diff(at) > 0).all()
        assert (at[0], at[-1], z.max()) == (0, 1, 1)


@pytest.mark.parametrize("name", BODIES)
def test_wheels_stand_in_arches_and_air_is_under_the_door(name: str) -> None:
    rng = np.random.default_rng(3)
    mesh, (length, width) = car_of(rng, BODIES[name])
    front, rear = (length * (0.5 - at) for at in BODIES[name].axles)
    hub = mesh.corners[mesh.material == Material.METAL][..., 2]
    radius = 0.5 * float(hub.min() + hub.max())
    x = np.array([front, rear, 0.5 * (front + rear), front])
    first, second, door, gap = beside(mesh, x, np.array([0.15, 0.15, 0.1, 2.07 * radius]))
    for row in (first, second):
        assert mesh.material[row] in (Material.RUBBER, Material.METAL)
    assert door < 0
    # above the tyre, below the rim of the arch: a gap through which one looks at the under-body
    assert gap < 0 or mesh.corners[gap, :, 1].min() > -width / 2 + 0.1


def test_some_windows_let_pulses_in_to_the_seats() -> None:
    inside, glass, count = 0, 0, 0
    for seed in range(12):
        mesh, (length, width) = car_of(np.random.default_rng(seed), BODIES["hatchback"])
        low, high = BODIES["hatchback"].sides[0]
        height = mesh.corners[..., 2].max()
        x = length * (0.5 - np.linspace(low + 0.03, high - 0.03, 8))
        for row in beside(mesh, x, np.full(8, 0.8 * height)):
            count += 1
            inside += row < 0 or mesh.corners[row, :, 1].min() > -0.8 * width / 2
            glass += row >= 0 and mesh.material[row] == Material.GLASS
    assert 0.08 * count < inside < 0.4 * count
    assert 0.6 * count < glass < 0.92 * count


def test_paint_is_dark_medium_or_light_and_plates_shine() -> None:
    coats = np.array([paint(np.random.default_rng(seed)).reflectivity for seed in range(400)])
    # one in six is black and returns nothing; light coats answer like a wall
    assert 0.1 < np.mean(coats <= 0.02) < 0.22
    assert 0.6 < np.mean(coats > 0.14) < 0.75
    assert 0.4 < coats.max() <= 0.48
    dark, bright = [], []
    for seed in range(60):
        mesh, _ = vehicles.car(np.random.default_rng(seed))
        painted = mesh.reflectivity[mesh.material == Material.PAINT]
        # roofs and bonnets are darker than doors
        dark.append(np.isclose(painted, 0.6 * painted.max(), rtol=0.01).any())
        bright.append(float(mesh.reflectivity.max()))
    assert all(dark)
    assert min(bright) >= 1.0


def test_a_vehicle_follows_from_its_numbers() -> None:
    for make in (vehicles.car, vehicles.truck, vehicles.bus, vehicles.trailer, vehicles.tram):
        one, two, other = (make(np.random.default_rng(seed))[0] for seed in (1, 1, 2))
        np.testing.assert_array_equal(one.corners, two.corners)
        assert one.corners.shape != other.corners.shape or (one.corners != other.corners).any()
