"""PLY, read and written by plyfile: text or binary, either byte order, any elements and properties."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pcsparse.checks import require_extra
from pcsparse.data.files_array import of_named_columns
from pcsparse.data.files_faults import broken, refuse_empty
from pcsparse.data.files_table import Table, columns_of, flat, joined, save_text
from pcsparse.data.point_cloud import RawCloud
from pcsparse.errors import FormatError

# what float64 counts exactly
_EXACT = 2**53


def read_ply(path: Path) -> RawCloud:
    """Points of a PLY: element `vertex`, any properties beside x, y, z."""
    return of_named_columns(path, ply_table(path))


def ply_table(path: Path) -> Table:
    """All properties of the vertices but lists, which NumPy holds as objects."""
    table = _vertices(path, _load(path)).data
    return table[[name for name in table.dtype.names or () if table.dtype[name].kind in "fiu"]]


def write_ply(path: Path, table: Table) -> tuple[str, ...]:
    """A binary, little-endian PLY; double coordinates where the table has them so."""
    plyfile = require_extra("plyfile", "io")
    columns, notes = {}, []
    for name, values in flat(table).items():
        columns[_property_name(name)], rounded = _storable(values)
        if rounded:
            notes.append(f"{name} rounded to double: PLY has no integers of 64 bits")
    element = plyfile.PlyElement.describe(columns_of(columns), "vertex")
    plyfile.PlyData([element], byte_order="<").write(str(path))
    return tuple(notes)


def add_to_ply(path: Path, source: Path, added: Table) -> tuple[str, ...]:
    """Another PLY with further properties: elements, lists, comments and byte order are kept.

    Big-endian files with lists become little-endian.
    """
    plyfile = require_extra("plyfile", "io")
    ply = _load(source)
    before, names = _vertices(source, ply), added.dtype.names or ()
    properties = [p for p in before.properties if p.name not in names]
    properties += [plyfile.PlyProperty(name, added.dtype[name].str[1:]) for name in names]
    after = plyfile.PlyElement("vertex", properties, before.count, before.comments)
    after.data = joined(before.data, added)
    ply.elements = [after if element.name == "vertex" else element for element in ply.elements]
    lists = any(_is_list(p) for element in ply.elements for p in element.properties)
    notes: tuple[str, ...] = ()
    if lists and not ply.text and ply.byte_order == ">":
        # the library writes scalars beside lists in the byte order of this machine
        ply.byte_order = "<"
        notes = ("little-endian, the source is big-endian",)
    if ply.text and len(ply.elements) == 1 and not lists:
        # the library writes text row by row, many times slower
        save_text(path, f"{ply.header}\n", after.data)
    else:
        ply.write(str(path))
    return notes


def _load(path: Path) -> Any:
    plyfile = require_extra("plyfile", "io")
    refuse_empty(path)
    try:
        with warnings.catch_warnings():
            # an empty list in a text file makes NumPy warn
            warnings.simplefilter("ignore", UserWarning)
            # without a map the library reads row by row; copied, as the file may go
            ply = plyfile.PlyData.read(str(path), mmap="r")
            for element in ply.elements:
                element.data = np.array(element.data)
    except Exception as error:
        raise broken(path, "PLY", error) from error
    _refuse_leftovers(path, ply)
    return ply


def _refuse_leftovers(path: Path, ply: Any) -> None:
    """Raise FormatError for rows behind those of the header, which the library does not look at.

    Less than a row, such as the end of a line behind binary data, is no point.
    """
    if any(_is_list(p) for element in ply.elements for p in element.properties):
        # only the library knows how long its rows are
        return
    with path.open("rb") as file:
        for line in file:
            if line.strip() == b"end_header":
                break
        start = file.tell()
        if ply.text:
            promised, there = sum(e.count for e in ply.elements), sum(1 for line in file if line.strip())
            row = 1
        else:
            promised, there = sum(e.data.nbytes for e in ply.elements), path.stat().st_size - start
            # an element without properties has rows of no bytes
            row = max(1, min((e.data.itemsize for e in ply.elements), default=1))
    if there >= promised + row:
        unit = "lines" if ply.text else "bytes"
        raise FormatError(
            f"{path}: the header promises {promised} {unit} of data, {there} are there; points would be "
            "lost: correct the header"
        )


def _vertices(path: Path, ply: Any) -> Any:
    elements = [element.name for element in ply.elements]
    if "vertex" not in elements:
        raise FormatError(f"{path} has the elements {elements}; points are read from 'vertex'")
    return ply["vertex"]


def _is_list(ply_property: Any) -> bool:
    return hasattr(ply_property, "len_dtype")


def _property_name(name: str) -> str:
    """Names of properties have no blanks."""
    return "_".join(name.split())


def _storable(values: npt.NDArray) -> tuple[npt.NDArray, bool]:
    """The values in a type that PLY has, and whether that rounds them."""
    if values.dtype == np.float16:
        return values.astype(np.float32), False
    if values.dtype.itemsize < 8 or values.dtype.kind == "f":
        return values, False
    narrow = np.dtype(np.int32 if values.dtype.kind == "i" else np.uint32)
    limits = np.iinfo(narrow)
    if len(values) == 0 or (values.min() >= limits.min and values.max() <= limits.max):
        return values.astype(narrow), False
    return values.astype(np.float64), bool(values.max() > _EXACT or values.min() < -_EXACT)
