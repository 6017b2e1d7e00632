"""The plane a sensor stands on, and by it the axis that points upwards and the unit of the coordinates."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pcsparse.data.placement import UP_AXES, Placement

Points = npt.NDArray[np.float32]

_NEAR_M = 20.0
_CELL_M = 1.0
_MIN_CELLS = 30
_TRIALS = 200
_SEED = 0
_INLIER_M = 0.15
# a plane steeper than it is a wall, or the cloud has another up axis
_STEEPEST = float(np.cos(np.radians(35)))
_BELOW_M = 0.5
# points that are enough to compare planes by
_SAMPLE = 10_000
# what a mast, a car, a rucksack and a robot carry: metres from the ground up to the sensor
_MOUNTED_M = (0.3, 4.0)
# of the points near the origin on the plane, for a ground that is believed at once
_GROUND_SHARE = 0.15
# by which another axis must be better than z
_CLEARLY = 1.5
_UNITS = (1.0, 0.01, 0.001)
# metres that the farthest percentile of a sweep reaches
_REACH_M = (8.0, 400.0)


@dataclass(frozen=True)
class GroundPlane:
    """A plane under most of what is near.

    Attributes:
        height: metres, z of the plane at x = y = 0.
        normal: unit vector, upwards.
        tilt: degrees between it and z.
        share: of the points within 20 m, those on the plane.
        below: of the points within 20 m, those more than 0.5 m under it.
    """

    height: float
    normal: tuple[float, float, float]
    tilt: float
    share: float
    below: float

    @property
    def support(self) -> float:
        """How much speaks for it: what lies on it, less for what lies under it."""
        return self.share * max(0.0, 1 - 5 * self.below)

    @property
    def mounted(self) -> bool:
        """Whether it lies where a sensor in the origin has its ground."""
        return _MOUNTED_M[0] <= -self.height <= _MOUNTED_M[1]


def find_ground(points: Points) -> GroundPlane | None:
    """The plane through most of the lowest points within 20 m; the same cloud gives the same plane.

    Args:
        points: (n, 3) metres, z roughly up.

    Returns:
        The plane; None where fewer than 30 cells of 1 m have points, or all agree on none below 35 degrees.
    """
    near = points[np.hypot(points[:, 0], points[:, 1]) < _NEAR_M].astype(np.float64)
    lowest = _lowest(near)
    if len(lowest) < _MIN_CELLS:
        return None
    normal, offset = _best_plane(lowest)
    if normal is None:
        return None
    height = near @ normal - offset
    return GroundPlane(
        height=float(offset / normal[2]),
        normal=(float(normal[0]), float(normal[1]), float(normal[2])),
        tilt=float(np.degrees(np.arccos(min(1.0, float(normal[2]))))),
        share=float((np.abs(height) < _INLIER_M).mean()),
        below=float((height < -_BELOW_M).mean()),
    )


def _lowest(near: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The lowest point of each ground cell."""
    cells = np.floor(near[:, :2] / _CELL_M).astype(np.int64)
    order = np.lexsort((near[:, 2], cells[:, 1], cells[:, 0]))
    cells = cells[order]
    first = np.ones(len(cells), dtype=bool)
    first[1:] = (cells[1:] != cells[:-1]).any(axis=1)
    return near[order[first]]


def _best_plane(points: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64] | None, float]:
    """RANSAC over triples, then a least-squares plane through the inliers: n p = offset."""
    draw = np.random.default_rng(_SEED).integers(0, len(points), (_TRIALS, 3))
    a, b, c = (points[draw[:, i]] for i in range(3))
    normals = np.cross(b - a, c - a)
    lengths = np.linalg.norm(normals, axis=1)
    normals /= np.maximum(lengths, 1e-12)[:, None]
    normals *= np.where(normals[:, 2:] < 0, -1.0, 1.0)
    offsets = (normals * a).sum(axis=1)
    inliers = (np.abs(points @ normals.T - offsets) < _INLIER_M).sum(axis=0)
    inliers[(lengths < 1e-6) | (normals[:, 2] < _STEEPEST)] = 0
    best = int(np.argmax(inliers))
    if inliers[best] < 3:
        return None, 0.0
    on = points[np.abs(points @ normals[best] - offsets[best]) < _INLIER_M]
    middle = on.mean(axis=0)
    normal = np.linalg.svd(on - middle, full_matrices=False)[2][2]
    normal = normal if normal[2] > 0 else -normal
    if normal[2] < _STEEPEST:
        return normals[best], float(offsets[best])
    return normal, float(normal @ middle)


@dataclass(frozen=True)
class Frame:
    """Unit and up axis that make sense of a cloud.

    Attributes:
        scale: metres a unit.
        up: as in `Placement.up`.
        ground: in that frame; None if none was found.
        sure: whether the ground lies where a sensor has it, or z up in metres is merely not refuted.
    """

    scale: float
    up: str
    ground: GroundPlane | None
    sure: bool


def find_frame(points: Points) -> Frame:
    """The unit (metres, centimetres, millimetres) and up axis under which a cloud stands on a ground.

    Metres and z up are kept unless another pair is clearly better.

    Args:
        points: (n, 3) finite, as the file has them.
    """
    ground = find_ground(points)
    plain = Frame(1.0, "z", ground, sure=ground is not None and ground.mounted)
    sample = points[:: max(1, len(points) // _SAMPLE)].astype(np.float64)
    if not len(sample):
        return plain
    reach = float(np.percentile(np.linalg.norm(sample, axis=1), 99))
    in_metres = _REACH_M[0] <= reach <= _REACH_M[1]
    # a level plane with next to nothing under it is a ground, wherever the origin is
    if ground is not None and ground.support > _GROUND_SHARE:
        return plain
    frames = []
    for scale in _UNITS:
        if not _REACH_M[0] <= scale * reach <= _REACH_M[1]:
            continue
        for up in UP_AXES:
            turned = (scale * sample @ Placement(up=up).rotation().T).astype(np.float32)
            found = find_ground(turned)
            if found is not None and found.mounted:
                frames.append(Frame(scale, up, found, sure=True))
    best = max(frames, key=_support, default=plain)
    kept = [frame for frame in frames if (frame.scale, frame.up) == (1.0, "z")] or [plain]
    # metres that reach as far as a sensor does are given up only for another axis
    if best.scale != 1.0 and in_metres:
        best = max((f for f in frames if f.scale == 1.0), key=_support, default=plain)
    return best if _support(best) > _CLEARLY * max(_support(kept[0]), 0.02) else plain


def _support(frame: Frame) -> float:
    return 0.0 if frame.ground is None else frame.ground.support
