"""The log of a scan: an evaluation a line, on the disk before the next one begins."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pcsparse.compress.resumable_log import ResumableLog
from pcsparse.compress.sensitivity_table import Evaluation, Point, SensitivityTable
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
                found = _entry(line)
                if isinstance(found, Point):
                    self._points[found.name, found.kept] = found
                else:
                    self._dense = found
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


def load_scan(path: Path) -> SensitivityTable:
    """What a log holds of a scan, finished or still running, without the network that was scanned.

    Args:
        path: of the log, such as runs/NAME/sensitivity.jsonl. Half a line at its end is left out.

    Returns:
        Its table, names in the order of their first points.

    Raises:
        FormatError: no log of a scan, or one that holds no evaluation of the whole network yet.
    """
    try:
        content = path.read_bytes()
        header, *lines = content[: content.rfind(b"\n") + 1].splitlines()
        facts = json.loads(header)
        axis, worst = facts["axis"], facts["worst"]
        found = [_entry(line) for line in lines]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path} is no log of a scan ({type(error).__name__}: {error})") from error
    dense = next((one for one in found if isinstance(one, Evaluation)), None)
    if dense is None:
        raise FormatError(f"{path} holds no evaluation of the whole network yet; let the scan go on")
    points = {(one.name, one.kept): one for one in found if isinstance(one, Point)}
    order = list(dict.fromkeys(name for name, _ in points))
    listed = sorted(points.values(), key=lambda point: (order.index(point.name), point.ratio))
    return SensitivityTable(axis, dense, tuple(listed), worst)


def _entry(line: bytes) -> Evaluation | Point:
    entry = json.loads(line)
    entry["per_sweep"] = tuple(entry["per_sweep"])
    return Point(**entry) if "name" in entry else Evaluation(**entry)
