"""Which point files a user means by files, folders and patterns."""

from collections.abc import Iterable
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


def list_sources(given: Iterable[str | Path]) -> tuple[list[Path], tuple[str, ...]]:
    """The point files of all that a user named, each once, and what is to be said of it.

    Args:
        given: each as `list_point_files` takes it.

    Returns:
        The files, in that order; a note for each folder whose sub folders have point files that are left out.

    Raises:
        FormatError: as `list_point_files`.
    """
    folders = [Path(path) for path in given]
    files = list(dict.fromkeys(file for path in folders for file in list_point_files(path)))
    named = {file.resolve() for file in files}
    notes = []
    for folder in dict.fromkeys(path for path in folders if path.is_dir()):
        left = [file for file in _files_below(folder) if file.resolve() not in named]
        if left:
            notes.append(
                f"{folder}: {len(left)} point files of sub folders are left out{_where(folder, left)}"
            )
    return files, tuple(notes)


def _files_below(folder: Path) -> list[Path]:
    return sorted(_clear([child for child in folder.glob("*/**/*") if _is_point_file(child)]))


def _below(folder: Path) -> str:
    files = _files_below(folder)
    return _where(folder, files) if files else ""


def _where(folder: Path, files: list[Path]) -> str:
    folders = sorted({file.parent for file in files})
    shown = ", ".join(str(f) for f in folders[:_SHOWN_FOLDERS])
    more = f" and {len(folders) - _SHOWN_FOLDERS} more" if len(folders) > _SHOWN_FOLDERS else ""
    pattern = f"{folder}/**/*{files[0].suffix}"
    return f"; there are some in {shown}{more}: name one, or use the pattern '{pattern}'"
