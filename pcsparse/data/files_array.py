"""NumPy files: (n, 3 or more) arrays, structured arrays, archives of them or of columns. Never a pickle."""

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from pcsparse.data.files_table import Table, check_rows, columns_of, flat, joined, xyz_of
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


def npy_table(path: Path) -> Table:
    """All columns of a `.npy`; those of a plain array are x, y, z, intensity, column_4, column_5 ..."""
    array = _load(path)
    # the same refusals as in reading
    _of_array(path, path.name, array)
    return _table_of_array(cast(npt.NDArray, array))


def write_npy(path: Path, table: Table) -> tuple[str, ...]:
    """A structured array."""
    _save(path, table)
    return ()


def add_to_npy(path: Path, source: Path, added: Table) -> tuple[str, ...]:
    """Another array with further fields; a plain one gets further columns, in floats that hold them."""
    before = cast(npt.NDArray, _load(source))
    if before.dtype.names is not None:
        _save(path, joined(before.ravel(), added))
        return ()
    # float32 holds every class id; bytes and half floats do not
    wanted = np.result_type(before.dtype, np.float32)
    columns = flat(joined(table_of_rows(before), added))
    _save(path, np.stack([values.astype(wanted) for values in columns.values()], axis=1))
    return (numbered(columns),)


def numbered(columns: Iterable[str]) -> str:
    """The note on columns that have no names in the file."""
    return f"columns (from 0): {', '.join(f'{i} {name}' for i, name in enumerate(columns))}"


def _save(path: Path, array: npt.NDArray) -> None:
    # by a handle: the name as it is
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def read_npz(path: Path) -> RawCloud:
    """Points of a `.npz`: its only array, or the one named points, pc, xyz, xyzi, cloud or data.

    Without such a one they are the columns x, y and z, (n,) each; names are compared in lower case. Separate
    arrays named as intensity and ring are used too, where the cloud has as many rows.
    """
    arrays, key = _load_archive(path)
    if key is None:
        columns = _columns(arrays, _length(arrays, key))
        return of_named_columns(path, columns_of({k: v for k, v in columns.items() if v.ndim == 1}))
    raw = _of_array(path, f"{path.name}[{key}]", arrays[key])
    intensity, ring = raw.intensity, raw.ring
    for key, values in arrays.items():
        if values.shape != (len(raw.xyz),):
            continue
        if intensity is None and key.lower() in INTENSITY_NAMES:
            intensity = values
        if ring is None and key.lower() in RING_NAMES:
            ring = values
    return RawCloud(raw.xyz, intensity, ring=ring, notes=raw.notes)


def npz_table(path: Path) -> Table:
    """All columns of the points of a `.npz`, and its other arrays with a row a point."""
    arrays, key = _load_archive(path)
    if key is None:
        return columns_of(_columns(arrays, _length(arrays, key)))
    _of_array(path, f"{path.name}[{key}]", arrays[key])
    table = _table_of_array(arrays[key])
    columns = {name: table[name] for name in table.dtype.names or ()}
    for name, values in _columns(arrays, len(table)).items():
        columns.setdefault(name, values)
    columns.pop(key, None)
    return columns_of(columns)


def write_npz(path: Path, table: Table) -> tuple[str, ...]:
    """`points` (n, 3) and an array for each other column."""
    arrays = {name: table[name] for name in table.dtype.names or () if name not in ("x", "y", "z")}
    _save_archive(path, {"points": xyz_of(table), **arrays})
    return ()


def add_to_npz(path: Path, source: Path, added: Table) -> tuple[str, ...]:
    """Another archive with an array for each further column."""
    arrays, key = _load_archive(source)
    check_rows(_length(arrays, key), added)
    _save_archive(path, {**arrays, **{name: added[name] for name in added.dtype.names or ()}})
    return ()


def _save_archive(path: Path, arrays: dict[str, npt.NDArray]) -> None:
    # keys are the file's: savez would take one named `file` for its own argument
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, values in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(values), allow_pickle=False)


def _load_archive(path: Path) -> tuple[dict[str, npt.NDArray], str | None]:
    """The arrays of a `.npz` and the name of the one with the points; None: they are columns x, y and z."""
    arrays = _load(path)
    if not isinstance(arrays, dict):
        raise FormatError(f"{path} is a .npy file with the ending .npz; rename it")
    names = [key for key in _CLOUD_KEYS if key in arrays] or (list(arrays) if len(arrays) == 1 else [])
    if names:
        return arrays, names[0]
    axes = _axes(arrays)
    shapes = {values.shape for values in axes.values()}
    numbers = all(values.ndim == 1 and values.dtype.kind in "fiu" for values in axes.values())
    if set(axes) != set("xyz") or len(shapes) != 1 or not numbers:
        raise FormatError(
            f"{path} holds arrays {sorted(arrays)}; none is named {', '.join(_CLOUD_KEYS)}, and x, y and z "
            "are no columns of one length, so it is not clear which are the points; rename one"
        )
    return arrays, None


def _axes(arrays: dict[str, npt.NDArray]) -> dict[str, npt.NDArray]:
    return {name.lower(): values for name, values in arrays.items() if name.lower() in ("x", "y", "z")}


def _length(arrays: dict[str, npt.NDArray], key: str | None) -> int:
    """Points of an archive, as `_load_archive` gives it."""
    return len(_axes(arrays)["x"] if key is None else arrays[key])


def _columns(arrays: dict[str, npt.NDArray], n_points: int) -> dict[str, npt.NDArray]:
    """The arrays of numbers with a row a point."""
    return {
        name: values
        for name, values in arrays.items()
        if values.shape[:1] == (n_points,) and values.ndim <= 2 and values.dtype.kind in "fiub"
    }


def _table_of_array(array: npt.NDArray) -> Table:
    if array.dtype.names is not None:
        return array.ravel()
    return table_of_rows(array)


def table_of_rows(rows: npt.NDArray, ring: int | None = None) -> Table:
    """A table of (n, 3 or more) numbers: x, y, z, intensity, column_4 ...; `ring` is the column of rings."""
    names = ["x", "y", "z", "intensity", *(f"column_{i}" for i in range(4, rows.shape[1]))]
    if ring is not None:
        names[ring] = "ring"
    return columns_of(dict(zip(names, rows.T, strict=False)))


def _load(path: Path) -> npt.NDArray | dict[str, npt.NDArray]:
    if path.stat().st_size == 0:
        raise FormatError(f"{path} has 0 bytes: the copy or the download broke off; fetch it again")
    try:
        # opened here: numpy leaves its own handle open when an archive is broken
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                behind = path.stat().st_size - file.tell()
                if behind:
                    raise FormatError(f"{path} holds {behind} bytes behind its array; save one array a file")
                return loaded
            with loaded:
                arrays = {key: loaded[key] for key in loaded.files}
                # what is no array comes as bytes
                return {key: values for key, values in arrays.items() if isinstance(values, np.ndarray)}
    except FormatError:
        raise
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
        raise FormatError(f"{path.parent / label} has dtype {array.dtype}, points must be numbers")
    if array.ndim != 2 or array.shape[1] < 3:
        turned = "; save its transpose" if array.ndim == 2 and 3 <= array.shape[0] <= 8 else ""
        raise FormatError(
            f"{path.parent / label} has shape {array.shape}, points must be (n, 3 or more): "
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
