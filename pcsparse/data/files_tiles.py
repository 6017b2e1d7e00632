"""Square tiles of a large cloud, with a margin of what lies around; of a LAS file by way of the disk."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pcsparse.data.files_las import las_records, record_xyz, units_of_las
from pcsparse.data.las_units import LasUnits
from pcsparse.data.point_cloud import PointCloud, unit_intensity
from pcsparse.errors import RangeError

_CHUNK = 1_000_000
# a margin reaches into the nearest tiles only
_NEIGHBOURS = tuple((dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1))

_Cell = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Tile:
    """Points of one square and its margin.

    Attributes:
        points: (n, 3) float32, metres, minus `origin`.
        origin: (3,) float64, metres in the world: the middle of the square, and 0 in z.
        intensity: (n,) float32, 0-1, or None.
        rows: (n,) int64, row of each point in the file, ascending.
        inside: (n,) bool, in the square itself; every point of a cloud is inside exactly one tile.
    """

    points: npt.NDArray[np.float32]
    origin: npt.NDArray[np.float64]
    intensity: npt.NDArray[np.float32] | None
    rows: npt.NDArray[np.int64]
    inside: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.points)


@dataclass(frozen=True, eq=False)
class Tiles:
    """The tiles of a cloud, in order of x, then y.

    Attributes:
        source: the file.
        n_points: of the file.
        n_tiles: that hold a point.
        notes: as of `PointCloud`.
        known_scale: as of `PointCloud`.
    """

    source: Path
    n_points: int
    n_tiles: int
    notes: tuple[str, ...]
    known_scale: float | None
    _tiles: Iterator[Tile]

    def __iter__(self) -> Iterator[Tile]:
        """The tiles, once."""
        return self._tiles


def cloud_tiles(cloud: PointCloud, size: float, margin: float) -> Tiles:
    """Tiles of a cloud in memory.

    Points that are not finite are in no tile.

    Args:
        cloud: the points.
        size: metres, edge of the squares, which lie on a grid from 0 of the world.
        margin: metres around a square, at most `size`.

    Raises:
        RangeError: a size or a margin without meaning.
    """
    _check(size, margin)
    world = cloud.world()[:, :2]
    finite = np.flatnonzero(np.isfinite(cloud.points).all(axis=1))
    shares = [(cell, finite[rows], inside) for cell, rows, inside in _shares(world[finite], size, margin)]
    shares = [share for share in shares if share[2].any()]

    def tiles() -> Iterator[Tile]:
        for cell, rows, inside in sorted(shares, key=lambda share: share[0]):
            origin = _middle(cell, size)
            xyz = cloud.points[rows].astype(np.float64) + (cloud.origin - origin)
            intensity = None if cloud.intensity is None else cloud.intensity[rows]
            yield Tile(xyz.astype(np.float32), origin, intensity, cloud.kept[rows], inside)

    return Tiles(cloud.source, cloud.n_file, len(shares), cloud.notes, cloud.known_scale, tiles())


@contextmanager
def las_tiles(
    path: Path, size: float, margin: float, *, intensity_scale: float | None = None, chunk: int = _CHUNK
) -> Iterator[Tiles]:
    """Tiles of a LAS or LAZ that need not fit into memory.

    The points, 23 bytes each and those of margins again, are sorted into a temporary folder (`TMPDIR`), one
    file a tile, in one pass of `chunk` points at a time; then one tile at a time is in memory. Feet become
    metres, as in `read_points`.

    Args:
        path: the file.
        size: as in `cloud_tiles`.
        margin: likewise.
        intensity_scale: what 1.0 is in the file; None to infer it, as in `read_points`.
        chunk: points at a time.

    Raises:
        FormatError: the file is broken, or its intensity on another scale.
        RangeError: a size or a margin without meaning.
    """
    _check(size, margin)
    with tempfile.TemporaryDirectory(prefix="pcsparse-tiles-") as folder:
        units = units_of_las(path)
        n, high, cells = _spread(path, Path(folder), size, margin, chunk, units)
        extremes = np.array([0, high], dtype=np.uint16)
        _, scale, notes = unit_intensity(extremes, intensity_scale, path)
        tiles = (_stored_tile(Path(folder), cell, size, scale) for cell in sorted(cells))
        yield Tiles(path, n, len(cells), (*units.notes, *notes), scale if high else None, tiles)


_STORED = np.dtype([("row", "<i8"), ("xyz", "<f4", 3), ("intensity", "<u2"), ("inside", "?")])


def _spread(
    path: Path, folder: Path, size: float, margin: float, chunk: int, units: LasUnits
) -> tuple[int, int, set[_Cell]]:
    """Sort all points into a file a tile; returns points, highest intensity, tiles with a point inside."""
    start, high = 0, 0
    cells: set[_Cell] = set()
    for record in las_records(path, chunk):
        xyz, intensity = units.metres(record_xyz(record)), np.asarray(record.intensity)
        high = max(high, int(intensity.max(initial=0)))
        for cell, rows, inside in _shares(xyz[:, :2], size, margin):
            stored = np.empty(len(rows), _STORED)
            stored["row"], stored["intensity"], stored["inside"] = rows + start, intensity[rows], inside
            stored["xyz"] = xyz[rows] - _middle(cell, size)
            with _stored_at(folder, cell).open("ab") as file:
                stored.tofile(file)
            if inside.any():
                cells.add(cell)
        start += len(record)
    return start, high, cells


def _stored_tile(folder: Path, cell: _Cell, size: float, scale: float) -> Tile:
    stored = np.fromfile(_stored_at(folder, cell), _STORED)
    intensity = np.clip(stored["intensity"] / scale, 0.0, 1.0).astype(np.float32)
    rows, inside = stored["row"].astype(np.int64), stored["inside"].astype(np.bool_)
    return Tile(np.ascontiguousarray(stored["xyz"]), _middle(cell, size), intensity, rows, inside)


def _stored_at(folder: Path, cell: _Cell) -> Path:
    return folder / f"{cell[0]}_{cell[1]}"


def _check(size: float, margin: float) -> None:
    if not (0 < size < np.inf and 0 <= margin <= size):
        raise RangeError(
            f"tiles need a size > 0 and a margin from 0 to the size, got {size:g} and {margin:g}"
        )


def _middle(cell: _Cell, size: float) -> npt.NDArray[np.float64]:
    return np.array([(cell[0] + 0.5) * size, (cell[1] + 0.5) * size, 0.0])


def _shares(
    xy: npt.NDArray[np.float64], size: float, margin: float
) -> Iterator[tuple[_Cell, npt.NDArray[np.int64], npt.NDArray[np.bool_]]]:
    """The rows of each tile, those of its margin too, ascending, and which are inside."""
    own = np.floor(xy / size).astype(np.int64)
    rows, cells, insides = [], [], []
    for step in _NEIGHBOURS:
        low = (own + step) * size - margin
        near = np.flatnonzero(((xy >= low) & (xy < low + (size + 2 * margin))).all(axis=1))
        rows.append(near)
        cells.append(own[near] + step)
        insides.append(np.full(len(near), step == (0, 0)))
    row, cell, inside = np.concatenate(rows), np.concatenate(cells), np.concatenate(insides)
    order = np.lexsort((row, cell[:, 1], cell[:, 0]))
    row, cell, inside = row[order], cell[order], inside[order]
    starts = np.flatnonzero(np.diff(cell, axis=0, prepend=cell[:1] - 1).any(axis=1))
    for start, stop in zip(starts, [*starts[1:], len(row)], strict=True):
        yield (int(cell[start, 0]), int(cell[start, 1])), row[start:stop], inside[start:stop]
