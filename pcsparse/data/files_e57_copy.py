"""A copy of an E57 whose scans have further columns: poses, images, limits and stored numbers stay."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pcsparse.checks import require_extra
from pcsparse.data.files_e57_nodes import PREFIX, URI, arrays_for, buffers_of, extended, leaf_of, stored
from pcsparse.data.files_table import Table, check_rows
from pcsparse.errors import UnsupportedError

_CHUNK = 1_000_000
_BLOB_CHUNK = 1 << 24


def add_to_e57(path: Path, source: Path, added: Table) -> tuple[str, ...]:
    """Another E57 with further columns, `pcsparse:NAME` of an extension, a million points at a time.

    Args:
        path: where to.
        source: the file.
        added: a row for every point of all scans, in their order, invalid points included.

    Raises:
        UnsupportedError: a scan has a column of text.
    """
    pye57 = require_extra("pye57", "io")
    with pye57.E57(str(source)) as before:
        check_rows(sum(before.get_header(i).point_count for i in range(before.scan_count)), added)
        after = pye57.libe57.ImageFile(str(path), "w")
        try:
            _copy_extensions(before.image_file, after)
            scans = _copy_root(pye57, before, after)
            start = 0
            for index in range(before.scan_count):
                header = before.get_header(index)
                stop = start + header.point_count
                _copy_scan(pye57, before.image_file, header, after, scans, added[start:stop])
                start = stop
        except Exception:
            after.cancel()
            raise
        after.close()
    return ()


def _copy_extensions(before: Any, after: Any) -> None:
    known = {before.extensionsPrefix(i): before.extensionsUri(i) for i in range(before.extensionsCount())}
    for prefix, uri in {**known, PREFIX: URI}.items():
        after.extensionsAdd(prefix, uri)


def _copy_root(pye57: Any, before: Any, after: Any) -> Any:
    """All but the scans, images included; returns where the scans go."""
    for name in pye57.utils.get_fields(before.root):
        if name != "data3D":
            _copy_child(pye57, before.root, after.root(), name, after)
    scans = pye57.libe57.VectorNode(after, True)
    after.root().set("data3D", scans)
    return scans


def _copy_child(pye57: Any, parent: Any, target: Any, name: str, image: Any) -> None:
    """Copy one node without points; what its blobs hold can go in only once it is attached."""
    node, _, blobs = pye57.utils.copy_node(pye57.utils.get_node(parent, name), image)
    target.set(name, node)
    for pair in blobs:
        size = pair["in"].byteCount()
        for start in range(0, size, _BLOB_CHUNK):
            buffer = np.empty(min(_BLOB_CHUNK, size - start), np.uint8)
            pair["in"].read(buffer, start, len(buffer))
            pair["out"].write(buffer, start, len(buffer))


def _copy_scan(pye57: Any, before: Any, header: Any, after: Any, scans: Any, added: Table) -> None:
    libe57 = pye57.libe57
    scan = libe57.StructureNode(after)
    scans.append(scan)
    for name in header.scan_fields:
        if name != "points":
            _copy_child(pye57, header.node, scan, name, after)
    columns = {extended(name): added[name] for name in added.dtype.names or ()}
    prototype = _prototype(pye57, header, after, columns)
    points = libe57.CompressedVectorNode(after, prototype, libe57.VectorNode(after, True))
    scan.set("points", points)
    room = {
        name: values
        for name, values in arrays_for(libe57, header, _CHUNK, scaled=False).items()
        if name not in columns
    }
    if set(room) | set(columns) != set(pye57.utils.get_fields(prototype)):
        raise UnsupportedError(f"scan {header['guid'].value()} has a column of text; write another format")
    ours: dict[str, npt.NDArray] = {name: np.zeros(_CHUNK, stored(v).dtype) for name, v in columns.items()}
    writer = points.writer(buffers_of(libe57, after, {**room, **ours}, scaled=False))
    if header.point_count:
        reader = header.points.reader(buffers_of(libe57, before, room, scaled=False))
        start = 0
        while n := reader.read():
            for name, values in columns.items():
                ours[name][:n] = values[start : start + n]
            writer.write(n)
            start += n
        reader.close()
    writer.close()


def _prototype(pye57: Any, header: Any, after: Any, columns: dict[str, npt.NDArray]) -> Any:
    """The description of the points: the file's, and the new columns."""
    libe57 = pye57.libe57
    prototype = libe57.StructureNode(after)
    given = libe57.StructureNode(header.points.prototype())
    for name in pye57.utils.get_fields(given):
        if name not in columns:
            node, _, _ = pye57.utils.copy_node(pye57.utils.get_node(given, name), after)
            prototype.set(name, node)
    for name, values in columns.items():
        prototype.set(name, leaf_of(libe57, after, values))
    return prototype
