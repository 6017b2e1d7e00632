"""Mixtures of two sweeps beyond laying one over the other: bands of inclination, and pasted objects."""

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pcsparse.data.datasets.semantic_kitti import Sweep
from pcsparse.data.sweep_parts import joined, rows_of
from pcsparse.data.transforms import check_share
from pcsparse.data.transforms_sensor import elevations_of, ranges_of
from pcsparse.errors import RangeError

_TURN = 2.0 * math.pi
# fewer points tell nothing about an object
_MIN_POINTS = 20
# metres around the middle of a pasted object where ground must be found, and how many points of it
_FOOT, _MIN_FOOT = 1.5, 8
# radians: one cell of what the sensor sees; a pasted object hides what lies behind its cells
_VIEW_CELL = math.radians(0.45)
# metres: what lies this much behind the nearest point of the object in a cell is hidden
_DEPTH = 0.3


@dataclass(frozen=True)
class InclinationMix:
    """Cut both sweeps into bands of inclination and take every other band from the other one.

    Attributes:
        probability: of mixing at all.
        bands: the numbers of bands to draw from.

    Source: L. Kong et al., LaserMix, CVPR 2023.
    """

    probability: float = 0.5
    bands: tuple[int, ...] = (3, 4, 5, 6)

    def __post_init__(self) -> None:
        check_share("probability", self.probability)
        if not self.bands or min(self.bands) < 2:
            raise RangeError(f"bands must hold numbers of at least 2, got {self.bands}")

    def __call__(self, sweep: Sweep, other: Sweep, rng: np.random.Generator) -> Sweep:
        """Bands of `sweep` and of `other` in turn, or `sweep` alone."""
        mixed = rng.random() < self.probability
        count, first = int(rng.choice(self.bands)), int(rng.integers(2))
        if not mixed or not len(sweep.points):
            return sweep
        own, foreign = elevations_of(sweep.points), elevations_of(other.points)
        # the middle 98 % of the sweep: a few stray points must not stretch the bands
        low, high = np.percentile(own, (1.0, 99.0))
        edges = np.linspace(low, high, count + 1)[1:-1]
        return joined(
            rows_of(sweep, (np.searchsorted(edges, own) + first) % 2 == 0),
            rows_of(other, (np.searchsorted(edges, foreign) + first) % 2 == 1),
        )


@dataclass(frozen=True)
class ObjectPaste:
    """Paste objects of the other sweep, each turned about the sensor to a place where there is ground.

    The object keeps its distance, so that its density stays right; it is set on the ground of its new place,
    and what it would hide there is left out. An object that finds no free ground is left out itself.

    Attributes:
        classes: targets of the objects; their points need instances, unique within a class.
        count: objects at most; their number is drawn from 1 ... count.
        ground: targets that it may stand on.
        tries: places tried for each.

    Source: A. Xiao et al., PolarMix, NeurIPS 2022 (its instance-level rotate-pasting); ground and shadow are
    ours.
    """

    classes: tuple[int, ...]
    ground: tuple[int, ...]
    count: int = 8
    tries: int = 4

    def __post_init__(self) -> None:
        if not self.classes or not self.ground or self.count < 1 or self.tries < 1:
            raise RangeError(
                f"pasting needs classes, ground, and count and tries of at least 1, got {self.classes}, "
                f"{self.ground}, {self.count} and {self.tries}"
            )

    def __call__(self, sweep: Sweep, other: Sweep, rng: np.random.Generator) -> Sweep:
        """`sweep` with some objects of `other`; without any where `other` has no instances."""
        if other.instances is None or other.targets is None or sweep.targets is None:
            return sweep
        objects = self._objects(other)
        ids = np.unique(objects[objects >= 0])
        if not len(ids):
            return sweep
        for one in rng.permutation(ids)[: int(rng.integers(1, self.count + 1))]:
            found = rows_of(other, np.flatnonzero(objects == one))
            for _ in range(self.tries):
                placed = self._placed(sweep, found, float(rng.uniform(0.0, _TURN)))
                if placed is not None:
                    sweep = joined(_behind_removed(sweep, placed), placed)
                    break
        return sweep

    def _objects(self, other: Sweep) -> npt.NDArray[np.int64]:
        """(n,) which object to paste a point belongs to, -1 for none; in the order of the instances."""
        assert other.instances is not None
        assert other.targets is not None
        rows = (other.instances > 0) & np.isin(other.targets, self.classes)
        # SemanticKITTI numbers the instances of each class anew
        pairs = other.instances[rows] * (max(self.classes) + 1) + other.targets[rows]
        ids, inverse, counts = np.unique(pairs, return_inverse=True, return_counts=True)
        found = np.full(len(rows), -1, dtype=np.int64)
        found[rows] = np.where(counts[inverse] >= _MIN_POINTS, ids[inverse], -1)
        return found

    def _placed(self, sweep: Sweep, found: Sweep, angle: float) -> Sweep | None:
        """The object, turned by `angle` and set down; None where there is no free ground."""
        c, s = math.cos(angle), math.sin(angle)
        turn = np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]], dtype=np.float32)
        points = found.points @ turn
        low, high = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
        reach = np.maximum((high - low) / 2, _FOOT)
        offset = np.abs(sweep.points[:, :2] - (low + high) / 2)
        here = np.flatnonzero((offset < reach).all(axis=1))
        assert sweep.targets is not None
        floor = np.isin(sweep.targets[here], self.ground)
        # a stray leaf may stand in the way, a car may not
        if floor.sum() < _MIN_FOOT or (~floor).sum() > 0.1 * len(here):
            return None
        points[:, 2] += np.median(sweep.points[here[floor], 2]) - points[:, 2].min()
        return replace(found, points=points)


def _behind_removed(sweep: Sweep, placed: Sweep) -> Sweep:
    """`sweep` without the points that `placed` hides."""
    cells, nearest = _view(placed.points)
    order = np.argsort(cells, kind="stable")
    keys, first = np.unique(cells[order], return_index=True)
    depth = np.minimum.reduceat(nearest[order], first)
    own, distance = _view(sweep.points)
    at = np.minimum(np.searchsorted(keys, own), len(keys) - 1)
    hidden = (keys[at] == own) & (distance > depth[at] + np.float32(_DEPTH))
    return rows_of(sweep, ~hidden)


def _view(points: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """(n,) number of the cell in which the sensor sees each point, and (n,) metres to it."""
    across = np.floor(np.arctan2(points[:, 1], points[:, 0]) / np.float32(_VIEW_CELL)).astype(np.int64)
    up = np.floor(elevations_of(points) / np.float32(_VIEW_CELL)).astype(np.int64)
    return across * 4096 + up, ranges_of(points)
