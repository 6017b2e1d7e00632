"""Single objects: repeatable, balanced, seen by the sensor they are asked of, and read back as written."""

import dataclasses
import io
import json

import numpy as np
import pytest

from pcsparse.data.synthetic import objects as module
from pcsparse.data.synthetic.materials import ROAD
from pcsparse.data.synthetic.mesh import box, join
from pcsparse.data.synthetic.objects import CLASSES, LEAST_ECHOES, make_objects
from pcsparse.data.synthetic.objects_file import ObjectFacts, cached_objects, read_objects, write_objects
from pcsparse.data.synthetic.sensor import sensor_named
from pcsparse.errors import FormatError, RangeError, UnsupportedError

FACTS = ObjectFacts(per_class=2, n_points=64, sensor="hdl64e", seed=3)
FIELDS = ("points", "intensity", "labels", "distance", "echoes")


@pytest.fixture(scope="module")
def objects():
    return FACTS.make()


def test_classes_are_balanced_and_every_sample_has_its_points(objects):
    n = 2 * len(CLASSES)
    assert objects.points.shape == (n, 64, 3)
    assert objects.points.dtype == np.float32
    assert np.isfinite(objects.points).all()
    np.testing.assert_array_equal(np.bincount(objects.labels), 2)
    assert objects.intensity.min() >= 0
    assert objects.intensity.max() <= 1
    assert objects.echoes.min() >= LEAST_ECHOES
    assert (objects.distance > sensor_named("hdl64e").min_range).all()
    # of enough echoes no one is drawn twice; of too few, all are there
    for points, echoes in zip(objects.points, objects.echoes, strict=True):
        assert len(np.unique(points, axis=0)) == min(64, echoes)


def test_an_object_depends_on_its_seed_class_and_number_alone(objects):
    fewer = make_objects(1, 64, sensor_named("hdl64e"), seed=3)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(fewer, name), getattr(objects, name)[: len(CLASSES)])
    # not one sample of one seed comes back under another
    other = make_objects(1, 64, sensor_named("hdl64e"), seed=4)
    assert not np.isclose(other.distance[:, None], objects.distance).any()


def test_sizes_are_those_of_the_things(objects):
    height = dict.fromkeys(CLASSES, 0.0)
    for points, label in zip(objects.points, objects.labels, strict=True):
        height[CLASSES[label]] = max(height[CLASSES[label]], float(np.ptp(points[:, 2])))
    assert 1.0 < height["person"] < 2.6
    assert 0.7 < height["bicycle"] < 1.6
    assert height["bus"] > 2.0


def test_nothing_is_where_the_sensor_cannot_look(monkeypatch):
    """A wall of known place: every echo lies on its near face, to within noise, or on the ground."""
    wall = box((0.0, 0.0, 1.0), (0.2, 3.0, 2.0), ROAD)
    monkeypatch.setitem(module._MAKERS, "car", lambda rng: wall)
    monkeypatch.setattr(module, "yaw_rotation", lambda yaw: np.eye(3))
    monkeypatch.setattr(module, "_neighbour", lambda *_: join([]))
    monkeypatch.setattr(module, "_crop", lambda rng, low, high: (low - 0.1, high + 0.1))
    made = make_objects(1, 512, sensor_named("hdl64e"), seed=1)
    x, y, z = made.points[0].T
    on_ground = z < -0.95
    assert (~on_ground).sum() > 300
    np.testing.assert_allclose(x[~on_ground], -0.1, atol=0.12)
    assert abs(float(np.median(x[~on_ground])) + 0.1) < 0.02
    assert np.abs(y).max() <= 1.6
    assert np.ptp(y) > 2.7


def test_impossible_requests_are_refused():
    sensor = sensor_named("hdl64e")
    with pytest.raises(RangeError, match="at least 1"):
        make_objects(0, 64, sensor, seed=0)
    with pytest.raises(RangeError, match="at least 0"):
        make_objects(1, 64, sensor, seed=-1)
    with pytest.raises(UnsupportedError, match="no ray caster"):
        make_objects(1, 64, sensor, seed=0, caster="torch")
    blind = dataclasses.replace(sensor, name="one-eyed", elevations=(15.0,))
    with pytest.raises(RangeError, match=r"'one-eyed' gets fewer than 16 echoes from a car"):
        make_objects(1, 64, blind, seed=0)


def test_files_come_back_as_they_were_written(objects, tmp_path):
    path = tmp_path / "objects.npz"
    said = []
    first = cached_objects(path, FACTS, said.append)
    content = path.read_bytes()
    second = cached_objects(path, FACTS, said.append)
    assert "30 objects of 15 classes made" in said[0]
    assert "made before" in said[1]
    assert [child.name for child in tmp_path.iterdir()] == ["objects.npz"]
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(first, name), getattr(objects, name))
        np.testing.assert_array_equal(getattr(second, name), getattr(objects, name))
    write_objects(path, objects, FACTS)
    assert path.read_bytes() == content
    with pytest.raises(FormatError, match=r"seed=3.*seed=8"):
        cached_objects(path, dataclasses.replace(FACTS, seed=8))


def test_broken_files_are_refused(objects, tmp_path):
    path = tmp_path / "objects.npz"
    with pytest.raises(FormatError, match="holds no simulated objects"):
        read_objects(path)
    write_objects(path, objects, FACTS)
    content = path.read_bytes()
    npy = io.BytesIO()
    np.save(npy, objects.labels)
    for wrong in (content[:-50], b"", b"not a file of ours", npy.getvalue()):
        path.write_bytes(wrong)
        with pytest.raises(FormatError, match="holds no simulated objects"):
            read_objects(path)
    write_objects(path, objects, dataclasses.replace(FACTS, per_class=3))
    with pytest.raises(FormatError, match="its record says"):
        read_objects(path)
    arrays = {name: getattr(objects, name) for name in FIELDS}
    record = {"format": 99, "classes": CLASSES, **dataclasses.asdict(FACTS)}
    np.savez(path, record=np.array(json.dumps(record)), **arrays)
    with pytest.raises(FormatError, match="format 99"):
        read_objects(path)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("points", lambda a: np.where(a == a.max(), np.nan, a).astype(np.float32), "no finite float32"),
        ("intensity", lambda a: a.astype(np.float64), "no finite float32"),
        ("labels", lambda a: a + 1, "other labels"),
    ],
)
def test_content_that_no_simulator_wrote_is_refused(objects, tmp_path, name, change, said):
    path = tmp_path / "objects.npz"
    altered = dataclasses.replace(objects, **{name: change(getattr(objects, name))})
    write_objects(path, altered, FACTS)
    with pytest.raises(FormatError, match=said):
        read_objects(path)


def test_a_flipped_byte_is_an_error_of_ours_or_changes_nothing(objects, tmp_path):
    path = tmp_path / "objects.npz"
    write_objects(path, objects, FACTS)
    whole, refused = path.read_bytes(), 0
    for at in range(0, len(whole), max(1, len(whole) // 300)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            found, facts = read_objects(path)
        except FormatError:
            refused += 1
            continue
        assert facts == FACTS
        assert np.array_equal(found.points, objects.points)
    assert refused > 100
