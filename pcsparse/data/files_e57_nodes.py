"""The tree of nodes inside an E57: the columns of a scan as arrays, and a new file from such."""

import re
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pcsparse.checks import require_extra
from pcsparse.data.point_cloud import INTENSITY_SLACK

COLOURS = {"colorRed": "red", "colorGreen": "green", "colorBlue": "blue"}
"""The standard's names of colours, and those of everybody else."""

PREFIX, URI = "pcsparse", "urn:pcsparse:e57:1"
"""The extension that holds columns which the standard does not know."""

_SCALES = (255.0, 65535.0)


def read_columns(file: Any, header: Any) -> dict[str, npt.NDArray]:
    """Every column of a scan but text, (n,) each, scaled as the file says; `nor:normalX` as normalX."""
    libe57 = require_extra("pye57.libe57", "io")
    arrays = arrays_for(libe57, header, header.point_count, scaled=True)
    if header.point_count:
        header.points.reader(buffers_of(libe57, file.image_file, arrays, scaled=True)).read()
    return {name.split(":")[-1]: values for name, values in arrays.items()}


def arrays_for(libe57: Any, header: Any, n: int, *, scaled: bool) -> dict[str, npt.NDArray]:
    """Room for n values of every column but text."""
    prototype = libe57.StructureNode(header.points.prototype())
    kinds = libe57.NodeType
    arrays: dict[str, npt.NDArray] = {}
    for i in range(prototype.childCount()):
        node = prototype.get(i)
        if node.type() == kinds.E57_FLOAT:
            single = libe57.FloatNode(node).precision() == libe57.FloatPrecision.E57_SINGLE
            arrays[node.elementName()] = np.zeros(n, np.float32 if single else np.float64)
        elif node.type() == kinds.E57_SCALED_INTEGER and scaled:
            arrays[node.elementName()] = np.zeros(n, np.float64)
        elif node.type() in (kinds.E57_INTEGER, kinds.E57_SCALED_INTEGER):
            # not int64: its letter l passes for 32 bits there
            arrays[node.elementName()] = np.zeros(n, np.longlong)
    return arrays


def buffers_of(libe57: Any, image: Any, arrays: dict[str, npt.NDArray], *, scaled: bool) -> Any:
    """The library's view of arrays that it fills or empties; keep the arrays as long as it is used."""
    buffers = libe57.VectorSourceDestBuffer()
    for name, values in arrays.items():
        buffers.append(libe57.SourceDestBuffer(image, name, values, len(values), True, scaled))
    return buffers


def write_scan(
    path: Path, name: str, standard: dict[str, npt.NDArray], others: dict[str, npt.NDArray]
) -> None:
    """A file of one scan: columns under the standard's names, and those of an extension.

    Args:
        path: where to.
        name: of the scan.
        standard: (n,) each; cartesianX, ... and intensity.
        others: (n,) each, by any names; red, green and blue go by the standard's.
    """
    pye57 = require_extra("pye57", "io")
    libe57 = pye57.libe57
    names = {ours: theirs for theirs, ours in COLOURS.items()}
    columns = {**standard, **{names.get(name, extended(name)): values for name, values in others.items()}}
    with pye57.E57(str(path), mode="w") as file:
        image = file.image_file
        image.extensionsAdd(PREFIX, URI)
        scan = libe57.StructureNode(image)
        scan.set("guid", libe57.StringNode(image, f"{{{uuid.uuid4()}}}"))
        scan.set("name", libe57.StringNode(image, name))
        _set_limits(libe57, image, scan, columns)
        prototype = libe57.StructureNode(image)
        for column, values in columns.items():
            prototype.set(column, leaf_of(libe57, image, values))
        points = libe57.CompressedVectorNode(image, prototype, libe57.VectorNode(image, True))
        scan.set("points", points)
        file.data3d.append(scan)
        kept = {column: stored(values) for column, values in columns.items()}
        writer = points.writer(buffers_of(libe57, image, kept, scaled=True))
        writer.write(len(columns["cartesianX"]))
        writer.close()


def extended(name: str) -> str:
    """The name of a column under the extension."""
    return f"{PREFIX}:{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}"


def _set_limits(libe57: Any, image: Any, scan: Any, columns: dict[str, npt.NDArray]) -> None:
    """Say what full scale is in intensity and colours."""
    if "intensity" in columns:
        values = columns["intensity"]
        highest = float(values.max(initial=0))
        # as it will be read: integers never mean 0-1
        unit = values.dtype.kind == "f" and highest <= INTENSITY_SLACK
        top = 1.0 if unit else next((scale for scale in _SCALES if highest <= scale), highest)
        box = libe57.StructureNode(image)
        box.set("intensityMinimum", libe57.FloatNode(image, 0.0))
        box.set("intensityMaximum", libe57.FloatNode(image, top))
        scan.set("intensityLimits", box)
    if set(COLOURS) <= set(columns):
        box = libe57.StructureNode(image)
        for name in COLOURS:
            full_color = 255 if columns[name].itemsize == 1 else 65535
            box.set(f"{name}Minimum", libe57.IntegerNode(image, 0))
            box.set(f"{name}Maximum", libe57.IntegerNode(image, full_color))
        scan.set("colorLimits", box)


def leaf_of(libe57: Any, image: Any, values: npt.NDArray) -> Any:
    """The node that describes a column."""
    if values.dtype.kind == "f":
        precision = libe57.FloatPrecision
        return libe57.FloatNode(
            image, 0.0, precision.E57_DOUBLE if values.itemsize == 8 else precision.E57_SINGLE
        )
    low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    return libe57.IntegerNode(image, low, low, high)


def stored(values: npt.NDArray) -> npt.NDArray:
    """The values in a type that the library takes."""
    wanted: npt.DTypeLike = np.longlong
    if values.dtype.kind == "f":
        wanted = np.float64 if values.itemsize == 8 else np.float32
    kept = np.empty(len(values), wanted)
    # a copy: the library refuses the same type under an explicit byte order
    kept[:] = values
    return kept
