"""What a page is made of: sweeps with what is known of their points, boxes, and the classes."""

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pcsparse.errors import RangeError, ShapeError
from pcsparse.view.page_payload import MAX_CLASSES


@dataclass(frozen=True)
class Box:
    """An upright box around something.

    Attributes:
        center: x, y, z of its middle, metres, in the frame of the sweep.
        size: length (along its heading), width, height, metres.
        yaw: of the heading, radians from x towards y.
        name: for example `Car`.
        score: confidence of a detector, 0-1; None for a label.
    """

    center: tuple[float, float, float]
    size: tuple[float, float, float]
    yaw: float
    name: str = ""
    score: float | None = None

    def __post_init__(self) -> None:
        numbers = (*self.center, *self.size, self.yaw, 0.0 if self.score is None else self.score)
        if not all(map(math.isfinite, numbers)) or min(self.size) < 0:
            raise RangeError(f"a box needs finite numbers and sizes of at least 0 m, got {self}")


@dataclass(frozen=True, eq=False)
class Sweep:
    """One cloud and what is known of its points; what is None is not offered by the page.

    Attributes:
        points: (n, 3), metres, x forward, y left, z up. Points that are not finite are left out of the page.
        name: as shown, for example a file name.
        intensity: (n,), 0-1.
        labels: (n,) class numbers, -1 for none: what the points are.
        prediction: (n,) class numbers, -1 for none: what a model says.
        confidence: (n,), 0-1: of the prediction.
        instance: (n,) integers 0 ... 65,535, 0 for none.
        rows: (n,) ascending, row of each point in its file; None for 0 ... n - 1.
        boxes: in the frame of the points.
        origin: metres, added to the coordinates shown of a picked point (`PointCloud.origin`).
        pose: (4, 4), from the frame of the points to a frame that all sweeps share; None where unknown.
    """

    points: npt.NDArray[np.floating]
    name: str = ""
    intensity: npt.NDArray[np.floating] | None = None
    labels: npt.NDArray[np.integer] | None = None
    prediction: npt.NDArray[np.integer] | None = None
    confidence: npt.NDArray[np.floating] | None = None
    instance: npt.NDArray[np.integer] | None = None
    rows: npt.NDArray[np.integer] | None = None
    boxes: tuple[Box, ...] = ()
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    pose: npt.NDArray[np.floating] | None = None

    def __post_init__(self) -> None:
        if self.points.ndim != 2 or self.points.shape[1] != 3:
            raise ShapeError(f"{self.name}: points must be (n, 3), got {self.points.shape}")
        n = len(self.points)
        for what in ("intensity", "labels", "prediction", "confidence", "instance", "rows"):
            values = getattr(self, what)
            if values is not None and values.shape != (n,):
                raise ShapeError(f"{self.name}: {what} must be ({n},), one a point, got {values.shape}")
        if self.pose is not None and (self.pose.shape != (4, 4) or not np.isfinite(self.pose).all()):
            raise ShapeError(f"{self.name}: a pose must be (4, 4), of finite numbers, got {self.pose}")


@dataclass(frozen=True, eq=False)
class Classes:
    """What the class numbers mean.

    Attributes:
        names: at most 255.
        colors: (len(names), 3) RGB, 0-255.
    """

    names: tuple[str, ...] = ()
    colors: npt.NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 3), np.uint8))

    def __post_init__(self) -> None:
        if len(self.names) > MAX_CLASSES:
            raise RangeError(f"a page holds at most {MAX_CLASSES} classes, got {len(self.names)}")
        if self.colors.shape != (len(self.names), 3):
            raise ShapeError(
                f"colors must be ({len(self.names)}, 3) for {len(self.names)} names, got {self.colors.shape}"
            )
