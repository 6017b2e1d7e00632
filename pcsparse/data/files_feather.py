"""Argoverse 2 feather, read and written by pyarrow."""

from pathlib import Path
from typing import Any

import numpy as np

from pcsparse.checks import require_extra
from pcsparse.data.files_array import of_named_columns
from pcsparse.data.files_faults import broken, refuse_empty
from pcsparse.data.files_table import Table, check_rows, columns_of, flat
from pcsparse.data.point_cloud import RawCloud
from pcsparse.errors import FormatError


def read_feather(path: Path) -> RawCloud:
    """Points of an Argoverse 2 sweep: x, y, z (half floats), intensity 0-255, laser_number, offset_ns."""
    raw = of_named_columns(path, feather_table(path))
    full_scale = 255.0 if raw.intensity is not None and raw.intensity.dtype == np.uint8 else None
    return RawCloud(raw.xyz, raw.intensity, full_scale, raw.ring, raw.notes)


def feather_table(path: Path) -> Table:
    """All columns of numbers; a number that is absent is NaN."""
    table = _load(path)
    try:
        columns = {name: table[name].to_numpy() for name in table.column_names if _is_numeric(table[name])}
    except Exception as error:
        raise broken(path, "feather", error) from error
    if not columns:
        raise FormatError(f"{path} has the columns {table.column_names}; x, y and z are needed")
    return columns_of(columns)


def write_feather(path: Path, table: Table) -> tuple[str, ...]:
    """A feather of the same columns; names and dtypes stay."""
    arrow = require_extra("pyarrow", "io")
    _save(path, arrow.table(dict(flat(table))))
    return ()


def add_to_feather(path: Path, source: Path, added: Table) -> tuple[str, ...]:
    """Another feather with further columns: its columns, those of text too, and its metadata are kept."""
    arrow = require_extra("pyarrow", "io")
    table = _load(source)
    check_rows(table.num_rows, added)
    for name in added.dtype.names or ():
        values = arrow.array(np.ascontiguousarray(added[name]))
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, values)
        else:
            table = table.append_column(name, values)
    _save(path, table)
    return ()


def _load(path: Path) -> Any:
    feather: Any = require_extra("pyarrow.feather", "io")
    refuse_empty(path)
    try:
        return feather.read_table(path, memory_map=False)
    except Exception as error:
        raise broken(path, "feather", error) from error


def _save(path: Path, table: Any) -> None:
    feather: Any = require_extra("pyarrow.feather", "io")
    feather.write_feather(table, str(path))


def _is_numeric(column: Any) -> bool:
    types: Any = require_extra("pyarrow.types", "io")
    return bool(types.is_integer(column.type) or types.is_floating(column.type))
