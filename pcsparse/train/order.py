"""Which samples make up which step: a function of seed and step, so that a run can start at any step."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pcsparse.data.collate import SampleId
from pcsparse.errors import RangeError

_ORDER_STREAM = 0x0DE5


@dataclass(frozen=True)
class SampleOrder:
    """The order of a whole run, epoch after epoch.

    Attributes:
        n_samples: sweeps in the training set.
        batch_size: sweeps a network pass.
        accumulate: network passes an optimiser step.
        epochs: passes over the set.
        seed: of the shuffles.
    """

    n_samples: int
    batch_size: int
    accumulate: int
    epochs: int
    seed: int

    def __post_init__(self) -> None:
        if self.n_samples < 1:
            raise RangeError("the training set is empty; check its root and split")

    @property
    def batches_per_epoch(self) -> int:
        """Network passes an epoch; the last one may hold fewer sweeps."""
        return -(-self.n_samples // self.batch_size)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps an epoch; the last one may accumulate fewer passes."""
        return -(-self.batches_per_epoch // self.accumulate)

    @property
    def n_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.steps_per_epoch * self.epochs

    def step_batches(self, step: int) -> list[list[SampleId]]:
        """The network passes of optimiser step `step` (0 ... n_steps - 1), each a list of samples."""
        epoch, within = divmod(step, self.steps_per_epoch)
        shuffled = self._shuffled(epoch)
        first = within * self.accumulate
        last = min(first + self.accumulate, self.batches_per_epoch)
        return [
            [SampleId(epoch, int(i)) for i in shuffled[b * self.batch_size : (b + 1) * self.batch_size]]
            for b in range(first, last)
        ]

    def _shuffled(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, _ORDER_STREAM, epoch]).permutation(self.n_samples)


@dataclass(frozen=True)
class BatchesFrom:
    """The network passes of a run from step `start` on: the batch sampler of the loader."""

    order: SampleOrder
    start: int

    def __iter__(self) -> Iterator[list[SampleId]]:
        for step in range(self.start, self.order.n_steps):
            yield from self.order.step_batches(step)

    def __len__(self) -> int:
        epoch, within = divmod(self.start, self.order.steps_per_epoch)
        passed = epoch * self.order.batches_per_epoch + within * self.order.accumulate
        return self.order.epochs * self.order.batches_per_epoch - passed
