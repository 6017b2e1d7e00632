"""Points and predictions to files of any known format, whole or not at all."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pcsparse.data import (
    files_array,
    files_bin,
    files_e57,
    files_e57_copy,
    files_feather,
    files_las,
    files_pcd,
    files_ply,
    files_text,
)
from pcsparse.data.files_faults import refuse_empty, refuse_other_kind
from pcsparse.data.files_table import CLASS_COLUMN, CONFIDENCE_COLUMN, PointClasses, Table, joined, table_of
from pcsparse.data.point_cloud import PointCloud
from pcsparse.errors import FormatError, PcsparseError, RangeError, UnsupportedError
from pcsparse.whole_file import whole_file

_Notes = tuple[str, ...]


class _Format(NamedTuple):
    """How a format's columns are read, written anew, and written with further ones beside all it holds."""

    read: Callable[[Path], Table]
    write: Callable[[Path, Table], _Notes]
    add: Callable[[Path, Path, Table], _Notes]


_LAS = _Format(files_las.las_table, files_las.write_las, files_las.add_to_las)
_FORMATS = {
    ".npy": _Format(files_array.npy_table, files_array.write_npy, files_array.add_to_npy),
    ".npz": _Format(files_array.npz_table, files_array.write_npz, files_array.add_to_npz),
    ".pcd": _Format(files_pcd.pcd_table, files_pcd.write_pcd, files_pcd.add_to_pcd),
    ".ply": _Format(files_ply.ply_table, files_ply.write_ply, files_ply.add_to_ply),
    ".feather": _Format(
        files_feather.feather_table, files_feather.write_feather, files_feather.add_to_feather
    ),
    ".las": _LAS,
    ".laz": _LAS,
    ".e57": _Format(files_e57.e57_table, files_e57.write_e57, files_e57_copy.add_to_e57),
    ".xyz": _Format(files_text.text_table, files_text.write_xyz, files_text.add_to_text),
    ".csv": _Format(files_text.text_table, files_text.write_csv, files_text.add_to_text),
    ".txt": _Format(files_text.text_table, files_text.write_xyz, files_text.add_to_text),
}
WRITABLE = (".bin", *_FORMATS)
"""Endings of the point files that can be written."""


def write_points(path: str | Path, cloud: PointCloud, classes: PointClasses | None = None) -> _Notes:
    """Write a cloud, and what a model says of it, in the format of the ending.

    World coordinates leave as they came: the origin is added in float64. What else the file of the cloud
    held, and rows that were dropped, are not in it: `write_classes` keeps them.

    Args:
        path: .bin .npy .npz .pcd .ply .las .laz .e57 .feather .xyz .csv .txt; its folder is made where it is
            missing.
        cloud: the points.
        classes: a row a point of the cloud (not a row of its file); None for none.

    Returns:
        What a user should know of the file, one sentence each.

    Raises:
        FormatError: an unknown ending, or a broken source.
        RangeError: another number of classes than points.
        UnsupportedError: the format cannot hold these points, or needs the extra `io`.
    """
    table = table_of(cloud)
    return _write_new(Path(path), table, classes)


def write_classes(
    path: str | Path,
    source: str | Path,
    classes: PointClasses,
    *,
    columns: int | None = None,
    dtype: str | None = None,
) -> _Notes:
    """Write a point file again with the classes as columns, in the same format or another.

    In the same format (LAS and LAZ are one) all that the file holds is kept: columns, header, coordinates to
    the bit. In another format all columns are kept that it can hold.

    Args:
        path: where to; not the source.
        source: the point file.
        classes: a row for every row of the file (`PointCloud.to_file_rows`).
        columns: of a `.bin` source, as in `read_points`.
        dtype: of a `.bin` source likewise.

    Returns:
        What a user should know of the file, one sentence each.

    Raises:
        FormatError: an unknown ending, or a broken source.
        RangeError: another number of classes than rows; the source would be overwritten.
        UnsupportedError: the format cannot hold these points, or needs the extra `io`.
    """
    path, source = Path(path), Path(source)
    if path.exists() and path.samefile(source):
        raise RangeError(f"{path} would be overwritten by its own classes; write to another folder")
    refuse_empty(source)
    refuse_other_kind(source)
    before, after = source.suffix.lower(), path.suffix.lower()
    if before == after == ".bin":
        return _whole(path, lambda name: files_bin.add_to_bin(name, source, classes.table(), columns, dtype))
    known = _FORMATS.get(before)
    if known is not None and known is _FORMATS.get(after):
        added = classes.las_table() if known is _LAS else classes.table()
        return _whole(path, lambda name: known.add(name, source, added))
    table = files_bin.bin_table(source, columns, dtype) if known is None else known.read(source)
    notes = _to_metres(table, source) if known is _LAS else ()
    return (*_write_new(path, _lower_axes(table), classes), *notes)


def read_classes(path: str | Path) -> PointClasses | None:
    """What `write_classes` added to a point file.

    Args:
        path: a point file; `.bin`, `.npy` and text files without names for their columns say nothing.

    Returns:
        A row for every row of the file, or None where it has no such column.

    Raises:
        FormatError: a broken file.
        UnsupportedError: the format needs the extra `io`.
    """
    path = Path(path)
    known = _FORMATS.get(path.suffix.lower())
    if known is None:
        return None
    table = known.read(path)
    names = table.dtype.names or ()
    if CLASS_COLUMN not in names:
        return None
    confidence = np.asarray(table[CONFIDENCE_COLUMN], np.float32) if CONFIDENCE_COLUMN in names else None
    return PointClasses(np.asarray(table[CLASS_COLUMN]).astype(np.uint16), confidence)


def _to_metres(table: Table, source: Path) -> _Notes:
    """Convert the coordinates of a LAS in feet: no other format has a place for its unit."""
    units = files_las.units_of_las(source)
    for axis, factor in zip("xyz", units.factors, strict=True):
        if factor != 1.0:
            table[axis] *= factor
    return units.notes


def _write_new(path: Path, table: Table, classes: PointClasses | None) -> _Notes:
    suffix = path.suffix.lower()
    if suffix not in WRITABLE:
        raise FormatError(f"{path} has an unknown ending {suffix!r}; known: {' '.join(WRITABLE)}")
    write = _FORMATS[suffix].write if suffix in _FORMATS else files_bin.write_bin
    if suffix == ".e57":
        # its scan has a name, which is not that of the temporary file
        write = partial(files_e57.write_e57, name=path.stem)
    if classes is not None:
        added = classes.las_table() if suffix in (".las", ".laz") else classes.table()
        table = joined(table, added)
    return _whole(path, lambda name: write(name, table))


def _whole(path: Path, write: Callable[[Path], _Notes]) -> _Notes:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        try:
            return write(temporary)
        except UnsupportedError as error:
            raise UnsupportedError(f"{path}: {error}") from error
        except (PcsparseError, OSError, MemoryError):
            raise
        except Exception as error:
            # libraries have exceptions of their own
            raise FormatError(f"{path} could not be written ({type(error).__name__}: {error})") from error


def _lower_axes(table: Table) -> Table:
    """x, y and z by these names, as every writer looks for them."""
    names = tuple(name.lower() if name.lower() in "xyz" else name for name in table.dtype.names or ())
    if names == table.dtype.names:
        return table
    renamed = table.copy()
    renamed.dtype.names = names
    return renamed
