"""nuScenes' layout read back by its own schema: tokens, frames, boxes, labels."""

import json
from pathlib import Path

import numpy as np
import pytest

from pcsparse.data.files import read_points
from pcsparse.data.synthetic.nuscenes_classes import (
    CATEGORIES,
    attribute_of,
    category_index,
    category_of,
    visibility_of,
)  # fmt: skip
from pcsparse.data.synthetic.sensor import sensor_named
from pcsparse.data.synthetic.writer import write_towns
from pcsparse.data.synthetic.writer_nuscenes import VERSION, quaternion
from pcsparse.programs.synth import main


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("boxes") / "nuscenes"
    arguments = ["--layout", "nuscenes", "--towns", "1", "--sweeps", "2", "--seed", "3", "--caster", "bvh"]
    assert main([str(folder), *arguments]) == 0
    return folder


@pytest.fixture(scope="module")
def tables(root: Path) -> dict[str, dict[str, dict]]:
    """Rows by token, by table."""
    found = {}
    for path in (root / VERSION).glob("*.json"):
        rows = json.loads(path.read_text())
        found[path.stem] = {row["token"]: row for row in rows}
        assert len(found[path.stem]) == len(rows), f"{path.stem}: tokens twice"
    return found


def _matrix(row: dict) -> np.ndarray:
    """(4, 4) of a row's rotation, w x y z, and translation."""
    w, x, y, z = row["rotation"]
    assert w * w + x * x + y * y + z * z == pytest.approx(1.0)
    out = np.eye(4)
    out[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    out[:3, 3] = row["translation"]
    return out


def test_every_table_is_there_and_every_token_resolves(
    tables: dict[str, dict[str, dict]], root: Path
) -> None:
    wanted = {"attribute", "calibrated_sensor", "category", "ego_pose", "instance", "lidarseg", "log", "map",
              "sample", "sample_annotation", "sample_data", "scene", "sensor", "visibility"}  # fmt: skip
    assert set(tables) == wanted
    links = {"first_sample": "sample", "last_sample": "sample", "first_annotation": "sample_annotation",
             "last_annotation": "sample_annotation"}  # fmt: skip
    followed = 0
    for name, rows in tables.items():
        for row in rows.values():
            for key, value in row.items():
                if key in ("prev", "next"):
                    assert value == "" or value in tables[name]
                elif key.endswith("_tokens"):
                    assert all(token in tables[key.removesuffix("_tokens")] for token in value), key
                elif key.endswith("_token"):
                    kind = key.removesuffix("_token")
                    assert value in tables[links.get(kind, kind)], f"{name}.{key}"
                    followed += 1
            if "filename" in row:
                assert (root / row["filename"]).is_file()
    assert followed > 50
    assert [row["name"] for row in sorted(tables["category"].values(), key=lambda row: row["index"])] == list(
        CATEGORIES
    )


def test_samples_and_boxes_are_chained(tables: dict[str, dict[str, dict]]) -> None:
    (scene,) = tables["scene"].values()
    first = tables["sample"][scene["first_sample_token"]]
    assert first["prev"] == ""
    second = tables["sample"][first["next"]]
    assert second["token"] == scene["last_sample_token"]
    assert second["prev"] == first["token"]
    assert second["next"] == ""
    assert 0.5e6 < second["timestamp"] - first["timestamp"] < 3e6
    twice = 0
    for thing in tables["instance"].values():
        row, count = tables["sample_annotation"][thing["first_annotation_token"]], 1
        assert row["prev"] == ""
        while row["next"]:
            row, count = tables["sample_annotation"][row["next"]], count + 1
            assert row["instance_token"] == thing["token"]
        assert row["token"] == thing["last_annotation_token"]
        assert count == thing["nbr_annotations"]
        twice += count == 2
    assert twice >= 3


def test_points_are_in_nuscenes_frame_and_inside_their_boxes(
    tables: dict[str, dict[str, dict]], root: Path
) -> None:
    vehicles = [index for index, name in enumerate(CATEGORIES) if name.startswith("vehicle")]
    counted = 0
    for data in tables["sample_data"].values():
        rows = np.fromfile(root / data["filename"], "<f4").reshape(-1, 5)
        labels = np.fromfile(root / tables["lidarseg"][data["token"]]["filename"], np.uint8)
        assert len(labels) == len(rows)
        assert rows[:, 3].max() > 1.5
        assert rows[:, 3].max() <= 255
        assert set(np.unique(rows[:, 4])) <= set(range(32))
        # ring 0 looks down
        tilt = [
            np.median(np.arctan2(rows[rows[:, 4] == k, 2], np.hypot(*rows[rows[:, 4] == k, :2].T)))
            for k in (3, 20)
        ]
        assert tilt[0] < tilt[1]
        ego = _matrix(tables["ego_pose"][data["ego_pose_token"]])
        local = np.column_stack([rows[:, :3].astype(float), np.ones(len(rows))]).T
        in_ego = _matrix(tables["calibrated_sensor"][data["calibrated_sensor_token"]]) @ local
        road = (labels == CATEGORIES.index("flat.driveable_surface")) & (np.hypot(*in_ego[:2]) < 10)
        assert abs(np.median(in_ego[2, road])) < 0.15
        world = (ego @ in_ego)[:3].T
        for box in tables["sample_annotation"].values():
            if box["sample_token"] != data["sample_token"]:
                continue
            pose = _matrix(box)
            own = np.abs((world - pose[:3, 3]) @ pose[:3, :3])
            width, length, height = box["size"]
            category = tables["category"][tables["instance"][box["instance_token"]]["category_token"]]
            moving = any("moving" in tables["attribute"][t]["name"] for t in box["attribute_tokens"])
            slack = 0.8 if moving or "cycle" in category["name"] else 0.35
            near = (own < np.array([length, width, height]) / 2 + slack).all(1)
            mine = near & (labels == category["index"])
            # a pulse that two surfaces share may lie between them
            missed = box["num_lidar_pts"] - mine.sum()
            assert missed <= max(1, 0.02 * box["num_lidar_pts"]), (category["name"], box)
            if category["index"] in vehicles and not moving:
                counted += box["num_lidar_pts"]
    assert counted > 50


def test_its_files_are_read_as_nuscenes(root: Path) -> None:
    path = next((root / "samples" / "LIDAR_TOP").glob("*.pcd.bin"))
    cloud = read_points(path)
    assert cloud.ring is not None
    assert cloud.intensity is not None
    assert 0.01 < cloud.intensity.mean() < 0.6


def test_a_scene_that_is_there_is_left_alone(root: Path) -> None:
    said: list[str] = []
    before = (root / VERSION / "sample_annotation.json").read_bytes()
    write_towns(
        root, {"00": 3}, 2, sensor_named("hdl32e"), "bvh", existing="resume", report=said.append,
        layout="nuscenes",
    )  # fmt: skip
    assert "scene-00 was there already" in said
    assert (root / VERSION / "sample_annotation.json").read_bytes() == before


def test_a_quaternion_turns_as_its_matrix_does() -> None:
    rng = np.random.default_rng(0)
    turns = [np.diag([1.0, -1, -1]), np.diag([-1.0, 1, -1]), np.diag([-1.0, -1, 1]), np.eye(3)]
    for _ in range(20):
        q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        turns.append(q * np.sign(np.linalg.det(q)))
    for turn in turns:
        row = {"rotation": quaternion(turn), "translation": [0, 0, 0]}
        np.testing.assert_allclose(_matrix(row)[:3, :3], turn, atol=1e-12)
        assert row["rotation"][0] >= 0


def test_classes_and_levels_are_nuscenes() -> None:
    assert category_of(252) == "vehicle.car"
    assert attribute_of(252) == "vehicle.moving"
    assert attribute_of(10) == "vehicle.parked"
    assert attribute_of(11) == "cycle.without_rider"
    assert attribute_of(253) == "cycle.with_rider"
    assert attribute_of(254) == "pedestrian.moving"
    ids = np.array([1, 1, 40, 70, 99], np.uint16)
    found = category_index(ids, np.array([True, False, False, True, False]))
    assert [CATEGORIES[index] for index in found] == [
        "vehicle.ego", "noise", "flat.driveable_surface", "static.vegetation", "static.other",
    ]  # fmt: skip
    assert [visibility_of(share) for share in (0.0, 0.39, 0.5, 0.7, 1.0, float("nan"))] == list("112341")
