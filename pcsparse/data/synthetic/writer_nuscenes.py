"""Writes towns as nuScenes scenes: key frames of a LIDAR_TOP, lidarseg labels, and the tables of the schema.

There are no cameras, radars, maps and sweeps between key frames. A pulse that never came back has no row,
where nuScenes writes a point beside the sensor. Key frames lie as far apart as the towns' sweeps do.
"""

import hashlib
import json
import struct
import zlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from pcsparse.data.synthetic.arrays import Floats, Ints
from pcsparse.data.synthetic.boxes import Thing, things_in
from pcsparse.data.synthetic.camera import chain, inverse
from pcsparse.data.synthetic.nuscenes_classes import (
    ATTRIBUTES,
    CATEGORIES,
    VISIBILITIES,
    attribute_of,
    category_index,
    category_of,
    visibility_of,
)  # fmt: skip
from pcsparse.data.synthetic.sensor import Sensor
from pcsparse.data.synthetic.sweep import Drive, Sweep
from pcsparse.whole_file import write_whole

VERSION = "v1.0-synthetic"
FOLDERS = ("samples", "lidarseg", "maps", "scenes", VERSION)

Row = dict[str, object]
Tables = dict[str, list[Row]]

# metres from the middle of the rear axle to the sensor
_AHEAD = 0.94
# metres: what of the own car answers lies within
_OWN_CAR = 3.5
_MICROSECONDS = 1e6
# midday of 1 July 2026: time stamps are microseconds since 1970
_NOON = 1_782_907_200


def token(*parts: object) -> str:
    """32 hexadecimal digits that follow from `parts` alone."""
    text = "/".join(str(part) for part in parts)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def quaternion(rotation: Floats) -> list[float]:
    """w, x, y, z of a rotation (3, 3), w at least 0."""
    m = rotation
    # the largest of the four first: dividing by a small one loses digits
    squares = [1 + m[0, 0] + m[1, 1] + m[2, 2], 1 + m[0, 0] - m[1, 1] - m[2, 2],
               1 - m[0, 0] + m[1, 1] - m[2, 2], 1 - m[0, 0] - m[1, 1] + m[2, 2]]  # fmt: skip
    a, b, c = m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]
    d, e, f = m[0, 1] + m[1, 0], m[0, 2] + m[2, 0], m[1, 2] + m[2, 1]
    rows = [[squares[0], a, b, c], [a, squares[1], d, e], [b, d, squares[2], f], [c, e, f, squares[3]]]
    most = int(np.argmax(squares))
    q = np.array(rows[most]) / (2 * np.sqrt(squares[most]))
    return [float(value) + 0.0 for value in (q if q[0] >= 0 else -q)]


def lidar_frame(sensor: Sensor) -> Floats:
    """(4, 4) from nuScenes' lidar frame, x to the right and y ahead, to the ego's: x ahead, on the ground."""
    pose = np.eye(4)
    pose[:3, :3] = [[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    pose[:3, 3] = [_AHEAD, 0.0, sensor.height]
    return pose


def ego_pose(sweep: Sweep, sensor: Sensor) -> Floats:
    """(4, 4) of the ego in the world: the sensor is fixed to it, so that it takes the car's tilt along."""
    mount = np.eye(4)
    mount[:3, 3] = [_AHEAD, 0.0, sensor.height]
    return chain(sweep.pose, inverse(mount))


def point_rows(sweep: Sweep) -> Floats:
    """(n, 5) float32: x right, y ahead, z up, intensity 0 to 255, ring; firing by firing."""
    order = np.lexsort((sweep.ring, sweep.column))
    x, y, z = sweep.points[order].T
    light = np.round(255.0 * sweep.intensity[order])
    return np.stack([-y, x, z, light, sweep.ring[order].astype(np.float32)], 1).astype("<f4")


def point_labels(sweep: Sweep) -> Ints:
    """(n,) uint8 categories in the order of `point_rows`."""
    order = np.lexsort((sweep.ring, sweep.column))
    own = np.linalg.norm(sweep.points[order], axis=1) < _OWN_CAR
    return category_index(sweep.semantic[order], own)


def write_nuscenes_town(
    root: Path, name: str, drive: Drive, sweeps: int, stride: float, report: Callable[[str], None]
) -> None:
    """Write the key frames of one town, and its rows of the tables as `scenes/NAME.json`.

    A scene whose rows are there is left alone.

    Args:
        root: folder of the layout.
        name: of the sequence.
        drive: through the town.
        sweeps: key frames.
        stride: metres between two of them.
        report: takes one line.
    """
    scene = f"scene-{name}"
    record = root / "scenes" / f"{scene}.json"
    if record.is_file():
        report(f"{scene} was there already")
        return
    for folder in ("samples/LIDAR_TOP", f"lidarseg/{VERSION}", "maps", "scenes", VERSION):
        (root / folder).mkdir(parents=True, exist_ok=True)
    tables = _scene_tables(scene, drive, sweeps)
    seen: dict[int, list[Row]] = {}
    for index in range(sweeps):
        sweep = drive.sweep(index, stride)
        things = things_in(drive, index, stride, sweep)
        _write_sample(root, scene, index, sweeps, drive.sensor, sweep, tables)
        _annotate(scene, index, things, seen, tables)
    _chain_annotations(scene, seen, tables)
    write_whole(record, _json(tables))
    report(f"{scene}: town {drive.town.seed}, {sweeps} samples, {len(tables['sample_annotation'])} boxes")


def _scene_tables(scene: str, drive: Drive, sweeps: int) -> Tables:
    names = ("scene", "log", "sample", "sample_data", "ego_pose", "calibrated_sensor", "sample_annotation",
             "instance", "lidarseg")  # fmt: skip
    tables: Tables = {name: [] for name in names}
    mount = lidar_frame(drive.sensor)
    tables["log"].append(
        {"token": token(scene, "log"), "logfile": f"synthetic-{scene}", "vehicle": drive.sensor.name,
         "date_captured": "2026-07-01", "location": "synthetic"}
    )  # fmt: skip
    tables["calibrated_sensor"].append(
        {"token": token(scene, "mount"), "sensor_token": token("LIDAR_TOP"),
         "translation": mount[:3, 3].tolist(), "rotation": quaternion(mount[:3, :3]), "camera_intrinsic": []}
    )  # fmt: skip
    tables["scene"].append(
        {"token": token(scene), "log_token": token(scene, "log"), "nbr_samples": sweeps,
         "first_sample_token": token(scene, "sample", 0),
         "last_sample_token": token(scene, "sample", sweeps - 1), "name": scene,
         "description": f"town {drive.town.seed} of the simulator"}
    )  # fmt: skip
    return tables


def _links(scene: str, kind: str, index: int, count: int) -> Row:
    return {
        "prev": token(scene, kind, index - 1) if index else "",
        "next": token(scene, kind, index + 1) if index + 1 < count else "",
    }


def _write_sample(
    root: Path, scene: str, index: int, count: int, sensor: Sensor, sweep: Sweep, tables: Tables
) -> None:
    stamp = round((_NOON + sweep.stamp) * _MICROSECONDS)
    here, data = token(scene, "sample", index), token(scene, "data", index)
    points = f"samples/LIDAR_TOP/synthetic-{scene}__LIDAR_TOP__{stamp}.pcd.bin"
    labels = f"lidarseg/{VERSION}/{data}_lidarseg.bin"
    write_whole(root / labels, point_labels(sweep).tobytes())
    write_whole(root / points, point_rows(sweep).tobytes())
    ego = ego_pose(sweep, sensor)
    tables["ego_pose"].append(
        {"token": token(scene, "ego", index), "timestamp": stamp, "translation": ego[:3, 3].tolist(),
         "rotation": quaternion(ego[:3, :3])}
    )  # fmt: skip
    tables["sample"].append(
        {"token": here, "timestamp": stamp, "scene_token": token(scene),
         **_links(scene, "sample", index, count)}
    )  # fmt: skip
    tables["sample_data"].append(
        {"token": data, "sample_token": here, "ego_pose_token": token(scene, "ego", index),
         "calibrated_sensor_token": token(scene, "mount"), "timestamp": stamp, "fileformat": "pcd",
         "is_key_frame": True, "height": 0, "width": 0, "filename": points,
         **_links(scene, "data", index, count)}
    )  # fmt: skip
    tables["lidarseg"].append({"token": data, "sample_data_token": data, "filename": labels})


def _annotate(
    scene: str, index: int, things: Sequence[Thing], seen: dict[int, list[Row]], tables: Tables
) -> None:
    for thing in things:
        box = thing.box()
        length, width, height = box.size
        c, s = np.cos(box.yaw), np.sin(box.yaw)
        row: Row = {
            "token": token(scene, "box", index, thing.serial),
            "sample_token": token(scene, "sample", index),
            "instance_token": token(scene, "thing", thing.serial),
            "visibility_token": visibility_of(thing.visible),
            "attribute_tokens": [token("attribute", attribute_of(thing.semantic))],
            "translation": list(box.centre),
            "size": [width, length, height],
            "rotation": quaternion(np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])),
            "num_lidar_pts": thing.points,
            "num_radar_pts": 0,
            "prev": "",
            "next": "",
        }
        tables["sample_annotation"].append(row)
        if thing.serial not in seen:
            category = token("category", category_of(thing.semantic))
            tables["instance"].append({"token": row["instance_token"], "category_token": category})
        seen.setdefault(thing.serial, []).append(row)


def _chain_annotations(scene: str, seen: dict[int, list[Row]], tables: Tables) -> None:
    """Tie the boxes of each thing together; they come in the order of time."""
    rows = {row["token"]: row for row in tables["instance"]}
    for name, boxes in seen.items():
        for before, after in pairwise(boxes):
            before["next"], after["prev"] = after["token"], before["token"]
        rows[token(scene, "thing", name)].update(
            nbr_annotations=len(boxes),
            first_annotation_token=boxes[0]["token"],
            last_annotation_token=boxes[-1]["token"],
        )


def write_tables(root: Path) -> None:
    """Write the tables of all scenes under `v1.0-synthetic`, and the map's mask, one pixel."""
    scenes = [json.loads(path.read_text()) for path in sorted((root / "scenes").glob("scene-*.json"))]
    tables: Tables = {name: [row for scene in scenes for row in scene[name]] for name in scenes[0]}
    tables["category"] = [
        {"token": token("category", name), "name": name, "description": "", "index": index}
        for index, name in enumerate(CATEGORIES)
    ]
    tables["attribute"] = [
        {"token": token("attribute", name), "name": name, "description": ""} for name in ATTRIBUTES
    ]
    tables["visibility"] = [
        {"token": str(row), "level": level, "description": ""} for row, level in enumerate(VISIBILITIES, 1)
    ]
    tables["sensor"] = [{"token": token("LIDAR_TOP"), "channel": "LIDAR_TOP", "modality": "lidar"}]
    mask = f"maps/{token('map')}.png"
    tables["map"] = [
        {"token": token("map"), "category": "semantic_prior", "filename": mask,
         "log_tokens": [row["token"] for row in tables["log"]]}
    ]  # fmt: skip
    write_whole(root / mask, _black_pixel())
    for name, rows in tables.items():
        write_whole(root / VERSION / f"{name}.json", _json(rows))


def _json(content: object) -> bytes:
    return (json.dumps(content, indent=0) + "\n").encode()


def _black_pixel() -> bytes:
    """A PNG: readers of the schema want a mask for each map."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\x00\x00")), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
