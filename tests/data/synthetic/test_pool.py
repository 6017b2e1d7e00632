"""A pool of simulated sweeps: it holds what was simulated, and can be read before it is complete."""

from dataclasses import replace

import numpy as np
import pytest

from pcsparse.data.label_map import LabelMap
from pcsparse.data.synthetic import pool
from pcsparse.data.synthetic.pool import PoolPlan, RenderedSweeps, render, render_sample
from pcsparse.data.synthetic.scene import make_town
from pcsparse.data.synthetic.sensor import sensor_named
from pcsparse.data.synthetic.sweep import Drive
from pcsparse.data.synthetic.writer import FORMAT
from pcsparse.errors import FormatError, RangeError

PLAN = PoolPlan(sensors=("vlp16",), towns=2, sweeps=2, seed=40, stride=10.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The first town of the plan, rendered."""
    place = tmp_path_factory.mktemp("pool") / "sweeps"
    assert render(PLAN, place, part=0, parts=2) == 2
    return place


def test_a_stored_sweep_is_the_simulated_one_to_millimetres(folder):
    source = RenderedSweeps(PLAN, folder)
    assert len(source) == 4
    simulated = Drive(make_town(40, 20.0), sensor_named("vlp16"), "bvh").sweep(1, 10.0)
    stored = source[1]
    assert stored.name == "000040-0001-vlp16"
    np.testing.assert_allclose(stored.points, simulated.points, atol=0.0034)
    np.testing.assert_allclose(stored.intensity, simulated.intensity, atol=0.002)
    targets = LabelMap.load("synthetic").to_target(simulated.semantic.astype(np.uint32))
    np.testing.assert_array_equal(stored.targets, targets)
    np.testing.assert_array_equal(stored.instances, simulated.instance)
    np.testing.assert_array_equal(stored.beams, simulated.ring)
    assert (stored.points.dtype, stored.intensity.dtype) == (np.float32, np.float32)
    assert stored.targets.dtype == stored.instances.dtype == stored.beams.dtype == np.int64


def test_a_sweep_that_is_missing_is_stood_in_for_until_it_is_there(folder, tmp_path):
    source = RenderedSweeps(PLAN, folder)
    assert source.present == ["000040-0000-vlp16.npy", "000040-0001-vlp16.npy"]
    assert [source[index].name for index in (2, 3)] == ["000040-0000-vlp16", "000040-0001-vlp16"]
    with pytest.raises(FormatError, match="holds no sweep yet"):
        RenderedSweeps(PLAN, tmp_path / "none")[0]


def test_what_is_there_is_not_rendered_again(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "000040-0001-vlp16.npy").unlink()
    before = (tmp_path / "000040-0000-vlp16.npy").stat().st_mtime_ns
    assert render(PLAN, tmp_path, part=0, parts=2) == 1
    assert (tmp_path / "000040-0000-vlp16.npy").stat().st_mtime_ns == before
    # the same town, sweep and sensor give the same bytes, in another process order too
    one, two = (place / "000040-0001-vlp16.npy" for place in (folder, tmp_path))
    assert one.read_bytes() == two.read_bytes()


def test_towns_carry_the_sensors_in_turn(tmp_path):
    plan = PoolPlan(("hdl64e", "vlp16"), towns=3, sweeps=2, seed=7, stride=5.0)
    names = [plan.path(tmp_path, index).name for index in range(len(plan))]
    assert names[::2] == ["000007-0000-hdl64e.npy", "000008-0000-vlp16.npy", "000009-0000-hdl64e.npy"]


@pytest.mark.parametrize("content", [b"", b"no array", None], ids=["empty", "text", "other"])
def test_a_broken_file_is_named(tmp_path, content):
    path = PLAN.path(tmp_path, 0)
    pool._claim(PLAN, tmp_path)
    if content is None:
        np.save(path, np.zeros((3, 4), np.float32))
    else:
        path.write_bytes(content)
    with pytest.raises(FormatError, match=path.name):
        RenderedSweeps(PLAN, tmp_path)[0]


def test_sweeps_that_were_simulated_otherwise_are_refused(folder, tmp_path):
    def refused(said, plan=PLAN):
        for use in (lambda: render(plan, tmp_path), lambda: RenderedSweeps(plan, tmp_path)):
            with pytest.raises(
                FormatError, match=f"{tmp_path} holds 1 sweeps .*{said}.*; remove it, or name"
            ):
                use()

    name = "000040-0000-vlp16.npy"
    (tmp_path / name).write_bytes((folder / name).read_bytes())
    refused(f"simulator None, now {FORMAT}")
    record = (folder / "pool.json").read_text()
    (tmp_path / "pool.json").write_text(record.replace(f'"simulator": {FORMAT}', '"simulator": 1'))
    refused(f"simulator 1, now {FORMAT}")
    (tmp_path / "pool.json").write_text(record)
    refused("stride_metres 10.0, now 8.0", replace(PLAN, stride=8.0))
    refused("sweeps_of_a_town 2, now 3", replace(PLAN, sweeps=3))
    # more towns are the same ones and some more
    assert len(RenderedSweeps(replace(PLAN, towns=9), tmp_path).present) == 1
    (tmp_path / "pool.json").write_text("{")
    with pytest.raises(FormatError, match=r"pool\.json is broken"):
        render(PLAN, tmp_path)


def test_the_first_sweeps_are_of_many_towns(tmp_path, monkeypatch):
    plan, visits = PoolPlan(("vlp16",), towns=24, sweeps=4, seed=7, stride=8.0), []
    monkeypatch.setattr(
        pool, "_render", lambda plan, folder, town, sweeps: visits.append((town, [*sweeps])) or 1
    )
    for part in (0, 1):
        visits.clear()
        render(plan, tmp_path, part, 2, first_towns=8)
        # every third town, in turn; and then every second as a whole
        assert visits[:4] == [(town, [2]) for town in range(3 * part, 24, 6)]
        assert visits[4:] == [(town, [0, 1, 2, 3]) for town in range(part, 24, 2)]


def test_towns_stand_in_alike_however_many_of_their_sweeps_are_there():
    present = ["000007-0002-a.npy", *(f"000009-{i:04d}-a.npy" for i in range(4)), "000012-0001-a.npy"]
    taken = [pool._stand_in(present, town, sweep) for town in range(3) for sweep in range(4)]
    assert taken == [present[0]] * 4 + present[1:5] + [present[5]] * 4


def test_senseless_plans_are_refused():
    for change in ({"sensors": ()}, {"towns": 0}, {"sweeps": 0}, {"stride": 0.0}, {"seed": -1}):
        settings = {"sensors": ("vlp16",), "towns": 1, "sweeps": 1, "seed": 0, "stride": 1.0, **change}
        with pytest.raises(RangeError):
            PoolPlan(**settings)


def test_class_shares_of_a_sample(folder, tmp_path):
    assert render_sample(PLAN, tmp_path, towns=1) == 1
    assert RenderedSweeps(PLAN, tmp_path).present == ["000040-0001-vlp16.npy"]
    # the middle sweep of a town, as the whole pool has it
    assert (tmp_path / "000040-0001-vlp16.npy").read_bytes() == (
        folder / "000040-0001-vlp16.npy"
    ).read_bytes()
    source = RenderedSweeps(PLAN, folder)
    targets = np.concatenate([source[index].targets for index in (0, 1)])
    expected = [float((targets == c).sum()) / (targets >= 0).sum() for c in range(19)]
    np.testing.assert_allclose(source.class_shares(), expected)
    np.testing.assert_allclose(
        source.class_shares(most=1),
        [float((source[0].targets == c).sum()) / (source[0].targets >= 0).sum() for c in range(19)],
    )
    with pytest.raises(FormatError, match="holds no sweep"):
        RenderedSweeps(PLAN, tmp_path / "none").class_shares()


def test_a_sample_has_every_sensor(tmp_path, monkeypatch):
    plan = PoolPlan(("vlp16", "vlp16", "vlp16", "vlp32c"), towns=240, sweeps=4, seed=7, stride=8.0)
    towns = []
    monkeypatch.setattr(pool, "_render", lambda plan, folder, town, sweeps: towns.append(town) or 1)
    assert render_sample(plan, tmp_path) == len(towns) >= 20
    assert {plan.sensor(town) for town in towns} == {"vlp16", "vlp32c"}


def test_far_points_are_stored_or_refused(tmp_path):
    sweep = Drive(make_town(40, 20.0), sensor_named("vlp16"), "bvh").sweep(1, 10.0)
    labels = LabelMap.load("synthetic")
    for metres in (135.0, 212.0):
        sweep.points[0] = (metres, -metres, 0)
        path = tmp_path / "far.npy"
        pool._store(path, pool._packed(sweep, labels))
        np.testing.assert_allclose(pool.read_rendered(path).points[0], (metres, -metres, 0), atol=0.0034)
    sweep.points[0] = (0, -250.0, 0)
    with pytest.raises(RangeError, match="250 m away"):
        pool._packed(sweep, labels)
