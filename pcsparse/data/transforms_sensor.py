"""Augmentation that changes the sensor: its beams, its reach, what hides the view, how bright it sees.

A network trained on one simulated sensor meets others: fewer beams, lost ones, dark ones, blind sectors,
another response. Each step is a frozen dataclass called with a sweep and a random generator. Those that look
at beams or at the sensor's place come before those that move the cloud.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pcsparse.data.datasets.semantic_kitti import Sweep
from pcsparse.data.sweep_parts import rows_of
from pcsparse.data.transforms import check_share
from pcsparse.errors import RangeError

_TURN = 2.0 * math.pi
# where a file does not name the beams: the mean spacing of 64 beams over 27 degrees
_BEAM_STEP = math.radians(0.42)
_MOST_CELLS = 256


def ranges_of(points: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(n,) metres: distance of points (n, 3) from the sensor."""
    return np.sqrt(np.einsum("ij,ij->i", points, points))


def elevations_of(points: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(n,) radians above the horizon of the sensor, of points (n, 3)."""
    return np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1]))


def beams_of(sweep: Sweep) -> npt.NDArray[np.int64]:
    """(n,) the beam of each point, from 0: the sweep's own, else bands of 0.42 degrees of elevation."""
    if sweep.beams is not None:
        return sweep.beams
    band = np.floor(elevations_of(sweep.points) / np.float32(_BEAM_STEP)).astype(np.int64)
    return band - band.min(initial=0)


@dataclass(frozen=True)
class BeamDrop:
    """Leave out whole beams: with a probability all but every n-th, and else a random few.

    Attributes:
        probability: of keeping every n-th beam only, where the sweep has `fewest` beams at least.
        every: the n to draw from; 2 makes 32 beams of 64.
        limit: otherwise a share of the beams is lost that is drawn from 0 ... limit.
        fewest: see `probability`.
    """

    probability: float = 0.3
    every: tuple[int, ...] = (2, 3, 4)
    limit: float = 0.2
    fewest: int = 0

    def __post_init__(self) -> None:
        check_share("probability", self.probability)
        check_share("limit", self.limit)
        if not self.every or min(self.every) < 1:
            raise RangeError(f"every must hold numbers of at least 1, got {self.every}")

    def __call__(self, sweep: Sweep, rng: np.random.Generator) -> Sweep:
        """The sweep of the beams that are left."""
        beams = beams_of(sweep)
        if rng.random() < self.probability and beams.max(initial=0) >= self.fewest - 1:
            step = int(rng.choice(self.every))
            return rows_of(sweep, (beams + int(rng.integers(step))) % step == 0)
        lost = rng.random(int(beams.max(initial=0)) + 1) < rng.uniform(0.0, self.limit)
        return rows_of(sweep, ~lost[beams])


@dataclass(frozen=True)
class RangeDrop:
    """Lose returns the more of them the farther they come from, as in haze or with a weaker laser.

    Attributes:
        limit: share lost at `reach`, drawn from 0 ... limit; it grows in proportion to the distance.
        reach: metres.
    """

    limit: float = 0.5
    reach: float = 60.0

    def __post_init__(self) -> None:
        check_share("limit", self.limit)
        if not self.reach > 0:
            raise RangeError(f"reach must be above 0 metres, got {self.reach}")

    def __call__(self, sweep: Sweep, rng: np.random.Generator) -> Sweep:
        """The sweep, thinner in the distance."""
        slope = np.float32(rng.uniform(0.0, self.limit) / self.reach)
        draws = rng.random(len(sweep.points), dtype=np.float32)
        return rows_of(sweep, draws >= slope * ranges_of(sweep.points))


@dataclass(frozen=True)
class Occlusion:
    """Hide sectors behind something near that is not in the picture.

    Attributes:
        sectors: how many at most; their number is drawn from 0 ... sectors.
        width: radians, the widest.
        near, far: metres: what lies beyond a distance drawn between them is hidden.
    """

    sectors: int = 3
    width: float = 0.35
    near: float = 3.0
    far: float = 25.0

    def __post_init__(self) -> None:
        if self.sectors < 0 or not 0 < self.near <= self.far or not 0 < self.width <= _TURN:
            raise RangeError(
                f"occlusion needs sectors >= 0, 0 < near <= far and a width within a turn, got "
                f"{self.sectors}, {self.near}, {self.far}, {self.width}"
            )

    def __call__(self, sweep: Sweep, rng: np.random.Generator) -> Sweep:
        """The sweep without what is hidden."""
        count = int(rng.integers(self.sectors + 1))
        if not count:
            return sweep
        azimuth = np.arctan2(sweep.points[:, 1], sweep.points[:, 0])
        distance = np.hypot(sweep.points[:, 0], sweep.points[:, 1])
        hidden = np.zeros(len(azimuth), dtype=bool)
        for _ in range(count):
            start, width = rng.uniform(0.0, _TURN), rng.uniform(0.0, self.width)
            hidden |= ((azimuth - start) % _TURN < width) & (distance > rng.uniform(self.near, self.far))
        return rows_of(sweep, ~hidden)


@dataclass(frozen=True)
class IntensityResponse:
    """Give the sweep another sensor's response: a power law, a gain a beam, or one value throughout.

    Attributes:
        gamma: the exponent is exp of -gamma ... gamma.
        beams: standard deviation of ln(gain) a beam.
        constant: probability that all points have the same intensity, drawn from 0 ... 1.
    """

    gamma: float = 0.5
    beams: float = 0.1
    constant: float = 0.1

    def __post_init__(self) -> None:
        check_share("constant", self.constant)
        if self.gamma < 0 or self.beams < 0:
            raise RangeError(f"gamma and beams must be at least 0, got {self.gamma} and {self.beams}")

    def __call__(self, sweep: Sweep, rng: np.random.Generator) -> Sweep:
        """The sweep with another intensity, within 0 ... 1."""
        if rng.random() < self.constant:
            return replace(sweep, intensity=np.full_like(sweep.intensity, rng.random()))
        value = np.clip(sweep.intensity, 0.0, 1.0) ** np.float32(
            math.exp(rng.uniform(-self.gamma, self.gamma))
        )
        if self.beams:
            beams = beams_of(sweep)
            gains = np.exp(rng.normal(0.0, self.beams, int(beams.max(initial=0)) + 1)).astype(np.float32)
            value = np.minimum(value * gains[beams], np.float32(1.0))
        return replace(sweep, intensity=value)


@dataclass(frozen=True)
class RandomTilt:
    """Tilt the sweep about a horizontal axis by -limit ... limit radians: no mount or road is level."""

    limit: float = 0.03

    def __call__(self, sweep: Sweep, rng: np.random.Generator) -> Sweep:
        """The tilted sweep."""
        way, angle = rng.uniform(0.0, _TURN), rng.uniform(-self.limit, self.limit)
        x, y, c, s = math.cos(way), math.sin(way), math.cos(angle), math.sin(angle)
        # Rodrigues' formula for the axis (x, y, 0)
        turn = np.array(
            [
                [c + x * x * (1 - c), x * y * (1 - c), y * s],
                [x * y * (1 - c), c + y * y * (1 - c), -x * s],
                [-y * s, x * s, c],
            ],
            dtype=np.float32,
        )
        return replace(sweep, points=sweep.points @ turn.T)


@dataclass(frozen=True)
class Undulation:
    """Lift the ground and what stands on it by smooth waves: no real road is as even as a simulated one.

    Heights are drawn on a square lattice and interpolated between its nodes.

    Attributes:
        cell: metres between the nodes.
        limit: metres; the standard deviation at the nodes is drawn from 0 ... limit.
    """

    cell: float = 8.0
    limit: float = 0.12

    def __post_init__(self) -> None:
        if not self.cell > 0 or self.limit < 0:
            raise RangeError(
                f"cell must be above 0 and limit at least 0 metres, got {self.cell}, {self.limit}"
            )

    def __call__(self, sweep: Sweep, rng: np.random.Generator) -> Sweep:
        """The sweep on uneven ground."""
        if not len(sweep.points):
            return sweep
        # a stray point, far off or not finite, must not make the lattice huge
        place = np.nan_to_num(sweep.points[:, :2] / np.float32(self.cell)).clip(-_MOST_CELLS, _MOST_CELLS)
        place -= np.floor(place.min(axis=0))
        i, j = place.T.astype(np.int32)
        u, v = (place - np.floor(place)).T
        size = int(i.max()) + 2, int(j.max()) + 2
        nodes = rng.standard_normal(size, dtype=np.float32) * np.float32(rng.uniform(0.0, self.limit))
        flat, at = nodes.ravel(), i * size[1] + j
        near = flat[at] + (flat[at + 1] - flat[at]) * v
        far = flat[at + size[1]] + (flat[at + size[1] + 1] - flat[at + size[1]]) * v
        points = sweep.points.copy()
        points[:, 2] += near + (far - near) * u
        return replace(sweep, points=points)
