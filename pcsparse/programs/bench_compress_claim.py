"""What a folder of a study of compression may hold, and numbers that no study can be made with."""

from collections.abc import Iterable
from pathlib import Path

from pcsparse.errors import FormatError, RangeError
from pcsparse.whole_file import write_whole


def claim(
    out: Path,
    facts: str,
    record: str = "study.txt",
    what: str = "a study of another network or of other streets",
    made: Iterable[str] = (),
) -> None:
    """Say what a folder of a study is made from, and refuse one that is made from something else.

    Args:
        out: the folder.
        facts: what it is made from now.
        record: name of the file that says so.
        what: a folder with other facts holds, for the error.
        made: names of files and folders that are not taken over without a record: nothing else says what
            they are made from.

    Raises:
        FormatError: the record has other facts; or there is none beside something that is `made`.
    """
    path = out / record
    found = [] if path.is_file() else [name for name in made if (out / name).exists()]
    if found:
        raise FormatError(
            f"{out} holds {', '.join(found)} and no {record}, which would say what they are made from; give "
            f"another --out, or, if they are made from what is asked for, write this line into {path}: "
            f"{facts}"
        )
    if path.is_file() and path.read_text() != facts:
        raise FormatError(f"{out} holds {what} ({path.read_text()}; now {facts}); give another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_whole(path, facts.encode())


def check_study(*, share: float, seeds: int, evaluations: int, workers: int = 0) -> None:
    """Raise RangeError for numbers that no study can be made with, before any of it."""
    if not 0 < share <= 1 or seeds < 1 or evaluations < 1 or workers < 0:
        raise RangeError(
            "a share must be in (0, 1], seeds and evaluations at least 1 and workers at least 0, got "
            f"share={share}, seeds={seeds}, evaluations={evaluations}, workers={workers}"
        )
