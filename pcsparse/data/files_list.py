"""Which point files a user means by files, folders and patterns."""

import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from pcsparse.errors import FormatError

EXTENSIONS = (
    ".bin", ".npy", ".npz", ".pcd", ".ply", ".feather", ".las", ".laz", ".e57", ".xyz", ".csv", ".txt",
)  # fmt: skip
"""Endings of the point files that can be read; `.pcd.bin` is nuScenes' own `.bin`."""

# endings of poses, boxes and logs too: in a folder they count where nothing else is there
_AMBIGUOUS = frozenset({".csv", ".txt"})
_WILDCARDS = frozenset("*?[")
_SHOWN_FOLDERS = 3
# files and folders of a tree
_LOOKS = 20_000


def list_point_files(path: str | Path) -> list[Path]:
    """The point files that a user means by a file, a folder or a pattern, sorted by path.

    Args:
        path: a file (any ending); a folder (its point files, not those of sub folders); or a pattern with
            `*`, `?`, `[...]` or `**` for sub folders. A folder's .csv and .txt count where neither it nor a
            sub folder has another point file, those of a pattern where it matches no other.

    Raises:
        FormatError: nothing there, or no point file; the text says where there are some.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if path.is_dir():
        return _in_folder(path)
    if not _WILDCARDS & set(str(path)):
        raise FormatError(f"{path} does not exist (looked in {path.parent.resolve()})")
    first = next(i for i, part in enumerate(path.parts) if _WILDCARDS & set(part))
    base, pattern = Path(*path.parts[:first]), Path(*path.parts[first:])
    found = sorted(child for child in base.glob(str(pattern)) if _is_point_file(child))
    found = _clear(found) or found
    if not found:
        raise FormatError(f"the pattern {path} matches no point file (known: {' '.join(EXTENSIONS)})")
    return found


def _is_point_file(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file()


def _clear(paths: list[Path]) -> list[Path]:
    """Those that are point files by their ending alone."""
    return [path for path in paths if path.suffix.lower() not in _AMBIGUOUS]


def _in_folder(folder: Path) -> list[Path]:
    found = sorted(child for child in folder.iterdir() if _is_point_file(child))
    if _clear(found):
        return _clear(found)
    below = _below(folder)
    if not found or below:
        raise FormatError(f"no point file in {folder} (known: {' '.join(EXTENSIONS)}){below}")
    return found


def list_sources(
    given: Iterable[str | Path], *, written: str | Path | None = None
) -> tuple[list[Path], tuple[str, ...]]:
    """The point files of all that a user named, each once, and what is to be said of it.

    Args:
        given: each as `list_point_files` takes it.
        written: folder of outputs, of which nothing is said.

    Returns:
        The files, in that order; a note for each folder whose sub folders have point files that are left out.

    Raises:
        FormatError: as `list_point_files`.
    """
    paths = [Path(path) for path in given]
    files = list(dict.fromkeys(file for path in paths for file in list_point_files(path)))
    named = {file.resolve().parent for file in files}
    out = None if written is None else Path(written).resolve()
    notes = []
    for folder in dict.fromkeys(path for path in paths if path.is_dir()):
        left = [
            found for found in _folders_below(folder)
            if found.resolve() not in named and (out is None or not found.resolve().is_relative_to(out))
        ]  # fmt: skip
        if left:
            notes.append(
                f"{folder}: its sub folders are left out, and there are point files in {_shown(left)}; name "
                f"them, or use the pattern '{folder}/**/*'"
            )
    return files, tuple(notes)


def _below(folder: Path) -> str:
    folders = _folders_below(folder)
    if not folders:
        return ""
    return f"; there are some in {_shown(folders)}: name one, or use the pattern '{folder}/**/*'"


def _shown(folders: list[Path]) -> str:
    more = " and more" if len(folders) > _SHOWN_FOLDERS else ""
    return ", ".join(str(folder) for folder in folders[:_SHOWN_FOLDERS]) + more


def _folders_below(folder: Path) -> list[Path]:
    """Some sub folders that have point files by their ending alone, one more than is shown.

    Hidden folders and links are not entered, and not more is looked at than takes a blink: it is a hint.
    """
    found: list[Path] = []
    looks, waiting = _LOOKS, [folder]
    while waiting and looks > 0 and len(found) <= _SHOWN_FOLDERS:
        here = waiting.pop(0)
        try:
            with os.scandir(here) as entries:
                names = sorted(
                    (entry.name, entry.is_dir(follow_symlinks=False))
                    for entry in islice(entries, looks)
                    if not entry.name.startswith(".")
                )
        except OSError:
            # one that may not be looked into
            continue
        looks -= len(names) + 1
        waiting += [here / name for name, is_folder in names if is_folder]
        files = [here / name for name, is_folder in names if not is_folder]
        if here != folder and _clear([file for file in files if file.suffix.lower() in EXTENSIONS]):
            found.append(here)
    return found
