"""All columns of a point file as one structured array, and the columns that a prediction adds to it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.lib.recfunctions as rfn
import numpy.typing as npt

from pcsparse.data.point_cloud import PointCloud
from pcsparse.errors import DtypeError, RangeError, ShapeError

CLASS_COLUMN = "pcsparse_class"
"""Column of raw ids, uint16: 0 where nothing was predicted."""
CONFIDENCE_COLUMN = "pcsparse_confidence"
"""Column of confidences, float32, 0-1: 0 where nothing was predicted."""

LAS_CLASS = "classification"
"""What the LAS standard calls its column of classes."""

# digits that give back every float of the size
_DIGITS = {2: "%.5g", 4: "%.9g", 8: "%.17g"}

Table = npt.NDArray[np.void]
"""(n,) structured array, a field a column, in the order of the file; x, y and z among them, in metres."""


@dataclass(frozen=True, eq=False)
class PointClasses:
    """What a model says of every row of a file.

    Attributes:
        raw_ids: (n,) uint16, as `LabelMap.to_raw` gives them; instance ids have no place here.
        confidence: (n,) float32, 0-1, or None.
        las_codes: (n,) uint8, class codes of the LAS standard, or None: other formats do not use them.
    """

    raw_ids: npt.NDArray[np.uint16]
    confidence: npt.NDArray[np.float32] | None = None
    las_codes: npt.NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        for name, values, dtype in (
            ("raw_ids", self.raw_ids, np.uint16),
            ("confidence", self.confidence, np.float32),
            ("las_codes", self.las_codes, np.uint8),
        ):
            if values is None:
                continue
            if values.dtype != dtype:
                raise DtypeError(f"{name} must be {np.dtype(dtype)}, got {values.dtype}")
            if values.shape != (len(self.raw_ids),):
                raise ShapeError(f"{name} must have shape ({len(self.raw_ids)},), got {values.shape}")

    def __len__(self) -> int:
        return len(self.raw_ids)

    def rows(self, start: int, stop: int) -> "PointClasses":
        """Those of some rows of the file."""
        part = slice(start, stop)
        return PointClasses(
            self.raw_ids[part],
            None if self.confidence is None else self.confidence[part],
            None if self.las_codes is None else self.las_codes[part],
        )

    def table(self) -> Table:
        """The columns that every format gets: class, and confidence where there is one."""
        if self.confidence is None:
            return columns_of({CLASS_COLUMN: self.raw_ids})
        return columns_of({CLASS_COLUMN: self.raw_ids, CONFIDENCE_COLUMN: self.confidence})

    def las_table(self) -> Table:
        """`table`, and the column `classification` of the LAS standard where there are codes."""
        if self.las_codes is None:
            return self.table()
        return joined(self.table(), columns_of({LAS_CLASS: self.las_codes}))


def columns_of(columns: dict[str, npt.NDArray]) -> Table:
    """A table of columns of one length, each (n,) or (n, k); in native byte order."""
    lengths = {len(values) for values in columns.values()}
    if len(lengths) != 1:
        raise ShapeError(f"columns must have one length, got {sorted(lengths)}")
    table = np.empty(
        lengths.pop(),
        dtype=[(name, values.dtype.newbyteorder("="), values.shape[1:]) for name, values in columns.items()],
    )
    for name, values in columns.items():
        table[name] = values
    return table


def check_rows(n_points: int, added: Table) -> None:
    """Raise RangeError unless there is a row for every point of a file."""
    if len(added) != n_points:
        raise RangeError(f"{len(added)} rows of classes do not fit a file of {n_points} points")


def joined(table: Table, added: Table) -> Table:
    """Both tables' columns, those of `table` first; a column that both have is taken from `added`.

    Raises:
        RangeError: another number of rows.
    """
    check_rows(len(table), added)
    result = np.empty(len(table), dtype=joined_dtype(table.dtype, added.dtype))
    for source in (table, added):
        for name in source.dtype.names or ():
            result[name] = source[name]
    return result


def joined_dtype(first: np.dtype, added: np.dtype) -> np.dtype:
    """The dtype of `joined`: packed, without the holes that selected fields leave."""
    kept = [(name, first[name]) for name in first.names or () if name not in (added.names or ())]
    return np.dtype([*kept, *((name, added[name]) for name in added.names or ())])


def flat(table: Table) -> dict[str, npt.NDArray]:
    """Columns by name, each (n,): a field of k values becomes NAME_0 ... NAME_k-1, truth becomes uint8.

    All are in native byte order: the formats' libraries refuse the other, or write its bytes as they are.
    """
    columns: dict[str, npt.NDArray] = {}
    for name in table.dtype.names or ():
        values = table[name].astype(table.dtype[name].base.newbyteorder("="), copy=False)
        if values.dtype == np.bool_:
            values = values.astype(np.uint8)
        if values.ndim == 1:
            columns[name] = values
            continue
        for i, part in enumerate(values.reshape(len(values), -1).T):
            columns[f"{name}_{i}"] = part
    return columns


def xyz_of(table: Table) -> npt.NDArray[np.floating]:
    """(n, 3) coordinates, float32 or float64 as the columns are."""
    return rfn.structured_to_unstructured(table[["x", "y", "z"]])


def table_of(cloud: PointCloud) -> Table:
    """The table of a cloud: x, y, z (float64 where the cloud has an origin), intensity and ring if any.

    Rows that were dropped at reading are not in it: `files_write.write_classes` keeps them.
    """
    xyz = cloud.world() if cloud.origin.any() else cloud.points
    columns: dict[str, npt.NDArray] = {axis: xyz[:, i] for i, axis in enumerate("xyz")}
    if cloud.intensity is not None:
        columns["intensity"] = cloud.intensity
    if cloud.ring is not None:
        columns["ring"] = cloud.ring
    return columns_of(columns)


def save_text(path: Path, header: str, table: Table) -> None:
    """Lines of numbers below a header, with the digits that give back every one."""
    dtypes = [table.dtype[name] for name in table.dtype.names or ()]
    with path.open("wb") as file:
        file.write(header.encode("ascii"))
        np.savetxt(file, table, [_DIGITS[d.itemsize] if d.kind == "f" else "%d" for d in dtypes])
