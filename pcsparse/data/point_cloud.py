"""A point cloud read from a file, and the rules that all formats share: invalid points, origin, intensity."""

import logging
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from pcsparse.errors import FormatError, RangeError

InvalidPolicy = Literal["drop", "raise", "keep"]
"""What to do with points that have a NaN or infinite coordinate or intensity."""

FAR_M = 8192.0
"""Metres beyond which float32 resolves a millimetre at best; no sensor sees that far from itself."""

_FAR_HEIGHT_M = 1024.0
# beyond what a sensor's file gives in millimetres
_MAP_M = 250_000.0
"""Metres above the sea at which a map is moved down too: a key holds 1,625 m of z at 5 cm."""

INTENSITY_SLACK = 2.0
"""Times full scale that an intensity may reach: a bright sign, clipped to 1; beyond it the scale is wrong."""

_log = logging.getLogger(__name__)

_SHOWN_COLUMNS = 6
_SCALES = (255.0, 65535.0)


@dataclass(frozen=True, eq=False)
class PointCloud:
    """Points of one file, in its order.

    Attributes:
        points: (n, 3) float32, metres, minus `origin`.
        origin: (3,) float64, metres; zero unless an axis lies beyond 8,192 m (world coordinates such as UTM),
            then the median of that axis in whole metres; where x or y does, z from 1,024 m on. Point in the
            file, in metres = points + origin.
        intensity: (n,) float32, 0-1; None where the file has none (never invented).
        ring: (n,) int32, the laser that made the point; None where the file does not say.
        kept: (n,) int64, row of each point in the file, ascending.
        n_file: points in the file, dropped ones included.
        source: the file.
        notes: what was inferred or left out, one sentence each: for a log or a user.
        intensity_scale: what the file's intensity was divided by.
    """

    points: npt.NDArray[np.float32]
    origin: npt.NDArray[np.float64]
    intensity: npt.NDArray[np.float32] | None
    ring: npt.NDArray[np.int32] | None
    kept: npt.NDArray[np.int64]
    n_file: int
    source: Path
    notes: tuple[str, ...] = ()
    intensity_scale: float = 1.0

    def __len__(self) -> int:
        return len(self.points)

    @property
    def known_scale(self) -> float | None:
        """`intensity_scale`, or None where no point is brighter than 0: zeros are zeros on every scale."""
        return None if self.intensity is None or not (self.intensity > 0).any() else self.intensity_scale

    def world(self) -> npt.NDArray[np.float64]:
        """(n, 3) float64, metres: the coordinates of the file, those of a LAS in feet converted."""
        return self.points.astype(np.float64) + self.origin

    def to_file_rows(self, values: npt.NDArray, fill: int) -> npt.NDArray:
        """Spread one value a point over all rows of the file; rows that were dropped get `fill`.

        Args:
            values: (n,) one value a point, in the order of `points`.
            fill: value of the dropped rows, for labels the raw id of *unlabelled*.

        Returns:
            (n_file,) array of the same dtype.

        Raises:
            RangeError: another number of values than points.
        """
        if values.shape != (len(self.points),):
            raise RangeError(
                f"{self.source}: {len(self.points)} points need as many values, got {values.shape}"
            )
        rows = np.full(self.n_file, fill, dtype=values.dtype)
        rows[self.kept] = values
        return rows


@dataclass(frozen=True, eq=False)
class RawCloud:
    """Columns as a reader found them, before the shared rules.

    Attributes:
        xyz: (n, 3) float32 or float64, metres.
        intensity: (n,) any real dtype, or None.
        full_scale: what intensity 1.0 is in the file, where the format says it; None to infer it.
        ring: (n,) integers, or None.
        notes: see `PointCloud`.
    """

    xyz: npt.NDArray[np.floating]
    intensity: npt.NDArray | None = None
    full_scale: float | None = None
    ring: npt.NDArray | None = None
    notes: tuple[str, ...] = ()


def not_read(names: Iterable[str]) -> tuple[str, ...]:
    """The note on columns that were left out; none if there are none."""
    listed = sorted(names)
    if not listed:
        return ()
    more = f" and {len(listed) - _SHOWN_COLUMNS} more" if len(listed) > _SHOWN_COLUMNS else ""
    return (f"not read: {', '.join(listed[:_SHOWN_COLUMNS])}{more}",)


def finish(
    raw: RawCloud, source: Path, *, invalid: InvalidPolicy, intensity_scale: float | None
) -> PointCloud:
    """Apply the shared rules to what a reader found.

    Raises:
        FormatError: invalid points under the policy `raise`; an intensity on no known scale.
        RangeError: unknown policy, or an intensity scale that is not positive.
    """
    if invalid not in ("drop", "raise", "keep"):
        raise RangeError(f"invalid must be 'drop', 'raise' or 'keep', got {invalid!r}")
    if intensity_scale is not None and not 0 < intensity_scale < np.inf:
        raise RangeError(f"intensity_scale must be positive and finite, got {intensity_scale}")
    n_file = len(raw.xyz)
    rows, notes = _valid_rows(raw, source, invalid)
    xyz = raw.xyz if rows is None else raw.xyz[rows]
    intensity = raw.intensity if rows is None or raw.intensity is None else raw.intensity[rows]
    ring = raw.ring if rows is None or raw.ring is None else raw.ring[rows]
    origin = far_origin(xyz)
    # float64 until the origin is gone: float32 resolves 6 cm at 849 km
    points = xyz if not origin.any() else xyz.astype(np.float64, copy=False) - origin
    scaled, scale, scale_notes = unit_intensity(intensity, intensity_scale or raw.full_scale, source)
    cloud = PointCloud(
        points=np.ascontiguousarray(points, dtype=np.float32),
        origin=origin,
        intensity=scaled,
        ring=None if ring is None else ring.astype(np.int32),
        kept=np.arange(n_file, dtype=np.int64) if rows is None else rows,
        n_file=n_file,
        source=source,
        notes=(*raw.notes, *notes, *_origin_notes(origin, xyz), *scale_notes),
        intensity_scale=scale,
    )
    for note in cloud.notes:
        _log.info("%s: %s", source, note)
    return cloud


def _valid_rows(
    raw: RawCloud, source: Path, invalid: InvalidPolicy
) -> tuple[npt.NDArray[np.int64] | None, tuple[str, ...]]:
    """Rows to keep, None for all."""
    valid = np.isfinite(raw.xyz).all(axis=1)
    if raw.intensity is not None and raw.intensity.dtype.kind == "f":
        valid &= np.isfinite(raw.intensity)
    n_bad = int(len(valid) - np.count_nonzero(valid))
    if n_bad == 0:
        return None, ()
    found = f"{n_bad} of {len(valid)} points are NaN or infinite (first: row {int(np.argmin(valid))})"
    if invalid == "raise":
        raise FormatError(
            f"{source}: {found}; clean the file, or read it with invalid='drop' or 'keep' (--invalid)"
        )
    if invalid == "keep":
        return None, (f"{found}, kept as they are",)
    warnings.warn(f"{source}: {found}: dropped", stacklevel=4)
    return np.flatnonzero(valid).astype(np.int64), (f"{found}: dropped",)


def far_origin(xyz: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """(3,) float64, metres: what float32 needs subtracted, see `PointCloud.origin`.

    Args:
        xyz: (n, 3) metres; rows that are not finite do not count.
    """
    origin = np.zeros(3)
    finite = xyz[np.isfinite(xyz).all(axis=1)]
    if len(finite) == 0 or np.abs(finite).max() <= FAR_M:
        return origin
    # the median, not the middle: one stray return at (0, 0, 0) must not pull the origin half a world away
    median = np.median(finite, axis=0).astype(np.float64)
    far = np.abs(median) > FAR_M
    # only in a map: in a file of millimetres, which looks 250 m far, it would be the height of the sensor
    far[2] |= (np.abs(median[:2]) > _MAP_M).any() and abs(median[2]) > _FAR_HEIGHT_M
    origin[far] = np.round(median[far])
    return origin


def _origin_notes(origin: npt.NDArray[np.float64], xyz: npt.NDArray[np.floating]) -> tuple[str, ...]:
    if not origin.any():
        return ()
    metres = ", ".join(f"{value:.10g}" for value in origin)
    notes = [f"world coordinates: origin ({metres}) m subtracted"]
    if xyz.dtype == np.float32:
        resolution = float(np.spacing(np.abs(origin).max().astype(np.float32)))
        notes.append(f"the file stores them as float32, which resolves {resolution:.3g} m there")
    return tuple(notes)


def unit_intensity(
    intensity: npt.NDArray | None, full_scale: float | None, source: Path
) -> tuple[npt.NDArray[np.float32] | None, float, tuple[str, ...]]:
    """Intensity on 0-1: divided by the known full scale, or by the one that its values suggest; and that.

    Args:
        intensity: (n,) any real dtype, or None.
        full_scale: what 1.0 is; None to infer it.
        source: the file, for messages.

    Returns:
        (n,) float32 or None; the scale; notes.

    Raises:
        FormatError: negative values, or on no known scale.
    """
    if intensity is None:
        return None, 1.0, ("the file has no intensity",)
    values = intensity.astype(np.float64)
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return values.astype(np.float32), 1.0, ()
    low, high = float(finite.min()), float(finite.max())
    scale = full_scale if full_scale is not None else _full_scale(intensity.dtype, low, high, source)
    if low < 0:
        raise FormatError(
            f"{source}: intensity lies in {low:g} ... {high:g}, it cannot be negative; "
            "is it another column? (--columns, of a .bin; names in a first line, of text)"
        )
    if high > INTENSITY_SLACK * scale:
        raise FormatError(
            f"{source}: intensity reaches {high:g}, full scale is {scale:g} here; give the file's own as "
            "intensity_scale (--intensity-scale)"
        )
    notes = [] if scale == 1.0 or high == 0 else [f"intensity {low:g} ... {high:g} divided by {scale:g}"]
    if high > scale:
        notes.append(f"{int((finite > scale).sum())} intensities above {scale:g} clipped to 1")
    if high == 0:
        notes.append("intensity is 0 throughout")
    return np.clip(values / scale, 0.0, 1.0).astype(np.float32), scale, tuple(notes)


def _full_scale(dtype: np.dtype, low: float, high: float, source: Path) -> float:
    # integers never mean 0-1, floats do where they stay near it: no 0-255 sweep peaks at 2
    if dtype.kind == "f" and high <= INTENSITY_SLACK:
        return 1.0
    for scale in _SCALES:
        if high <= scale:
            return scale
    raise FormatError(
        f"{source}: intensity lies in {low:g} ... {high:g}, which is on no known scale (0-1, 0-255, "
        "0-65535); give what 1.0 is in this file as intensity_scale (--intensity-scale)"
    )
