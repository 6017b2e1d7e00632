"""How numbers as text are laid out: what parts the columns, how they are called, where rows begin."""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, TextIO

from pcsparse.data.files_array import INTENSITY_NAMES
from pcsparse.errors import FormatError

MISSING = frozenset({"", "na", "n/a", "null", "none", "nan(ind)", "-nan(ind)"})
"""What stands for a number that is absent, lower case, beside `nan`."""

# of equal candidates the first counts; None: blanks of any number
_DELIMITERS = (";", ",", "\t", None)
_COMMENTS = ("//", "#", "%")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?")
# a float64 does not count so far; 19 digits are nanoseconds since 1970
_LONG = re.compile(r"[+-]?\d{16,19}")
_INT64 = range(-(2**63), 2**63)
_UNIT = re.compile(r"\s*[\[(]\s*(?:m|metres?|meters?)\s*[\])]$")
# VeloView, ParaView, surveyors
_AXES = {
    "points:0": "x", "points:1": "y", "points:2": "z",
    "points_m_xyz:0": "x", "points_m_xyz:1": "y", "points_m_xyz:2": "z",
    "easting": "x", "northing": "y", "elevation": "z", "height": "z", "altitude": "z",
}  # fmt: skip
_HEAD = 1 << 16
# a count, a header, two rows
_LOOKED_AT = 4


class Header(NamedTuple):
    """The line that names the columns.

    Attributes:
        line: its number, from 0.
        mark: what makes it a comment, blanks included; empty for none.
        names: as they stand there.
        delimiter: what parts them.
        counted: the line itself, where it holds 0, 1, 2 ... for names, which a point may do too; else empty.
    """

    line: int
    mark: str
    names: tuple[str, ...]
    delimiter: str | None
    counted: str = ""


@dataclass(frozen=True)
class TextLayout:
    """The layout of one file.

    Attributes:
        encoding: of its characters; bytes that are none are kept as surrogates.
        delimiter: one character, or None for blanks of any number.
        skipped: lines before the first row.
        header: the line with names, if any.
        first: fields of the first row; of none if there is no row.
        promised: points that a line of its own counts, as in PTS; None without.
    """

    encoding: str
    delimiter: str | None
    skipped: int
    header: Header | None
    first: tuple[str, ...]
    promised: int | None = None

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of all columns, each once; those of rows without names are counted."""
        if self.header is None:
            return tuple(f"column_{i}" for i in range(len(self.first)))
        return _unique(_named(self.header.names))

    @property
    def words(self) -> tuple[int, ...]:
        """Columns that hold no numbers, by the first row; a point's own are never among them."""
        needed = {"x", "y", "z", *INTENSITY_NAMES}
        return tuple(
            i
            for i, field in enumerate(self.first)
            if self.header is not None and not is_number(field) and self.names[i].lower() not in needed
        )

    @property
    def long(self) -> tuple[int, ...]:
        """Columns of integers that need 64 bits, such as time stamps, by the first row."""
        return tuple(
            i for i, field in enumerate(self.first) if _LONG.fullmatch(field) and int(field) in _INT64
        )

    @property
    def decimal_comma(self) -> bool:
        """Whether 1,5 is one and a half."""
        return self.delimiter != "," and any(map(_DECIMAL_COMMA.fullmatch, self.first))

    def lines(self, path: Path) -> TextIO:
        """The file opened for reading, ends of lines as they are."""
        return path.open(encoding=self.encoding, errors="surrogateescape", newline="")

    def rows(self, lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
        """Number, from 1, and fields of every row."""
        for number, line in enumerate(lines):
            if number >= self.skipped and not is_aside(line):
                yield number + 1, split(line.partition("#")[0], self.delimiter)

    @classmethod
    def of(cls, path: Path) -> "TextLayout":
        """Look at the first lines of a file.

        Raises:
            FormatError: they are no text, or neither numbers nor names of columns.
        """
        encoding = _encoding_of(path)
        with path.open(encoding=encoding, errors="surrogateescape", newline="") as file:
            return _layout(path, encoding, file)


def is_aside(line: str) -> bool:
    """Whether a line among the rows holds none: an empty one or a comment."""
    text = line.lstrip()
    return not text or text.startswith("#")


def is_number(field: str) -> bool:
    """Whether it is read as a number, a missing one included."""
    if field.lower() in MISSING or _DECIMAL_COMMA.fullmatch(field):
        return True
    try:
        float(field)
    except ValueError:
        return False
    # Python's own notation
    return "_" not in field


def split(line: str, delimiter: str | None) -> list[str]:
    """The fields of a line, without blanks and quotes around them."""
    if delimiter is None:
        return line.replace('"', " ").split()
    if '"' in line:
        fields = next(csv.reader([line.strip("\r\n")], delimiter=delimiter, skipinitialspace=True), [])
        return [field.strip() for field in fields]
    return [field.strip() for field in line.split(delimiter)]


def _encoding_of(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if b"\0" in head:
        raise FormatError(
            f"{path} is no text: byte {head.index(0)} is 0; is it a .bin, or another format under the ending?"
        )
    return "utf-8-sig"


def _layout(path: Path, encoding: str, file: TextIO) -> TextLayout:
    comment, content, ended = _first_lines(file)
    promised = None
    if len(content) > 1 and content[0].text.isdecimal() and not content[1].text.isdecimal():
        promised = int(content.pop(0).text)
    named = bool(content) and _names_columns(content[0].text, content[1].row if len(content) > 1 else "")
    rows = content[1:] if named else content
    head = content[0] if named else comment
    if not rows and head is None:
        raise FormatError(f"{path} holds no line of numbers; check what it is")
    delimiter = _delimiter_of(rows[0].row if rows else None, head.text if head else "")
    first = tuple(split(rows[0].row, delimiter)) if rows else ()
    header = _header(head, delimiter, first, sure=named)
    if header is None and not rows:
        raise FormatError(f"{path} holds comments and no line of numbers; check what it is")
    if not rows and not ended:
        raise FormatError(f"{path} ends within the line that names its columns: the file is truncated")
    if header is not None and rows and len(header.names) != len(first):
        raise FormatError(
            f"{path}, line {rows[0].number + 1}: {len(first)} columns, line {header.line + 1} names "
            f"{len(header.names)} ({', '.join(header.names)}); give every column a name"
        )
    skipped = rows[0].number if rows else 1 + (header.line if header else 0)
    return TextLayout(encoding, delimiter, skipped, header, first, promised)


class _Line(NamedTuple):
    number: int
    text: str

    @property
    def row(self) -> str:
        """Without a comment behind it."""
        return self.text.partition("#")[0]


def _first_lines(file: TextIO) -> tuple[_Line | None, list[_Line], bool]:
    """The last comment above all else, the first other lines, and whether the last of them has an end."""
    comment, content, line = None, list[_Line](), ""
    for number, line in enumerate(file):
        text = line.strip("\r\n\ufeff ")
        if text.startswith(_COMMENTS):
            comment = _Line(number, text) if not content else comment
        elif text.strip():
            content.append(_Line(number, text))
        if len(content) == _LOOKED_AT:
            break
    return comment, content, line.endswith(("\n", "\r"))


def _names_columns(line: str, after: str) -> bool:
    """Whether a first line names the columns: it holds no number, or x, y and z, or counts columns."""
    fields = split(line, _delimiter_of(line, ""))
    if _counted(fields):
        # pandas numbers columns that have no names; a row of points is hardly ever 0, 1, 2 ...
        second = split(after, _delimiter_of(after, ""))
        return len(second) == len(fields) and not all(map(str.isdecimal, second[1:]))
    return not any(map(_is_written, fields)) or {"x", "y", "z"} <= {n.lower() for n in _named(fields)}


def _header(
    line: _Line | None, delimiter: str | None, first: tuple[str, ...], *, sure: bool
) -> Header | None:
    """The names in a line: a header for sure, or a comment that counts only if it fits the first row."""
    if line is None:
        return None
    bare = line.text if sure else line.text.lstrip("/#% \t")
    mark = line.text[: len(line.text) - len(bare)]
    for own in (delimiter, *_DELIMITERS):
        names = split(bare, own)
        # some end every row, but not the header, with a delimiter
        names += [""] if len(first) == len(names) + 1 and first[-1] == "" else []
        if first and len(names) != len(first):
            continue
        if sure or {"x", "y", "z"} <= {name.lower() for name in _named(names)}:
            if not _counted(names):
                return Header(line.number, mark, tuple(names), own)
            # no point begins with the empty name of an index
            return Header(line.number, mark, _of_numbers(names), own, line.text if names[0] else "")
    return Header(line.number, mark, tuple(split(bare, delimiter)), delimiter) if sure else None


def _is_written(field: str) -> bool:
    return is_number(field) and field.lower() not in MISSING


def _counted(fields: list[str]) -> bool:
    """Whether they are 0, 1, 2 ..., behind an empty name of an index or not."""
    numbers = fields[1:] if fields and fields[0] == "" else fields
    return len(numbers) >= 3 and numbers == [str(i) for i in range(len(numbers))]


def _of_numbers(fields: list[str]) -> tuple[str, ...]:
    index = ["index"] if fields[0] == "" else []
    n = len(fields) - len(index)
    return (*index, *("x", "y", "z", "intensity")[:n], *(f"column_{i}" for i in range(4, n)))


def _delimiter_of(row: str | None, header: str) -> str | None:
    """What parts a row into most numbers, and the header into as many names; of a header alone, any."""
    if row is None:
        return next((d for d in _DELIMITERS if d is not None and d in header), None)

    def merit(delimiter: str | None) -> tuple[int, bool, bool]:
        fields = split(row, delimiter)
        return (
            sum(map(_is_written, fields)),
            len(split(header, delimiter)) == len(fields),
            "" not in fields,
        )

    return max((d for d in _DELIMITERS if d is None or d in row), key=merit)


def _named(fields: Sequence[str]) -> list[str]:
    """Names without units; x, y and z by these where they go by others only."""
    names = [_UNIT.sub("", field.strip()) or f"column_{i}" for i, field in enumerate(fields)]
    taken = {name.lower() for name in names}
    for i, name in enumerate(names):
        axis = _AXES.get(name.lower())
        if axis is not None and axis not in taken:
            taken.add(axis)
            names[i] = axis
    return names


def _unique(names: list[str]) -> tuple[str, ...]:
    taken: list[str] = []
    for name in names:
        unique, again = name, 1
        while unique in taken:
            again += 1
            unique = f"{name}_{again}"
        taken.append(unique)
    return tuple(taken)
