"""Points as text: .xyz, .csv, .txt. Rows of numbers, with names of columns or without."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
import numpy.typing as npt

from pcsparse.data.files_array import INTENSITY_NAMES, numbered, of_named_columns
from pcsparse.data.files_faults import refuse_empty, refuse_fewer
from pcsparse.data.files_table import Table, check_rows, columns_of, flat
from pcsparse.data.files_text_layout import MISSING, TextLayout, is_aside, is_number, split
from pcsparse.data.point_cloud import RawCloud
from pcsparse.errors import FormatError

_FEWEST = 3
_COLORED = 6
_COLORS = ("red", "green", "blue")
# what stays a float even where all its values are whole
_FLOATS = frozenset({"x", "y", "z", *INTENSITY_NAMES})
# what float64 counts exactly
_EXACT = 2.0**53
# rows at a time: their text is many times as large
_CHUNK = 50_000


def read_text(path: Path) -> RawCloud:
    """Points of a text file: columns by name, else x, y, z, intensity by place.

    What parts them (blanks, tabs, commas, semicolons), decimal commas and a line that counts the points are
    recognised. Coordinates are float64. A missing number is NaN.
    """
    found = _load(path)
    raw = of_named_columns(path, found.table)
    return RawCloud(raw.xyz, raw.intensity, ring=raw.ring, notes=(*found.notes, *raw.notes))


def text_table(path: Path) -> Table:
    """All columns of numbers; whole ones are integers, but for x, y, z and intensity."""
    return _load(path).table


def write_csv(path: Path, table: Table) -> tuple[str, ...]:
    """A line of names, then the rows, with commas; every number has the digits that give it back."""
    _write(path, table, ",", "")
    return ()


def write_xyz(path: Path, table: Table) -> tuple[str, ...]:
    """A comment of names, then the rows, with blanks; every number has the digits that give it back."""
    _write(path, table, " ", "# ")
    return ()


def add_to_text(path: Path, source: Path, added: Table) -> tuple[str, ...]:
    """Another file with further columns at the end of the rows, which stay as they are to the letter."""
    layout, table, _ = _load(source)
    notes = _counted_note(layout)
    names = list(added.dtype.names or ())
    kept = [i for i, name in enumerate(layout.names) if layout.header is None or name not in names]
    n_rows = 0
    more = _rows_of(added)
    with layout.lines(source) as lines, _created(path, layout.encoding) as out:
        for number, line in enumerate(lines):
            body = line.rstrip("\r\n")
            end = line[len(body) :] or "\n"
            if number >= layout.skipped and not is_aside(body):
                n_rows += 1
                values = next(more, ())
                if layout.decimal_comma:
                    values = tuple(value.replace(".", ",") for value in values)
                out.write(_with_more(body.partition("#")[0], values, kept, layout) + end)
            elif layout.header is not None and number == layout.header.line:
                mark, before, own = layout.header.mark, layout.header.names, layout.header.delimiter
                all_names = [*(before[i] for i in kept), *names]
                out.write(mark + _line(all_names, own, quoted='"' in body) + end)
            else:
                out.write(line)
    check_rows(n_rows, added)
    return notes if layout.header is not None else (numbered([*(table.dtype.names or ()), *names]),)


class _Found(NamedTuple):
    layout: TextLayout
    table: Table
    notes: tuple[str, ...]


def _load(path: Path) -> _Found:
    refuse_empty(path)
    layout = TextLayout.of(path)
    n_columns = len(layout.names)
    if n_columns < _FEWEST:
        raise FormatError(
            f"{path}, line {layout.skipped + 1}: {n_columns} columns, points have 3 or more: x, y, z, "
            "intensity ..., parted by blanks, tabs, commas or semicolons"
        )
    rows, notes = _parsed(path, layout) if layout.first else (np.empty(0, _dtype(layout)), ())
    if layout.promised is not None:
        refuse_fewer(path, layout.promised, len(rows))
    names = layout.names if layout.header is not None else _places(n_columns, rows)
    if layout.header is None:
        notes = (f"no names of columns: taken for {', '.join(names)}; a first line can name them", *notes)
    if layout.words:
        notes = (f"not read, as they hold words: {', '.join(names[i] for i in layout.words)}", *notes)
    columns = {name: _narrowed(name, rows[f"f{i}"]) for i, name in enumerate(names) if i not in layout.words}
    notes = (*_counted_note(layout), *notes, *_long_note(columns), *_end_note(path, layout))
    return _Found(layout, columns_of(columns), notes)


def _dtype(layout: TextLayout, *, long: bool = True) -> np.dtype:
    kinds = ["U1" if i in layout.words else "f8" for i in range(len(layout.names))]
    for i in layout.long if long else ():
        kinds[i] = "i8"
    return np.dtype([(f"f{i}", kind) for i, kind in enumerate(kinds)])


def _parsed(path: Path, layout: TextLayout) -> tuple[npt.NDArray[np.void], tuple[str, ...]]:
    """The rows; of a file with missing numbers or decimal commas in a second, slower pass."""
    try:
        with layout.lines(path) as lines:
            options: dict[str, Any] = {
                "delimiter": layout.delimiter,
                "skiprows": layout.skipped,
                "quotechar": '"',
            }
            return np.loadtxt(lines, _dtype(layout), ndmin=1, **options), ()
    except ValueError:
        pass
    mended = _Mended(path, layout)
    with layout.lines(path) as lines:
        rows = np.loadtxt(mended.lines(lines), _dtype(layout, long=False), delimiter="\t", ndmin=1)
    return rows, mended.notes


class _Mended:
    """Rows with NaN for what is missing and points for decimal commas, or an error that names the fault."""

    def __init__(self, path: Path, layout: TextLayout) -> None:
        self._path, self._layout = path, layout
        self._missing = self._commas = 0

    @property
    def notes(self) -> tuple[str, ...]:
        """What was mended."""
        missing = (f"{self._missing} missing numbers read as NaN",) if self._missing else ()
        return (*missing, "decimal commas read as points") if self._commas else missing

    def lines(self, lines: TextIO) -> Iterator[str]:
        """The rows, parted by tabs.

        Raises:
            FormatError: a row has another number of columns, or something else than numbers.
        """
        words = frozenset(self._layout.words)
        n_columns = len(self._layout.names)
        for number, fields in self._layout.rows(lines):
            if len(fields) != n_columns:
                raise FormatError(
                    f"{self._path}, line {number}: {len(fields)} columns, {n_columns} in the lines before; "
                    "if it is the last line, the file is truncated"
                )
            yield "\t".join(
                "-" if i in words else self._number(field, number, i) for i, field in enumerate(fields)
            )

    def _number(self, field: str, line: int, column: int) -> str:
        if field.lower() in MISSING:
            self._missing += 1
            return "nan"
        if not is_number(field):
            name = f" ({self._layout.names[column]})" if self._layout.header is not None else ""
            raise FormatError(
                f"{self._path}, line {line}, column {column + 1}{name}: {field[:40]!r} is no number"
            )
        if "," in field:
            self._commas += 1
        return field.replace(",", ".")


def _places(n: int, rows: npt.NDArray[np.void]) -> tuple[str, ...]:
    """Names of columns by their places: six of which the last three are bytes are points with colours."""
    rest = tuple(f"column_{i}" for i in range(4, n))
    if n == _COLORED and all(_is_byte(rows[f"f{i}"]) for i in range(3, n)):
        return ("x", "y", "z", *_COLORS)
    return (*("x", "y", "z", "intensity")[:n], *rest)


def _is_byte(values: npt.NDArray) -> bool:
    return bool(((values >= 0) & (values <= 255) & (values == np.floor(values))).all())


def _narrowed(name: str, values: npt.NDArray) -> npt.NDArray:
    """Integers where all values are, as colours, rings and classes are."""
    if name.lower() in _FLOATS or values.dtype.kind != "f" or not len(values):
        return values
    whole = (np.abs(values) < _EXACT) & (values == np.floor(values))
    return values.astype(np.int64) if bool(whole.all()) else values


def _counted_note(layout: TextLayout) -> tuple[str, ...]:
    if layout.header is None or not layout.header.counted:
        return ()
    return (
        f"line {layout.header.line + 1} ({layout.header.counted}) taken for the numbers of columns, not for "
        "a point; if it is one, put a line with names above it: x,y,z ...",
    )


def _long_note(columns: Mapping[str, npt.NDArray]) -> tuple[str, ...]:
    """Long numbers are integers if those of all rows are; a missing one, say, makes them floats."""
    lossy = [
        name
        for name, values in columns.items()
        if values.dtype.kind == "f" and bool((np.isfinite(values) & (np.abs(values) >= _EXACT)).any())
    ]
    if not lossy:
        return ()
    return (
        f"{', '.join(lossy)}: read as float64, which rounds numbers of 16 digits and more; they keep all "
        "digits if every row has a whole number within 64 bits there",
    )


def _end_note(path: Path, layout: TextLayout) -> tuple[str, ...]:
    """Nothing but its missing end can tell that the last line lost digits."""
    with path.open("rb") as file:
        file.seek(-min(2, path.stat().st_size), os.SEEK_END)
        ended = {b"\n", b"\r"} & {bytes([byte]) for byte in file.read()}
    return () if ended else ("the last line has no end: if the file was cut off, its last number is wrong",)


def _write(path: Path, table: Table, delimiter: str, mark: str) -> None:
    columns = flat(table)
    with _created(path, "utf-8") as file:
        file.write(mark + _line(list(columns), delimiter) + "\n")
        for row in _rows_of(table):
            file.write(delimiter.join(row) + "\n")


def _rows_of(table: Table) -> Iterator[tuple[str, ...]]:
    for start in range(0, len(table), _CHUNK):
        part = flat(table[start : start + _CHUNK])
        yield from zip(*(_texts(values) for values in part.values()), strict=True)


def _texts(values: npt.NDArray) -> list[str]:
    # numpy's own text of a float is the shortest that gives it back in its size; a half is read as a single
    wide = values.astype(np.float32) if values.dtype == np.float16 else values
    texts: list[str] = wide.astype(np.str_).tolist()
    return texts


def _created(path: Path, encoding: str) -> TextIO:
    plain = "utf-8" if encoding == "utf-8-sig" else encoding
    return path.open("w", encoding=plain, errors="surrogateescape", newline="")


def _with_more(body: str, values: tuple[str, ...], kept: list[int], layout: TextLayout) -> str:
    if len(kept) < len(layout.names):
        fields = split(body, layout.delimiter)
        return _line([*(fields[i] for i in kept), *values], layout.delimiter)
    delimiter = layout.delimiter or " "
    return delimiter.join([body.rstrip(" " if layout.delimiter else None), *values])


def _line(fields: list[str], delimiter: str | None, *, quoted: bool = False) -> str:
    if delimiter in (None, " "):
        # whoever splits at blanks knows no quotes
        return " ".join("_".join(field.replace('"', " ").split()) for field in fields)
    special = (delimiter, '"')
    return delimiter.join(
        '"' + field.replace('"', '""') + '"' if quoted or any(mark in field for mark in special) else field
        for field in fields
    )
