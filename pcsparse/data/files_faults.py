"""What is wrong with a file before and while it is read, and what to do about it."""

from pathlib import Path

from pcsparse.errors import FormatError

# first bytes, what they are, the endings they may have, what to do under another ending
_KINDS: tuple[tuple[bytes, str, tuple[str, ...], str], ...] = (
    (b"ply\n", "a PLY file", (".ply",), "rename it to .ply"),
    (b"ply\r", "a PLY file", (".ply",), "rename it to .ply"),
    (b"# .PCD", "a PCD file", (".pcd",), "rename it to .pcd"),
    (b"LASF", "a LAS or LAZ file", (".las", ".laz"), "rename it to .las or .laz"),
    (b"ASTM-E57", "an E57 file", (".e57",), "rename it to .e57"),
    (b"\x93NUMPY", "a NumPy array", (".npy",), "rename it to .npy"),
    (b"PK\x03\x04", "a zip archive", (".npz",), "rename it to .npz if np.savez wrote it, else unpack it"),
    (b"ARROW1", "a feather file", (".feather",), "rename it to .feather"),
    (b"PAR1", "a Parquet file", (), "write its table as .feather"),
    (b"\x89HDF", "an HDF5 file", (), "save its points as .npy"),
    (b"\x1f\x8b\x08", "a gzip archive", (), "unpack it with gunzip"),
    (b"#ROSBAG", "a ROS bag", (), "save its messages as .pcd"),
    (b"version https://git-lfs", "a Git LFS pointer", (), "fetch the file itself with git lfs pull"),
    (b"<!DOCTYPE", "a web page", (), "the download gave a page instead of the file: fetch it again"),
    (b"<!doctype", "a web page", (), "the download gave a page instead of the file: fetch it again"),
    (b"<html", "a web page", (), "the download gave a page instead of the file: fetch it again"),
)
_HEAD = 64
_TEXT = {*b" \t\r\n", *range(33, 127)}


def refuse_empty(path: Path) -> None:
    """Raise FormatError for a file of 0 bytes."""
    if path.stat().st_size == 0:
        raise FormatError(f"{path} has 0 bytes: the copy or the download broke off; fetch it again")


def refuse_other_kind(path: Path) -> None:
    """Raise FormatError if the first bytes are those of a format that goes by another ending."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    for magic, kind, endings, advice in _KINDS:
        if head.startswith(magic) and path.suffix.lower() not in endings:
            raise FormatError(f"{path} begins as {kind}, not as a {path.suffix} file: {advice}")
    if path.suffix.lower() == ".bin" and len(head) == _HEAD and head.isascii() and not set(head) - _TEXT:
        raise FormatError(
            f"{path} begins as text, not as a .bin file of floats: if it is rows of numbers, rename it to "
            ".xyz, .csv or .txt"
        )


def broken(path: Path, kind: str, error: Exception) -> FormatError:
    """What a library's own exception becomes."""
    # libraries put whole reports into their messages; the first line names the fault
    said = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {said[0]}" if said else type(error).__name__
    size = path.stat().st_size
    return FormatError(
        f"{path} ({size} bytes) is no readable {kind} file ({reason}); it is truncated, or another format "
        "under this ending: check the header and fetch it again"
    )


def refuse_more(path: Path, promised: int, there: int) -> None:
    """Raise FormatError for points behind those that the header promises."""
    raise FormatError(
        f"{path}: the header promises {promised} points, there is room for {there}; points would be lost: "
        "correct the header"
    )


def refuse_fewer(path: Path, promised: int, there: int) -> None:
    """Raise FormatError unless as many points are there as the header promises."""
    if there > promised:
        refuse_more(path, promised, there)
    if there != promised:
        raise FormatError(
            f"{path}: the header promises {promised} points, {there} are there; the file is truncated"
        )
