"""The log of a search: a line of JSON a rollout, appended as soon as its score is there.

The first line says which search it is. A process that is killed may leave half a line; it is cut off when the
log is opened again. Nothing else is ever changed.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pcsparse.compress.search.trials import Trial
from pcsparse.errors import FormatError

_FORMAT = 1


class TrialLog:
    """Rollouts in a file, those of an earlier process first.

    Args:
        path: of the log; made with its folder where it is missing. None keeps nothing.
        facts: what tells this search from others, JSON values; a log of another search is refused.

    Raises:
        FormatError: the file is no log, or one of another search.
    """

    def __init__(self, path: Path | None, facts: Mapping[str, Any]) -> None:
        self._path = path
        self.replayed: dict[int, Trial] = {}
        self._file: int | None = None
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        header = json.loads(json.dumps({"format": _FORMAT, **facts}))
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        lines = whole.splitlines()
        if lines:
            self._check_header(lines[0], header)
            for number, line in enumerate(lines[1:], start=2):
                trial = self._parse(line, number)
                if self.replayed.setdefault(trial.index, trial) != trial:
                    raise FormatError(
                        f"{path} has rollout {trial.index} twice, line {number}: two searches wrote to it at "
                        "once; give each a log of its own"
                    )
        elif content and not json.dumps(header).encode().startswith(content):
            raise FormatError(f"{path} is no log of a search; give another path")
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.ftruncate(self._file, len(whole))
        if not lines:
            self._append(header)

    def write(self, trial: Trial) -> None:
        """Append a rollout, on the disk when this returns."""
        if self._file is not None:
            self._append(asdict(trial))

    def _append(self, facts: Mapping[str, Any]) -> None:
        assert self._file is not None
        # one call a line: another process sees whole lines
        os.write(self._file, (json.dumps(facts, allow_nan=False) + "\n").encode())
        os.fsync(self._file)

    def _check_header(self, line: bytes, wanted: Mapping[str, Any]) -> None:
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict) or "format" not in found:
            raise FormatError(f"{self._path} is no log of a search; give another path")
        differing = [key for key in {**wanted, **found} if wanted.get(key) != found.get(key)]
        if differing:
            listed = "; ".join(f"{key} {found.get(key)!r}, now {wanted.get(key)!r}" for key in differing)
            raise FormatError(
                f"{self._path} is the log of another search ({listed}); resume it with the same arguments or "
                "give another path"
            )

    def _parse(self, line: bytes, number: int) -> Trial:
        try:
            facts = json.loads(line)
            return Trial(**{**facts, "widths": tuple(facts["widths"])})
        except (ValueError, TypeError, KeyError) as error:
            raise FormatError(
                f"{self._path}, line {number} is no rollout ({error}); the lines before it are good: cut the "
                "file there to resume"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
