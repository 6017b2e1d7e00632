"""What clouds a model was trained on; `infer.faults` says how another differs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from pcsparse.errors import RangeError

NEAR_M = 20.0
"""Metres from the origin within which ground and density are measured."""
MIN_POINTS = 200
"""A share of fewer points says nothing."""
GROUND_TOLERANCE_M = 0.5
"""Trained with a shift of up to 0.2 m; half a metre puts road where pavement or a car's bonnet was."""
DENSITY_FACTOR = 4.0
"""A cloud of a quarter of the density has whole rings missing."""

_GROUND_CELL_M = 1.0
_DENSITY_CELL_M = 0.5


@dataclass(frozen=True)
class CloudFacts:
    """What can be said of a cloud without a model.

    Attributes:
        n_points: finite points.
        ground_height: metres, z of the ground around the sensor; None where too few points lie within 20 m.
        near_density: points an occupied ground cell of 0.5 m within 20 m; None likewise.
        reach: metres, 99th percentile of the horizontal distance from the origin; 0 if empty.
        intensity_high: 99th percentile of the intensity; None where the file has none.
    """

    n_points: int
    ground_height: float | None
    near_density: float | None
    reach: float
    intensity_high: float | None

    @classmethod
    def of(cls, points: npt.NDArray[np.float32], intensity: npt.NDArray[np.float32] | None) -> Self:
        """Measure a cloud: points (n, 3) metres, sensor frame; intensity (n,) or None."""
        finite = np.isfinite(points).all(axis=1)
        points = points[finite]
        distance = np.hypot(points[:, 0], points[:, 1])
        near = points[distance < NEAR_M]
        enough = len(near) >= MIN_POINTS
        high = None
        if intensity is not None and len(points):
            high = float(np.percentile(np.nan_to_num(intensity[finite]), 99))
        return cls(
            n_points=len(points),
            ground_height=_ground_height(near) if enough else None,
            near_density=len(near) / len(_cells(near, _DENSITY_CELL_M)[0]) if enough else None,
            reach=float(np.percentile(distance, 99)) if len(points) else 0.0,
            intensity_high=high,
        )


def _cells(
    points: npt.NDArray[np.float32], size: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.intp]]:
    """The occupied ground cells and the cell of each point."""
    xy = np.floor(points[:, :2] / size).astype(np.int64)
    cells, inverse = np.unique(xy[:, 0] * 1_000_003 + xy[:, 1], return_inverse=True)
    return cells, inverse


def _ground_height(near: npt.NDArray[np.float32]) -> float:
    """Median over ground cells of the lowest point in each."""
    cells, inverse = _cells(near, _GROUND_CELL_M)
    lowest = np.full(len(cells), np.inf, dtype=np.float32)
    np.minimum.at(lowest, inverse, near[:, 2])
    return float(np.median(lowest))


@dataclass(frozen=True)
class InputSpec:
    """The clouds a model knows: medians over its training set.

    Attributes:
        ground_height: metres; about minus the height of the sensor. None if unknown.
        near_density: as in `CloudFacts`. None if unknown.
        reach: metres, as in `CloudFacts`.
        intensity_high: 99th percentile of the intensity, on the scale the model takes.
        n_points: points a sweep.
    """

    ground_height: float | None
    near_density: float | None
    reach: float
    intensity_high: float
    n_points: int

    @classmethod
    def of(cls, clouds: Sequence[CloudFacts]) -> Self:
        """The medians of some training clouds, at least one."""
        if not clouds:
            raise RangeError("an input spec needs at least one cloud")

        def median(values: list[float | None]) -> float | None:
            known = [value for value in values if value is not None]
            return round(float(np.median(known)), 3) if known else None

        return cls(
            ground_height=median([c.ground_height for c in clouds]),
            near_density=median([c.near_density for c in clouds]),
            reach=median([c.reach for c in clouds]) or 0.0,
            intensity_high=median([c.intensity_high for c in clouds]) or 0.0,
            n_points=int(np.median([c.n_points for c in clouds])),
        )
