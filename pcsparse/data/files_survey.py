"""Survey formats, read by their libraries: LAS / LAZ / COPC and E57. Coordinates are float64 in the world."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pcsparse.checks import require_extra
from pcsparse.data.files_scan import broken, refuse_empty
from pcsparse.data.point_cloud import RawCloud, not_read
from pcsparse.errors import FormatError

_E57_FIELDS = ("cartesianX", "cartesianY", "cartesianZ")
_E57_SPHERICAL = ("sphericalRange", "sphericalAzimuth", "sphericalElevation")

_E57_FULL_SCALES = tuple(float(2**bits - 1) for bits in range(8, 17))


def read_las(path: Path) -> RawCloud:
    """Points of a LAS, LAZ or COPC file.

    Intensity is a 16-bit number by the standard, but many files hold 8 bits in it: the shared rule (255 if no
    value is larger, else 65,535) applies.
    """
    laspy = require_extra("laspy", "io")
    refuse_empty(path)
    try:
        las = laspy.read(path)
        declared = int(las.header.point_count)
        xyz = np.asarray(las.xyz, dtype=np.float64)
        intensity = np.asarray(las.intensity)
    except Exception as error:
        raise broken(path, "LAS", error) from error
    if len(xyz) != declared:
        raise FormatError(
            f"{path}: the header promises {declared} points, {len(xyz)} are there; the file is truncated"
        )
    names = set(las.point_format.dimension_names) - {"X", "Y", "Z", "intensity"}
    return RawCloud(xyz, intensity, notes=not_read(names))


def read_e57(path: Path) -> RawCloud:
    """Points of all scans of an E57, each moved by its pose; points marked invalid become NaN."""
    pye57 = require_extra("pye57", "io")
    refuse_empty(path)
    try:
        with pye57.E57(str(path)) as file:
            scans = [_e57_scan(file, index) for index in range(file.scan_count)]
    except FormatError:
        raise
    except Exception as error:
        raise broken(path, "E57", error) from error
    if not scans:
        raise FormatError(f"{path} holds no scan; only E57 files with point data can be read")
    intensities = [intensity for _, intensity in scans if intensity is not None]
    notes = (f"{len(scans)} scans joined",) if len(scans) > 1 else ()
    if 0 < len(intensities) < len(scans):
        notes = (*notes, f"intensity of {len(intensities)} scans left out: the others have none")
    complete = len(intensities) == len(scans)
    return RawCloud(
        np.concatenate([xyz for xyz, _ in scans]),
        np.concatenate(intensities) if complete else None,
        notes=notes,
    )


def _e57_scan(file: Any, index: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64] | None]:
    header = file.get_header(index)
    columns = file.read_scan_raw(index, ignore_unsupported_fields=True)
    if set(_E57_FIELDS) <= set(columns):
        xyz = np.stack([columns[name] for name in _E57_FIELDS], axis=1).astype(np.float64)
        state = columns.get("cartesianInvalidState")
    elif set(_E57_SPHERICAL) <= set(columns):
        r, azimuth, elevation = (columns[name].astype(np.float64) for name in _E57_SPHERICAL)
        flat = r * np.cos(elevation)
        xyz = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), r * np.sin(elevation)], axis=1)
        state = columns.get("sphericalInvalidState")
    else:
        raise FormatError(f"scan {index} has the columns {sorted(columns)}; no Cartesian or spherical points")
    if state is not None:
        xyz[state != 0] = np.nan
    if header.has_pose():
        xyz = xyz @ header.rotation_matrix.T + header.translation
    return xyz, _e57_intensity(header, columns.get("intensity"))


def _e57_intensity(header: Any, values: npt.NDArray | None) -> npt.NDArray[np.float64] | None:
    """Intensity on 0-1 where the header's limits are those of a sensor, else as it is.

    Writers state what the sensor can give (0 ... 4095, -2047 ... 2048) or merely what occurs. The latter
    would stretch a dark scan, so only a signed scale and maxima of 2^n - 1 are believed.
    """
    if values is None:
        return None
    values = values.astype(np.float64)
    if "intensityLimits" not in header.scan_fields:
        return values
    low, high = float(header.intensityMinimum), float(header.intensityMaximum)
    if low < 0 and high > low:
        return (values - low) / (high - low)
    return values / high if high in _E57_FULL_SCALES else values
