"""The log of a scan: an evaluation a line, on the disk before the next one begins."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pcsparse.compress.resumable_log import ResumableLog
from pcsparse.compress.sensitivity_table import Evaluation, Point
from pcsparse.errors import FormatError


class PointLog(ResumableLog):
    """Evaluations in a file, those of an earlier process first. Half a line of a killed one is cut off.

    Args:
        path: of the log; made with its folder where it is missing. None keeps nothing.
        facts: what tells this scan from others, JSON values; a log of another scan is refused.

    Raises:
        FormatError: the file is no log of a scan, or one of another scan.
    """

    def __init__(self, path: Path | None, facts: Mapping[str, Any]) -> None:
        super().__init__(path, facts, "scan")
        self._dense: Evaluation | None = None
        self._points: dict[tuple[str, int], Point] = {}
        try:
            for line in self.lines:
                entry = json.loads(line)
                entry["per_sweep"] = tuple(entry["per_sweep"])
                if "name" in entry:
                    point = Point(**entry)
                    self._points[point.name, point.kept] = point
                else:
                    self._dense = Evaluation(**entry)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{path} is no log of a scan ({error}); give another path") from error
        self.open()

    def dense(self) -> Evaluation | None:
        """The evaluation of the network as it is, if it is there."""
        return self._dense

    def point(self, name: str, kept: int) -> Point | None:
        """A point, if it is there."""
        return self._points.get((name, kept))

    def write_dense(self, found: Evaluation) -> None:
        """Append the evaluation of the network as it is."""
        self.append(asdict(found))

    def write(self, point: Point) -> None:
        """Append a point, on the disk when this returns."""
        self.append(asdict(point))
