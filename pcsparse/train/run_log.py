"""The tables of a run: log.csv (one row a step) and val.csv (one row a validation)."""

import csv
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from pcsparse.errors import FormatError
from pcsparse.whole_file import write_whole


def _kept_rows(path: Path, columns: Sequence[str], last_step: int) -> bytes:
    """The header and the complete rows of steps up to `last_step`, byte for byte."""
    lines = path.read_bytes().splitlines(keepends=True)
    header = (",".join(columns) + "\n").encode()
    if not lines or lines[0] != header:
        found = lines[0].decode(errors="replace").strip() if lines else "nothing"
        raise FormatError(
            f"{path} should begin with {','.join(columns)!r}, found {found!r}; is it of another version?"
        )
    kept = [header]
    for line in lines[1:]:
        step = line.split(b",", 1)[0]
        # a run that was killed while writing leaves half a line
        if line.endswith(b"\n") and step.isdigit() and int(step) <= last_step:
            kept.append(line)
    return b"".join(kept)


class CsvLog:
    """A CSV file that grows by rows whose first column is `step`, and that a resumed run continues.

    Numbers are written by `repr`, so a float32 taken to Python float comes back as the same bits.

    Args:
        path: the file.
        columns: names, `step` first.
        resume_step: keep the rows up to this step and drop the rest; None starts a new file.

    Attributes:
        last_step: of the last row; -1 without one.

    Raises:
        FormatError: the file to be continued is missing or has other columns.
    """

    def __init__(self, path: Path, columns: Sequence[str], *, resume_step: int | None) -> None:
        self.path = path
        self.columns = tuple(columns)
        self.last_step = -1
        if resume_step is None:
            write_whole(path, (",".join(columns) + "\n").encode())
        elif not path.is_file():
            raise FormatError(
                f"{path} is missing, so its run cannot be continued; resume=overwrite starts it anew"
            )
        else:
            rows = _kept_rows(path, columns, resume_step)
            write_whole(path, rows)
            step = rows.splitlines()[-1].split(b",", 1)[0]
            # the header where no row is kept
            self.last_step = int(step) if step.isdigit() else -1
        self._file = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file, lineterminator="\n")

    def write(self, *values: float | int | str) -> None:
        """Append one row, in the order of the columns; it is on its way to disk when this returns."""
        if len(values) != len(self.columns):
            raise FormatError(f"{self.path} has the columns {self.columns}, got {len(values)} values")
        self._writer.writerow([repr(v) if isinstance(v, float) else v for v in values])
        self._file.flush()
        self.last_step = int(values[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
