"""A log of JSON lines that a killed process can go on with: each line is on the disk before the next begins.

The first line says what the log belongs to. A process that is killed may leave half a line; it is cut off
when the log is opened again. Nothing else is ever changed.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pcsparse.errors import FormatError

_FORMAT = 1


class ResumableLog:
    """An open log.

    Attributes:
        lines: what an earlier process wrote, as bytes, without the first line.

    Args:
        path: of the log; made with its folder where it is missing. None keeps nothing.
        facts: what tells its owner from others, JSON values; a log of another one is refused.
        owner: "search" or "scan", for messages.

    Raises:
        FormatError: the file is no such log, or one of another owner.
    """

    def __init__(self, path: Path | None, facts: Mapping[str, Any], owner: str) -> None:
        self.lines: list[bytes] = []
        self._path, self._owner = path, owner
        self._whole, self._is_new = 0, True
        self._header: dict[str, Any] = json.loads(json.dumps({"format": _FORMAT, **facts}))
        self._file: int | None = None
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes() if path.exists() else b""
        self._whole = content.rfind(b"\n") + 1
        lines = content[: self._whole].splitlines()
        if lines:
            self._check_header(lines[0])
        elif content and not json.dumps(self._header).encode().startswith(content):
            raise FormatError(f"{path} is no log of a {owner}; give another path")
        self.lines = lines[1:]
        self._is_new = not lines

    def open(self) -> None:
        """Begin to write, once all lines were found good: half a line is cut off only now."""
        if self._path is None:
            return
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.ftruncate(self._file, self._whole)
        if self._is_new:
            self.append(self._header)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Write a line, on the disk when this returns."""
        if self._file is not None:
            # one call a line: another process sees whole lines
            os.write(self._file, (json.dumps(entry, allow_nan=False) + "\n").encode())
            os.fsync(self._file)

    def _check_header(self, line: bytes) -> None:
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict) or "format" not in found:
            raise FormatError(f"{self._path} is no log of a {self._owner}; give another path")
        wanted = self._header
        differing = [key for key in {**wanted, **found} if wanted.get(key) != found.get(key)]
        if differing:
            listed = "; ".join(f"{key} {found.get(key)!r}, now {wanted.get(key)!r}" for key in differing)
            raise FormatError(
                f"{self._path} is the log of another {self._owner} ({listed}); resume it with the same "
                "arguments or give another path"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
