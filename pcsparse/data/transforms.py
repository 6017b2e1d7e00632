"""Augmentation of a sweep, each step a frozen dataclass called with a sweep and a random generator.

All randomness comes from the generator that is passed in: a sample depends on its seed and on nothing else.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pcsparse.data.datasets.semantic_kitti import Sweep
from pcsparse.data.sweep_parts import joined, rows_of
from pcsparse.errors import RangeError

_TURN = 2.0 * math.pi


class Transform(Protocol):
    """One step: a new sweep, the given one untouched."""

    def __call__(self, sweep: Sweep, rng: np.random.Generator) -> Sweep:
        """The sweep, changed at random."""


class Mix(Protocol):
    """A step that makes one sweep of two."""

    def __call__(self, sweep: Sweep, other: Sweep, rng: np.random.Generator) -> Sweep:
        """A mixture of both."""


def check_share(name: str, value: float) -> None:
    """Refuse a setting `name` whose `value` is no share."""
    if not 0.0 <= value <= 1.0:
        raise RangeError(f"{name} must lie in 0 ... 1, got {value}")


@dataclass(frozen=True)
class RandomYaw:
    """Turn about the vertical axis by an angle in -limit ... limit, radians."""

    limit: float = math.pi

    def __call__(self, sweep: Sweep, rng: np.random.Generator) -> Sweep:
        """The turned sweep."""
        angle = rng.uniform(-self.limit, self.limit)
        c, s = math.cos(angle), math.sin(angle)
        turn = np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]], dtype=np.float32)
        return replace(sweep, points=sweep.points @ turn)


@dataclass(frozen=True)
class RandomFlip:
    """Mirror x, and mirror y, each with its own probability."""

    x: float = 0.5
    y: float = 0.5

    def __post_init__(self) -> None:
        check_share("x", self.x)
        check_share("y", self.y)

    def __call__(self, sweep: Sweep, rng: np.random.Generator) -> Sweep:
        """The sweep, mirrored or not."""
        signs = np.where(rng.random(2) < (self.x, self.y), -1.0, 1.0).astype(np.float32)
        return replace(sweep, points=sweep.points * np.append(signs, np.float32(1.0)))


@dataclass(frozen=True)
class RandomScale:
    """Scale all axes by one factor in low ... high."""

    low: float = 0.95
    high: float = 1.05

    def __post_init__(self) -> None:
        if not 0.0 < self.low <= self.high:
            raise RangeError(f"scale must have 0 < low <= high, got {self.low} and {self.high}")

    def __call__(self, sweep: Sweep, rng: np.random.Generator) -> Sweep:
        """The scaled sweep."""
        return replace(sweep, points=sweep.points * np.float32(rng.uniform(self.low, self.high)))


@dataclass(frozen=True)
class HeightShift:
    """Lift the whole sweep by -limit ... limit metres: sensors are mounted at different heights."""

    limit: float = 0.2

    def __call__(self, sweep: Sweep, rng: np.random.Generator) -> Sweep:
        """The lifted sweep."""
        shift = np.array([0.0, 0.0, rng.uniform(-self.limit, self.limit)], dtype=np.float32)
        return replace(sweep, points=sweep.points + shift)


@dataclass(frozen=True)
class Jitter:
    """Move every point by normal noise of `sigma` metres on each axis, cut at `clip` metres."""

    sigma: float = 0.01
    clip: float = 0.05

    def __call__(self, sweep: Sweep, rng: np.random.Generator) -> Sweep:
        """The noisy sweep."""
        noise = rng.standard_normal(sweep.points.shape, dtype=np.float32) * np.float32(self.sigma)
        return replace(sweep, points=sweep.points + np.clip(noise, -self.clip, self.clip, dtype=np.float32))


@dataclass(frozen=True)
class RandomDrop:
    """Leave out points, each with one probability a sweep, drawn from 0 ... limit."""

    limit: float = 0.2

    def __post_init__(self) -> None:
        check_share("limit", self.limit)

    def __call__(self, sweep: Sweep, rng: np.random.Generator) -> Sweep:
        """The thinned sweep."""
        share = rng.uniform(0.0, self.limit)
        return rows_of(sweep, rng.random(len(sweep.points)) >= share)


@dataclass(frozen=True)
class IntensityJitter:
    """Change intensity, which differs most between sensors: factor, offset, noise; sometimes none at all.

    Attributes:
        scale: the factor lies in 1 - scale ... 1 + scale.
        shift: the offset lies in -shift ... shift.
        sigma: standard deviation of the noise a point.
        drop: probability that the whole sweep has intensity 0.
    """

    scale: float = 0.2
    shift: float = 0.05
    sigma: float = 0.02
    drop: float = 0.1

    def __post_init__(self) -> None:
        check_share("drop", self.drop)

    def __call__(self, sweep: Sweep, rng: np.random.Generator) -> Sweep:
        """The sweep with another intensity, within 0 ... 1."""
        if rng.random() < self.drop:
            return replace(sweep, intensity=np.zeros_like(sweep.intensity))
        factor = np.float32(rng.uniform(1.0 - self.scale, 1.0 + self.scale))
        offset = np.float32(rng.uniform(-self.shift, self.shift))
        noise = rng.standard_normal(len(sweep.intensity), dtype=np.float32) * np.float32(self.sigma)
        return replace(sweep, intensity=np.clip(sweep.intensity * factor + offset + noise, 0.0, 1.0))


@dataclass(frozen=True)
class ConcatMix:
    """Lay two sweeps over each other, with a probability.

    Source: A. Nekrasov et al., Mix3D, 3DV 2021.
    """

    probability: float = 0.5

    def __post_init__(self) -> None:
        check_share("probability", self.probability)

    def __call__(self, sweep: Sweep, other: Sweep, rng: np.random.Generator) -> Sweep:
        """All points of both, or `sweep` alone."""
        return joined(sweep, other) if rng.random() < self.probability else sweep


@dataclass(frozen=True)
class SectorMix:
    """Replace one sector of azimuth by the same sector of another sweep, with a probability.

    Attributes:
        probability: of mixing at all.
        width: largest width of the sector, radians; the width is drawn from 0 ... width.

    Source: A. Xiao et al., PolarMix, NeurIPS 2022 (its scene-level swapping).
    """

    probability: float = 0.5
    width: float = math.pi

    def __post_init__(self) -> None:
        check_share("probability", self.probability)

    def __call__(self, sweep: Sweep, other: Sweep, rng: np.random.Generator) -> Sweep:
        """`sweep` outside the sector and `other` inside it, or `sweep` alone."""
        mixed = rng.random() < self.probability
        start, width = rng.uniform(0.0, _TURN), rng.uniform(0.0, self.width)
        if not mixed:
            return sweep
        return joined(
            rows_of(sweep, ~_inside(sweep, start, width)), rows_of(other, _inside(other, start, width))
        )


def _inside(sweep: Sweep, start: float, width: float) -> npt.NDArray[np.bool_]:
    azimuth = np.arctan2(sweep.points[:, 1], sweep.points[:, 0])
    return (azimuth - start) % _TURN < width


@dataclass(frozen=True)
class OneOf:
    """One of several mixtures, or none, each with its probability.

    Attributes:
        mixes: to choose from.
        probabilities: of each; what is missing to 1 is the probability of none.
    """

    mixes: tuple[Mix, ...]
    probabilities: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mixes) != len(self.probabilities) or min(self.probabilities, default=0.0) < 0:
            raise RangeError(
                f"{len(self.mixes)} mixtures need as many probabilities of at least 0, "
                f"got {self.probabilities}"
            )
        check_share("the sum of the probabilities", round(sum(self.probabilities), 9))

    def draw(self, rng: np.random.Generator) -> Mix | None:
        """The mixture that is drawn; None for none."""
        drawn = int(np.searchsorted(np.cumsum(self.probabilities), rng.random(), side="right"))
        return self.mixes[drawn] if drawn < len(self.mixes) else None

    def __call__(self, sweep: Sweep, other: Sweep, rng: np.random.Generator) -> Sweep:
        """The mixture that was drawn, or `sweep` alone."""
        mix = self.draw(rng)
        return sweep if mix is None else mix(sweep, other, rng)


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training sample: steps in order, then perhaps a mix with another sample.

    Attributes:
        steps: applied in order to each sweep, the other one of a mix too.
        mix: None for no mixing.
    """

    steps: tuple[Transform, ...] = ()
    mix: Mix | None = None

    def __call__(self, sweep: Sweep, rng: np.random.Generator, other: Callable[[], Sweep]) -> Sweep:
        """The augmented sweep; `other` is called only where there is a mix."""
        for step in self.steps:
            sweep = step(sweep, rng)
        # a partner costs as much as the sweep itself: not where none is wanted
        mix = self.mix.draw(rng) if isinstance(self.mix, OneOf) else self.mix
        if mix is None:
            return sweep
        partner = other()
        for step in self.steps:
            partner = step(partner, rng)
        return mix(sweep, partner, rng)
