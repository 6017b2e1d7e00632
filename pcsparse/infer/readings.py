"""Other ways to read a file that cannot be read as asked, or makes no sense then."""

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pcsparse.data.files import read_points
from pcsparse.data.point_cloud import PointCloud
from pcsparse.errors import FormatError
from pcsparse.infer.ground import find_frame

_DTYPES = ("float32", "float64", "float16")
_COLUMNS = range(3, 9)
_MAX_COORDINATE = 1e6
# farther ones: a few are faults of a sensor, more are bytes that were no coordinates
_WILD_SHARE = 0.001
# of two readings that both show a ground, the better one must show as much more of it
_CLEARLY = 1.3
# beyond any intensity: what the file holds comes back as a share of it
_ANY_SCALE = 1e30


@dataclass(frozen=True)
class Reading:
    """How to read a file.

    Attributes:
        columns, dtype: of a `.bin`; None to infer them.
        intensity_scale: what 1.0 is in the file; None to infer it.
    """

    columns: int | None = None
    dtype: str | None = None
    intensity_scale: float | None = None

    def read(self, path: Path) -> PointCloud:
        """Read the file; points that are not finite are dropped.

        Raises:
            FormatError, UnsupportedError: see `read_points`.
        """
        of_bin = path.suffix.lower() == ".bin"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return read_points(
                path,
                columns=self.columns if of_bin else None,
                dtype=self.dtype if of_bin else None,
                intensity_scale=self.intensity_scale,
            )

    def flags(self) -> tuple[str, ...]:
        """The options of `pcsparse infer` that read it so."""
        given = []
        if self.columns is not None:
            given.append(f"--columns {self.columns}")
        if self.dtype is not None:
            given.append(f"--dtype {self.dtype}")
        if self.intensity_scale is not None:
            given.append(f"--intensity-scale {self.intensity_scale:g}")
        return tuple(given)


def stands_on_ground(cloud: PointCloud) -> float:
    """Share of the near points on a ground where a sensor has it, under any axis and unit; 0 without."""
    points = cloud.points[np.isfinite(cloud.points).all(axis=1)]
    wild = (np.abs(points) > _MAX_COORDINATE).any(axis=1)
    if not len(points) or wild.mean() > _WILD_SHARE:
        return 0.0
    frame = find_frame(points[~wild])
    return frame.ground.support if frame.sure and frame.ground is not None else 0.0


def other_reading(path: Path, asked: Reading, *, refused: bool) -> Reading | None:
    """A reading of the file under which it is a sweep on a ground; None if there is none, or no clear one.

    Args:
        path: the file.
        asked: the reading that was tried.
        refused: whether it was an error, or merely made no sense; another scale of the intensity mends an
            error only.
    """
    other = _other_columns(path, asked) if path.suffix.lower() == ".bin" else None
    return _other_scale(path, asked) if other is None and refused else other


def _other_columns(path: Path, asked: Reading) -> Reading | None:
    size = path.stat().st_size
    found: list[tuple[float, str, int]] = []
    for dtype in _DTYPES:
        for columns in _COLUMNS:
            # twice as many columns are every second point
            if any(known == dtype and columns % fewer == 0 for _, known, fewer in found):
                continue
            if not size or size % (columns * np.dtype(dtype).itemsize):
                continue
            try:
                ground = stands_on_ground(Reading(columns, dtype, asked.intensity_scale).read(path))
            except FormatError:
                continue
            if ground:
                found.append((ground, dtype, columns))
    found.sort(key=lambda row: -row[0])
    if not found or (len(found) > 1 and found[1][0] * _CLEARLY > found[0][0]):
        return None
    return _shortest(path, Reading(found[0][2], found[0][1], asked.intensity_scale))


def _shortest(path: Path, reading: Reading) -> Reading:
    """The same reading with fewer flags, where they are not needed."""
    wanted = reading.read(path).points
    for shorter in (replace(reading, columns=None), replace(reading, dtype=None)):
        try:
            if np.array_equal(shorter.read(path).points, wanted):
                return shorter
        except FormatError:
            continue
    return reading


def _other_scale(path: Path, asked: Reading) -> Reading | None:
    """A scale for an intensity on none that is known, as far as one can be told."""
    if asked.intensity_scale is not None:
        return None
    try:
        cloud = Reading(asked.columns, asked.dtype, _ANY_SCALE).read(path)
    except FormatError:
        return None
    if cloud.intensity is None or not len(cloud):
        return None
    high = float(np.nanmax(cloud.intensity.astype(np.float64)) * _ANY_SCALE)
    full = 2.0 ** np.ceil(np.log2(high + 1)) - 1 if high > 1 else 1.0
    return Reading(asked.columns, asked.dtype, float(full))
