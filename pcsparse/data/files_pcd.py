"""PCD, read and written by pypcd4: ascii, binary or compressed, organised or not."""

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pcsparse.checks import require_extra
from pcsparse.data.files_array import of_named_columns
from pcsparse.data.files_faults import broken, refuse_empty, refuse_fewer, refuse_more
from pcsparse.data.files_table import Table, columns_of, flat, joined, save_text
from pcsparse.data.point_cloud import RawCloud

# how the library begins the names of unnamed fields
_UNNAMED = "#$%&~~"
_MAX_HEADER_LINES = 20
# the compressor's lengths are 32 bits
_MAX_COMPRESSED = 2**31


def read_pcd(path: Path) -> RawCloud:
    """Points of a PCD; any fields beside x, y, z."""
    return of_named_columns(path, pcd_table(path))


def pcd_table(path: Path) -> Table:
    """All named fields of a PCD; a field of k values is k columns NAME__0000 ..."""
    table = _load(path).pc_data
    # the library names unnamed fields anew at random
    return table[[name for name in table.dtype.names or () if not name.startswith(_UNNAMED)]]


def write_pcd(path: Path, table: Table) -> tuple[str, ...]:
    """A compressed PCD, one row of points; double coordinates where the table has them so.

    A reader that knows only float32 coordinates, such as PCL's PointXYZ, cannot take double ones.
    """
    pypcd4 = require_extra("pypcd4", "io")
    columns = {name: _storable(values) for name, values in flat(table).items()}
    fields = [(name, *_kind(values.dtype), 1) for name, values in columns.items()]
    shape = {"points": len(table), "width": len(table), "height": 1}
    meta = pypcd4.MetaData(**_described(fields), **shape)
    _save(path, meta, columns_of(columns), pypcd4.Encoding.BINARY_COMPRESSED)
    return ()


def add_to_pcd(path: Path, source: Path, added: Table) -> tuple[str, ...]:
    """Another PCD with further fields: its encoding, its width and height and its viewpoint are kept."""
    cloud = _load(source)
    meta, names = cloud.metadata, added.dtype.names or ()
    fields = [f for f in zip(meta.fields, meta.type, meta.size, meta.count, strict=True) if f[0] not in names]
    fields += [(name, *_kind(added.dtype[name]), 1) for name in names]
    _save(path, meta.derive(**_described(fields)), joined(cloud.pc_data, added), meta.data)
    return ()


def _load(path: Path) -> Any:
    """The library's cloud, with all the points that its header promises and none behind them."""
    pypcd4 = require_extra("pypcd4", "io")
    refuse_empty(path)
    try:
        with path.open("rb") as file:
            meta = pypcd4.MetaData.parse_header(_header_lines(file))
            behind = path.stat().st_size - file.tell()
            if meta.data == pypcd4.Encoding.ASCII and meta.points:
                # the library splits at single blanks only
                cloud = pypcd4.PointCloud(meta, np.loadtxt(file, meta.build_dtype(), ndmin=1))
            else:
                cloud = pypcd4.PointCloud.from_path(path)
    except Exception as error:
        raise broken(path, "PCD", error) from error
    table, promised = cloud.pc_data, int(meta.points)
    refuse_fewer(path, promised, len(table))
    if meta.data == pypcd4.Encoding.BINARY and behind >= table.nbytes + table.itemsize:
        refuse_more(path, promised, behind // table.itemsize)
    return cloud


def _header_lines(file: BinaryIO) -> list[str]:
    """The lines up to DATA; comments and empty ones left out."""
    lines = []
    for line in file:
        text = line.decode("utf-8", "replace").strip()
        if text and not text.startswith("#"):
            lines.append(text)
        if text.startswith("DATA") or len(lines) > _MAX_HEADER_LINES:
            break
    return lines


def _storable(values: npt.NDArray) -> npt.NDArray:
    return values.astype(np.float32) if values.dtype == np.float16 else values


def _kind(dtype: np.dtype) -> tuple[str, int]:
    return dtype.kind.upper(), dtype.itemsize


def _described(fields: list[tuple[str, str, int, int]]) -> dict[str, tuple]:
    """The header's lines on fields of (name, type, size, count)."""
    return dict(zip(("fields", "type", "size", "count"), zip(*fields, strict=True), strict=True))


def _save(path: Path, meta: Any, table: Table, encoding: Any) -> None:
    pypcd4 = require_extra("pypcd4", "io")
    if encoding == pypcd4.Encoding.ASCII:
        # the library's own ascii has ten decimals: too few for small numbers, too many for large ones
        save_text(path, meta.compose_header(data=encoding), table)
        return
    if table.nbytes >= _MAX_COMPRESSED:
        encoding = pypcd4.Encoding.BINARY
    pypcd4.PointCloud(meta, table).save(path, encoding=encoding)
