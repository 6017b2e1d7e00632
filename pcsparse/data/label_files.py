"""`.label` files: one uint32 a point, class in the lower and instance in the upper 16 bits."""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pcsparse.errors import DtypeError, FormatError, ShapeError

_ITEMSIZE = 4


def read_labels(path: str | Path, n_points: int) -> npt.NDArray[np.uint32]:
    """Raw labels of a sweep.

    Args:
        path: a `.label` file, little-endian uint32.
        n_points: rows of the point file it belongs to (`PointCloud.n_file`).

    Returns:
        (n_points,) uint32, class and instance together.

    Raises:
        FormatError: the file is missing or does not hold exactly `n_points` labels.
    """
    path = Path(path)
    if not path.is_file():
        raise FormatError(f"{path} does not exist; give the label file or go without metrics")
    size = path.stat().st_size
    if size != n_points * _ITEMSIZE:
        held = f"{size / _ITEMSIZE:g} uint32 labels ({size} bytes)"
        hint = "; it looks like one byte a point (nuScenes lidarseg?)" if size == n_points else ""
        raise FormatError(
            f"{path} holds {held}, but there are {n_points} points; the two must come from one sweep{hint}"
        )
    return np.fromfile(path, dtype="<u4").astype(np.uint32, copy=False)


def write_labels(path: str | Path, raw: npt.NDArray[np.uint32]) -> None:
    """Write raw labels, whole or not at all: to a temporary name in the same folder, then renamed.

    Args:
        path: the `.label` file; its folder is made where it is missing.
        raw: (n,) uint32, in the order of the rows of the point file.

    Raises:
        DtypeError: `raw` is not uint32 (`LabelMap.to_raw` makes it so).
        ShapeError: `raw` is not (n,).
    """
    path = Path(path)
    if raw.dtype != np.uint32:
        raise DtypeError(f"labels for {path} must be uint32 raw ids, got {raw.dtype}; use LabelMap.to_raw")
    if raw.ndim != 1:
        raise ShapeError(f"labels for {path} must have shape (n,), got {raw.shape}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        raw.astype("<u4", copy=False).tofile(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
