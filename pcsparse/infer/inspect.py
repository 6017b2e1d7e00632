"""What can be said of a cloud before a model sees it."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from pcsparse.data.input_spec import CloudFacts
from pcsparse.data.placement import Placement, Vec3
from pcsparse.data.point_cloud import PointCloud
from pcsparse.infer.ground import Frame, find_frame
from pcsparse.infer.rings import Rings, find_rings

RANGE_EDGES_M = (0.0, 5.0, 10.0, 20.0, 40.0, 80.0)
"""Lower edges of the bands of range; the last one is open."""
OWN_VEHICLE_M = 2.5
"""Metres from the origin within which points above the ground are the own vehicle."""

# of what stands over the ground, and not of the road beside the wheels
_OVER_GROUND_M = 0.3
_SECTOR = 10.0
# degrees; a sweep has one return in a direction, whatever lies behind is in the shadow
_DIRECTION = 0.25
_BEHIND_M = 1.0
_SURVEYS = (".las", ".laz", ".e57")
_BEHIND = 1.1


@dataclass(frozen=True)
class IntensityFacts:
    """The intensity column, on the file's own scale.

    Attributes:
        low, high: least and largest value; the largest is cut at full scale where some lie beyond.
        percentile_99: the value that 99 % stay below.
        scale: what it was divided by to reach 0-1.
    """

    low: float
    high: float
    percentile_99: float
    scale: float

    @property
    def constant(self) -> bool:
        """Whether it says nothing."""
        return self.high == self.low


@dataclass(frozen=True)
class CloudReport:
    """A cloud under a placement.

    Attributes:
        n_file: points in the file.
        n_invalid: points with NaN or infinity.
        n_zero: points at exactly (0, 0, 0): how organised sweeps write *no return*.
        n_repeated: points that repeat another one exactly, those at zero left out.
        n_hidden_by_range: points that `min_range` and `max_range` leave out.
        n_own: points over the ground within 2.5 m of the origin.
        extent: metres, least and largest x, y, z; zeros if empty.
        reach: metres, the farthest point.
        bands: points in each band of `RANGE_EDGES_M`.
        frame: unit, up axis and ground.
        rings: lasers, or None.
        coverage: share of the sectors of 10 degrees around the origin that hold points.
        behind: share of points more than 1 m behind another in the same direction (0.25 degrees): next to
            none in a sweep seen from the origin, much in a map.
        intensity: None where the file has none.
        resolution: metres between neighbouring values that the file's number format can hold there, where it
            is float32 far from 0 or half precision; 0 where it is finer than a millimetre.
        n_voxels: occupied voxels.
        alone: share of the voxels without a neighbour at a face.
        facts: what is compared with a model's input spec.
    """

    n_file: int
    n_invalid: int
    n_zero: int
    n_repeated: int
    n_hidden_by_range: int
    n_own: int
    extent: tuple[Vec3, Vec3]
    reach: float
    bands: tuple[int, ...]
    frame: Frame
    rings: Rings | None
    coverage: float
    behind: float
    intensity: IntensityFacts | None
    resolution: float
    n_voxels: int
    alone: float
    facts: CloudFacts

    @classmethod
    def of(cls, cloud: PointCloud, placement: Placement, voxel_size: float) -> Self:
        """Measure a cloud.

        Args:
            cloud: as read; `invalid="keep"` or "drop".
            placement: how it would be shown to a model.
            voxel_size: metres.
        """
        placed = placement(cloud)
        finite = np.asarray(np.isfinite(cloud.points).all(axis=1))
        shown = np.isfinite(placed).all(axis=1)
        points = placed[shown]
        ring = None if cloud.ring is None else cloud.ring[shown]
        intensity = None if cloud.intensity is None else cloud.intensity[shown]
        n_zero = int((cloud.points[finite] == 0).all(axis=1).sum()) if not cloud.origin.any() else 0
        distance = np.linalg.norm(points, axis=1)
        frame = find_frame(points)
        low, high = (points.min(axis=0), points.max(axis=0)) if len(points) else (np.zeros(3), np.zeros(3))
        n_voxels, alone = _voxels(points, voxel_size)
        return cls(
            n_file=cloud.n_file,
            n_invalid=cloud.n_file - int(finite.sum()),
            n_zero=n_zero,
            n_repeated=max(0, _n_repeated(points) - max(0, n_zero - 1)),
            n_hidden_by_range=int(finite.sum() - shown.sum()),
            n_own=_n_own(points, distance, frame),
            extent=(_vec3(low), _vec3(high)),
            reach=float(distance.max()) if len(points) else 0.0,
            bands=tuple(np.histogram(distance, bins=[*RANGE_EDGES_M, np.inf])[0].tolist()),
            frame=frame,
            rings=find_rings(points, ring) if frame.ground is not None else None,
            coverage=_coverage(points),
            behind=_share_behind(points, distance),
            intensity=_intensity(cloud),
            resolution=_resolution(cloud, finite) * placement.scale,
            n_voxels=n_voxels,
            alone=alone,
            facts=CloudFacts.of(points, intensity),
        )


def _vec3(values: npt.NDArray[np.floating]) -> Vec3:
    x, y, z = (round(float(value), 3) for value in values)
    return x, y, z


def _n_repeated(points: npt.NDArray[np.float32]) -> int:
    """Points less distinct points."""
    # 0.0 and -0.0 are one place
    bits = (points + np.float32(0)).view(np.uint32).astype(np.uint64)
    factors = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)
    keys = (bits * factors).sum(axis=1, dtype=np.uint64)
    return len(points) - len(_distinct(keys))


def _distinct(keys: npt.NDArray) -> npt.NDArray:
    """The different keys, sorted."""
    keys = np.sort(keys)
    return keys[np.append(True, keys[1:] != keys[:-1])] if len(keys) else keys


def _n_own(points: npt.NDArray[np.float32], distance: npt.NDArray[np.floating], frame: Frame) -> int:
    over = points[:, 2] > -np.inf
    if frame.ground is not None:
        over = points @ np.array(frame.ground.normal, np.float32) > (
            frame.ground.height * frame.ground.normal[2] + _OVER_GROUND_M
        )
    return int((over & (distance < OWN_VEHICLE_M) & (distance > 0)).sum())


def _coverage(points: npt.NDArray[np.float32]) -> float:
    sectors = np.floor(np.degrees(np.arctan2(points[:, 1], points[:, 0])) / _SECTOR).astype(np.int64)
    return len(np.unique(sectors % round(360 / _SECTOR))) / round(360 / _SECTOR)


def _share_behind(points: npt.NDArray[np.float32], distance: npt.NDArray[np.floating]) -> float:
    if not len(points):
        return 0.0
    azimuth = np.degrees(np.arctan2(points[:, 1], points[:, 0])) / _DIRECTION
    elevation = np.degrees(np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1]))) / _DIRECTION
    keys = np.floor(azimuth).astype(np.int64) * 100_003 + np.floor(elevation).astype(np.int64)
    order = np.argsort(keys)
    keys, distance = keys[order], distance[order]
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
    nearest = np.minimum.reduceat(distance, starts)
    nearest = np.repeat(nearest, np.diff(np.append(starts, len(keys))))
    return float((distance > _BEHIND * nearest + _BEHIND_M).mean())


def _intensity(cloud: PointCloud) -> IntensityFacts | None:
    if cloud.intensity is None:
        return None
    values = cloud.intensity[np.isfinite(cloud.intensity)].astype(np.float64) * cloud.intensity_scale
    if not len(values):
        return IntensityFacts(0.0, 0.0, 0.0, cloud.intensity_scale)
    # five digits: the scale was divided by and multiplied with again
    low, high, most = (
        float(f"{value:.5g}") for value in (values.min(), values.max(), np.percentile(values, 99))
    )
    return IntensityFacts(low, high, most, cloud.intensity_scale)


def _resolution(cloud: PointCloud, finite: npt.NDArray[np.bool_]) -> float:
    """Metres a step of the number format that the values betray, at their 90th percentile; 0 below 1 mm."""
    world = cloud.world()[finite]
    # surveys store multiples of their own step, which may happen to be exact in any format
    if not len(world) or cloud.source.suffix.lower() in _SURVEYS:
        return 0.0
    for dtype in (np.float16, np.float32):
        with np.errstate(over="ignore"):
            held = world.astype(dtype)
        if (held == world).all():
            step = float(np.percentile(np.spacing(np.abs(held).max(axis=1)).astype(np.float64), 90))
            return step if step >= 1e-3 else 0.0
    return 0.0


def _voxels(points: npt.NDArray[np.float32], voxel_size: float) -> tuple[int, float]:
    """Occupied voxels, and the share of them without an occupied one at a face."""
    if not len(points):
        return 0, 0.0
    index = np.floor(points.astype(np.float64) / voxel_size)
    # room for a step across each border; beyond the range of keys the count is of no use anyway
    index = np.clip(index - index.min(axis=0) + 1, 0, 2**20 - 2).astype(np.int64)
    keys = _distinct((index[:, 0] << 42) | (index[:, 1] << 21) | index[:, 2])
    joined = np.zeros(len(keys), dtype=bool)
    for step in (1, 1 << 21, 1 << 42):
        found = np.searchsorted(keys, keys + step).clip(max=len(keys) - 1)
        hit = keys[found] == keys + step
        joined |= hit
        joined[found[hit]] = True
    return len(keys), float(1 - joined.mean())
