"""The log of a search: a rollout a line, appended as soon as its score is there."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pcsparse.compress.resumable_log import ResumableLog
from pcsparse.compress.search.trials import Trial
from pcsparse.errors import FormatError


def logged_scores(path: Path) -> list[float | None]:
    """The scores of the evaluations that a log holds, failed ones as None; none where there is no log.

    Half a line at its end is left out, and so is what is no rollout: `TrialLog` refuses that.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    found: list[float | None] = []
    for line in content[: content.rfind(b"\n") + 1].splitlines()[1:]:
        try:
            entry = json.loads(line)
            if not entry["cached"]:
                found.append(entry["score"])
        except (ValueError, TypeError, KeyError):
            break
    return found


class TrialLog(ResumableLog):
    """Rollouts in a file, those of an earlier process first.

    Args:
        path: of the log; made with its folder where it is missing. None keeps nothing.
        facts: what tells this search from others, JSON values; a log of another search is refused.

    Raises:
        FormatError: the file is no log, or one of another search.
    """

    def __init__(self, path: Path | None, facts: Mapping[str, Any]) -> None:
        super().__init__(path, facts, "search")
        self.replayed: dict[int, Trial] = {}
        for number, line in enumerate(self.lines, start=2):
            trial = self._parse(line, number)
            if self.replayed.setdefault(trial.index, trial) != trial:
                raise FormatError(
                    f"{path} has rollout {trial.index} twice, line {number}: two searches wrote to it at "
                    "once; give each a log of its own"
                )
        self.open()

    def write(self, trial: Trial) -> None:
        """Append a rollout, on the disk when this returns."""
        self.append(asdict(trial))

    def _parse(self, line: bytes, number: int) -> Trial:
        try:
            facts = json.loads(line)
            return Trial(**{**facts, "widths": tuple(facts["widths"])})
        except (ValueError, TypeError, KeyError) as error:
            raise FormatError(
                f"{self._path}, line {number} is no rollout ({error}); the lines before it are good: cut the "
                "file there to resume"
            ) from error
