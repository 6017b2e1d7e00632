"""Headerless `.bin` sweeps: rows of float32, whose number of columns and dtype must be inferred or given."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pcsparse.data.files_array import INTENSITY_NAMES, RING_NAMES, numbered, table_of_rows
from pcsparse.data.files_faults import refuse_empty
from pcsparse.data.files_table import CLASS_COLUMN, CONFIDENCE_COLUMN, Table, flat, joined, xyz_of
from pcsparse.data.point_cloud import FAR_M, RawCloud, not_read
from pcsparse.errors import FormatError, UnsupportedError

_INFERRED_COLUMNS = (4, 5, 6)
_DTYPES = ("float32", "float64", "float16")
# a sensor at the origin sees a few hundred metres
_MAX_COORDINATE_M = 1e4
_MIN_EXTENT_M = 0.5
_MAX_INTENSITY = 65535.0
_MAX_RING = 255.0
# real sweeps have none; the bytes of integers or of float16 zeros are full of them
_MAX_DENORMAL_SHARE = 1e-3
# organised sweeps mark every missing return as NaN, but not most of their points
_MAX_INVALID_SHARE = 0.5
_NUSCENES_COLUMNS = 5
_NUSCENES_ENDING = ".pcd.bin"


@dataclass(frozen=True)
class _Reading:
    """One way to read the bytes: why it cannot be right, or how well it fits."""

    columns: int
    refusal: str | None
    typical: bool = False


def read_bin(path: Path, columns: int | None, dtype: str | None) -> RawCloud:
    """Points of a `.bin`: x, y, z, then intensity, then ring (5 columns) or anything (6).

    Without `columns`, 4 (KITTI), 5 (nuScenes; always for `.pcd.bin`) and 6 are tried: a reading must give
    finite coordinates within 10 km, intensities within 0 ... 65,535, and ring numbers where it has a ring. If
    more than one fits, one with intensities on 0-1 or whole numbers up to 255 wins; a tie is an error. What
    was found is noted. If both `columns` and `dtype` are given, they are believed.

    Raises:
        FormatError: no reading fits, or more than one; the text names the size, what was tried, what to give.
    """
    rows, notes = _read_rows(path, columns, dtype)
    nuscenes = columns is None and path.name.endswith(_NUSCENES_ENDING)
    ring = _ring_column(rows)
    used = min(rows.shape[1], 4) if ring is None else ring + 1
    return RawCloud(
        xyz=rows[:, :3],
        intensity=rows[:, 3] if rows.shape[1] > 3 else None,
        full_scale=255.0 if nuscenes else None,
        ring=None if ring is None else rows[:, ring],
        notes=(*notes, *not_read(f"column {i} (from 0)" for i in range(used, rows.shape[1]))),
    )


def bin_table(path: Path, columns: int | None, dtype: str | None) -> Table:
    """All columns of a `.bin`: x, y, z, intensity, ring or column_4, column_5 ...; see `read_bin`."""
    rows, _ = _read_rows(path, columns, dtype)
    return table_of_rows(rows, _ring_column(rows))


def write_bin(path: Path, table: Table) -> tuple[str, ...]:
    """Rows of float32: x, y, z, intensity, ring if there is one, and the classes.

    Raises:
        UnsupportedError: coordinates of the world, which float32 would round.
    """
    xyz = xyz_of(table)
    far = float(np.abs(xyz[np.isfinite(xyz)]).max(initial=0.0))
    if far > FAR_M:
        raise UnsupportedError(
            f"coordinates reach {far:.0f} m, a .bin of float32 resolves "
            f"{np.spacing(np.float32(far)):.3g} m there; write .npy, .ply, .pcd, .las or .feather"
        )
    columns, notes = _known_columns(flat(table))
    return (*_save(path, columns, np.dtype("<f4")), *notes)


def add_to_bin(
    path: Path, source: Path, added: Table, columns: int | None = None, dtype: str | None = None
) -> tuple[str, ...]:
    """Another `.bin` with further columns; half floats become float32, which holds every class id."""
    wanted = np.dtype("<f8" if dtype == "float64" else "<f4")
    return _save(path, flat(joined(bin_table(source, columns, dtype), added)), wanted)


def _save(path: Path, columns: dict[str, npt.NDArray], dtype: np.dtype) -> tuple[str, ...]:
    np.stack([values.astype(dtype) for values in columns.values()], axis=1).tofile(path)
    as_type = "" if dtype == np.float32 else f" --dtype {dtype.name}"
    return (numbered(columns), f"read {path.suffix} with --columns {len(columns)}{as_type}")


def _known_columns(columns: dict[str, npt.NDArray]) -> tuple[dict[str, npt.NDArray], tuple[str, ...]]:
    """What has a place in a `.bin`: x, y, z, intensity, ring, classes."""
    names = {name.lower(): name for name in columns}
    intensity = next((names[name] for name in INTENSITY_NAMES if name in names), None)
    ring = next((names[name] for name in RING_NAMES if name in names), None)
    kept = {axis: columns[axis] for axis in "xyz"}
    notes: tuple[str, ...] = ()
    if intensity is None:
        kept["intensity"] = np.zeros(len(columns["x"]), np.float32)
        notes = ("there is no intensity: its column is 0",)
    else:
        kept["intensity"] = columns[intensity]
    if ring is not None:
        kept["ring"] = columns[ring]
    kept.update({name: columns[name] for name in (CLASS_COLUMN, CONFIDENCE_COLUMN) if name in columns})
    left = set(columns) - set(kept) - {intensity, ring}
    return kept, (*notes, *(f"no place in a .bin for {name}" for name in sorted(left)))


def _read_rows(
    path: Path, columns: int | None, dtype: str | None
) -> tuple[npt.NDArray[np.floating], tuple[str, ...]]:
    """(n, columns) numbers of the file and how their width was found."""
    refuse_empty(path)
    size = path.stat().st_size
    wanted = _known_dtype(path, dtype)
    if columns is not None and columns < 3:
        raise FormatError(f"{path}: columns must be at least 3 (x, y, z), got {columns}")
    nuscenes = columns is None and path.name.endswith(_NUSCENES_ENDING)
    candidates = (columns,) if columns else ((_NUSCENES_COLUMNS,) if nuscenes else _INFERRED_COLUMNS)
    if not any(size % (wanted.itemsize * c) == 0 for c in candidates):
        raise FormatError(_width_message(path, size, wanted, candidates))
    values = np.fromfile(path, dtype=wanted)
    if columns is not None and dtype is not None:
        return values.reshape(-1, columns), ()
    readings = [_judge(values, c, given=columns is not None or nuscenes) for c in candidates]
    chosen, notes = _choose(path, size, values, readings)
    if columns is None and not nuscenes:
        notes = (f"read as {chosen} columns of {wanted.name}", *notes)
    return values.reshape(-1, chosen), notes


def _known_dtype(path: Path, dtype: str | None) -> np.dtype:
    name = "float32" if dtype is None else dtype
    with suppress(TypeError):
        name = str(np.dtype(name))
    if name not in _DTYPES:
        raise FormatError(f"{path}: dtype must be one of {', '.join(_DTYPES)}, got {name}")
    return np.dtype(name).newbyteorder("<")


def _width_message(path: Path, size: int, wanted: np.dtype, candidates: tuple[int, ...]) -> str:
    tried = ", ".join(f"{c} ({size % (wanted.itemsize * c)} bytes left over)" for c in candidates)
    return (
        f"{path}: {size} bytes are no whole number of points; tried columns {tried} of {wanted.name}. "
        "The file is truncated, has a header, or has another width: give --columns N and, if it is not "
        "float32, --dtype"
    )


def _ring_column(rows: npt.NDArray[np.floating]) -> int | None:
    return 4 if rows.shape[1] == _NUSCENES_COLUMNS and _is_ring(rows[:, 4]) else None


def _is_ring(values: npt.NDArray) -> bool:
    finite = values[np.isfinite(values)]
    return len(finite) == len(values) and bool(
        ((finite >= 0) & (finite <= _MAX_RING) & (finite == np.floor(finite))).all()
    )


def _judge(values: npt.NDArray, columns: int, *, given: bool) -> _Reading:
    """Whether the values make sense as rows of `columns`; a given one need not prove itself."""
    if values.size % columns:
        return _Reading(columns, f"{values.size} values do not divide by {columns}")
    table = values.reshape(-1, columns)
    with np.errstate(invalid="ignore", over="ignore"):
        refusal = _refusal(table, given)
    if refusal is not None:
        return _Reading(columns, refusal)
    if columns < 4:
        return _Reading(columns, None, typical=True)
    intensity = table[:, 3][np.isfinite(table[:, 3])]
    whole = bool((intensity <= 255).all() and (intensity == np.floor(intensity)).all())
    return _Reading(columns, None, typical=whole or bool((intensity <= 1).all()))


def _refusal(table: npt.NDArray, given: bool) -> str | None:
    finite = np.isfinite(table[:, : min(4, table.shape[1])])
    share = 1.0 - float(finite.all(axis=1).mean())
    if share > _MAX_INVALID_SHARE:
        return f"{100 * share:.0f} % of the points would be NaN or infinite"
    tiny = np.finfo(table.dtype).tiny
    head = table[:, :4]
    denormal = float(((np.abs(head) < tiny) & (head != 0)).mean())
    if denormal > _MAX_DENORMAL_SHARE:
        return f"{100 * denormal:.1f} % of the values would be denormal: these are not {table.dtype.name}"
    xyz = np.abs(table[:, :3])[finite[:, :3]]
    if xyz.size and xyz.max() > _MAX_COORDINATE_M:
        return f"coordinates would reach {xyz.max():.3g} m"
    if table.shape[1] < 4:
        return None
    intensity = table[:, 3][finite[:, 3]]
    if intensity.size and not (intensity.min() >= 0 and intensity.max() <= _MAX_INTENSITY):
        return f"intensity would lie in {intensity.min():.3g} ... {intensity.max():.3g}"
    if table.shape[1] == _NUSCENES_COLUMNS and not given and not _is_ring(table[:, 4]):
        return "column 4 would be no ring number"
    return None


def _choose(
    path: Path, size: int, values: npt.NDArray, readings: list[_Reading]
) -> tuple[int, tuple[str, ...]]:
    fitting = [r for r in readings if r.refusal is None]
    if not fitting:
        tried = "; ".join(f"{r.columns} columns: {r.refusal}" for r in readings)
        raise FormatError(
            f"{path} ({size} bytes) is no sweep of {values.dtype.name}. {tried}. {_advice(values)}"
        )
    best = [r for r in fitting if r.typical] or fitting
    if len(best) > 1:
        widths = " and ".join(str(r.columns) for r in best)
        raise FormatError(
            f"{path} ({size} bytes) makes sense with {widths} columns; say which: --columns {best[0].columns}"
        )
    also = [str(r.columns) for r in fitting if r is not best[0]]
    notes = (f"{' and '.join(also)} columns would fit less well; --columns decides",) if also else ()
    return best[0].columns, notes


def _advice(values: npt.NDArray) -> str:
    """What else the bytes could be."""
    data = values.tobytes()
    for name in _DTYPES:
        other = np.dtype(name).newbyteorder("<")
        if other == values.dtype or len(data) % other.itemsize:
            continue
        as_other = np.frombuffer(data, dtype=other)
        readings = [_judge(as_other, c, given=False) for c in _INFERRED_COLUMNS]
        fits = [r for r in readings if r.refusal is None and r.typical]
        # half floats make sense as doubles too, but as points a nanometre from each other
        if fits and np.ptp(as_other.reshape(-1, fits[0].columns)[:, :2]) > _MIN_EXTENT_M:
            return (
                f"As {name} with {fits[0].columns} columns it makes sense: if it is that, give --dtype {name}"
            )
    return "Give --columns N and --dtype if you know them; check that it is a point file at all"
