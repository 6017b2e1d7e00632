"""What the mean IoU of sweeps is made of, by sweep, so that sweeps, towns and seeds can be drawn anew."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pcsparse.train.metrics import ConfusionMatrix

_RESAMPLES, _SHARE = 2000, 95.0

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SweepCounts:
    """What intersections over unions are made of, by sweep; sums over sweeps may be divided.

    Attributes:
        right: (n_sweeps, n_classes) points of a class that were told.
        union: (n_sweeps, n_classes) points that are of a class or were told to be.
        truth: (n_sweeps, n_classes) points of a class.
    """

    right: Counts
    union: Counts
    truth: Counts

    @staticmethod
    def of(confusions: list[ConfusionMatrix]) -> "SweepCounts":
        """From a confusion matrix a sweep."""
        return SweepCounts.of_counts(np.stack([confusion.counts.numpy() for confusion in confusions]))

    @staticmethod
    def of_counts(confusions: Counts) -> "SweepCounts":
        """From the counts of a `ConfusionMatrix` a sweep, (n_sweeps, n_classes + 1, n_classes + 1)."""
        # points without a label never count; labelled ones that got no class are missed
        counts = confusions.copy()
        counts[:, :, 0] = 0
        right = np.diagonal(counts, axis1=1, axis2=2)[:, 1:]
        truth = counts.sum(axis=1)[:, 1:]
        return SweepCounts(right.copy(), counts.sum(axis=2)[:, 1:] + truth - right, truth)

    def miou(self, weights: Floats | None = None) -> Floats:
        """Mean IoU over the classes that occur in the sweeps.

        Args:
            weights: (m, n_sweeps) how often each sweep counts, a row a resample; None for once each.

        Returns:
            (m,), 0 to 1; m = 1 without weights.
        """
        rows = np.ones((1, len(self.right))) if weights is None else weights
        right, union, truth = rows @ self.right, rows @ self.union, rows @ self.truth
        present = truth > 0
        iou = np.where(present, right / np.maximum(union, 1), 0.0)
        mean: Floats = iou.sum(axis=1) / np.maximum(present.sum(axis=1), 1)
        return mean

    def by_town(self, sweeps: int) -> "SweepCounts":
        """Sums of every `sweeps` rows: sweeps of a town look alike, so that towns are drawn for intervals."""
        return self.grouped(np.arange(len(self.right) // sweeps * sweeps) // sweeps)

    def grouped(self, group: npt.NDArray[np.int64]) -> "SweepCounts":
        """Sums of the sweeps of a group, `group` (n_sweeps,) numbered from 0 and none left out."""
        member = np.zeros((int(group.max(initial=-1)) + 1, len(group)), np.int64)
        member[group, np.arange(len(group))] = 1
        return SweepCounts(*(member @ c for c in (self.right, self.union, self.truth)))

    def to_lists(self) -> dict[str, Any]:
        """For JSON; `from_lists` reads it back."""
        return {"right": self.right.tolist(), "union": self.union.tolist(), "truth": self.truth.tolist()}

    @staticmethod
    def from_lists(lists: dict[str, Any]) -> "SweepCounts":
        """Inverse of `to_lists`."""
        right, union, truth = (np.array(lists[name], np.int64) for name in ("right", "union", "truth"))
        return SweepCounts(right, union, truth)


def draw_weights(n: int, rng: np.random.Generator) -> Floats:
    """(2000, n) how often each sweep, town or sequence counts in each resample."""
    return rng.multinomial(n, np.full(n, 1 / n), size=_RESAMPLES).astype(np.float64)


def resampled_mean(group: Sequence[SweepCounts], weights: Floats, rng: np.random.Generator) -> Floats:
    """(m,) the mean mIoU of several seeds on resampled towns, seeds drawn anew too.

    A mean of n that are drawn from n varies by a share (n - 1) / n of what it should; that is made up for.
    """
    by_seed = np.stack([counts.miou(weights) for counts in group])
    n = len(group)
    mean: Floats = by_seed.mean(axis=0)
    if n == 1:
        return mean
    drawn = rng.integers(n, size=by_seed.shape)
    spread = np.take_along_axis(by_seed, drawn, axis=0).mean(axis=0) - mean
    return mean + np.sqrt(n / (n - 1)) * spread


def interval_of(draws: Floats) -> tuple[float, float]:
    """Percentiles that hold 95 %."""
    low, high = np.percentile(draws, (50 - _SHARE / 2, 50 + _SHARE / 2)).tolist()
    return low, high
