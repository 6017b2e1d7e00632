"""LAS, LAZ and COPC, read and written by laspy in pieces, so that memory stays bounded."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pcsparse.checks import require_extra
from pcsparse.data.files_array import INTENSITY_NAMES
from pcsparse.data.files_faults import broken, refuse_empty, refuse_fewer, refuse_other_kind
from pcsparse.data.files_table import LAS_CLASS, Table, check_rows, columns_of, flat, xyz_of
from pcsparse.data.las_units import LasUnits, las_units
from pcsparse.data.point_cloud import INTENSITY_SLACK, RawCloud, not_read
from pcsparse.errors import FormatError, UnsupportedError

LAS_CLASS_BEFORE = "classification_before"
"""Extra bytes that keep what `classification` was before a prediction replaced it."""

_CHUNK = 1_000_000
_STORED = ("X", "Y", "Z")
# metres; a tenth of a millimetre is finer than any sensor, coarser where the extent asks for it
_SCALES = (1e-4, 1e-3, 1e-2, 1e-1)
_MAX_STORED = 2**31 - 1
_COLOURS = ("red", "green", "blue")
_PLAIN_DIMENSIONS = ("return_number", "number_of_returns", "user_data", "point_source_id", LAS_CLASS)
# by the standard colours have 16 bits; those of 8 are spread over them
_COLOUR_SPREAD = 257
# readers take what stays within 8 bits for 8 bits
_BYTE, _WORD = 2**8 - 1, 2**16 - 1
_NAME_BYTES = 32


def read_las(path: Path) -> RawCloud:
    """Points of a LAS, LAZ or COPC file.

    Intensity is a 16-bit number by the standard, but many files hold 8 bits in it: the shared rule (255 if no
    value is larger, else 65,535) applies. Feet, where the header says so, become metres.
    """
    units = units_of_las(path)
    xyz: list[npt.NDArray[np.float64]] = [np.empty((0, 3))]
    intensity: list[npt.NDArray[np.uint16]] = [np.empty(0, np.uint16)]
    names: set[str] = set()
    for record in las_records(path):
        xyz.append(units.metres(record_xyz(record)))
        intensity.append(np.array(record.intensity))
        names = set(record.point_format.dimension_names) - {*_STORED, "intensity"}
    return RawCloud(np.concatenate(xyz), np.concatenate(intensity), notes=(*units.notes, *not_read(names)))


def las_records(path: Path, size: int = _CHUNK) -> Iterator[Any]:
    """The points of a file in its order, `size` at a time, as laspy's records (stored integers and scales).

    Raises:
        FormatError: the file is empty, broken, truncated or of another format; raised when the iteration
            gets there.
    """
    laspy = _laspy(path)
    refuse_empty(path)
    refuse_other_kind(path)
    there = 0
    try:
        with laspy.open(path) as reader:
            promised = int(reader.header.point_count)
            for record in reader.chunk_iterator(size):
                there += len(record)
                yield record
    except FormatError:
        raise
    except Exception as error:
        raise broken(path, "LAS", error) from error
    refuse_fewer(path, promised, there)


def _laspy(path: Path) -> Any:
    """The library; a LAZ needs a decompressor too."""
    laspy = require_extra("laspy", "io")
    if path.suffix.lower() == ".laz" and not laspy.LazBackend.detect_available():
        require_extra("lazrs", "io")
    return laspy


def las_point_count(path: Path) -> int:
    """Points that the header of a LAS or LAZ promises.

    Raises:
        FormatError: the header is broken, or that of another format.
    """
    laspy = _laspy(path)
    refuse_empty(path)
    refuse_other_kind(path)
    try:
        with laspy.open(path) as reader:
            return int(reader.header.point_count)
    except Exception as error:
        raise broken(path, "LAS", error) from error


def units_of_las(path: Path) -> LasUnits:
    """The units of a file's coordinates, by its header.

    Raises:
        FormatError: the header is broken, or that of another format.
        UnsupportedError: the file has a coordinate system, and the package that reads it is not installed.
    """
    laspy = _laspy(path)
    refuse_empty(path)
    refuse_other_kind(path)
    try:
        with laspy.open(path) as reader:
            header = reader.header
    except Exception as error:
        raise broken(path, "LAS", error) from error
    return las_units(header)


def record_xyz(record: Any) -> npt.NDArray[np.float64]:
    """(n, 3) float64, in the units of the file (`units_of_las`), of one of laspy's records."""
    return np.stack([np.asarray(getattr(record, axis), dtype=np.float64) for axis in "xyz"], axis=1)


def las_table(path: Path) -> Table:
    """All dimensions of a LAS, x, y, z as float64 in the units of the file; the whole file in memory."""
    laspy = _laspy(path)
    parts = [_record_table(record) for record in las_records(path)]
    if parts:
        return np.concatenate(parts)
    with laspy.open(path) as reader:
        return _record_table(laspy.ScaleAwarePointRecord.empty(header=reader.header))


def _record_table(record: Any) -> Table:
    xyz = record_xyz(record)
    columns: dict[str, npt.NDArray] = {axis: xyz[:, i] for i, axis in enumerate("xyz")}
    for name in record.point_format.dimension_names:
        if name not in _STORED:
            columns[name] = np.asarray(record[name])
    return columns_of(columns)


def write_las(path: Path, table: Table) -> tuple[str, ...]:
    """A LAS 1.4 of point format 6, or 7 with colours; compressed if the ending is .laz.

    Coordinates are stored to 0.1 mm. Intensity on 0-1 becomes 0 ... 65,535, or 0 ... 255 where it is so
    dark that readers would take it for 8 bits; as hardly anything is left of it then, extra bytes have it
    whole. Intensity that is not finite becomes 0. Columns that the standard knows go where it has them if
    their values fit, the others into extra bytes of their own dtype.
    """
    laspy = _laspy(path)
    columns = flat(table)
    xyz = xyz_of(table).astype(np.float64, copy=False)
    valid = np.isfinite(xyz).all(axis=1)
    n_bad = len(xyz) - int(np.count_nonzero(valid))
    notes: tuple[str, ...] = ()
    if n_bad:
        notes = (f"{n_bad} of {len(xyz)} points left out: LAS cannot hold NaN or infinite coordinates",)
        xyz, columns = xyz[valid], {name: values[valid] for name, values in columns.items()}
    standard, extra, said = _placed({name: v for name, v in columns.items() if name not in ("x", "y", "z")})
    header = laspy.LasHeader(point_format=7 if set(_COLOURS) <= set(standard) else 6, version="1.4")
    header.offsets, header.scales = _frame(xyz)
    header.add_extra_dims([laspy.ExtraBytesParams(name, values.dtype) for name, values in extra.items()])
    record = laspy.ScaleAwarePointRecord.zeros(len(xyz), header=header)
    for i, name in enumerate(_STORED):
        stored = np.round((xyz[:, i] - header.offsets[i]) / header.scales[i])
        record[name] = stored.astype(np.int32)
    for name, values in {**standard, **extra}.items():
        record[name] = values
    with laspy.open(path, mode="w", header=header, do_compress=_is_laz(path)) as writer:
        writer.write_points(record)
    return (*notes, *said)


def _is_laz(path: Path) -> bool:
    return path.suffix.lower() == ".laz"


def _frame(xyz: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Offset and scale with which every coordinate fits 32 bits."""
    if len(xyz) == 0:
        return np.zeros(3), np.full(3, _SCALES[0])
    low, high = xyz.min(axis=0), xyz.max(axis=0)
    offset = np.round((low + high) / 2)
    extent = float(np.abs(np.stack([low - offset, high - offset])).max())
    for scale in _SCALES:
        if extent / scale <= _MAX_STORED:
            return offset, np.full(3, scale)
    raise UnsupportedError(f"an extent of {2 * extent:.3g} m does not fit a LAS file; are these metres?")


def _placed(
    columns: dict[str, npt.NDArray],
) -> tuple[dict[str, npt.NDArray], dict[str, npt.NDArray], tuple[str, ...]]:
    """Columns for the standard's dimensions, those for extra bytes, and notes."""
    notes: tuple[str, ...] = ()
    standard: dict[str, npt.NDArray] = {}
    extra: dict[str, npt.NDArray] = {}
    colours = all(name in columns and columns[name].dtype in (np.uint8, np.uint16) for name in _COLOURS)
    intensity = next((name for name in INTENSITY_NAMES for given in columns if given.lower() == name), None)
    for name, values in columns.items():
        lower = name.lower()
        if lower == intensity and (stored := _intensity(values)) is not None:
            standard["intensity"], notes = stored.values, stored.notes
            if stored.coarse:
                kept = _extra_name(name, extra)
                extra[kept] = _storable(values)
                notes = (*notes[:-1], f"{notes[-1]}; whole in the extra bytes {kept}")
        elif lower == "gps_time" and values.dtype.kind == "f":
            standard[lower] = values.astype(np.float64)
        elif name in _COLOURS and colours:
            standard[name] = (
                values if values.dtype == np.uint16 else values.astype(np.uint16) * _COLOUR_SPREAD
            )
        elif lower in _PLAIN_DIMENSIONS and _fits(lower, values):
            standard[lower] = values
        else:
            extra[_extra_name(name, extra)] = _storable(values)
    return standard, extra, notes


def _storable(values: npt.NDArray) -> npt.NDArray:
    return values.astype(np.float32) if values.dtype == np.float16 else values


class _Stored(NamedTuple):
    """Intensity as 16-bit integers; `coarse` where they hold hardly anything of it."""

    values: npt.NDArray[np.uint16]
    notes: tuple[str, ...] = ()
    coarse: bool = False


def _intensity(values: npt.NDArray) -> _Stored | None:
    """What the standard's dimension can hold, or None if the values are on no scale that fits it."""
    if len(values) == 0:
        return _Stored(values.astype(np.uint16))
    finite = np.isfinite(values)
    notes: tuple[str, ...] = ()
    if n_bad := len(values) - int(np.count_nonzero(finite)):
        notes = (f"intensity of {n_bad} points is NaN or infinite: stored as 0",)
        values = np.where(finite, values, 0)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= _WORD):
        return None
    if values.dtype.kind != "f" or high > INTENSITY_SLACK:
        return _Stored(np.round(values).astype(np.uint16), notes)
    on_unit = np.minimum(values.astype(np.float64), 1)
    if 0 < round(high * _WORD) <= _BYTE:
        stored = np.round(on_unit * _BYTE).astype(np.uint16)
        lost = int(np.count_nonzero((stored == 0) & (values > 0)))
        note = (
            f"intensity reaches {high:.3g} of 1 only: stored as 0-255, which is how it is read; "
            f"{lost} of {int(np.count_nonzero(values))} values above 0 became 0"
        )
        return _Stored(stored, (*notes, note), coarse=True)
    if high > 1:
        notes = (*notes, f"{int(np.count_nonzero(values > 1))} intensities above 1 stored as 1")
    return _Stored(np.round(on_unit * _WORD).astype(np.uint16), notes)


def _fits(dimension: str, values: npt.NDArray) -> bool:
    """Whether point formats 6 and 7 hold these values there."""
    if values.dtype.kind not in "iu":
        return False
    bits = {"return_number": 4, "number_of_returns": 4, "point_source_id": 16}.get(dimension, 8)
    return len(values) == 0 or bool(values.min() >= 0 and values.max() < 2**bits)


def _extra_name(name: str, taken: dict[str, npt.NDArray]) -> str:
    """A name that is no dimension of the standard, short enough and not taken."""
    laspy = require_extra("laspy", "io")
    if name.lower() in laspy.PointFormat(7).dimension_names:
        name = f"file_{name}"
    short = name.encode("ascii", "replace")[:_NAME_BYTES].decode()
    number = 2
    while short in taken:
        short = f"{short[: _NAME_BYTES - 3]}_{number}"
        number += 1
    return short


def add_to_las(path: Path, source: Path, added: Table) -> tuple[str, ...]:
    """Another LAS or LAZ with further extra bytes, a million points at a time.

    Header, scales, offsets, VLRs, EVLRs and every stored number are kept. Where `added` has `classification`,
    what was there goes to the extra bytes `classification_before`. A COPC file becomes a plain LAZ.
    """
    laspy = _laspy(path)
    with laspy.open(source) as reader:
        header, evlrs = reader.header.copy(), reader.evlrs
    check_rows(int(header.point_count), added)
    is_copc = any(vlr.user_id == "copc" for vlr in header.vlrs)
    header.vlrs = [vlr for vlr in header.vlrs if vlr.user_id != "copc"]
    known = set(header.point_format.dimension_names)
    new = [name for name in added.dtype.names or () if name not in known]
    keeps_before = LAS_CLASS in (added.dtype.names or ()) and LAS_CLASS_BEFORE not in known
    extra = [laspy.ExtraBytesParams(name, added.dtype[name]) for name in new]
    extra += [laspy.ExtraBytesParams(LAS_CLASS_BEFORE, np.uint8)] if keeps_before else []
    header.add_extra_dims(extra)
    start = 0
    with laspy.open(path, mode="w", header=header, do_compress=_is_laz(path)) as writer:
        for before in las_records(source):
            record = laspy.ScaleAwarePointRecord.zeros(len(before), header=header)
            for name in before.array.dtype.names:
                record.array[name] = before.array[name]
            if keeps_before:
                record[LAS_CLASS_BEFORE] = np.asarray(before[LAS_CLASS])
            for name in added.dtype.names or ():
                record[name] = added[name][start : start + len(before)]
            writer.write_points(record)
            start += len(before)
        kept = [evlr for evlr in evlrs or () if evlr.user_id != "copc"]
        if kept:
            writer.write_evlrs(laspy.vlrs.vlrlist.VLRList(kept))
    return ("the octree of the COPC is not kept: a plain LAZ",) if is_copc else ()
