"""How the coordinates of a file become what a model sees: unit, axes, origin, ground height, range."""

import re
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from pcsparse.data.point_cloud import PointCloud, far_origin
from pcsparse.errors import RangeError

Vec3 = tuple[float, float, float]

# rows: what becomes forward, left and up, in the file's axes. Each is a rotation, none a mirror
_FRAMES: dict[str, tuple[Vec3, Vec3, Vec3]] = {
    "z": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    # hung upside down: turned about the forward axis
    "-z": ((1, 0, 0), (0, -1, 0), (0, 0, -1)),
    # a camera: x right, y down, z into the picture
    "-y": ((0, 0, 1), (-1, 0, 0), (0, -1, 0)),
    # computer graphics: x right, y up, z out of the picture
    "y": ((0, 0, -1), (-1, 0, 0), (0, 1, 0)),
    "x": ((0, 0, -1), (0, 1, 0), (1, 0, 0)),
    "-x": ((0, 0, 1), (0, 1, 0), (-1, 0, 0)),
}
UP_AXES = tuple(_FRAMES)
"""Names of the axes that can point upwards."""


@dataclass(frozen=True)
class Placement:
    """Steps from a file's coordinates to a sensor frame (x forward, y left, z up, metres), in this order.

    Attributes:
        scale: metres a unit of the file: 0.001 for millimetres.
        up: direction of up in the file's axes: one of `UP_AXES`, or a vector as "0.1,0,0.99" (a tilted
            sensor). Vectors go by the nearest axis, then by the shortest turn.
        origin: metres in the file's own coordinates (world coordinates, where it has them), scaled and turned
            as `scale` and `up` say; this point becomes (0, 0, 0). Zero for none; the reader's own origin then
            stays subtracted, unless the file is scaled or turned.
        min_range: metres; nearer points get no class: own vehicle, (0, 0, 0) for no return.
        max_range: metres; farther points get no class; None for no limit.
        z_offset: metres added to every z, last.

    Raises:
        RangeError: a value without meaning.
    """

    scale: float = 1.0
    up: str = "z"
    origin: Vec3 = (0.0, 0.0, 0.0)
    min_range: float = 0.0
    max_range: float | None = None
    z_offset: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be applied."""
        if not 0 < self.scale < np.inf:
            raise RangeError(f"scale must be positive and finite, got {self.scale}")
        if len(self.origin) != 3 or not np.isfinite([*self.origin, self.z_offset]).all():
            raise RangeError(
                f"origin must be three finite numbers and z_offset one, got {self.origin}, {self.z_offset}"
            )
        limit = np.inf if self.max_range is None else self.max_range
        if not 0 <= self.min_range < limit:
            raise RangeError(
                f"ranges must satisfy 0 <= min_range < max_range, got {self.min_range}, {self.max_range}"
            )
        self.rotation()

    def rotation(self) -> npt.NDArray[np.float64]:
        """(3, 3) float64 rotation R; a point p of the file becomes R p.

        Raises:
            RangeError: `up` is no axis and no direction.
        """
        if self.up in _FRAMES:
            return np.array(_FRAMES[self.up], dtype=np.float64)
        try:
            up = np.array([float(part) for part in re.split(r"[,\s]+", self.up.strip())])
        except ValueError:
            up = np.zeros(0)
        length = float(np.linalg.norm(up)) if up.shape == (3,) else 0.0
        if not 0 < length < np.inf:
            raise RangeError(
                f"up must be one of {', '.join(UP_AXES)} or a direction such as 0.1,0,0.99, got {self.up!r}"
            )
        nearest = max(_FRAMES.values(), key=lambda frame: float(up @ np.array(frame[2])))
        frame = np.array(nearest, dtype=np.float64)
        return _shortest_turn(frame @ up / length) @ frame

    def __call__(self, cloud: PointCloud) -> npt.NDArray[np.float32]:
        """The points as a model should see them.

        Returns:
            (n, 3) float32, metres, a row a point of `cloud`; NaN where nearer than `min_range` or farther
            than `max_range`.
        """
        return cloud.points if self == Placement() else self._placed(cloud).astype(np.float32)

    def centred(self, cloud: PointCloud) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
        """The same, minus whole metres where they lie too far away for float32; and those metres.

        Returns:
            (n, 3) float32 as above; (3,) float64 to add. A file that is not moved has its reader's origin.
        """
        if self == Placement():
            return cloud.points, cloud.origin
        points = self._placed(cloud)
        origin = far_origin(points)
        return (points - origin).astype(np.float32), origin

    def subtracted(self, cloud: PointCloud) -> npt.NDArray[np.float64]:
        """(3,) float64, metres: the point of the scaled and turned file that becomes (0, 0, 0)."""
        if any(self.origin) or self.scale != 1.0 or self.up != "z":
            # the reader's own origin was found before unit and axes were known
            return np.array(self.origin, dtype=np.float64)
        return cloud.origin

    def _placed(self, cloud: PointCloud) -> npt.NDArray[np.float64]:
        points = self.scale * cloud.world()
        if self.up != "z":
            points = points @ self.rotation().T
        points -= self.subtracted(cloud)
        if self.min_range or self.max_range is not None:
            distance = np.linalg.norm(points, axis=1)
            beyond = np.inf if self.max_range is None else self.max_range
            points[(distance < self.min_range) | (distance > beyond)] = np.nan
        points[:, 2] += self.z_offset
        return points

    def moved_up(self, metres: float) -> Self:
        """The same, and `metres` higher."""
        return replace(self, z_offset=self.z_offset + metres)

    def flags(self) -> tuple[str, ...]:
        """The options of `pcsparse infer` that give this placement, empty for the default."""
        given = []
        if self.scale != 1.0:
            given.append(f"--scale {self.scale:g}")
        if self.up != "z":
            given.append(f"--up={self.up}")
        if any(self.origin):
            given.append(f"--origin={','.join(f'{value:.10g}' for value in self.origin)}")
        if self.min_range:
            given.append(f"--min-range {self.min_range:g}")
        if self.max_range is not None:
            given.append(f"--max-range {self.max_range:g}")
        if self.z_offset:
            given.append(f"--z-offset {self.z_offset:.2f}")
        return tuple(given)


def _shortest_turn(up: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The rotation about a level axis that takes the unit vector `up`, not (0, 0, -1), to (0, 0, 1)."""
    x, y, z = (float(value) for value in up)
    across = np.array([[0, 0, -x], [0, 0, -y], [x, y, 0]])
    # Rodrigues' formula with sin and cos of the angle put into the vector
    return np.eye(3) + across + across @ across / (1 + z)
