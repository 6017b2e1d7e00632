"""Scan formats with named columns, read by their libraries: PCD, PLY, Argoverse 2 feather."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pcsparse.checks import require_extra
from pcsparse.data.files_array import of_named_columns
from pcsparse.data.point_cloud import RawCloud
from pcsparse.errors import FormatError, PcsparseError


def refuse_empty(path: Path) -> None:
    """Raise FormatError for a file of 0 bytes."""
    if path.stat().st_size == 0:
        raise FormatError(f"{path} has 0 bytes: the copy or the download broke off; fetch it again")


def broken(path: Path, kind: str, error: Exception) -> FormatError:
    """What a library's own exception becomes."""
    # libraries put whole reports into their messages; the first line names the fault
    said = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {said[0]}" if said else type(error).__name__
    size = path.stat().st_size
    return FormatError(
        f"{path} ({size} bytes) is no readable {kind} file ({reason}); it is truncated, or another format "
        "under this ending: check the header and fetch it again"
    )


def read_pcd(path: Path) -> RawCloud:
    """Points of a PCD: ascii, binary or compressed, organised or not; any fields beside x, y, z."""
    pypcd4 = require_extra("pypcd4", "io")
    refuse_empty(path)
    try:
        cloud = pypcd4.PointCloud.from_path(path)
        declared = int(cloud.metadata.points)
        table = np.atleast_1d(cloud.pc_data)
    except PcsparseError:
        raise
    except Exception as error:
        raise broken(path, "PCD", error) from error
    if len(table) != declared:
        raise FormatError(
            f"{path}: the header promises {declared} points, {len(table)} are there; the file is truncated"
        )
    # the library names unnamed fields anew at random
    named = [name for name in table.dtype.names or () if name.isidentifier()]
    return of_named_columns(path, table[named])


def read_ply(path: Path) -> RawCloud:
    """Points of a PLY: element `vertex`, either byte order, any properties beside x, y, z."""
    plyfile = require_extra("plyfile", "io")
    refuse_empty(path)
    try:
        ply = plyfile.PlyData.read(str(path), mmap=False)
        elements = [element.name for element in ply.elements]
        table = ply["vertex"].data if "vertex" in elements else None
    except Exception as error:
        raise broken(path, "PLY", error) from error
    if table is None:
        raise FormatError(f"{path} has the elements {elements}; points are read from 'vertex'")
    return of_named_columns(path, _scalars(table))


def _scalars(table: npt.NDArray) -> npt.NDArray:
    """The table without its list properties, which NumPy holds as objects."""
    names = [name for name in table.dtype.names or () if table.dtype[name].kind in "fiu"]
    return table[names]


def read_feather(path: Path) -> RawCloud:
    """Points of an Argoverse 2 sweep: x, y, z (half floats), intensity 0-255, laser_number."""
    feather: Any = require_extra("pyarrow.feather", "io")
    refuse_empty(path)
    try:
        table = feather.read_table(path, memory_map=False)
        kinds = {name: table[name].to_numpy() for name in table.column_names if _is_numeric(table[name])}
    except Exception as error:
        raise broken(path, "feather", error) from error
    if not kinds:
        raise FormatError(f"{path} has the columns {table.column_names}; x, y and z are needed")
    rows = np.empty(table.num_rows, dtype=[(name, values.dtype) for name, values in kinds.items()])
    for name, values in kinds.items():
        rows[name] = values
    raw = of_named_columns(path, rows)
    full_scale = 255.0 if raw.intensity is not None and raw.intensity.dtype == np.uint8 else None
    return RawCloud(raw.xyz, raw.intensity, full_scale, raw.ring, raw.notes)


def _is_numeric(column: Any) -> bool:
    types: Any = require_extra("pyarrow.types", "io")
    return bool(types.is_integer(column.type) or types.is_floating(column.type))
