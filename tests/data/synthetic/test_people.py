"""People and riders: limbs keep their lengths, poses follow a phase, sizes are those of people."""

import numpy as np
import pytest

from pcsparse.data.synthetic import people, two_wheelers
from pcsparse.data.synthetic.body import bent, vec, walking
from pcsparse.data.synthetic.route import Route
from pcsparse.data.synthetic.traffic import Gait, Mover


def test_a_joint_keeps_both_links_and_bends_the_way_it_should() -> None:
    knee = bent(vec(0, 0, 0.9), vec(0.2, 0, 0.1), (0.43, 0.43), vec(1, 0, 0))
    np.testing.assert_allclose(np.linalg.norm(knee - vec(0, 0, 0.9)), 0.43, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(knee - vec(0.2, 0, 0.1)), 0.43, atol=1e-9)
    assert knee[0] > 0.1
    # out of reach: on the line
    far = bent(vec(0, 0, 0), vec(0, 0, 2.0), (0.43, 0.43), vec(1, 0, 0))
    np.testing.assert_allclose(far[:2], 0, atol=1e-4)


def test_a_step_swings_the_legs_against_each_other() -> None:
    one, half = walking(0.25, 1.0), walking(0.75, 1.0)
    assert one.feet[0, 0] > 0.3 > -0.3 > one.feet[1, 0]
    np.testing.assert_allclose(one.feet[:, 0], -half.feet[:, 0], atol=1e-9)
    # arms go with the other leg, and the foot that comes forward is off the ground
    assert (np.sign(one.hands[:, 0] - 0.05) == -np.sign(one.feet[:, 0])).all()
    passing = walking(0.0, 1.0).feet[:, 2]
    assert abs(passing[0] - passing[1]) > 0.1
    np.testing.assert_allclose(walking(0.3, 0.0).feet[:, 0], 0)


@pytest.mark.parametrize("make", [people.person, people.walker, people.bicyclist])
def test_poses_follow_the_phase_and_clothes_do_not(make) -> None:
    for seed in range(20):
        one, two, again = (make(np.random.default_rng(seed), phase) for phase in (0.1, 0.4, 0.1))
        np.testing.assert_array_equal(one.corners, again.corners)
        np.testing.assert_array_equal(one.reflectivity, two.reflectivity)
        if np.abs(one.corners - two.corners).max() > 0.1:
            return
    raise AssertionError("nobody moved")


def test_who_moves_steps_as_far_as_he_comes() -> None:
    gait = Gait(people.walker, 0)
    mesh = gait.at(0.0).with_semantic(254).with_instance(9)
    line = np.stack([np.arange(30.0), np.zeros(30)], 1)
    mover = Mover(mesh, Route(line, np.zeros(30), 0.0), 5.0, 0.0, 1.4, 0.0, (0.8, 0.8), gait, 1.4)
    start, half, whole = (mover.body(when) for when in (0.0, 0.5, 1.0))
    assert set(np.unique(half.semantic).tolist()) == {254}
    assert set(np.unique(half.instance).tolist()) == {9}
    np.testing.assert_allclose(whole.corners, start.corners, atol=1e-9)
    # half a step later each leg is where the other one was
    assert np.abs(half.corners - start.corners).max() > 0.2


def test_feet_stand_on_pedals() -> None:
    pedals = two_wheelers._pedals(0.0)
    assert pedals[0, 1] < 0 < pedals[1, 1]
    np.testing.assert_allclose(np.ptp(pedals[:, 0]), 2 * 0.17)
    np.testing.assert_allclose(np.ptp(two_wheelers._pedals(0.25)[:, 2]), 2 * 0.17)


# raw id, least and most height, metres
MAKERS = {
    "person": (people.person, 30, 0.95, 2.35),
    "sitter": (people.sitter, 30, 1.1, 1.5),
    "bicycle": (people.bicycle, 11, 0.6, 1.2),
    "motorcycle": (people.motorcycle, 15, 0.9, 1.6),
    "bicyclist": (people.bicyclist, 31, 1.6, 1.95),
    "motorcyclist": (people.motorcyclist, 32, 1.55, 1.95),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_sizes_and_classes(kind: str) -> None:
    make, raw, least, most = MAKERS[kind]
    heights = []
    for seed in range(25):
        mesh = make(np.random.default_rng(seed))
        assert set(np.unique(mesh.semantic).tolist()) == {raw}
        low, high = mesh.corners.min((0, 1)), mesh.corners.max((0, 1))
        assert -0.12 < low[2] < 0.1
        heights.append(float(high[2]))
        assert len(mesh) < 900
    assert least < min(heights)
    assert max(heights) < most
    if kind == "person":
        # most are grown up, some are not
        assert 1.55 < np.median(heights) < 1.9
        assert min(heights) < 1.5
