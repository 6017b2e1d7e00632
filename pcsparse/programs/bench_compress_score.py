"""How good a network of given widths is right after pruning: by sweep, so that intervals can be drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from pcsparse.compress.channel_scores import channel_scores
from pcsparse.compress.finetune import recalibrate
from pcsparse.compress.graph import ChannelGraph
from pcsparse.compress.search.space import Assignment, Space
from pcsparse.compress.space_of import network_of
from pcsparse.data.collate import VoxelBatch
from pcsparse.nn import fuse, prepare
from pcsparse.programs.bench_compress_streets import Streets
from pcsparse.sparse_tensor import SparseTensor
from pcsparse.train.evaluation import evaluating
from pcsparse.train.metrics import ConfusionMatrix
from pcsparse.train.model_file import load_model

_LOADED = ("_dense", "_search", "_held")

_RESAMPLES, _SHARE = 2000, 95.0

Counts = npt.NDArray[np.int64]


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
        counts = np.stack([confusion.counts.numpy() for confusion in confusions])
        # points without a label never count; labelled ones that got no class are missed
        counts[:, :, 0] = 0
        right = np.diagonal(counts, axis1=1, axis2=2)[:, 1:]
        truth = counts.sum(axis=1)[:, 1:]
        return SweepCounts(right.copy(), counts.sum(axis=2)[:, 1:] + truth - right, truth)

    def miou(self, weights: npt.NDArray[np.float64] | None = None) -> npt.NDArray[np.float64]:
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
        mean: npt.NDArray[np.float64] = iou.sum(axis=1) / np.maximum(present.sum(axis=1), 1)
        return mean

    def by_town(self, sweeps: int) -> "SweepCounts":
        """Sums of every `sweeps` rows: sweeps of a town look alike, so that towns are drawn for intervals."""
        shape = (len(self.right) // sweeps, sweeps, -1)
        return SweepCounts(*(c.reshape(shape).sum(axis=1) for c in (self.right, self.union, self.truth)))

    def to_lists(self) -> dict[str, Any]:
        """For JSON; `from_lists` reads it back."""
        return {"right": self.right.tolist(), "union": self.union.tolist(), "truth": self.truth.tolist()}

    @staticmethod
    def from_lists(lists: dict[str, Any]) -> "SweepCounts":
        """Inverse of `to_lists`."""
        right, union, truth = (np.array(lists[name], np.int64) for name in ("right", "union", "truth"))
        return SweepCounts(right, union, truth)


def town_weights(n_towns: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """(2000, n_towns) how often each town counts in each resample."""
    return rng.multinomial(n_towns, np.full(n_towns, 1 / n_towns), size=_RESAMPLES).astype(np.float64)


def resampled_mean(
    group: Sequence[SweepCounts], weights: npt.NDArray[np.float64], rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """(m,) the mean mIoU of several seeds on resampled towns, seeds drawn anew too.

    A mean of n that are drawn from n varies by a share (n - 1) / n of what it should; that is made up for.
    """
    by_seed = np.stack([counts.miou(weights) for counts in group])
    n = len(group)
    mean: npt.NDArray[np.float64] = by_seed.mean(axis=0)
    if n == 1:
        return mean
    drawn = rng.integers(n, size=by_seed.shape)
    spread = np.take_along_axis(by_seed, drawn, axis=0).mean(axis=0) - mean
    return mean + np.sqrt(n / (n - 1)) * spread


def interval_of(draws: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Percentiles that hold 95 %."""
    low, high = np.percentile(draws, (50 - _SHARE / 2, 50 + _SHARE / 2)).tolist()
    return low, high


class Sweeps:
    """Sweeps with their maps built once, for many networks of one shape.

    Args:
        batches: one sweep each, with labels.
        model: any network that asks for the same maps.
    """

    def __init__(self, batches: list[VoxelBatch], model: nn.Module) -> None:
        self._batches = batches
        self._inputs = [prepare(model, batch.tensor()) for batch in batches]

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def inputs(self) -> list[SparseTensor]:
        """Of the network."""
        return self._inputs

    def counts(self, model: nn.Module, n_classes: int) -> SweepCounts:
        """Run a network over all of them."""
        found = []
        with evaluating(model):
            for batch, x in zip(self._batches, self._inputs, strict=True):
                assert batch.point_targets is not None  # every simulated sweep has labels
                confusion = ConfusionMatrix(n_classes)
                logits: Tensor = model(x).feats
                confusion.update(batch.to_points(logits.argmax(dim=1))[0], batch.point_targets)
                found.append(confusion)
        return SweepCounts.of(found)


class PrunedScore:
    """The score of widths: cut, measure batch norms anew, look at the search sweeps. Nothing is trained.

    Without the batch norms a U-Net cut by half tells noise, and every search would look for it. What a
    process has loaded stays in it; what is sent to another process is paths and the space alone.

    Args:
        checkpoint: of the dense network.
        streets: its data.
        space: of its channel graph.
        n_calibration: sweeps to measure batch norms on, of training towns.
    """

    def __init__(self, checkpoint: Path, streets: Streets, space: Space, n_calibration: int = 2) -> None:
        self._checkpoint, self._streets, self._n_calibration = checkpoint, streets, n_calibration
        self.space = space

    def __getstate__(self) -> dict[str, Any]:
        """Without what was loaded."""
        return {name: value for name, value in self.__dict__.items() if name not in _LOADED}

    @cached_property
    def _dense(self) -> tuple[nn.Module, ChannelGraph, dict[str, Tensor]]:
        model, _ = load_model(self._checkpoint)
        graph = ChannelGraph.of(model)
        # of the scores it leaves most to begin with (docs/log.md)
        return model, graph, channel_scores(model, graph, "max_response")

    @cached_property
    def _search(self) -> tuple[list[SparseTensor], Sweeps]:
        """Sweeps to calibrate on, and to look at."""
        streets = self._streets
        calibration = streets.calibration(self._n_calibration, cropped=True)
        return self._prepared(calibration, streets.batches(streets.search, cropped=True))

    @cached_property
    def _held(self) -> tuple[list[SparseTensor], Sweeps]:
        streets = self._streets
        calibration = streets.calibration(2 * self._n_calibration)
        return self._prepared(calibration, streets.batches(streets.held))

    def _prepared(
        self, calibration: list[VoxelBatch], looked_at: list[VoxelBatch]
    ) -> tuple[list[SparseTensor], Sweeps]:
        model = self._dense[0]
        return Sweeps(calibration, model).inputs, Sweeps(looked_at, model)

    @property
    def n_classes(self) -> int:
        """Of the network."""
        return int(self._dense[0].spec.n_classes)  # type: ignore[union-attr, arg-type]

    def network(self, widths: Assignment) -> nn.Module:
        """The pruned network; its batch norms are still those of the dense one."""
        model, graph, scores = self._dense
        return network_of(model, graph, scores, self.space, widths).eval()

    def __call__(self, widths: Assignment) -> float:
        """Mean IoU over the classes that occur in the search sweeps, which are cropped."""
        return float(self._counts(widths, *self._search).miou()[0])

    def held_counts(self, widths: Assignment) -> SweepCounts:
        """What the network does on the held-out sweeps, which are whole."""
        return self._counts(widths, *self._held)

    def _counts(self, widths: Assignment, calibration: list[SparseTensor], sweeps: Sweeps) -> SweepCounts:
        pruned = self.network(widths)
        recalibrate(pruned, calibration)
        return sweeps.counts(fuse(pruned), self.n_classes)
