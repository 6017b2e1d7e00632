"""Colours of points and the legend that explains them. The caller brings the palette of classes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pcsparse.errors import RangeError, ShapeError

UNLABELLED = (110, 110, 110)
"""Colour of points without a class."""
_UNLABELLED_NAME = "unlabelled"

# dark blue over green and yellow to red; between the knots linear
_RAMP = np.array(
    [
        [58, 76, 192],
        [38, 150, 220],
        [44, 196, 170],
        [120, 214, 90],
        [214, 210, 60],
        [250, 150, 50],
        [214, 52, 40],
    ],
    dtype=np.float64,
)


@dataclass(frozen=True)
class ClassEntry:
    """One class in a legend.

    Attributes:
        name: as shown.
        color: RGB, 0-255.
        share: of the points, 0-1.
    """

    name: str
    color: tuple[int, int, int]
    share: float


@dataclass(frozen=True)
class Ramp:
    """A colour bar: what its two ends mean.

    Attributes:
        label: for example `height (m)`.
        low: value of the first colour.
        high: value of the last.
    """

    label: str
    low: float
    high: float

    def colors(self, values: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
        """(n, 3) RGB of (n,) values; values beyond the ends take the end's colour, NaN the first."""
        span = self.high - self.low
        share = (
            np.zeros(len(values)) if span <= 0 else (np.nan_to_num(values, nan=self.low) - self.low) / span
        )
        place = np.clip(share, 0, 1) * (len(_RAMP) - 1)
        knots = np.arange(len(_RAMP))
        rgb = np.stack([np.interp(place, knots, _RAMP[:, i]) for i in range(3)], axis=1)
        return np.round(rgb).astype(np.uint8)


Legend = tuple[ClassEntry, ...] | Ramp
"""What the colours of a picture mean."""


def class_colors(
    targets: npt.NDArray[np.integer], names: Sequence[str], colors: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.uint8], tuple[ClassEntry, ...]]:
    """Colours by class, and a legend of the classes that occur, the commonest first.

    Args:
        targets: (n,) class numbers 0 ... len(names) - 1, or -1 for points without a class.
        names: of the classes.
        colors: (len(names), 3) RGB, 0-255.

    Returns:
        (n, 3) uint8 and the legend.

    Raises:
        ShapeError: `colors` does not fit `names`.
        RangeError: a class number that has no name.
    """
    if np.shape(colors) != (len(names), 3):
        raise ShapeError(f"colors must be ({len(names)}, 3) for {len(names)} names, got {np.shape(colors)}")
    targets = np.asarray(targets)
    if targets.size and not (targets.min() >= -1 and targets.max() < len(names)):
        raise RangeError(
            f"class numbers must lie in -1 ... {len(names) - 1}, got {targets.min()} ... {targets.max()}"
        )
    # -1 takes the last row
    table = np.vstack([np.asarray(colors, dtype=np.uint8), np.array(UNLABELLED, dtype=np.uint8)])
    counts = np.bincount(targets.astype(np.intp) % len(table), minlength=len(table))
    labels = [*names, _UNLABELLED_NAME]
    # stable, so that equal shares keep the order of the classes
    order = np.argsort(-counts, kind="stable")
    legend = tuple(
        ClassEntry(
            labels[i], (int(table[i, 0]), int(table[i, 1]), int(table[i, 2])), float(counts[i] / len(targets))
        )
        for i in order
        if counts[i]
    )
    return table[targets.astype(np.intp)], legend


def value_colors(values: npt.NDArray[np.floating], label: str) -> tuple[npt.NDArray[np.uint8], Ramp]:
    """Colours by a value, between its 1st and 99th percentile, and the colour bar.

    Args:
        values: (n,), for example intensity, or heights in metres.
        label: of the bar, with its unit.
    """
    finite = values[np.isfinite(values)]
    low, high = (float(v) for v in np.percentile(finite, (1, 99))) if len(finite) else (0.0, 0.0)
    ramp = Ramp(label, low, high)
    return ramp.colors(values), ramp


def height_colors(points: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.uint8], Ramp]:
    """Colours by z, metres, of (n, 3) points, and the colour bar."""
    return value_colors(points[:, 2], "height (m)")


def legible(
    colors: npt.NDArray[np.uint8], background: tuple[int, int, int], contrast: float = 60.0
) -> npt.NDArray[np.uint8]:
    """Colours moved away from the background in brightness, as far as needed to tell them from it.

    Args:
        colors: (n, 3) RGB.
        background: RGB.
        contrast: least difference in luma, 0-255.
    """
    weights = np.array([0.299, 0.587, 0.114])
    rgb = colors.astype(np.float64)
    luma, ground = rgb @ weights, float(np.dot(background, weights))
    goal = 255.0 if ground < 128 else 0.0
    wanted = ground + contrast if goal else ground - contrast
    # mixing with white or black by this share gives the wanted luma exactly
    share = np.clip((wanted - luma) / (goal - luma + 1e-9), 0, 1)
    needed = luma < wanted if goal else luma > wanted
    share = np.where(needed, share, 0.0)[:, None]
    return np.round(rgb * (1 - share) + goal * share).astype(np.uint8)
