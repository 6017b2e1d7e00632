"""Confusion counts sweep by sweep: from them come intervals, and differences between two networks."""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from pcsparse.errors import FormatError, RangeError
from pcsparse.train.metrics import ConfusionMatrix, SemanticKittiMetrics
from pcsparse.train.sweep_counts import Floats, SweepCounts, draw_weights, interval_of
from pcsparse.whole_file import write_whole

_SEED = 20231
# with fewer sequences than this, drawing whole ones says nothing
_LEAST_SEQUENCES = 8


@dataclass(frozen=True)
class Interval:
    """A value and where 95 % of its bootstrap lies."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class SweepScores:
    """What a network predicted on a labelled set.

    Attributes:
        names: of the sweeps, sequence and frame, such as `08/000123`.
        counts: (n, n_classes + 1, n_classes + 1) int64, the counts of each sweep's `ConfusionMatrix`.
    """

    names: tuple[str, ...]
    counts: npt.NDArray[np.int64]

    @staticmethod
    def of(found: Sequence[tuple[str, ConfusionMatrix]], n_classes: int) -> "SweepScores":
        """From the matrix of each sweep."""
        counts = [one.counts.numpy() for _, one in found]
        empty = np.zeros((0, n_classes + 1, n_classes + 1), np.int64)
        return SweepScores(tuple(name for name, _ in found), np.stack(counts) if counts else empty)

    def confusion(self) -> ConfusionMatrix:
        """All sweeps together."""
        total = ConfusionMatrix(self.counts.shape[1] - 1)
        total.counts = torch.from_numpy(self.counts.sum(axis=0))
        return total

    def metrics(self) -> SemanticKittiMetrics:
        """Of all sweeps together."""
        return SemanticKittiMetrics.of(self.confusion())

    def drawn(self) -> str:
        """What is drawn with replacement for intervals: "sequences" where there are enough, else "sweeps"."""
        return "sequences" if len(set(self._sequences())) >= _LEAST_SEQUENCES else "sweeps"

    def miou_present(self) -> Interval:
        """The mean IoU over the classes that occur, with its interval.

        Sweeps of one sequence look alike, so whole sequences are drawn where there are enough of them.

        Raises:
            RangeError: no sweeps.
        """
        value, draws = self._drawn_mious()
        return _interval(value, draws)

    def gain_over(self, other: "SweepScores") -> Interval:
        """How much higher it is than that of another network on the same sweeps; each draw holds both.

        Raises:
            RangeError: no sweeps, or other ones.
        """
        if self.names != other.names:
            raise RangeError("two networks are compared on the same sweeps in the same order; evaluate both")
        (value, draws), (base, base_draws) = self._drawn_mious(), other._drawn_mious()
        return _interval(value - base, draws - base_draws)

    def save(self, path: Path) -> None:
        """Write an .npz file, whole or not at all."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, names=np.array(self.names, dtype=np.str_), counts=self.counts)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            FormatError: no such file.
        """
        try:
            # from memory: numpy leaves the file of a broken archive open
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as content:
                return cls(tuple(content["names"].tolist()), content["counts"])
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise FormatError(f"{path} holds no scores by sweep ({error}); remove it and evaluate") from error

    def _sequences(self) -> list[str]:
        return [name.rpartition("/")[0] for name in self.names]

    def _drawn_mious(self) -> tuple[float, Floats]:
        if not self.names:
            raise RangeError("no labelled sweep was evaluated; name a split that has labels")
        counts = SweepCounts.of_counts(self.counts)
        if self.drawn() == "sequences":
            counts = counts.grouped(np.unique(self._sequences(), return_inverse=True)[1])
        weights = draw_weights(len(counts.right), np.random.default_rng(_SEED))
        return float(counts.miou()[0]), counts.miou(weights)


def _interval(value: float, draws: Floats) -> Interval:
    return Interval(value, *interval_of(draws))
