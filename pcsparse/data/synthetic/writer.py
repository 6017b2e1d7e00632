"""Writes towns in one of three layouts, and how they were made.

SemanticKITTI's sequences are written here: velodyne, labels, poses, calib, times.
"""

import json
import platform
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

import pcsparse
from pcsparse.data.synthetic import writer_kitti, writer_nuscenes
from pcsparse.data.synthetic.camera import calibration_text, camera_poses, pose_row
from pcsparse.data.synthetic.caster import resolve_caster
from pcsparse.data.synthetic.scene import make_town
from pcsparse.data.synthetic.sensor import Sensor
from pcsparse.data.synthetic.sweep import Drive, Sweep
from pcsparse.errors import FormatError, RangeError, UnsupportedError

# 2: towns are road graphs, and intensity falls with range; 3: beams leave a little above the sensor's origin,
# roads undulate and are mended. Sweeps of an older format must not be gone on with
FORMAT = 3
RECORD = "synthetic.json"

Existing = Literal["refuse", "resume", "replace"]

LAYOUTS: dict[str, tuple[str, ...]] = {
    "semantickitti": ("sequences",),
    "kitti": writer_kitti.FOLDERS,
    "nuscenes": writer_nuscenes.FOLDERS,
}
"""Names of layouts, and the folders that each of them owns below its root."""


def _replace(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and give it its own only when it is whole."""
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_bytes(content)
    unfinished.replace(path)


def write_sweep(folder: Path, name: str, sweep: Sweep) -> None:
    """Write `velodyne/name.bin` and `labels/name.label` under the sequence's folder."""
    rows = np.concatenate([sweep.points, sweep.intensity[:, None]], axis=1).astype("<f4")
    # the labels first: a sweep counts as written when its points are there
    _replace(folder / "labels" / f"{name}.label", sweep.labels().astype("<u4").tobytes())
    _replace(folder / "velodyne" / f"{name}.bin", rows.tobytes())


def _record(
    sequences: Mapping[str, int], sweeps: int, stride: float, sensor: Sensor, caster: str, layout: str
) -> dict[str, object]:
    return {
        "format": FORMAT,
        "layout": layout,
        "sequences": dict(sequences),
        "sweeps": sweeps,
        "stride_metres": stride,
        "sensor": sensor.name,
        "caster": caster,
        "versions": _versions(caster),
    }


def _versions(caster: str) -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"pcsparse": pcsparse.__version__, "python": platform.python_version(), "numpy": np.__version__}
    for package in ("numba",) if caster == "bvh" else ("open3d", "open3d-cpu"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _open_root(root: Path, record: dict[str, object], existing: Existing) -> None:
    path = root / RECORD
    if root.exists() and any(root.iterdir()):
        if existing == "refuse":
            raise FormatError(
                f"{root} is not empty; choose another folder, --force to replace it, or --resume"
            )
        if not path.is_file():
            raise FormatError(
                f"{root} is not empty and has no {RECORD}: not ours to change; choose another folder"
            )
        if existing == "replace":
            for folder in LAYOUTS.get(str(json.loads(path.read_text()).get("layout")), ()):
                shutil.rmtree(root / folder, ignore_errors=True)
        else:
            before = json.loads(path.read_text())
            differing = [key for key, value in record.items() if before.get(key) != value]
            if differing:
                told = ", ".join(f"{key} ({before.get(key)!r}, now {record[key]!r})" for key in differing)
                raise FormatError(
                    f"cannot resume {root}: it was written with other settings: {told}; use --force"
                )
    root.mkdir(parents=True, exist_ok=True)
    _replace(path, _json({**record, "complete": False}))


def _json(record: dict[str, object]) -> bytes:
    return (json.dumps(record, indent=2) + "\n").encode()


def write_towns(
    root: Path | str,
    sequences: Mapping[str, int],
    sweeps: int,
    sensor: Sensor,
    caster: str = "auto",
    stride_metres: float = 10.0,
    existing: Existing = "refuse",
    report: Callable[[str], None] = lambda line: None,
    layout: str = "semantickitti",
) -> Path:
    """Write one town a sequence, in one of `LAYOUTS`, and `synthetic.json` that says how.

    The same sequences, sizes, sensor and caster give the same bytes, at any number of threads. Each sweep
    depends on its town and its number alone, so an interrupted root can be resumed.

    Args:
        root: the folder that will hold the layout's own (`sequences/`, `training/`, …) and `synthetic.json`.
        sequences: name of the sequence ("00", "08") to the seed of its town.
        sweeps: sweeps a sequence, at least 1.
        sensor: what the ego vehicle carries.
        caster: "embree", "bvh" or "auto"; the choice is reported and recorded.
        stride_metres: metres between two sweeps.
        existing: what to do with a root that is not empty: refuse it; resume (skip the sweeps that are there,
            with a reported count); or replace its sequences.
        report: takes one line of progress at a time.
        layout: "semantickitti"; "kitti", frames of KITTI object with labels of boxes, numbered through; or
            "nuscenes", scenes of key frames with boxes.

    Returns:
        the root.

    Raises:
        FormatError: the root is not empty and may not be changed, or was written with other settings.
        RangeError: no sequences, no sweeps or no stride.
        UnsupportedError: no such caster or layout.
    """
    root = Path(root)
    if layout not in LAYOUTS:
        raise UnsupportedError(f"no layout {layout!r}; choose one of: {', '.join(LAYOUTS)}")
    if not sequences or sweeps < 1 or stride_metres <= 0:
        raise RangeError(
            f"need at least one sequence, one sweep and a stride above 0 m, got {len(sequences)} sequences, "
            f"{sweeps} sweeps, {stride_metres} m"
        )
    chosen = resolve_caster(caster)
    report(f"ray caster: {chosen}" + (" (chosen by auto)" if caster == "auto" else ""))
    record = _record(sequences, sweeps, stride_metres, sensor, chosen, layout)
    _open_root(root, record, existing)
    for town, (name, seed) in enumerate(sequences.items()):
        drive = Drive(make_town(seed, sweeps * stride_metres), sensor, chosen)
        if layout == "semantickitti":
            _write_town(root / "sequences" / name, drive, sweeps, stride_metres, report)
        elif layout == "kitti":
            frames = range(town * sweeps, (town + 1) * sweeps)
            writer_kitti.write_kitti_town(root, drive, frames, stride_metres, report)
        else:
            writer_nuscenes.write_nuscenes_town(root, name, drive, sweeps, stride_metres, report)
    if layout == "kitti":
        writer_kitti.write_splits(root, sequences, sweeps)
    elif layout == "nuscenes":
        writer_nuscenes.write_tables(root)
    _replace(root / RECORD, _json({**record, "complete": True}))
    return root


def _write_town(
    folder: Path, drive: Drive, sweeps: int, stride: float, report: Callable[[str], None]
) -> None:
    for child in ("velodyne", "labels"):
        (folder / child).mkdir(parents=True, exist_ok=True)
    poses, stamps, points, skipped = [], [], 0, 0
    for index in range(sweeps):
        name = f"{index:06d}"
        pose, stamp = drive.pose_of(index, stride)
        poses.append(pose)
        stamps.append(stamp)
        if (folder / "velodyne" / f"{name}.bin").is_file():
            skipped += 1
            continue
        sweep = drive.sweep(index, stride)
        write_sweep(folder, name, sweep)
        points += len(sweep.points)
    _replace(folder / "poses.txt", "".join(pose_row(pose) + "\n" for pose in camera_poses(poses)).encode())
    _replace(folder / "times.txt", "".join(f"{stamp:.6e}\n" for stamp in stamps).encode())
    _replace(folder / "calib.txt", calibration_text().encode())
    kept = f", {skipped} sweeps were there already" if skipped else ""
    report(
        f"sequence {folder.name}: town {drive.town.seed}, {sweeps - skipped} sweeps, {points:,} points{kept}"
    )
