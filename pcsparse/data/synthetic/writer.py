"""Writes towns as SemanticKITTI sequences: velodyne, labels, poses, calib, times, and how they were made."""

import json
import platform
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

import pcsparse
from pcsparse.data.synthetic.arrays import Floats
from pcsparse.data.synthetic.caster import resolve_caster
from pcsparse.data.synthetic.mesh import rotate
from pcsparse.data.synthetic.scene import make_town
from pcsparse.data.synthetic.sensor import Sensor
from pcsparse.data.synthetic.sweep import Drive, Sweep
from pcsparse.errors import FormatError, RangeError

FORMAT = 1
RECORD = "synthetic.json"

# a pinhole camera of the size of KITTI's, 8 cm below and 27 cm before the sensor: x right, y down, z forward
_CAMERA = np.array([[718.856, 0.0, 607.1928, 0.0], [0.0, 718.856, 185.2157, 0.0], [0.0, 0.0, 1.0, 0.0]])
_BASELINES = {"P0": 0.0, "P1": -386.1448, "P2": 45.38225, "P3": -337.2877}
_TO_CAMERA = np.array(
    [[0.0, -1.0, 0.0, 0.0], [0.0, 0.0, -1.0, -0.08], [1.0, 0.0, 0.0, -0.27], [0.0, 0.0, 0.0, 1.0]]
)

Existing = Literal["refuse", "resume", "replace"]


def _replace(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and give it its own only when it is whole."""
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_bytes(content)
    unfinished.replace(path)


def _row(matrix: Floats) -> str:
    # nanometres: what lies beyond is noise of the arithmetic; + 0.0 turns -0 into 0
    return " ".join(f"{value:.12e}" for value in np.round(matrix[:3].ravel(), 9) + 0.0)


def calibration_text() -> str:
    """The text of `calib.txt`: projections P0 to P3 and `Tr`, from the sensor to camera 0."""
    lines = []
    for name, shift in _BASELINES.items():
        projection = _CAMERA.copy()
        projection[0, 3] = shift
        lines.append(f"{name}: {_row(projection)}")
    lines.append(f"Tr: {_row(_TO_CAMERA)}")
    return "\n".join(lines) + "\n"


def camera_poses(poses: list[Floats]) -> Floats:
    """Poses of camera 0, each in the frame of the first, from sensor-to-world poses (4, 4).

    The pose of the sensor is inverse(Tr) @ pose @ Tr, in the frame of its first sweep.
    """
    first, back = _inverse(poses[0]), _inverse(_TO_CAMERA)
    return np.stack([_chain(_TO_CAMERA, first, pose, back) for pose in poses])


def _inverse(pose: Floats) -> Floats:
    """The inverse of a rigid pose (4, 4)."""
    out = np.eye(4)
    out[:3, :3] = pose[:3, :3].T
    out[:3, 3] = -rotate(pose[:3, 3], out[:3, :3])
    return out


def _chain(*poses: Floats) -> Floats:
    """The product of rigid poses (4, 4), added in a fixed order."""
    out = np.eye(4)
    for pose in poses:
        product = np.eye(4)
        product[:3, :3] = rotate(pose[:3, :3].T, out[:3, :3]).T
        product[:3, 3] = rotate(pose[:3, 3], out[:3, :3]) + out[:3, 3]
        out = product
    return out


def write_sweep(folder: Path, name: str, sweep: Sweep) -> None:
    """Write `velodyne/name.bin` and `labels/name.label` under the sequence's folder."""
    rows = np.concatenate([sweep.points, sweep.intensity[:, None]], axis=1).astype("<f4")
    # the labels first: a sweep counts as written when its points are there
    _replace(folder / "labels" / f"{name}.label", sweep.labels().astype("<u4").tobytes())
    _replace(folder / "velodyne" / f"{name}.bin", rows.tobytes())


def _record(
    sequences: Mapping[str, int], sweeps: int, stride: float, sensor: Sensor, caster: str
) -> dict[str, object]:
    return {
        "format": FORMAT,
        "layout": "semantickitti",
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
            shutil.rmtree(root / "sequences", ignore_errors=True)
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
) -> Path:
    """Write one town a sequence, in SemanticKITTI's layout, and `synthetic.json` that says how.

    The same sequences, sizes, sensor and caster give the same bytes, at any number of threads. Each sweep
    depends on its town and its number alone, so an interrupted root can be resumed.

    Args:
        root: the folder that will hold `sequences/` and `synthetic.json`.
        sequences: name of the sequence ("00", "08") to the seed of its town.
        sweeps: sweeps a sequence, at least 1.
        sensor: what the ego vehicle carries.
        caster: "embree", "bvh" or "auto"; the choice is reported and recorded.
        stride_metres: metres between two sweeps.
        existing: what to do with a root that is not empty: refuse it; resume (skip the sweeps that are there,
            with a reported count); or replace its sequences.
        report: takes one line of progress at a time.

    Returns:
        the root.

    Raises:
        FormatError: the root is not empty and may not be changed, or was written with other settings.
        RangeError: no sequences, no sweeps or no stride.
        UnsupportedError: no such caster.
    """
    root = Path(root)
    if not sequences or sweeps < 1 or stride_metres <= 0:
        raise RangeError(
            f"need at least one sequence, one sweep and a stride above 0 m, got {len(sequences)} sequences, "
            f"{sweeps} sweeps, {stride_metres} m"
        )
    chosen = resolve_caster(caster)
    report(f"ray caster: {chosen}" + (" (chosen by auto)" if caster == "auto" else ""))
    record = _record(sequences, sweeps, stride_metres, sensor, chosen)
    _open_root(root, record, existing)
    for name, seed in sequences.items():
        _write_town(root / "sequences" / name, seed, sweeps, sensor, chosen, stride_metres, report)
    _replace(root / RECORD, _json({**record, "complete": True}))
    return root


def _write_town(
    folder: Path,
    seed: int,
    sweeps: int,
    sensor: Sensor,
    caster: str,
    stride: float,
    report: Callable[[str], None],
) -> None:
    for child in ("velodyne", "labels"):
        (folder / child).mkdir(parents=True, exist_ok=True)
    drive = Drive(make_town(seed, sweeps * stride), sensor, caster)
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
    _replace(folder / "poses.txt", "".join(_row(pose) + "\n" for pose in camera_poses(poses)).encode())
    _replace(folder / "times.txt", "".join(f"{stamp:.6e}\n" for stamp in stamps).encode())
    _replace(folder / "calib.txt", calibration_text().encode())
    kept = f", {skipped} sweeps were there already" if skipped else ""
    report(f"sequence {folder.name}: town {seed}, {sweeps - skipped} sweeps, {points:,} points{kept}")
