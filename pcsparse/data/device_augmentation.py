"""Augmentation of many sweeps at once, on the device that holds them; the steps are those of `transforms`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pcsparse.data.transforms import (
    Augmentation,
    ConcatMix,
    HeightShift,
    IntensityJitter,
    Jitter,
    Mix,
    OneOf,
    RandomDrop,
    RandomFlip,
    RandomScale,
    RandomYaw,
    SectorMix,
    Transform,
)
from pcsparse.errors import UnsupportedError

_TURN = 2.0 * math.pi
_STEPS = (RandomYaw, RandomFlip, RandomScale, HeightShift, Jitter, RandomDrop, IntensityJitter)
_MIXES = (SectorMix, ConcatMix)


@dataclass(eq=False)
class Clouds:
    """The points of some sweeps, one after another.

    Attributes:
        points: (n, 3) float32, metres.
        intensity: (n,) float32, 0 to 1.
        targets: (n,) integers, -1 for points without a label.
        cloud: (n,) int64, which sweep a point is of; ascending.
    """

    points: Tensor
    intensity: Tensor
    targets: Tensor
    cloud: Tensor

    def rows(self, keep: Tensor) -> "Clouds":
        """Those of the points, `keep` (n,) bool."""
        at = keep.nonzero()[:, 0]
        parts = (self.points, self.intensity, self.targets, self.cloud)
        return Clouds(*(part.index_select(0, at) for part in parts))


@dataclass(frozen=True)
class Sector:
    """A sector of azimuth: what is inside comes from the other sweep of a mix.

    Attributes:
        start: radians.
        without: its width in the sweep itself, where it is left out.
        width: its width in the other one, of which nothing else is taken.
    """

    start: float
    without: float
    width: float


def check_augmentation(augmentation: Augmentation) -> None:
    """Refuse steps that know no device.

    Raises:
        UnsupportedError: the text names the step.
    """
    mix = augmentation.mix
    mixes: Sequence[Mix] = mix.mixes if isinstance(mix, OneOf) else () if mix is None else (mix,)
    for part, known in [*((s, _STEPS) for s in augmentation.steps), *((m, _MIXES) for m in mixes)]:
        if not isinstance(part, known):
            raise UnsupportedError(
                f"{type(part).__name__} is not made for sweeps in the memory of a device; train with loaders "
                "(resident=false), or leave it out"
            )


def drawn_sector(mix: Mix | None, rng: np.random.Generator) -> Sector | None:
    """What a mix takes from the other sweep; None where it takes nothing."""
    if isinstance(mix, OneOf):
        mix = mix.draw(rng)
    if mix is None or not rng.random() < mix.probability:  # type: ignore[attr-defined]
        return None
    if isinstance(mix, ConcatMix):
        # nothing is left out, all is taken
        return Sector(0.0, 0.0, 2 * _TURN)
    assert isinstance(mix, SectorMix)
    start, width = rng.uniform(0.0, _TURN), rng.uniform(0.0, mix.width)
    return Sector(start, width, width)


def augment(
    clouds: Clouds,
    steps: Sequence[Transform],
    rngs: Sequence[np.random.Generator],
    generator: torch.Generator,
) -> Clouds:
    """All steps in order, on all clouds.

    What is drawn once a cloud comes from a generator of its own, on the host; noise from that of the device.

    Args:
        clouds: changed in place where points are not left out.
        steps: that `check_augmentation` lets pass.
        rngs: one a cloud.
        generator: on the device of the clouds.
    """
    keep: Tensor | None = None
    moves = _Moves(len(rngs))
    for step in steps:
        if isinstance(step, RandomYaw | RandomFlip | RandomScale | HeightShift):
            moves.add([_move(step, rng) for rng in rngs])
            continue
        if isinstance(step, Jitter):
            moves.flush(clouds)
            noise = torch.empty_like(clouds.points).normal_(generator=generator).mul_(step.sigma)
            clouds.points += noise.clamp_(-step.clip, step.clip)
        elif isinstance(step, RandomDrop):
            share = _of_clouds([(rng.uniform(0.0, step.limit),) for rng in rngs], clouds)[:, 0]
            stays = torch.empty_like(clouds.intensity).uniform_(generator=generator) >= share
            keep = stays if keep is None else keep & stays
        else:
            assert isinstance(step, IntensityJitter)
            _jitter_intensity(clouds, step, rngs, generator)
    moves.flush(clouds)
    return clouds if keep is None else clouds.rows(keep)


def joined(clouds: Clouds, owners: Sequence[int], sectors: Sequence[Sector | None]) -> Clouds:
    """Sweeps and their partners as one each: outside of the sector the sweep, inside its partner.

    Args:
        clouds: first as many sweeps as there are sectors, then a partner for each sector that is not None.
        owners: the sweep that each cloud becomes a part of.
        sectors: of the sweeps.
    """
    n = len(sectors)
    if len(owners) == n:
        return clouds
    rows = []
    for number, owner in enumerate(owners):
        sector = sectors[owner] or Sector(0.0, 0.0, 0.0)
        width = sector.without if number < n else sector.width
        rows.append((sector.start, width, float(number >= n), float(owner)))
    begin, wide, partner, owner_of = _of_clouds(rows, clouds).unbind(1)
    azimuth = torch.atan2(clouds.points[:, 1], clouds.points[:, 0])
    inside = (azimuth - begin).remainder(_TURN) < wide
    mixed = Clouds(clouds.points, clouds.intensity, clouds.targets, owner_of.long())
    return mixed.rows(inside == (partner > 0))


def _of_clouds(rows: Sequence[tuple[float, ...]], clouds: Clouds) -> Tensor:
    """(n, k) float32: for each point what belongs to its cloud."""
    table = torch.tensor(rows, dtype=torch.float32, device="cpu").to(clouds.points.device, non_blocking=True)
    return table.index_select(0, clouds.cloud)


class _Moves:
    """Turns, mirrors, factors and shifts that are not done yet: one product for all of them."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._pending: list[np.ndarray] | None = None

    def add(self, matrices: list[np.ndarray]) -> None:
        before = self._pending
        self._pending = matrices if before is None else [m @ b for m, b in zip(matrices, before, strict=True)]

    def flush(self, clouds: Clouds) -> None:
        if self._pending is None:
            return
        rows = _of_clouds([tuple(m[:3].reshape(-1).tolist()) for m in self._pending], clouds)
        matrix = rows.view(-1, 3, 4)
        clouds.points = (matrix[:, :, :3] * clouds.points[:, None]).sum(dim=2) + matrix[:, :, 3]
        self._pending = None


def _move(step: Transform, rng: np.random.Generator) -> np.ndarray:
    """(4, 4) float64, for points as columns."""
    matrix = np.eye(4)
    if isinstance(step, RandomYaw):
        angle = rng.uniform(-step.limit, step.limit)
        c, s = math.cos(angle), math.sin(angle)
        matrix[:2, :2] = [[c, -s], [s, c]]
    elif isinstance(step, RandomFlip):
        matrix[[0, 1], [0, 1]] = np.where(rng.random(2) < (step.x, step.y), -1.0, 1.0)
    elif isinstance(step, RandomScale):
        matrix[:3, :3] *= rng.uniform(step.low, step.high)
    elif isinstance(step, HeightShift):
        matrix[2, 3] = rng.uniform(-step.limit, step.limit)
    return matrix


def _jitter_intensity(
    clouds: Clouds, step: IntensityJitter, rngs: Sequence[np.random.Generator], generator: torch.Generator
) -> None:
    rows = []
    for rng in rngs:
        alive = float(rng.random() >= step.drop)
        factor = rng.uniform(1.0 - step.scale, 1.0 + step.scale)
        rows.append((alive, factor, rng.uniform(-step.shift, step.shift)))
    alive_of, factor_of, shift_of = _of_clouds(rows, clouds).unbind(1)
    noise = torch.empty_like(clouds.intensity).normal_(generator=generator).mul_(step.sigma)
    clouds.intensity = (clouds.intensity * factor_of + shift_of + noise).clamp_(0.0, 1.0) * alive_of
