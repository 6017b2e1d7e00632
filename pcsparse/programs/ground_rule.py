"""A check of predictions on sweeps without labels: what lies low is ground, what stands high is not."""

import numpy as np
import numpy.typing as npt

GROUND = ("road", "parking", "sidewalk", "other-ground", "terrain")
"""The classes that are ground."""

_NEAR_METRES, _LOW_METRES, _HIGH_METRES = 25.0, -1.5, 0.5


def ground_shares(points: npt.NDArray[np.float32], is_ground: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """How well predicted ground fits the height above it, near a sensor some 1.73 m above the road.

    Args:
        points: (n, 3) metres, sensor frame.
        is_ground: (n,) whether a ground class is predicted.

    Returns:
        Of the points within 25 m, the share of ground classes among those below -1.5 m and the share of other
        classes among those above 0.5 m. NaN where there are no such points.
    """
    near = np.hypot(points[:, 0], points[:, 1]) < _NEAR_METRES
    low, high = near & (points[:, 2] < _LOW_METRES), near & (points[:, 2] > _HIGH_METRES)
    return (
        float(is_ground[low].mean()) if low.any() else float("nan"),
        float(1 - is_ground[high].mean()) if high.any() else float("nan"),
    )
