"""The log of a scan: a line of JSON an evaluation, on the disk before the next one begins."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pcsparse.compress.sensitivity_table import Evaluation, Point
from pcsparse.errors import FormatError

_FORMAT = 1


class PointLog:
    """Evaluations in a file, those of an earlier process first. Half a line of a killed one is cut off.

    Args:
        path: of the log; made with its folder where it is missing. None keeps nothing.
        facts: what tells this scan from others, JSON values; a log of another scan is refused.

    Raises:
        FormatError: the file is no log of a scan, or one of another scan.
    """

    def __init__(self, path: Path | None, facts: Mapping[str, Any]) -> None:
        self._path = path
        self._dense: Evaluation | None = None
        self._points: dict[tuple[str, int], Point] = {}
        self._file: int | None = None
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        header = json.loads(json.dumps({"format": _FORMAT, **facts}))
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        lines = whole.splitlines()
        if lines:
            self._read(lines, header)
        elif content and not json.dumps(header).encode().startswith(content):
            raise FormatError(f"{path} is no log of a scan; give another path")
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.ftruncate(self._file, len(whole))
        if not lines:
            self._append(header)

    def _read(self, lines: list[bytes], header: dict[str, Any]) -> None:
        try:
            found = json.loads(lines[0])
            differing = [key for key in {**header, **found} if header.get(key) != found.get(key)]
            if "format" not in found:
                raise ValueError("no format")
            for line in lines[1:]:
                entry = json.loads(line)
                entry["per_sweep"] = tuple(entry["per_sweep"])
                if "name" in entry:
                    point = Point(**entry)
                    self._points[point.name, point.kept] = point
                else:
                    self._dense = Evaluation(**entry)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{self._path} is no log of a scan ({error}); give another path") from error
        if differing:
            listed = "; ".join(f"{key} {found.get(key)!r}, now {header.get(key)!r}" for key in differing)
            raise FormatError(f"{self._path} belongs to another scan ({listed}); give another path")

    def dense(self) -> Evaluation | None:
        """The evaluation of the network as it is, if it is there."""
        return self._dense

    def point(self, name: str, kept: int) -> Point | None:
        """A point, if it is there."""
        return self._points.get((name, kept))

    def write_dense(self, found: Evaluation) -> None:
        """Append the evaluation of the network as it is."""
        self._append(asdict(found))

    def write(self, point: Point) -> None:
        """Append a point, on the disk when this returns."""
        self._append(asdict(point))

    def _append(self, entry: Mapping[str, Any]) -> None:
        if self._file is not None:
            os.write(self._file, (json.dumps(entry, allow_nan=False) + "\n").encode())
            os.fsync(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
