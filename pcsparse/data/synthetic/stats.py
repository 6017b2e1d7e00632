"""Figures of a sweep that a simulated one should share with real ones."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pcsparse.data.synthetic.arrays import Floats, Ints
from pcsparse.errors import FormatError

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
VOXEL_SIZES = (0.05, 0.1, 0.2)
# raw ids as SemanticKITTI groups them for training
GROUPS: dict[str, tuple[int, ...]] = {
    "car": (10, 252),
    "bicycle": (11,),
    "motorcycle": (15,),
    "truck": (18, 258),
    "other-vehicle": (13, 16, 20, 256, 257, 259),
    "person": (30, 254),
    "bicyclist": (31, 253),
    "motorcyclist": (32, 255),
    "road": (40, 60),
    "parking": (44,),
    "sidewalk": (48,),
    "other-ground": (49,),
    "building": (50,),
    "fence": (51,),
    "vegetation": (70,),
    "trunk": (71,),
    "terrain": (72,),
    "pole": (80,),
    "traffic-sign": (81,),
    "unlabelled": (0, 1, 52, 99),
}


@dataclass(frozen=True)
class SweepStats:
    """Figures of one sweep.

    Args:
        points: returns.
        rings: beams, counted as turns of the azimuth; meaningful where points come ring by ring.
        ranges: metres at `PERCENTILES`.
        voxels: occupied cells at `VOXEL_SIZES`.
        neighbours: occupied cells among the 27 around an occupied one at 5 cm, itself included, on average.
        intensity: mean and standard deviation.
        shares: share of the points per name in `GROUPS`; empty without labels.
        brightness: mean intensity per name in `GROUPS`; empty without labels.
    """

    points: int
    rings: int
    ranges: tuple[float, ...]
    voxels: tuple[int, ...]
    neighbours: float
    intensity: tuple[float, float]
    shares: dict[str, float]
    brightness: dict[str, float]


def voxels(points: Floats, size: float) -> int:
    """How many cells of `size` metres the points (n, 3) lie in."""
    return len(_cells(points, size)[0])


def pairs_a_voxel(points: Floats, size: float) -> tuple[int, float]:
    """Occupied cells of `size` metres, and the pairs that a 3x3x3 kernel map has for one of them on average.

    These are the occupied cells among the 27 around an occupied one, itself included.

    Args:
        points: (n, 3) metres, n at least 1.
        size: metres.
    """
    keys, step_x, step_y = _cells(points, size)
    # a neighbour that way is a neighbour back: one half of the 26 is enough
    half = [(0, 0, 1)] + [(0, 1, z) for z in (-1, 0, 1)]
    half += [(1, y, z) for y in (-1, 0, 1) for z in (-1, 0, 1)]
    found = 0
    for x, y, z in half:
        wanted = keys + (x * step_x + y * step_y + z)
        at = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
        found += int((keys[at] == wanted).sum())
    return len(keys), 1.0 + 2.0 * found / len(keys)


def _cells(points: Floats, size: float) -> tuple[Ints, int, int]:
    """Sorted unique int64 keys of the occupied cells, and what a step along x and along y adds to a key.

    Between rows there is room for a step of one either way.
    """
    index = np.floor(points.astype(np.float64) / size).astype(np.int64)
    index -= index.min(0) - 1
    _, span_y, span_z = (int(span) for span in index.max(0) + 2)
    keys: Ints = np.unique((index[:, 0] * span_y + index[:, 1]) * span_z + index[:, 2])
    return keys, span_y * span_z, span_z


def sweep_stats(points: Floats, intensity: Floats, semantic: Ints | None = None) -> SweepStats:
    """Figures of one sweep.

    Args:
        points: (n, 3) float32, metres, n at least 1.
        intensity: (n,) 0 to 1.
        semantic: (n,) raw SemanticKITTI ids, or None.

    Raises:
        FormatError: no points.
    """
    if len(points) == 0:
        raise FormatError("a sweep without points has no figures; is the file empty?")
    azimuth = np.arctan2(points[:, 1], points[:, 0]) % (2 * np.pi)
    turns = 1 + int((np.abs(np.diff(azimuth)) > np.pi).sum())
    distance = np.linalg.norm(points, axis=1)
    shares, brightness = {}, {}
    if semantic is not None:
        for name, ids in GROUPS.items():
            mine = np.isin(semantic, ids)
            shares[name] = float(mine.mean())
            brightness[name] = float(intensity[mine].mean()) if mine.any() else float("nan")
    return SweepStats(
        len(points),
        turns,
        tuple(float(value) for value in np.percentile(distance, PERCENTILES)),
        tuple(voxels(points, size) for size in VOXEL_SIZES),
        pairs_a_voxel(points, VOXEL_SIZES[0])[1],
        (float(intensity.mean()), float(intensity.std())),
        shares,
        brightness,
    )


def read_sweep(path: Path) -> tuple[Floats, Floats, Ints | None]:
    """Points, intensity and raw ids of a SemanticKITTI-like `.bin`; no ids where `../labels` has no file.

    Raises:
        FormatError: the size is no multiple of 16 bytes, or labels do not match points.
    """
    size = path.stat().st_size
    if size % 16:
        raise FormatError(f"{path} has {size} bytes, no multiple of 16: not float32 x, y, z, intensity")
    rows = np.fromfile(path, "<f4").reshape(-1, 4)
    labels = path.parent.parent / "labels" / f"{path.stem}.label"
    if path.parent.name != "velodyne" or not labels.is_file():
        return rows[:, :3], rows[:, 3], None
    words = np.fromfile(labels, "<u4")
    if len(words) != len(rows):
        raise FormatError(f"{labels} has {len(words)} labels for {len(rows)} points of {path}")
    return rows[:, :3], rows[:, 3], words & 0xFFFF
