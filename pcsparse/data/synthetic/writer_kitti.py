"""Writes towns as KITTI object frames: velodyne, calib, label_2, and what KITTI has not: point labels, boxes.

Frames have no picture; `calib` belongs to a camera of 1,242 x 375 pixels. `label_2` holds what that camera
would see and the sensor has a point of; `boxes` holds everything around the car.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from pcsparse.data.synthetic.arrays import Floats
from pcsparse.data.synthetic.boxes import Thing, things_in
from pcsparse.data.synthetic.camera import IMAGE, TO_CAMERA, object_calibration_text, projection
from pcsparse.data.synthetic.mesh import rotate
from pcsparse.data.synthetic.sweep import Drive, Sweep
from pcsparse.whole_file import write_whole

FOLDERS = ("training", "ImageSets")
VALIDATION = "08"
"""The sequence whose frames are in val.txt, as SemanticKITTI has it; all others are in train.txt."""

# KITTI has no trailers, buses and motorcyclists of their own; what stands parked on two wheels it leaves out
_TYPES = {
    10: "Car",
    18: "Truck",
    13: "Misc",
    20: "Misc",
    16: "Tram",
    30: "Pedestrian",
    31: "Cyclist",
    32: "Misc",
}
_STILL = {252: 10, 253: 31, 254: 30, 255: 32, 256: 16, 257: 13, 258: 18, 259: 20}
# metres: higher cars are vans, which SemanticKITTI calls cars and KITTI does not
_VAN = 1.86
# shares of a thing's pulses above which it counts as seen whole, and as seen in part
_WHOLE, _PART = 0.8, 0.4
# metres before the camera, and pixels across, below which nothing is drawn
_NEAR, _PIXELS = 0.5, 2.0
# of a thing's area that lies beyond the picture's border: more than that nobody would draw
_MOST_TRUNCATED = 0.95


def write_kitti_town(
    root: Path,
    drive: Drive,
    frames: range,
    stride: float,
    report: Callable[[str], None],
) -> None:
    """Write the sweeps of one town as frames under `training`; those that are there are left alone.

    Args:
        root: folder of the layout.
        drive: through the town.
        frames: their numbers, one a sweep.
        stride: metres between two sweeps.
        report: takes one line.
    """
    folder = root / "training"
    for child in ("velodyne", "calib", "label_2", "labels", "boxes"):
        (folder / child).mkdir(parents=True, exist_ok=True)
    boxes, skipped = 0, 0
    for index, frame in enumerate(frames):
        name = f"{frame:06d}"
        if (folder / "velodyne" / f"{name}.bin").is_file():
            skipped += 1
            continue
        sweep = drive.sweep(index, stride)
        things = things_in(drive, index, stride, sweep)
        lines = label_lines(things, sweep.pose)
        boxes += len(lines)
        write_whole(folder / "calib" / f"{name}.txt", object_calibration_text().encode())
        write_whole(folder / "label_2" / f"{name}.txt", "".join(line + "\n" for line in lines).encode())
        write_whole(folder / "labels" / f"{name}.label", sweep.labels().astype("<u4").tobytes())
        write_whole(folder / "boxes" / f"{name}.json", _around(things, sweep))
        rows = np.concatenate([sweep.points, sweep.intensity[:, None]], axis=1).astype("<f4")
        # the points last: a frame counts as written when they are there
        write_whole(folder / "velodyne" / f"{name}.bin", rows.tobytes())
    kept = f", {skipped} frames were there already" if skipped else ""
    report(f"frames {frames[0]:06d} to {frames[-1]:06d}: town {drive.town.seed}, {boxes} labels{kept}")


def write_splits(root: Path, sequences: Mapping[str, int], sweeps: int) -> None:
    """Write `ImageSets/{train,val,trainval}.txt`: the frames of sequence 08 are for validation."""
    folder = root / "ImageSets"
    folder.mkdir(parents=True, exist_ok=True)
    splits: dict[str, list[str]] = {"train": [], "val": [], "trainval": []}
    for town, name in enumerate(sequences):
        frames = [f"{frame:06d}\n" for frame in range(town * sweeps, (town + 1) * sweeps)]
        splits["val" if name == VALIDATION else "train"] += frames
        splits["trainval"] += frames
    for split, lines in splits.items():
        write_whole(folder / f"{split}.txt", "".join(lines).encode())


def _around(things: list[Thing], sweep: Sweep) -> bytes:
    rows = []
    for thing in things:
        box = thing.box(sweep.pose)
        rows.append(
            {
                "semantic": thing.semantic,
                "instance": thing.instance,
                "centre": [round(value, 3) for value in box.centre],
                "size": [round(value, 3) for value in box.size],
                "yaw": round(box.yaw, 4),
                "points": thing.points,
                "visible": None if np.isnan(thing.visible) else round(thing.visible, 3),
            }
        )
    return (json.dumps(rows, indent=1) + "\n").encode()


def label_lines(things: list[Thing], pose: Floats) -> list[str]:
    """The lines of a frame's `label_2` file.

    Each is type, truncation, occlusion, alpha, the 2D box, height, width, length, x, y, z of the bottom's
    middle in camera 0, and the rotation about its y; metres, radians, pixels of camera 2.

    Args:
        things: what the sweep saw.
        pose: (4, 4) of the sensor in the world.
    """
    lines = []
    for thing in things:
        kind = _TYPES.get(_STILL.get(thing.semantic, thing.semantic))
        view = _pixels(thing, pose)
        if kind is None or view is None:
            continue
        box = thing.box(pose)
        if kind == "Car" and box.size[2] > _VAN:
            kind = "Van"
        (left, top, right, bottom), truncated = view
        length, width, height = box.size
        foot = np.array([box.centre[0], box.centre[1], box.centre[2] - height / 2])
        x, y, z = (rotate(foot, TO_CAMERA[:3, :3]) + TO_CAMERA[:3, 3]).tolist()
        turn = _wrapped(-box.yaw - np.pi / 2)
        alpha = _wrapped(turn - float(np.arctan2(x, z)))
        numbers = (alpha, left, top, right, bottom, height, width, length, x, y, z, turn)
        text = " ".join(f"{value:.2f}" for value in numbers)
        lines.append(f"{kind} {truncated:.2f} {_occluded(thing.visible)} {text}")
    return lines


def _occluded(visible: float) -> int:
    """KITTI's 0 whole, 1 in part, 2 largely hidden, 3 unknown."""
    if np.isnan(visible):
        return 3
    return 0 if visible >= _WHOLE else 1 if visible >= _PART else 2


def _pixels(thing: Thing, pose: Floats) -> tuple[tuple[float, float, float, float], float] | None:
    """What the picture shows of a thing: left, top, right, bottom, and how much of it lies outside."""
    away = thing.corners.reshape(-1, 3) - pose[:3, 3]
    points = rotate(rotate(away, pose[:3, :3].T), TO_CAMERA[:3, :3]) + TO_CAMERA[:3, 3]
    # what lies behind the camera is pulled before it: the part of it that the picture misses is guessed
    points[:, 2] = np.where(points[:, 2] < _NEAR, _NEAR, points[:, 2])
    if not (points[:, 2] > _NEAR).any():
        return None
    matrix = projection("P2")
    flat = rotate(points, matrix[:, :3]) + matrix[:, 3]
    spots = flat[:, :2] / flat[:, 2:]
    low, high = spots.min(0), spots.max(0)
    left, top = np.maximum(low, 0.0)
    right, bottom = np.minimum(high, np.array(IMAGE) - 1.0)
    if right - left < _PIXELS or bottom - top < _PIXELS:
        return None
    truncated = 1.0 - (right - left) * (bottom - top) / float(np.prod(high - low))
    if truncated > _MOST_TRUNCATED:
        return None
    return (float(left), float(top), float(right), float(bottom)), max(truncated, 0.0)


def _wrapped(angle: float) -> float:
    return float((angle + np.pi) % (2 * np.pi) - np.pi)
