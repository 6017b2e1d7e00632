"""Boxes of things: their fit, what hides them, and KITTI's object layout read back by its own rules."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pcsparse.data.synthetic.boxes import Box, Thing, _visible
from pcsparse.data.synthetic.caster import make_caster
from pcsparse.data.synthetic.materials import BUILDING, PAINT
from pcsparse.data.synthetic.mesh import EMPTY, box, join, yaw_rotation
from pcsparse.data.synthetic.sensor import sensor_named
from pcsparse.data.synthetic.stage import Stage
from pcsparse.data.synthetic.writer import write_towns
from pcsparse.data.synthetic.writer_kitti import label_lines
from pcsparse.errors import FormatError, UnsupportedError

TYPES = {"Car", "Van", "Truck", "Pedestrian", "Cyclist", "Tram", "Misc"}


def _thing(corners: np.ndarray, heading: float = 0.0, visible: float = 1.0) -> Thing:
    return Thing(10, 5, corners, heading, 9, visible, 5)


def _inside(points: np.ndarray, centre: np.ndarray, size: np.ndarray, yaw: float) -> np.ndarray:
    """(n,) metres by which points lie outside an upright box; negative inside."""
    away = points - centre
    c, s = np.cos(yaw), np.sin(yaw)
    own = np.stack([away[:, 0] * c + away[:, 1] * s, -away[:, 0] * s + away[:, 1] * c, away[:, 2]], 1)
    return (np.abs(own) - np.asarray(size) / 2).max(1)


def test_a_box_is_that_of_the_mesh_along_its_heading() -> None:
    mesh = box((0.2, 0.1, 0.8), (4.0, 1.8, 1.6), PAINT).moved(yaw_rotation(0.7), np.array([30.0, -8.0, 2.0]))
    found = _thing(mesh.corners, 0.7).box()
    np.testing.assert_allclose(found.size, (4.0, 1.8, 1.6))
    c, s = np.cos(0.7), np.sin(0.7)
    np.testing.assert_allclose(found.centre, (30 + 0.2 * c - 0.1 * s, -8 + 0.2 * s + 0.1 * c, 2.8))
    assert found.yaw == pytest.approx(0.7)
    np.testing.assert_allclose(found.corners().min(0)[2], 2.0)
    # seen from a sensor that stands elsewhere and looks the other way
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = yaw_rotation(np.pi), [10.0, 0.0, 1.0]
    there = _thing(mesh.corners, 0.7).box(pose)
    np.testing.assert_allclose(there.size, found.size)
    x, y, z = found.centre
    np.testing.assert_allclose(there.centre, (10 - x, -y, z - 1.0), atol=1e-9)
    assert there.yaw == pytest.approx(0.7 - np.pi)


def test_a_vehicles_box_leaves_its_mirrors_out() -> None:
    body = box((0.0, 0.0, 0.8), (4.0, 1.8, 1.6), PAINT)
    mirror = box((0.8, 1.0, 1.0), (0.1, 0.2, 0.15), PAINT)
    corners = join([body, mirror]).corners
    np.testing.assert_allclose(_thing(corners).box().size, (4.0, 1.8, 1.6))
    person = Thing(30, 5, corners, 0.0, 9, 1.0, 5).box()
    np.testing.assert_allclose(person.size, (4.0, 2.0, 1.6))
    # on its other side, and turned round
    turned = _thing(join([body, mirror]).moved(yaw_rotation(2.0), np.zeros(3)).corners, 2.0 - np.pi).box()
    np.testing.assert_allclose(turned.size, (4.0, 1.8, 1.6))


@pytest.mark.parametrize(
    ("wall", "least", "most"), [(None, 1, 1), (5.0, 0, 0), (0.0, 0.4, 0.6)], ids=["free", "hidden", "half"]
)
def test_what_stands_before_a_thing_hides_its_share(wall: float | None, least: float, most: float) -> None:
    car = box((15.0, 0.0, -1.0), (4.0, 4.0, 1.4), PAINT)
    parts = [car]
    if wall is not None:
        # from the right up to `wall` metres to the left
        parts.append(box((8.0, wall / 2 - 5.0, 0.0), (0.2, 10.0 + wall, 6.0), BUILDING))
    scene = join(parts)
    stage = Stage(scene, make_caster("bvh", scene), EMPTY, "bvh")
    drive = SimpleNamespace(sensor=sensor_named("hdl64e"), caster="bvh")
    shares = _visible([car, box((0, 0, 60.0), (1, 1, 1), PAINT)], stage, drive, np.zeros(3), np.eye(3))
    assert least <= shares[0] <= most
    assert np.isnan(shares[1])


def test_a_label_tells_what_the_picture_cuts_off() -> None:
    def label(x: float, y: float, visible: float = 1.0) -> list[str] | None:
        mesh = box((x, y, -1.0), (4.0, 1.6, 1.5), PAINT)
        lines = label_lines([_thing(mesh.corners, 0.0, visible)], np.eye(4))
        return lines[0].split() if lines else None

    whole = label(20.0, 0.0)
    assert whole is not None
    assert whole[:3] == ["Car", "0.00", "0"]
    # a car that drives away from the camera looks along its z axis
    assert float(whole[14]) == pytest.approx(-np.pi / 2, abs=0.01)
    np.testing.assert_allclose([float(v) for v in whole[8:14]], [1.5, 1.6, 4.0, 0.0, 1.67, 19.73], atol=0.01)
    cut = label(10.0, 8.0)
    assert cut is not None
    assert 0.1 < float(cut[1]) < 0.9
    assert float(cut[4]) == 0.0
    assert label(-20.0, 0.0) is None
    assert label(20.0, 60.0) is None
    assert [label(20.0, 0.0, share)[2] for share in (0.7, 0.1, float("nan"))] == ["1", "2", "3"]
    tall = box((20.0, 0.0, -0.6), (5.0, 2.0, 2.3), PAINT)
    assert label_lines([_thing(tall.corners)], np.eye(4))[0].startswith("Van ")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("boxes") / "kitti"
    return write_towns(folder, {"08": 3}, 1, sensor_named("hdl64e"), "bvh", layout="kitti")


class _Frame:
    """One frame read by the rules of KITTI's devkit, with numpy alone."""

    def __init__(self, root: Path, name: str) -> None:
        folder = root / "training"
        self.points = (
            np.fromfile(folder / "velodyne" / f"{name}.bin", "<f4").reshape(-1, 4)[:, :3].astype(float)
        )
        words = np.fromfile(folder / "labels" / f"{name}.label", "<u4")
        self.semantic, self.instance = words & 0xFFFF, words >> 16
        self.lines = [line.split() for line in (folder / "label_2" / f"{name}.txt").read_text().splitlines()]
        self.boxes = json.loads((folder / "boxes" / f"{name}.json").read_text())
        text = (folder / "calib" / f"{name}.txt").read_text().splitlines()
        numbers = {k: np.array(v.split(), float) for k, v in (line.split(": ") for line in text)}
        self.p2 = numbers["P2"].reshape(3, 4)
        tr = np.vstack([numbers["Tr_velo_to_cam"].reshape(3, 4), [0, 0, 0, 1]])
        rect = np.eye(4)
        rect[:3, :3] = numbers["R0_rect"].reshape(3, 3)
        self.to_camera = rect @ tr

    def labelled(self) -> Iterator[tuple[list[str], dict]]:
        """Each line with the box of the sensor's frame that it means."""
        for line in self.lines:
            h, w, l, x, y, z, turn = (float(v) for v in line[8:15])  # noqa: E741
            centre = (np.linalg.inv(self.to_camera) @ [x, y - h / 2, z, 1.0])[:3]
            mine = min(self.boxes, key=lambda row: np.linalg.norm(np.array(row["centre"]) - centre))
            np.testing.assert_allclose(mine["centre"], centre, atol=0.02)
            np.testing.assert_allclose(mine["size"], (l, w, h), atol=0.01)
            assert np.cos(mine["yaw"] + turn + np.pi / 2) == pytest.approx(1.0, abs=1e-3)
            yield line, mine


@pytest.fixture(scope="module")
def frame(root: Path) -> _Frame:
    return _Frame(root, "000000")


def test_points_of_an_instance_lie_inside_its_box(frame: _Frame) -> None:
    assert len(frame.boxes) >= 8
    assert {row["instance"] for row in frame.boxes} == set(np.unique(frame.instance)) - {0}
    for row in frame.boxes:
        mine = frame.instance == row["instance"]
        assert mine.sum() == row["points"]
        assert (frame.semantic[mine] == row["semantic"]).all()
        out = _inside(frame.points[mine], np.array(row["centre"]), row["size"], row["yaw"])
        # range noise and mirrors, and a mover's way during half a turn
        slack = 0.9 if row["semantic"] >= 252 else 0.35
        # a pulse that two surfaces share may lie between them
        assert (out > slack).sum() <= max(1, 0.02 * len(out)), row
        if row["points"] > 50:
            assert np.median(out) < 0.1, row
            # and not a box that is too large
            reach = np.ptp(frame.points[mine], axis=0)
            assert max(reach[:2]) > 0.3 * max(row["size"][:2]), row
        if row["semantic"] in (10, 252):
            # along another heading a car's box would be nearly square
            assert 1.5 < row["size"][1] < 2.2, row
            assert row["size"][0] > 1.5 * row["size"][1], row
        assert row["visible"] is None or 0 <= row["visible"] <= 1


def test_kittis_labels_are_the_boxes_in_the_cameras_frame(frame: _Frame) -> None:
    assert len(frame.lines) >= 2
    for line, row in frame.labelled():
        assert line[0] in TYPES
        assert len(line) == 15
        x, z, turn = float(line[11]), float(line[13]), float(line[14])
        wrapped = (float(line[3]) - (turn - np.arctan2(x, z)) + np.pi) % (2 * np.pi) - np.pi
        assert wrapped == pytest.approx(0.0, abs=0.02)
        hidden = 3 if row["visible"] is None else int(row["visible"] < 0.8) + int(row["visible"] < 0.4)
        assert int(line[2]) == hidden
        left, top, right, bottom = (float(v) for v in line[4:8])
        assert 0 <= left < right <= 1241
        assert 0 <= top < bottom <= 374
        if left > 0 and top > 0 and right < 1241 and bottom < 374:
            assert float(line[1]) == 0.0


def test_the_2d_box_holds_the_projected_points(frame: _Frame) -> None:
    seen = 0
    for line, row in frame.labelled():
        points = frame.points[frame.instance == row["instance"]]
        camera = frame.to_camera @ np.vstack([points.T, np.ones(len(points))])
        pixels = frame.p2 @ camera
        spots = (pixels[:2] / pixels[2]).T[camera[2] > 0.5]
        spots = spots[(spots > 0).all(1) & (spots < [1241, 374]).all(1)]
        left, top, right, bottom = (float(v) for v in line[4:8])
        # a decimetre of noise and of a mover's way, in pixels
        slack = 1.5 + 718 * (0.25 if row["semantic"] >= 252 else 0.08) / float(line[13])
        assert (spots >= [left - slack, top - slack]).all(), line
        assert (spots <= [right + slack, bottom + slack]).all(), line
        seen += len(spots)
    assert seen > 100


def test_frames_are_split_as_semantickittis_sequences(root: Path) -> None:
    assert (root / "ImageSets" / "val.txt").read_text() == "000000\n"
    assert (root / "ImageSets" / "train.txt").read_text() == ""
    assert (root / "ImageSets" / "trainval.txt").read_text() == "000000\n"


def test_a_root_keeps_its_layout(root: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="layout"):
        write_towns(root, {"08": 3}, 1, sensor_named("hdl64e"), "bvh", existing="resume")
    with pytest.raises(UnsupportedError, match=r"'waymo'.*nuscenes"):
        write_towns(tmp_path, {"08": 3}, 1, sensor_named("hdl64e"), "bvh", layout="waymo")
    said: list[str] = []
    before = (root / "training" / "label_2" / "000000.txt").read_bytes()
    write_towns(
        root,
        {"08": 3},
        1,
        sensor_named("hdl64e"),
        "bvh",
        existing="resume",
        report=said.append,
        layout="kitti",
    )
    assert any("1 frames were there already" in line for line in said)
    assert (root / "training" / "label_2" / "000000.txt").read_bytes() == before
    assert Box((0, 0, 0), (1, 1, 1), 0.0).corners().shape == (8, 3)
