"""E57, read and written by pye57: scans with poses, invalid points, intensity limits, extensions."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pcsparse.checks import require_extra
from pcsparse.data.files_array import INTENSITY_NAMES
from pcsparse.data.files_e57_nodes import COLOURS, read_columns, write_scan
from pcsparse.data.files_faults import broken, refuse_empty
from pcsparse.data.files_table import Table, columns_of, flat
from pcsparse.data.point_cloud import RawCloud, not_read
from pcsparse.errors import FormatError

_CARTESIAN = ("cartesianX", "cartesianY", "cartesianZ")
_SPHERICAL = ("sphericalRange", "sphericalAzimuth", "sphericalElevation")
_STATES = ("cartesianInvalidState", "sphericalInvalidState", "isIntensityInvalid")
_USED = {*_CARTESIAN, *_SPHERICAL, *_STATES, "intensity"}
_UNIT = (0.0, 1.0)
_FULL_SCALES = (1.0, *(float(2**bits - 1) for bits in range(8, 17)))
# the standard's word for a point of which nothing is known
_NO_POINT = 2


@dataclass(frozen=True, eq=False)
class _Scan:
    """One scan: (n, 3) metres in the world, NaN where invalid; intensity as stored; and its other columns.

    `limits` are what 0 and 1 are in the intensity, None where the header's are not believed; `unlit`, (n,),
    says where intensity is marked invalid.
    """

    xyz: npt.NDArray[np.float64]
    intensity: npt.NDArray[np.float64] | None
    limits: tuple[float, float] | None
    unlit: npt.NDArray[np.bool_]
    others: dict[str, npt.NDArray]


def read_e57(path: Path) -> RawCloud:
    """Points of all scans of an E57, each moved by its pose; points marked invalid become NaN.

    Intensity that the file marks as invalid is 0.
    """
    scans = _load(path)
    notes = (f"{len(scans)} scans joined",) if len(scans) > 1 else ()
    lit = [scan for scan in scans if scan.intensity is not None]
    if 0 < len(lit) < len(scans):
        notes = (*notes, f"intensity of {len(lit)} scans left out: the others have none")
    if n_unlit := sum(int(scan.unlit.sum()) for scan in lit):
        notes = (*notes, f"intensity of {n_unlit} points is marked invalid: 0 is used")
    intensity = _intensity(scans)
    unknown = sum(scan.limits is None for scan in lit)
    scaled = any(scan.limits not in (None, _UNIT) for scan in lit)
    if intensity is not None and unknown and scaled:
        notes = (
            *notes,
            f"intensity limits left unused: those of {unknown} of {len(lit)} scans are no full scale",
        )
    return RawCloud(
        np.concatenate([scan.xyz for scan in scans]),
        intensity,
        notes=(*notes, *not_read({name for scan in scans for name in scan.others})),
    )


def e57_table(path: Path) -> Table:
    """The columns that all scans have, x, y, z in the world; `scan` is its number where there are several."""
    scans = _load(path)
    columns = {axis: np.concatenate([scan.xyz[:, i] for scan in scans]) for i, axis in enumerate("xyz")}
    if (intensity := _intensity(scans)) is not None:
        columns["intensity"] = intensity
    for name in scans[0].others:
        if all(name in scan.others for scan in scans):
            columns[COLOURS.get(name, name)] = np.concatenate([scan.others[name] for scan in scans])
    if len(scans) > 1:
        numbers = np.arange(len(scans), dtype=np.uint16)
        columns["scan"] = np.repeat(numbers, [len(scan.xyz) for scan in scans])
    return columns_of(columns)


def write_e57(path: Path, table: Table, name: str | None = None) -> tuple[str, ...]:
    """An E57 of one scan without a pose; a point or an intensity that is not finite is marked invalid.

    Columns that the standard does not know are written under an extension, `pcsparse:NAME`. The scan
    is called `name`, or as the file without its ending.
    """
    columns = flat(table)
    xyz = {f"cartesian{axis.upper()}": columns.pop(axis) for axis in "xyz"}
    valid = np.all([np.isfinite(values) for values in xyz.values()], axis=0)
    if not valid.all():
        xyz = {name: np.where(valid, values, 0) for name, values in xyz.items()}
        xyz[_STATES[0]] = np.where(valid, 0, _NO_POINT).astype(np.uint8)
    lower = {name.lower(): name for name in columns}
    intensity = next((lower[name] for name in INTENSITY_NAMES if name in lower), None)
    notes: tuple[str, ...] = ()
    if intensity is not None:
        xyz["intensity"] = columns.pop(intensity)
        unlit = ~np.isfinite(xyz["intensity"])
        if n_unlit := int(np.count_nonzero(unlit)):
            notes = (f"intensity of {n_unlit} points is NaN or infinite: marked invalid",)
            xyz["intensity"] = np.where(unlit, 0, xyz["intensity"])
            xyz[_STATES[2]] = unlit.astype(np.uint8)
    write_scan(path, name or path.stem, xyz, columns)
    return notes


def _load(path: Path) -> list[_Scan]:
    pye57 = require_extra("pye57", "io")
    refuse_empty(path)
    try:
        with pye57.E57(str(path)) as file:
            scans = [_scan(file, index) for index in range(file.scan_count)]
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error
    except Exception as error:
        raise broken(path, "E57", error) from error
    if not scans:
        raise FormatError(f"{path} holds no scan; only E57 files with point data can be read")
    return scans


def _scan(file: Any, index: int) -> _Scan:
    header = file.get_header(index)
    columns = read_columns(file, header)
    if set(_CARTESIAN) <= set(columns):
        xyz = np.stack([columns[name] for name in _CARTESIAN], axis=1).astype(np.float64)
        state = columns.get(_STATES[0])
    elif set(_SPHERICAL) <= set(columns):
        r, azimuth, elevation = (columns[name].astype(np.float64) for name in _SPHERICAL)
        level = r * np.cos(elevation)
        xyz = np.stack([level * np.cos(azimuth), level * np.sin(azimuth), r * np.sin(elevation)], axis=1)
        state = columns.get(_STATES[1])
    else:
        raise FormatError(f"scan {index} has the columns {sorted(columns)}; no Cartesian or spherical points")
    if state is not None:
        xyz[state != 0] = np.nan
    if header.has_pose():
        xyz = xyz @ header.rotation_matrix.T + header.translation
    intensity = columns.get("intensity")
    unlit = columns.get(_STATES[2], np.zeros(len(xyz))) != 0
    return _Scan(
        xyz,
        None if intensity is None else intensity.astype(np.float64),
        _limits(header) or _unit_limits(intensity, unlit),
        unlit,
        {name: values for name, values in columns.items() if name not in _USED},
    )


def _limits(header: Any) -> tuple[float, float] | None:
    """What 0 and 1 are in a scan's intensity, or None where the header's limits are not those of a sensor.

    Writers state what the sensor can give (0 ... 4095, -2047 ... 2048) or merely what occurs. The latter
    would stretch a dark scan, so only a signed scale and maxima of 1 and 2^n - 1 are believed.
    """
    if "intensityLimits" not in header.scan_fields:
        return None
    low, high = float(header.intensityMinimum), float(header.intensityMaximum)
    if low < 0 and high > low:
        return low, high
    return (0.0, high) if high in _FULL_SCALES else None


def _unit_limits(intensity: npt.NDArray | None, unlit: npt.NDArray[np.bool_]) -> tuple[float, float] | None:
    """0 and 1 where nothing is beyond them: a scan that is on 0-1 already, all dark or empty; else None."""
    if intensity is None:
        return None
    lit = intensity[~unlit]
    return _UNIT if not len(lit) or (lit.min() >= 0 and lit.max() <= 1) else None


def _intensity(scans: list[_Scan]) -> npt.NDArray[np.float64] | None:
    """Intensity of all scans, None unless all have it: on 0-1 where all limits are believed, else as stored.

    A scan on 0-1 beside one on 0-255 would be divided again with the whole column. A signed scale is always
    brought to 0-1, as intensity cannot be negative.
    """
    believed = all(scan.limits is not None for scan in scans)
    parts = []
    for scan in scans:
        if scan.intensity is None:
            return None
        low, high = scan.limits or _UNIT
        if not believed and low >= 0:
            low, high = _UNIT
        parts.append(np.where(scan.unlit, 0.0, (scan.intensity - low) / (high - low)))
    return np.concatenate(parts)
