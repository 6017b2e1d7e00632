"""Poses of sweeps from files: KITTI's `poses.txt` with `calib.txt`, and Argoverse 2's feather."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pcsparse.checks import require_extra
from pcsparse.errors import FormatError

_AV2_COLUMNS = ("timestamp_ns", "qw", "qx", "qy", "qz", "tx_m", "ty_m", "tz_m")

Pose = npt.NDArray[np.float64]
"""(4, 4) rigid, from the frame of a sweep to a frame that all sweeps of a drive share."""


def read_calibration(path: str | Path) -> dict[str, npt.NDArray[np.float64]]:
    """The matrices of a KITTI `calib.txt` by name: (3, 4) for 12 numbers, (3, 3) for 9.

    Raises:
        FormatError: the file is missing, or a line is no name with numbers.
    """
    path = Path(path)
    found = {}
    for number, line in enumerate(_lines(path), start=1):
        name, _, numbers = line.partition(":")
        values = _numbers(numbers, path, number)
        if len(values) not in (9, 12):
            raise FormatError(f"{path}, line {number}: {name} has {len(values)} numbers; 9 or 12 are needed")
        found[name.strip()] = values.reshape(3, -1)
    return found


def homogeneous(matrix: npt.NDArray[np.float64]) -> Pose:
    """A (3, 3) rotation or a (3, 4) pose as (4, 4)."""
    pose = np.eye(4)
    pose[:3, : matrix.shape[1]] = matrix
    return pose


def read_kitti_poses(path: str | Path) -> list[Pose]:
    """Poses of the sensor, a sweep each, in the frame of the first camera's sensor.

    A line holds the (3, 4) pose of camera 0; with `Tr` (sensor to camera) of the `calib.txt` beside the file
    the sensor's is inverse(Tr) @ pose @ Tr. Without a `calib.txt` the poses count as the sensor's own.

    Raises:
        FormatError: the file is missing, a line has not 12 numbers, or the calibration has no `Tr`.
    """
    path = Path(path)
    poses = []
    for number, line in enumerate(_lines(path), start=1):
        values = _numbers(line, path, number)
        if len(values) != 12:
            raise FormatError(f"{path}, line {number}: a pose has 12 numbers, got {len(values)}")
        poses.append(homogeneous(values.reshape(3, 4)))
    calibration = path.with_name("calib.txt")
    if not calibration.is_file():
        return poses
    to_camera = read_calibration(calibration).get("Tr")
    if to_camera is None:
        raise FormatError(f"{calibration} has no Tr, which takes the sensor to the camera of {path}")
    transform = homogeneous(to_camera)
    back = np.linalg.inv(transform)
    return [back @ pose @ transform for pose in poses]


def read_av2_poses(path: str | Path, stamps: Sequence[int]) -> list[Pose]:
    """Poses of the ego vehicle in the city at some time stamps, from `city_SE3_egovehicle.feather`.

    Args:
        path: the file.
        stamps: nanoseconds, as Argoverse names its sweeps.

    Raises:
        FormatError: the file is no such table, or lacks a stamp.
        UnsupportedError: pyarrow is missing; the text names the extra `io`.
    """
    table = read_feather_columns(path)
    missing_columns = [name for name in _AV2_COLUMNS if name not in table]
    if missing_columns:
        raise FormatError(
            f"{path} has no column {missing_columns[0]}: poses need {', '.join(_AV2_COLUMNS)}; it has "
            f"{', '.join(table)}; give another file"
        )
    try:
        rows = {int(stamp): i for i, stamp in enumerate(table["timestamp_ns"])}
    except (TypeError, ValueError) as error:
        raise FormatError(f"{path}: timestamp_ns must be whole nanoseconds ({error})") from error
    missing = [stamp for stamp in stamps if stamp not in rows]
    if missing:
        raise FormatError(f"{path} has no pose at {missing[0]} ns; it has {len(rows)} others")
    return [_finite_pose(table, rows[stamp], path) for stamp in stamps]


def _finite_pose(table: dict[str, npt.NDArray], row: int, path: str | Path) -> Pose:
    try:
        pose = quaternion_pose(table, row)
    except (TypeError, ValueError) as error:
        raise FormatError(f"{path}, row {row}: the pose must be of numbers ({error})") from error
    if not np.isfinite(pose).all():
        raise FormatError(f"{path}, row {row}: every number of a pose must be finite; take the sweep out")
    return pose


def quaternion_pose(table: dict[str, npt.NDArray], row: int) -> Pose:
    """(4, 4) of the columns qw, qx, qy, qz, tx_m, ty_m, tz_m."""
    return pose_of(
        [table[name][row] for name in ("tx_m", "ty_m", "tz_m")], [table[f"q{a}"][row] for a in "wxyz"]
    )


def pose_of(translation: Sequence[float], rotation: Sequence[float]) -> Pose:
    """(4, 4) of metres and a unit quaternion w, x, y, z."""
    w, x, y, z = (float(value) for value in rotation)
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = translation
    return pose


def read_feather_columns(path: str | Path) -> dict[str, npt.NDArray]:
    """All columns of a feather.

    Raises:
        FormatError: the file is missing or no feather.
        UnsupportedError: pyarrow is missing; the text names the extra `io`.
    """
    feather: Any = require_extra("pyarrow.feather", "io")
    if not Path(path).is_file():
        raise FormatError(f"{path} does not exist")
    try:
        table = feather.read_table(str(path), memory_map=False)
    except Exception as error:
        raise FormatError(f"{path} is no feather ({type(error).__name__}: {error})") from error
    return {name: table[name].to_numpy() for name in table.column_names}


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path} cannot be read as text ({error})") from error


def _numbers(text: str, path: Path, line: int) -> npt.NDArray[np.float64]:
    try:
        values = np.array([float(word) for word in text.split()])
    except ValueError as error:
        raise FormatError(f"{path}, line {line}: {error}") from error
    if not np.isfinite(values).all():
        raise FormatError(f"{path}, line {line}: every number must be finite")
    return values
