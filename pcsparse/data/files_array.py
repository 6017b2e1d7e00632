"""NumPy files: plain (n, 3 or more) arrays, structured arrays, archives of them. Never a pickle."""

import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pcsparse.data.point_cloud import RawCloud, not_read
from pcsparse.errors import FormatError

INTENSITY_NAMES = ("intensity", "scalar_intensity", "remission", "reflectivity", "reflectance", "i")
"""Names of an intensity column, lower case, best first."""
RING_NAMES = ("ring", "laser_number", "laser_id", "channel")
"""Names of a ring column, lower case, best first."""
_CLOUD_KEYS = ("points", "pc", "xyz", "xyzi", "cloud", "data")


def read_npy(path: Path) -> RawCloud:
    """Points of a `.npy`: (n, 3 or more) columns x, y, z, intensity, or a structured array."""
    return _of_array(path, path.name, _load(path))


def read_npz(path: Path) -> RawCloud:
    """Points of a `.npz`: its only array, or the one named points, pc, xyz, xyzi, cloud or data.

    Separate arrays named as intensity and ring are used too, where the cloud has as many rows.
    """
    arrays = _load(path)
    if not isinstance(arrays, dict):
        raise FormatError(f"{path} is a .npy file with the ending .npz; rename it")
    names = [key for key in _CLOUD_KEYS if key in arrays] or (list(arrays) if len(arrays) == 1 else [])
    if not names:
        raise FormatError(
            f"{path} holds arrays {sorted(arrays)}; none is named {', '.join(_CLOUD_KEYS)}, so it is "
            "not clear which are the points; rename one"
        )
    raw = _of_array(path, f"{path.name}[{names[0]}]", arrays[names[0]])
    intensity, ring = raw.intensity, raw.ring
    for key, values in arrays.items():
        if values.shape != (len(raw.xyz),):
            continue
        if intensity is None and key.lower() in INTENSITY_NAMES:
            intensity = values
        if ring is None and key.lower() in RING_NAMES:
            ring = values
    return RawCloud(raw.xyz, intensity, ring=ring, notes=raw.notes)


def _load(path: Path) -> npt.NDArray | dict[str, npt.NDArray]:
    if path.stat().st_size == 0:
        raise FormatError(f"{path} has 0 bytes: the copy or the download broke off; fetch it again")
    try:
        # opened here: numpy leaves its own handle open when an archive is broken
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            with loaded:
                return {key: loaded[key] for key in loaded.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise FormatError(
            f"{path} ({path.stat().st_size} bytes) is no readable NumPy file of numbers ({error}); "
            "pickled objects are never loaded: save a plain array with np.save"
        ) from error


def _of_array(path: Path, label: str, array: npt.NDArray | dict[str, npt.NDArray]) -> RawCloud:
    if isinstance(array, dict):
        raise FormatError(f"{path} is a .npz archive with the ending .npy; rename it")
    if array.dtype.names is not None:
        return of_named_columns(path, array.ravel())
    if array.dtype.kind not in "fiu":
        raise FormatError(f"{path}: {label} has dtype {array.dtype}, points must be numbers")
    if array.ndim != 2 or array.shape[1] < 3:
        turned = "; save its transpose" if array.ndim == 2 and 3 <= array.shape[0] <= 8 else ""
        raise FormatError(
            f"{path}: {label} has shape {array.shape}, points must be (n, 3 or more): "
            f"x, y, z, intensity ...{turned}"
        )
    n_columns = array.shape[1]
    notes = not_read(f"column {i} (from 0)" for i in range(4, n_columns))
    return RawCloud(as_metres(array[:, :3]), array[:, 3] if n_columns > 3 else None, notes=notes)


def of_named_columns(path: Path, table: npt.NDArray) -> RawCloud:
    """Points of a structured array; names are compared in lower case.

    Raises:
        FormatError: x, y or z is missing; the text lists the columns there are.
    """
    names = {name.lower(): name for name in table.dtype.names or ()}
    if not {"x", "y", "z"} <= set(names):
        raise FormatError(f"{path} has the columns {sorted(names.values())}; x, y and z are needed")
    intensity = next((name for name in INTENSITY_NAMES if name in names), None)
    ring = next((name for name in RING_NAMES if name in names), None)
    if ring is not None and table[names[ring]].dtype.kind == "f":
        # a float that is no ring number would raise on its way to an integer
        whole = np.isfinite(table[names[ring]]) & (np.abs(table[names[ring]]) < 2**31)
        ring = ring if bool(whole.all()) else None
    unread = (names[name] for name in set(names) - {"x", "y", "z", intensity, ring})
    return RawCloud(
        xyz=as_metres(np.stack([table[names[axis]] for axis in "xyz"], axis=1)),
        intensity=None if intensity is None else table[names[intensity]],
        ring=None if ring is None else table[names[ring]],
        notes=not_read(unread),
    )


def as_metres(xyz: npt.NDArray) -> npt.NDArray[np.floating]:
    """Coordinates in float32 where that loses nothing, else in float64."""
    exact = xyz.dtype in (np.float16, np.float32, np.int8, np.uint8, np.int16, np.uint16)
    return xyz.astype(np.float32 if exact else np.float64, copy=False)
