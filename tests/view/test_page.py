"""The page as text: what it carries, how large it is, and that nothing in it runs but its own script."""

import base64
import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from pcsparse.data.files import read_points
from pcsparse.data.label_map import LabelMap
from pcsparse.data.synthetic.scene import make_town
from pcsparse.data.synthetic.sensor import sensor_named
from pcsparse.data.synthetic.sweep import Drive
from pcsparse.errors import RangeError, ShapeError
from pcsparse.view import page as page_module
from pcsparse.view.page import Box, Classes, Sweep, page, save_page
from tests.view import page_reader as reader

CLASSES = Classes(("road", "car", "tree"), np.array([[255, 0, 255], [100, 150, 245], [0, 175, 0]], np.uint8))
# a real HDL-64E sweep has this many points
POINTS = 124_668
MEGABYTES = 1_000_000
FIVE, WHITE = np.zeros((5, 3)), np.full((256, 3), 255, np.uint8)
HOSTILE = "</script><img src=x onerror=alert(1)>&amp;\"'{{script}}"


def cloud(n=500, seed=0, **columns):
    rng = np.random.default_rng(seed)
    points = rng.normal(0, [20, 20, 2], (n, 3)).astype(np.float32)
    return Sweep(points, f"sweep {seed}", **columns)


def everything(n=500, seed=0):
    rng = np.random.default_rng(seed + 1)
    return cloud(
        n,
        seed,
        intensity=rng.random(n).astype(np.float32),
        labels=rng.integers(-1, 3, n),
        prediction=rng.integers(-1, 3, n),
        confidence=rng.random(n).astype(np.float32),
        instance=rng.integers(0, 65536, n),
        rows=np.cumsum(rng.integers(1, 300, n)),
    )


# ---- what it carries


def test_every_column_comes_back():
    sweep = everything()
    text = page([sweep], CLASSES)
    facts, found = reader.content(text)["sweeps"][0], reader.columns(text)
    xyz = np.stack([found[axis] for axis in "xyz"], axis=1)
    step = np.array(facts["step"])
    extent = np.ptp(sweep.points.astype(np.float64), axis=0)
    np.testing.assert_allclose(step, extent / 65535, rtol=1e-12)
    assert (np.abs(xyz - sweep.points) <= 0.5 * step * (1 + 1e-9)).all()
    # and both ends of each axis are met
    np.testing.assert_allclose(xyz.min(axis=0), sweep.points.min(axis=0), rtol=1e-12)
    np.testing.assert_allclose(xyz.max(axis=0), sweep.points.max(axis=0), rtol=1e-6)
    for name in ("intensity", "confidence"):
        assert np.abs(found[name] / 255 - getattr(sweep, name)).max() <= 0.5 / 255 + 1e-6
    for name in ("labels", "prediction"):
        np.testing.assert_array_equal(found[name], getattr(sweep, name) % 256)
    for name in ("instance", "rows"):
        np.testing.assert_array_equal(found[name], getattr(sweep, name))
    assert (facts["name"], facts["points"], facts["leftOut"]) == ("sweep 0", 500, 0)


def test_what_is_not_known_is_not_there():
    facts = reader.content(page([cloud()]))
    assert facts["sweeps"][0]["columns"] == ["x", "y", "z"]
    assert facts["sweeps"][0]["pose"] is None
    assert [entry["name"] for entry in facts["classes"]] == ["unlabelled"]


def test_intensity_beyond_one_keeps_its_scale():
    bright = np.array([0.0, 0.5, 1.6], np.float32)
    text = page([Sweep(np.eye(3), intensity=bright)])
    scale = reader.content(text)["sweeps"][0]["intensityScale"]
    assert scale == pytest.approx(1.6)
    np.testing.assert_allclose(reader.columns(text)["intensity"] / 255 * scale, bright, atol=scale / 510)


def test_points_that_are_not_finite_are_left_out_and_rows_stay():
    sweep = everything(20)
    points = sweep.points.copy()
    points[[0, 7, 19]] = [[np.nan, 0, 0], [0, np.inf, 0], [0, 0, -np.inf]]
    kept = np.delete(np.arange(20), [0, 7, 19])
    text = page([Sweep(points, labels=sweep.labels)], CLASSES)
    found = reader.columns(text)
    np.testing.assert_array_equal(found["rows"], kept)
    np.testing.assert_array_equal(found["labels"], sweep.labels[kept] % 256)
    assert np.abs(found["x"] - points[kept, 0]).max() < 0.01
    assert reader.content(text)["sweeps"][0]["leftOut"] == 3


@pytest.mark.parametrize(
    "points",
    [np.zeros((0, 3)), np.ones((1, 3)), np.full((4, 3), np.nan), np.array([[5, 5, 0], [5, 5, 9.0]])],
    ids=["empty", "one", "all invalid", "vertical"],
)
def test_degenerate_clouds(points):
    text = page([Sweep(points)])
    found, finite = reader.columns(text), points[np.isfinite(points).all(axis=1)]
    np.testing.assert_allclose(np.stack([found[a] for a in "xyz"], axis=1), finite, atol=1e-3)
    assert reader.content(text)["reach"] > 0


def test_a_sequence_carries_names_poses_origins_and_boxes():
    pose = np.eye(4)
    pose[:3, 3] = 1, 2, 3
    box = Box((8.0, -2.0, -0.9), (4.2, 1.8, 1.6), 0.3, "Car", 0.75)
    sweeps = [cloud(60, 1, pose=np.eye(4)), cloud(70, 2, pose=pose, boxes=(box,), origin=(4e5, 5e6, 0.0))]
    text = page(sweeps, title="a drive")
    facts = reader.content(text)
    first, second = facts["sweeps"]
    assert (first["name"], second["name"], facts["title"]) == ("sweep 1", "sweep 2", "a drive")
    assert (first["points"], second["points"]) == (60, 70)
    np.testing.assert_array_equal(second["pose"], pose)
    assert second["origin"] == [4e5, 5e6, 0.0]
    assert second["boxes"] == [
        {"center": [8.0, -2.0, -0.9], "size": [4.2, 1.8, 1.6], "yaw": 0.3, "name": "Car", "score": 0.75}
    ]
    for i, sweep in enumerate(sweeps):
        assert np.abs(reader.columns(text, i)["y"] - sweep.points[:, 1]).max() < 0.002


def test_colours_are_those_of_the_classes_and_stand_out_on_both_themes():
    black = Classes(("night", "day"), np.array([[0, 0, 0], [255, 255, 255]], np.uint8))
    night, day, none = reader.content(page([cloud()], black))["classes"]
    assert day["dark"] == [255, 255, 255]
    assert night["light"] == [0, 0, 0]
    assert min(night["dark"]) > 60
    assert max(day["light"]) < 200
    assert none["name"] == "unlabelled"


def test_the_same_input_gives_the_same_text():
    assert page([everything()], CLASSES) == page([everything()], CLASSES)
    assert page([everything()], CLASSES) != page([everything(seed=5)], CLASSES)


# ---- how large it is


def layers(points, intensity, labels, classes):
    """A sweep with all that a segmented one has; predictions are wrong by voxel, as a network's are."""
    rng = np.random.default_rng(0)
    # a column of its own in numpy 2.0
    voxel = np.unique(np.floor(points / 0.1).astype(np.int64), axis=0, return_inverse=True)[1].ravel()
    confidence = rng.beta(5, 1.2, voxel.max() + 1)[voxel]
    wrong = rng.random(voxel.max() + 1)[voxel] < 0.1
    prediction = np.where(wrong, rng.integers(0, classes, voxel.max() + 1)[voxel], labels)
    return Sweep(points, "sweep", intensity, labels, prediction, confidence)


def test_a_simulated_sweep_is_at_most_two_megabytes():
    town = Drive(make_town(3, 20.0), sensor_named("hdl64e"), "bvh")
    swept = town.sweep(0, 10.0)
    known = LabelMap.load("synthetic")
    labels = known.to_target(swept.labels().astype(np.uint32))
    sweep = layers(swept.points, swept.intensity, labels, known.n_classes)
    text = page([sweep], Classes(known.names, known.colors))
    assert len(sweep.points) > 80_000
    assert len(text) * POINTS / len(sweep.points) < 1.2 * MEGABYTES


def test_a_real_sweep_is_at_most_two_megabytes(real_data, tmp_path):
    source = real_data / "semantickitti/dataset/sequences/00/velodyne/000000.bin"
    if not source.is_file():
        pytest.skip(f"no {source.name} among the real samples")
    real = read_points(source)
    labels = np.where(real.points[:, 2] < -1.5, 0, np.where(np.abs(real.points[:, 1]) > 6, 2, 1))
    sweep = layers(real.points, real.intensity, labels, 3)
    size = save_page(tmp_path / "real.html", [sweep], CLASSES)
    assert len(sweep.points) == POINTS
    assert size == (tmp_path / "real.html").stat().st_size < 1.2 * MEGABYTES
    found = reader.columns((tmp_path / "real.html").read_text())
    assert np.abs(found["x"] - sweep.points[:, 0]).max() < 0.0014


def test_points_without_any_order_are_at_most_two_megabytes():
    rng = np.random.default_rng(0)
    points = rng.uniform(-80, 80, (POINTS, 3)).astype(np.float32)
    noise = rng.random((2, POINTS)).astype(np.float32)
    text = page([Sweep(points, "noise", noise[0], *rng.integers(0, 3, (2, POINTS)), noise[1])], CLASSES)
    assert len(text) < 2 * MEGABYTES


# ---- what runs


def hostile_page():
    classes = Classes((HOSTILE,), np.zeros((1, 3), np.uint8))
    box = Box((0, 0, 0), (1, 1, 1), 0, HOSTILE)
    sweep = Sweep(np.eye(3), HOSTILE, labels=np.array([0, 0, -1]), boxes=(box,))
    return page([sweep], classes, title=HOSTILE)


def test_names_cannot_become_elements():
    text, plain = hostile_page(), page([Sweep(np.eye(3))])
    found = reader.elements(text)
    assert [e.tag for e in found] == [e.tag for e in reader.elements(plain)]
    assert not [e for e in found if any(name.startswith("on") for name in e.attributes)]
    (title,) = (e for e in found if e.tag == "title")
    assert title.text == HOSTILE
    facts = reader.content(text)
    assert facts["title"] == facts["sweeps"][0]["name"] == facts["classes"][0]["name"] == HOSTILE
    assert facts["sweeps"][0]["boxes"][0]["name"] == HOSTILE
    # and the script never makes elements of text
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text
    )


@pytest.mark.parametrize(
    "make", [lambda: page([everything(9)], CLASSES), hostile_page], ids=["plain", "hostile"]
)
def test_the_policy_lets_only_its_own_script_and_style_run(make):
    text = make()
    rules = reader.policy(text)

    def digest(content):
        return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"

    scripts = [e.text for e in reader.elements(text) if e.tag == "script" and "type" not in e.attributes]
    styles = [e.text for e in reader.elements(text) if e.tag == "style"]
    assert rules["default-src"] == ["'none'"]
    assert rules["script-src"] == [digest(script) for script in scripts]
    assert rules["style-src"] == [digest(style) for style in styles]
    assert set(rules) == {"default-src", "script-src", "style-src", "img-src", "base-uri", "form-action"}
    assert rules["img-src"] == ["data:", "blob:"]
    # what the policy would refuse is not there either
    assert not [e for e in reader.elements(text) if "style" in e.attributes]


def test_nothing_is_fetched_from_elsewhere():
    text = page([everything(50)], CLASSES)
    assert not re.search(
        r"(?:https?|wss?|ftp):?//|fetch\(|XMLHttpRequest|WebSocket|sendBeacon|import\(|@import|url\(", text
    )
    for found in reader.elements(text):
        assert not {"src", "srcset", "action", "data", "poster"} & set(found.attributes)
        assert (found.attributes.get("href") or "data:,") == "data:,"


def test_every_control_has_a_name():
    text = page([everything(9)], CLASSES)
    found = reader.elements(text)
    labelled = {e.attributes["for"] for e in found if e.tag == "label" and "for" in e.attributes}
    for i, control in enumerate(found):
        if control.tag == "input":
            assert control.attributes["id"] in labelled or found[i - 1].tag == "label"
        if control.tag == "button":
            assert control.text.strip()
    assert by_role(found, "canvas")["aria-label"]
    assert [e.attributes["lang"] for e in found if e.tag == "html"] == ["en"]


def by_role(found, tag):
    return next(e.attributes for e in found if e.tag == tag)


# ---- the file, and bad input


def test_the_file_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    size = save_page(tmp_path / "deep" / "a.html", [cloud()], title="ä")
    assert (tmp_path / "deep" / "a.html").stat().st_size == size
    assert (tmp_path / "deep" / "a.html").read_text(encoding="utf-8") == page([cloud()], title="ä")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.html"]

    def die(self, target):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(OSError, match="disk full"):
        save_page(tmp_path / "b.html", [cloud()])
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: Sweep(np.zeros((5, 4))), ShapeError, r"\(5, 4\)"),
        (lambda: Sweep(FIVE, "a", labels=np.zeros(4, int)), ShapeError, r"a: labels .*\(5,\).*\(4,\)"),
        (lambda: Sweep(FIVE, pose=np.eye(3)), ShapeError, r"pose must be \(4, 4\)"),
        (lambda: Classes(("a",), WHITE[:2]), ShapeError, r"\(1, 3\) for 1 names, got \(2, 3\)"),
        (lambda: Classes(("a",) * 256, WHITE), RangeError, "at most 255 classes, got 256"),
        (lambda: Box((0, 0, float("nan")), (1, 1, 1), 0), RangeError, "finite"),
        (lambda: page([]), RangeError, "at least one sweep"),
        (lambda: page([cloud()], theme="pink"), RangeError, "dark, light, got 'pink'"),
        (lambda: page([cloud(labels=np.full(500, 3))], CLASSES), RangeError, r"labels .*-1 \.\.\. 2, got 3"),
        (lambda: page([cloud(prediction=np.full(500, -2))], CLASSES), RangeError, r"predictions .* got -2"),
        (lambda: page([cloud(instance=np.full(500, 65536))]), RangeError, r"instances .*65535, got 65536"),
        (lambda: page([cloud(rows=np.zeros(500, int))]), RangeError, "rows must ascend"),
    ],
)
def test_refusals(make, error, said):
    with pytest.raises(error, match=said):
        make()


def test_too_many_points_are_refused_with_the_way_out(monkeypatch):
    monkeypatch.setattr(page_module, "MAX_POINTS", 900)
    with pytest.raises(RangeError, match=r"at most 900 points, got 2,000; thin them.*one point in 3,"):
        page([cloud(1000), cloud(1000)])
