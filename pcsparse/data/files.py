"""Point files of any known format: one call to read, one to write; `files_list` has those that list."""

from collections.abc import Callable
from pathlib import Path

from pcsparse.data import (
    files_array,
    files_bin,
    files_e57,
    files_feather,
    files_las,
    files_pcd,
    files_ply,
    files_text,
)
from pcsparse.data.files_faults import refuse_empty, refuse_other_kind
from pcsparse.data.files_list import EXTENSIONS as EXTENSIONS
from pcsparse.data.files_list import list_point_files as list_point_files
from pcsparse.data.files_write import read_classes as read_classes
from pcsparse.data.files_write import write_classes as write_classes
from pcsparse.data.files_write import write_points as write_points
from pcsparse.data.label_files import read_labels as read_labels
from pcsparse.data.label_files import write_labels as write_labels
from pcsparse.data.point_cloud import InvalidPolicy, PointCloud, RawCloud, finish
from pcsparse.errors import FormatError

_READERS: dict[str, Callable[[Path], RawCloud]] = {
    ".npy": files_array.read_npy,
    ".npz": files_array.read_npz,
    ".pcd": files_pcd.read_pcd,
    ".ply": files_ply.read_ply,
    ".feather": files_feather.read_feather,
    ".las": files_las.read_las,
    ".laz": files_las.read_las,
    ".e57": files_e57.read_e57,
    ".xyz": files_text.read_text,
    ".csv": files_text.read_text,
    ".txt": files_text.read_text,
}


def read_points(
    path: str | Path,
    *,
    columns: int | None = None,
    dtype: str | None = None,
    invalid: InvalidPolicy = "drop",
    intensity_scale: float | None = None,
) -> PointCloud:
    """Read a point file: .bin .npy .npz .pcd .ply .las .laz .e57, Argoverse 2 .feather, text .xyz .csv .txt.

    Intensity is brought to 0-1: divided by what the format says full scale is (nuScenes `.pcd.bin` 255,
    Argoverse 255, E57 header), else by 1 for floats up to 2, else by 255 or 65,535, the least that holds the
    largest value; what was done is in `notes`. World coordinates lose a float64 origin before they become
    float32.

    Args:
        path: the file.
        columns: of a `.bin`, at least 3; None infers 4, 5 or 6 (`files_bin.read_bin`).
        dtype: of a `.bin`: float32, float64 or float16; None is float32.
        invalid: points with a NaN or infinite coordinate or intensity: `drop` leaves them out and warns with
            their number, `raise` refuses the file, `keep` returns them. `kept` and `n_file` say what is left.
        intensity_scale: what 1.0 is in the file's intensity; None goes by the rule above.

    Returns:
        The cloud; it has 0 points if a file with a header says so.

    Raises:
        FormatError: the file is missing, empty, truncated, of an unknown or another format.
        UnsupportedError: the format needs the extra `io`.
    """
    path = Path(path)
    if path.is_dir():
        raise FormatError(f"{path} is a folder; list its point files with list_point_files")
    if not path.is_file():
        raise FormatError(f"{path} does not exist (looked in {path.parent.resolve()})")
    suffix = path.suffix.lower()
    if suffix in EXTENSIONS:
        refuse_empty(path)
        refuse_other_kind(path)
    if suffix == ".bin":
        raw = files_bin.read_bin(path, columns, dtype)
    elif suffix in _READERS:
        if columns is not None or dtype is not None:
            raise FormatError(f"{path}: columns and dtype are for .bin files, a {suffix} file says its own")
        raw = _READERS[suffix](path)
    else:
        raise FormatError(f"{path} has an unknown ending {suffix!r}; known: {' '.join(EXTENSIONS)}")
    return finish(raw, path, invalid=invalid, intensity_scale=intensity_scale)
