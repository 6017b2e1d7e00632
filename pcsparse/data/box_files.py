"""Boxes around things, read from the files of data sets, or from a plain JSON or CSV list."""

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pcsparse.data.pose_files import (
    Pose,
    homogeneous,
    pose_of,
    quaternion_pose,
    read_calibration,
    read_feather_columns,
)
from pcsparse.errors import FormatError, PcsparseError

CSV_COLUMNS = ("x", "y", "z", "length", "width", "height", "yaw")
"""Columns that a `.csv` needs; `name` and `score` may follow."""


@dataclass(frozen=True)
class LabelledBox:
    """An upright box in the frame of a sweep.

    Attributes:
        center: x, y, z of its middle, metres.
        size: length (along its heading), width, height, metres.
        yaw: of the heading, radians from x towards y.
        name: of what it holds; empty where the file does not say.
        score: confidence, 0-1; None for a label.
        raw_id: class id of the label set, where the file says that instead of a name.
    """

    center: tuple[float, float, float]
    size: tuple[float, float, float]
    yaw: float
    name: str = ""
    score: float | None = None
    raw_id: int | None = None


def read_boxes(path: str | Path, sweep: str | Path) -> tuple[LabelledBox, ...]:
    """The boxes of one sweep.

    Args:
        path: by what it is:
            `.json`: a list of objects with `center` (x, y, z) and `size` (length, width, height) in metres,
            `yaw` in radians, and, if known, `name`, `score` or `semantic` (a raw class id);
            `.csv`: a first line that names the columns `x,y,z,length,width,height,yaw`, and, if known,
            `name` and `score`;
            `.txt`: KITTI's `label_2`, with the calibration in `../calib` under the same name;
            `.feather`: Argoverse 2's annotations;
            a folder: nuScenes' tables (`v1.0-mini`).
        sweep: the point file; Argoverse 2 and nuScenes find their boxes by its name.

    Raises:
        FormatError: the file is missing or breaks its format; the text names the entry.
        UnsupportedError: a feather needs the extra `io`.
    """
    path, sweep = Path(path), Path(sweep)
    if path.is_dir():
        return _checked(path, sweep, _of_nuscenes)
    if not path.is_file():
        raise FormatError(f"{path} does not exist; give a file of boxes or go without")
    readers: dict[str, Callable[[Path, Path], tuple[LabelledBox, ...]]] = {
        ".json": _of_json,
        ".csv": _of_csv,
        ".txt": _of_kitti,
        ".feather": _of_av2,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise FormatError(f"{path}: boxes come in {' '.join(readers)} files or a folder of nuScenes' tables")
    return _checked(path, sweep, reader)


def _checked(
    path: Path, sweep: Path, reader: Callable[[Path, Path], tuple[LabelledBox, ...]]
) -> tuple[LabelledBox, ...]:
    """What a reader finds; whatever it stumbles over is said with the file's name."""
    try:
        boxes = reader(path, sweep)
    except PcsparseError:
        raise
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is no UTF-8 text ({error}); save it as UTF-8") from error
    except KeyError as error:
        raise FormatError(f"{path} lacks {error}, which its format needs; export it anew") from error
    except (OSError, TypeError, ValueError, AttributeError, IndexError, csv.Error) as error:
        found = f"{type(error).__name__}: {error}"
        raise FormatError(f"{path} breaks its format ({found}); go without, or export it anew") from error
    for number, box in enumerate(boxes, start=1):
        values = (*box.center, *box.size, box.yaw, box.score or 0.0)
        if not all(map(math.isfinite, values)):
            listed = ", ".join(f"{value:g}" for value in values[:7])
            raise FormatError(
                f"{path}, box {number} ({box.name}): {listed} must be finite numbers; take it out of the file"
            )
    return boxes


def _box(entry: Mapping[str, Any], where: str) -> LabelledBox:
    """A box of a plain list, checked."""
    try:
        center = tuple(float(v) for v in entry.get("center", entry.get("centre")))  # type: ignore[union-attr]
        size = tuple(float(v) for v in entry["size"])
        score, raw_id = entry.get("score"), entry.get("semantic")
        box = LabelledBox(
            center,  # type: ignore[arg-type]
            size,  # type: ignore[arg-type]
            float(entry.get("yaw", 0.0)),
            str(entry.get("name", "")),
            None if score in (None, "") else float(score),  # type: ignore[arg-type]
            None if raw_id is None else int(raw_id),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"{where}: no box ({type(error).__name__}: {error})") from error
    numbers = (*center, *size, box.yaw, box.score or 0.0)
    if len(center) != 3 or len(size) != 3 or not all(map(math.isfinite, numbers)) or min(size) < 0:
        raise FormatError(f"{where}: a box needs 3 finite numbers for its center and 3 above 0 for its size")
    return box


def _of_json(path: Path, sweep: Path) -> tuple[LabelledBox, ...]:
    entries = _json(path)
    if not isinstance(entries, list):
        raise FormatError(f"{path}: boxes are a list of objects, got {type(entries).__name__}")
    return tuple(_box(entry, f"{path}, entry {i}") for i, entry in enumerate(entries))


def _of_csv(path: Path, sweep: Path) -> tuple[LabelledBox, ...]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file, skipinitialspace=True)
        missing = [name for name in CSV_COLUMNS if name not in (rows.fieldnames or ())]
        if missing:
            raise FormatError(f"{path}: the first line must name {','.join(CSV_COLUMNS)}; no {missing[0]}")
        return tuple(
            _box(
                {
                    "center": [row[name] for name in "xyz"],
                    "size": [row[name] for name in ("length", "width", "height")],
                    "yaw": row["yaw"],
                    "name": row.get("name") or "",
                    "score": row.get("score"),
                },
                f"{path}, line {rows.line_num}",
            )
            for row in rows
        )


def _of_kitti(path: Path, sweep: Path) -> tuple[LabelledBox, ...]:
    """Boxes stand on their bottom's middle in the rectified camera, x right, y down, z ahead."""
    matrices = read_calibration(path.parent.parent / "calib" / path.name)
    if not {"R0_rect", "Tr_velo_to_cam"} <= set(matrices):
        raise FormatError(f"the calibration of {path} needs R0_rect and Tr_velo_to_cam, got {list(matrices)}")
    to_camera = homogeneous(matrices["R0_rect"]) @ homogeneous(matrices["Tr_velo_to_cam"])
    boxes = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split()
        if not words or words[0] == "DontCare":
            continue
        if len(words) not in (15, 16):
            raise FormatError(f"{path}, line {number}: a label has 15 or 16 words, got {len(words)}")
        try:
            height, width, length, x, y, z, turn, *score = (float(word) for word in words[8:])
        except ValueError as error:
            raise FormatError(f"{path}, line {number}: {error}") from error
        # the heading lies in the camera's x and z; a box's middle is half its height above its bottom
        pose = np.eye(4)
        pose[:3, 0] = np.cos(turn), 0.0, -np.sin(turn)
        pose[:3, 3] = x, y - height / 2, z
        entry = _placed(np.linalg.inv(to_camera) @ pose, (length, width, height), words[0], *score)
        boxes.append(entry)
    return tuple(boxes)


def _of_av2(path: Path, sweep: Path) -> tuple[LabelledBox, ...]:
    if not sweep.stem.isdigit():
        raise FormatError(f"{path}: the boxes of a sweep are found by its time stamp, got {sweep.name}")
    table = read_feather_columns(path)
    rows = np.flatnonzero(table["timestamp_ns"] == int(sweep.stem))
    return tuple(
        _placed(
            quaternion_pose(table, int(row)),
            [table[f"{name}_m"][row] for name in ("length", "width", "height")],
            str(table["category"][row]).lower().replace("_", "-"),
        )
        for row in rows
    )


def _of_nuscenes(folder: Path, sweep: Path) -> tuple[LabelledBox, ...]:
    """Boxes in the world, brought through the ego's pose into the frame of the sensor."""
    data = [row for row in _table(folder, "sample_data") if Path(row["filename"]).name == sweep.name]
    if not data:
        raise FormatError(f"{folder / 'sample_data.json'} does not know the sweep {sweep.name}")
    poses = _by_token(folder, "ego_pose"), _by_token(folder, "calibrated_sensor")
    ego, sensor = poses[0][data[0]["ego_pose_token"]], poses[1][data[0]["calibrated_sensor_token"]]
    to_world = pose_of(ego["translation"], ego["rotation"]) @ pose_of(
        sensor["translation"], sensor["rotation"]
    )
    back = np.linalg.inv(to_world)
    instances, categories = _by_token(folder, "instance"), _by_token(folder, "category")
    boxes = []
    for row in _table(folder, "sample_annotation"):
        if row["sample_token"] != data[0]["sample_token"]:
            continue
        width, length, height = row["size"]
        name = categories[instances[row["instance_token"]]["category_token"]]["name"]
        boxes.append(
            _placed(back @ pose_of(row["translation"], row["rotation"]), (length, width, height), name)
        )
    return tuple(boxes)


def _placed(pose: Pose, size: Sequence[float], name: str, score: float | None = None) -> LabelledBox:
    """The upright box that heads where the x axis of a pose points."""
    length, width, height = (float(value) for value in size)
    x, y, z = (float(value) for value in pose[:3, 3])
    yaw = math.atan2(float(pose[1, 0]), float(pose[0, 0]))
    return LabelledBox((x, y, z), (length, width, height), yaw, name, score)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FormatError(f"{path} is no JSON ({error})") from error


def _table(folder: Path, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = _json(folder / f"{name}.json")
    return rows


def _by_token(folder: Path, name: str) -> dict[str, dict[str, Any]]:
    return {row["token"]: row for row in _table(folder, name)}
