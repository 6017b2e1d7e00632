"""How far a town reaches for a sensor, and that things in it keep their names."""

import numpy as np
import pytest

from pcsparse.data.synthetic import scene
from pcsparse.data.synthetic.scene import make_town, sight_of
from pcsparse.data.synthetic.sensor import sensor_named
from pcsparse.data.synthetic.sweep import Drive


def test_a_town_is_built_as_far_as_a_sensor_measures_up_to_130_m() -> None:
    assert sight_of(80.0) == 84.0
    assert sight_of(105.0) == 109.0
    assert sight_of(200.0) == 130.0
    town = make_town(3, 40.0)
    x, y = (float(v) for v in town.route.world(20.0))
    for sight in (84.0, 130.0):
        flat = town.static_mesh(20.0, 0.0, sight).middles()[:, :2] - [x, y]
        assert np.hypot(*flat.T).max() == pytest.approx(sight, abs=1.0)


@pytest.mark.slow
def test_a_sensor_that_sees_far_has_returns_from_there() -> None:
    sensor = sensor_named("os1-128")
    far = [
        np.linalg.norm(Drive(make_town(seed, 40.0), sensor, "bvh").sweep(2, 10.0).points, axis=1).max()
        for seed in range(4)
    ]
    assert max(far) > 100.0


def test_things_that_share_an_instance_id_have_numbers_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    # ids begin again every other block instead of every 270
    monkeypatch.setattr(scene, "_RANGES", 2)
    town = make_town(3, 60.0)
    blocks = range(len(town._numbers()))
    standing = sum(len(town._block(index)[2]) for index in blocks)
    ids = {name for index in blocks for name in town._block(index)[2]}
    assert len(ids) < standing
    # one block at a time, so that none hides another of the same ids
    serials: set[int] = set()
    for index in blocks:
        monkeypatch.setattr(town, "_near", lambda x, y, reach, index=index: [index])
        there = town.countable(0.0, 0.0, 84.0)
        serials |= {serial for _, serial in there.values() if serial > 0}
    assert len(serials) == standing
