"""Boxes and poses from the files of data sets, against numbers worked out by hand and real files."""

import json

import numpy as np
import pytest

from pcsparse.data.box_files import read_boxes
from pcsparse.data.pose_files import pose_of, read_av2_poses, read_calibration, read_kitti_poses
from pcsparse.errors import FormatError

# camera 0 right before the sensor: x right, y down, z ahead
AXES = np.array([[0, -1, 0, 0], [0, 0, -1, -0.1], [1, 0, 0, -0.3]])
FINE = '{"center": [1, 2, 3], "size": [1, 1, 1]}'


def numbers(matrix):
    return " ".join(f"{value:g}" for value in np.asarray(matrix, float).ravel())


def write_calibration(path, **matrices):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}: {numbers(matrix)}\n" for name, matrix in matrices.items()) + "\n")


@pytest.fixture
def kitti(tmp_path):
    """A frame with a car 20 m ahead that heads to the left, and a van that comes towards us."""
    (tmp_path / "label_2").mkdir()
    label = tmp_path / "label_2/000007.txt"
    label.write_text(
        "Car 0.00 0 1.85 387 181 423 203 1.5 1.8 4.0 -2.0 1.6 19.7 3.14159265\n"
        "DontCare -1 -1 -10 503 169 590 190 -1 -1 -1 -1000 -1000 -1000 -10\n"
        "Van 0.00 0 1.85 387 181 423 203 2.0 1.9 5.0 3.0 1.6 29.7 1.57079633 0.75\n"
    )
    write_calibration(tmp_path / "calib/000007.txt", R0_rect=np.eye(3), Tr_velo_to_cam=AXES)
    return label


def test_labels_of_kitti_come_into_the_frame_of_the_sensor(kitti):
    car, van = read_boxes(kitti, "000007.bin")
    # the bottom lies at 1.6 m below the camera, which hangs 0.1 m below the sensor
    np.testing.assert_allclose(car.center, (20.0, 2.0, -1.7 + 0.75), atol=1e-6)
    assert (car.size, car.name, car.score) == ((4.0, 1.8, 1.5), "Car", None)
    # y is left
    assert car.yaw == pytest.approx(np.pi / 2)
    np.testing.assert_allclose(van.center, (30.0, -3.0, -0.7), atol=1e-6)
    assert abs(van.yaw) == pytest.approx(np.pi)
    assert (van.name, van.score) == ("Van", 0.75)


def test_real_labels_of_kitti_hold_the_points_of_their_things(real_data):
    from pcsparse.data.files import read_points

    folder = real_data / "kitti/training"
    if not (folder / "label_2/000000.txt").is_file():
        pytest.skip("no KITTI frame among the real samples")
    points = read_points(folder / "velodyne/000000.bin").points
    (walker,) = read_boxes(folder / "label_2/000000.txt", "000000.bin")
    # the one label of this frame: a pedestrian close to the car
    local = points - np.array(walker.center)
    c, s = np.cos(walker.yaw), np.sin(walker.yaw)
    along, across = local[:, 0] * c + local[:, 1] * s, local[:, 1] * c - local[:, 0] * s
    inside = np.abs(np.stack([along, across, local[:, 2]])) <= 0.5 * np.array(walker.size)[:, None]
    assert walker.name == "Pedestrian"
    held = inside.all(axis=0).sum()
    assert held > 200
    # it stands on the road: little lies under it, and nothing above
    above = inside[:2].all(axis=0) & (local[:, 2] > 0.5 * walker.size[2])
    under = inside[:2].all(axis=0) & (local[:, 2] < -0.5 * walker.size[2])
    assert above.sum() < 0.02 * held
    assert under.sum() < 0.2 * held


def test_a_plain_list_in_json_and_in_csv(tmp_path):
    entries = [
        {"center": [1, 2, 3], "size": [4, 2, 1.5], "yaw": 0.5, "name": "Car", "score": 0.9},
        {"centre": [1, 2, 3], "size": [4, 2, 1.5], "semantic": 10},
    ]
    (tmp_path / "a.json").write_text(json.dumps(entries))
    (tmp_path / "a.csv").write_text(
        "name, x,y,z,length,width,height,yaw,score\nCar,1,2,3,4,2,1.5,0.5,0.9\n,1,2,3,4,2,1.5,0,\n"
    )
    car, plain = read_boxes(tmp_path / "a.json", "a.bin")
    assert (car.center, car.size, car.yaw, car.name, car.score, car.raw_id) == (
        (1, 2, 3), (4, 2, 1.5), 0.5, "Car", 0.9, None,
    )  # fmt: skip
    assert (plain.center, plain.yaw, plain.name, plain.score, plain.raw_id) == ((1, 2, 3), 0, "", None, 10)
    assert read_boxes(tmp_path / "a.csv", "a.bin")[0] == car
    assert read_boxes(tmp_path / "a.csv", "a.bin")[1].score is None


def test_annotations_of_argoverse_are_those_of_the_time_stamp(real_data):
    pytest.importorskip("pyarrow")
    logs = sorted(real_data.glob("av2/sensor/val/*/annotations.feather"))
    if not logs:
        pytest.skip("no Argoverse 2 log among the real samples")
    boxes = read_boxes(logs[0], "315966265259836000.feather")
    assert len(boxes) == 81
    assert {"regular-vehicle", "pedestrian"} <= {box.name for box in boxes}
    poses = read_av2_poses(
        logs[0].with_name("city_SE3_egovehicle.feather"), [315966265259836000, 315966265360032000]
    )
    # a tenth of a second of a drive in town
    assert 0 < np.linalg.norm(poses[1][:3, 3] - poses[0][:3, 3]) < 2
    np.testing.assert_allclose(poses[0][:3, :3] @ poses[0][:3, :3].T, np.eye(3), atol=1e-9)
    with pytest.raises(FormatError, match="no pose at 1 ns"):
        read_av2_poses(logs[0].with_name("city_SE3_egovehicle.feather"), [1])


def write_tables(folder):
    """One nuScenes sample: the ego turned left by a quarter at (100, 50, 0), a car 10 m before it."""
    quarter, half = [np.sqrt(0.5), 0, 0, np.sqrt(0.5)], [0.0, 0, 0, 1]
    ego = {"token": "e", "translation": [100, 50, 0], "rotation": quarter}
    # x right, y ahead, 1.8 m above the ego
    sensor = {"token": "s", "translation": [1, 0, 1.8], "rotation": [np.sqrt(0.5), 0, 0, -np.sqrt(0.5)]}
    sweep = {
        "filename": "samples/LIDAR_TOP/x.pcd.bin",
        "sample_token": "a",
        "ego_pose_token": "e",
        "calibrated_sensor_token": "s",
    }
    car = {
        "sample_token": "a",
        "instance_token": "i",
        "translation": [100, 61, 0.8],
        "rotation": quarter,
        "size": [2, 4, 1.6],
    }
    other = {**car, "sample_token": "b", "rotation": half}
    tables = {
        "ego_pose": [ego],
        "calibrated_sensor": [sensor],
        "sample_data": [sweep],
        "sample_annotation": [other, car],
        "instance": [{"token": "i", "category_token": "c"}],
        "category": [{"token": "c", "name": "vehicle.car"}],
    }
    folder.mkdir()
    for name, rows in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(rows))
    return folder


def test_annotations_of_nuscenes_come_from_the_world_to_the_sensor(tmp_path):
    folder = write_tables(tmp_path / "v1.0-mini")
    (car,) = read_boxes(folder, tmp_path / "samples/LIDAR_TOP/x.pcd.bin")
    np.testing.assert_allclose(car.center, (0, 10, -1.0), atol=1e-9)
    assert car.size == (4, 2, 1.6)
    # ahead is y there
    assert car.yaw == pytest.approx(np.pi / 2)
    assert car.name == "vehicle.car"
    with pytest.raises(FormatError, match=r"does not know the sweep y\.pcd\.bin"):
        read_boxes(folder, tmp_path / "y.pcd.bin")


def test_poses_of_kitti_become_those_of_the_sensor(tmp_path):
    # camera 0 goes 5 m ahead, its z, and turns by a quarter to the left, about -y
    turned = [[0, 0, -1, 0], [0, 1, 0, 0], [1, 0, 0, 5]]
    (tmp_path / "poses.txt").write_text(f"{numbers(np.eye(4)[:3])}\n\n{numbers(turned)}\n")
    own = read_kitti_poses(tmp_path / "poses.txt")
    np.testing.assert_array_equal(own[1][:3], turned)
    write_calibration(tmp_path / "calib.txt", P0=AXES, Tr=AXES)
    first, second = read_kitti_poses(tmp_path / "poses.txt")
    np.testing.assert_allclose(first, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(second[:3, :3], [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-12)
    # the sensor sits 0.3 m behind the camera, which it turns about
    np.testing.assert_allclose(second[:3, 3], [5.3, -0.3, 0], atol=1e-12)


def test_quaternions_turn_x_towards_y():
    pose = pose_of([1, 2, 3], [np.cos(0.2), 0, 0, np.sin(0.2)])
    np.testing.assert_allclose(pose @ [1, 0, 0, 1], [1 + np.cos(0.4), 2 + np.sin(0.4), 3, 1])


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", "{}", "a list of objects, got dict"),
        ("a.json", "[1", "is no JSON"),
        ("a.json", f'[{FINE}, {{"center": [1, 2], "size": [1, 1, 1]}}]', "entry 1: a box needs 3 finite"),
        ("a.json", '[{"center": [1, 2, NaN], "size": [1, 1, 1]}]', "entry 0: a box needs 3 finite"),
        ("a.json", '[{"center": [1, 2, 3]}]', "entry 0: no box .*size"),
        ("a.json", '[{"size": [1, 2, 3]}]', "entry 0: no box"),
        ("a.csv", "x,y,z,length,width,yaw\n", "must name .*; no height"),
        ("a.csv", "x,y,z,length,width,height,yaw\n1,2,3,4,5,six,0\n", "line 2: no box"),
        ("label_2/a.txt", "Car 1 2 3\n", "line 1: a label has 15 or 16 words, got 4"),
        ("label_2/a.txt", "Car" + " x" * 14 + "\n", "line 1: could not convert"),
        ("a.xml", "<a/>", "boxes come in .json .csv .txt .feather files"),
        ("none", None, "does not exist"),
    ],
)  # fmt: skip
def test_broken_files_are_named_with_the_entry(tmp_path, name, text, said):
    write_calibration(tmp_path / "calib/a.txt", R0_rect=np.eye(3), Tr_velo_to_cam=AXES)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if text is not None:
        path.write_text(text)
    with pytest.raises(FormatError, match=said) as raised:
        read_boxes(path, "a.bin")
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Tr: 1 2 3\n", "line 1: Tr has 3 numbers; 9 or 12"),
        ("\nTr: 1 a\n", "line 1: could not"),
        (None, "cannot be read"),
    ],
)
def test_broken_calibrations_are_named(tmp_path, text, said):
    if text is not None:
        (tmp_path / "calib.txt").write_text(text)
    with pytest.raises(FormatError, match=said):
        read_calibration(tmp_path / "calib.txt")


def test_broken_poses_are_named(tmp_path):
    (tmp_path / "poses.txt").write_text("1 2 3\n")
    with pytest.raises(FormatError, match=r"poses\.txt, line 1: a pose has 12 numbers, got 3"):
        read_kitti_poses(tmp_path / "poses.txt")
    (tmp_path / "poses.txt").write_text(numbers(np.eye(4)[:3]))
    write_calibration(tmp_path / "calib.txt", P0=AXES)
    with pytest.raises(FormatError, match=r"calib\.txt has no Tr"):
        read_kitti_poses(tmp_path / "poses.txt")
    (tmp_path / "poses.txt").write_text("nan " * 12)
    with pytest.raises(FormatError, match="finite"):
        read_kitti_poses(tmp_path / "poses.txt")


def write_feather(path, **columns):
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.feather").write_feather(pa.table(columns), path)
    return path


AV2_BOX = {
    "timestamp_ns": [7], "category": ["BUS"], "length_m": [9.0], "width_m": [2.0], "height_m": [3.0],
    "qw": [1.0], "qx": [0.0], "qy": [0.0], "qz": [0.0], "tx_m": [1.0], "ty_m": [2.0], "tz_m": [3.0],
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"timestamp_ns": None}, "lacks 'timestamp_ns'"),
        ({"qw": None}, "lacks 'qw'"),
        ({"tx_m": [np.nan]}, r"box 1 \(bus\): nan, 2, 3, 9, 2, 3, 0 must be finite"),
        ({"length_m": ["long"]}, "breaks its format"),
    ],
)
def test_broken_annotations_of_argoverse_are_named(tmp_path, change, said):
    columns = {name: values for name, values in {**AV2_BOX, **change}.items() if values is not None}
    path = write_feather(tmp_path / "annotations.feather", **columns)
    with pytest.raises(FormatError, match=said) as raised:
        read_boxes(path, "7.feather")
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"timestamp_ns": None}, "has no column timestamp_ns"),
        ({"tz_m": None}, "has no column tz_m"),
        ({"timestamp_ns": ["early"]}, "whole nanoseconds"),
        ({"ty_m": [np.nan]}, "row 0: every number of a pose must be finite"),
        ({"qx": ["x"]}, "row 0: the pose must be of numbers"),
    ],
)
def test_broken_poses_of_argoverse_are_named(tmp_path, change, said):
    columns = {name: values for name, values in {**AV2_BOX, **change}.items() if values is not None}
    path = write_feather(tmp_path / "poses.feather", **columns)
    with pytest.raises(FormatError, match=said) as raised:
        read_av2_poses(path, [7])
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("sample_data", "[{}]", "lacks 'filename'"),
        ("ego_pose", "[]", "lacks 'e'"),
        ("category", "[3]", "breaks its format"),
        ("sample_annotation", '[{"sample_token": "a"}]', "lacks 'size'"),
    ],
)
def test_broken_tables_of_nuscenes_are_named(tmp_path, name, text, said):
    folder = write_tables(tmp_path / "v1.0-mini")
    (folder / f"{name}.json").write_text(text)
    with pytest.raises(FormatError, match=said) as raised:
        read_boxes(folder, tmp_path / "x.pcd.bin")
    assert str(folder) in str(raised.value)


@pytest.mark.parametrize("name", ["a.csv", "label_2/000007.txt"])
def test_text_in_another_encoding_is_named(kitti, tmp_path, name):
    (tmp_path / name).write_bytes("Stra\u00dfe".encode("latin-1"))
    with pytest.raises(FormatError, match="save it as UTF-8") as raised:
        read_boxes(tmp_path / name, "a.bin")
    assert str(tmp_path / name) in str(raised.value)


def test_numbers_that_are_none_in_labels_of_kitti_are_named(kitti):
    kitti.write_text(kitti.read_text().replace("19.7", "nan"))
    with pytest.raises(FormatError, match=r"000007\.txt, box 1 \(Car\)"):
        read_boxes(kitti, "000007.bin")
