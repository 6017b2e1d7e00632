"""Confusion matrix and the mIoU rule of the SemanticKITTI benchmark."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed
from torch import Tensor

from pcsparse.errors import RangeError, ShapeError

_IOU_FLOOR = 1e-15

ClassNumbers = Tensor | npt.NDArray[np.integer]
"""(n,) integers: -1 = unlabelled, 0 ... n_classes - 1 = a class."""


class ConfusionMatrix:
    """Counts of (prediction, ground truth) pairs, summed over clouds and ranks before any ratio is taken.

    Attributes:
        n_classes: classes that count.
        counts: (n_classes + 1, n_classes + 1) int64 on the CPU; rows prediction, columns ground truth;
            index 0 is *unlabelled* (target -1), index t + 1 is target t.
    """

    def __init__(self, n_classes: int) -> None:
        if n_classes < 1:
            raise RangeError(f"n_classes must be at least 1, got {n_classes}")
        self.n_classes = n_classes
        self.counts = torch.zeros(n_classes + 1, n_classes + 1, dtype=torch.int64, device="cpu")

    def __repr__(self) -> str:
        return f"ConfusionMatrix(n_classes={self.n_classes}, points={int(self.counts.sum())})"

    def update(self, prediction: ClassNumbers, target: ClassNumbers) -> None:
        """Count the points of one cloud or batch.

        Args:
            prediction: (n,) integers on any device, 0 ... n_classes - 1, or -1 for *unlabelled*.
            target: (n,) integers, the same range; -1 is ground truth that never counts.

        Raises:
            ShapeError: the two differ in shape or are not (n,).
            RangeError: a value is outside -1 ... n_classes - 1.
        """
        rows = self._index("prediction", prediction)
        columns = self._index("target", target).to(rows.device)
        if rows.shape != columns.shape or rows.dim() != 1:
            raise ShapeError(
                f"prediction and target must both be (n,), got {tuple(rows.shape)} and {tuple(columns.shape)}"
            )
        size = self.n_classes + 1
        pairs = torch.bincount(rows * size + columns, minlength=size * size)
        self.counts += pairs.reshape(size, size).cpu()

    def _index(self, name: str, values: ClassNumbers) -> Tensor:
        tensor = values if isinstance(values, Tensor) else torch.as_tensor(values, device="cpu")
        if tensor.is_floating_point() or tensor.is_complex():
            raise RangeError(f"{name} must hold class numbers, got {tensor.dtype}; take the argmax first")
        tensor = tensor.to(torch.int64)
        if tensor.numel():
            low, high = (int(v) for v in torch.aminmax(tensor))
            if low < -1 or high >= self.n_classes:
                raise RangeError(
                    f"{name} must lie in -1 ... {self.n_classes - 1}, got {low} ... {high}; "
                    "these are targets (train id - 1), not raw ids"
                )
        return tensor + 1

    def __add__(self, other: "ConfusionMatrix") -> "ConfusionMatrix":
        if other.n_classes != self.n_classes:
            raise ShapeError(f"cannot add matrices of {self.n_classes} and {other.n_classes} classes")
        total = ConfusionMatrix(self.n_classes)
        total.counts = self.counts + other.counts
        return total

    def sum_over_ranks(self) -> None:
        """Replace the counts by their sum over all ranks; nothing happens outside torch.distributed."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return
        # nccl sums on the GPU only
        on_gpu = torch.distributed.get_backend() == "nccl"
        summed = self.counts.cuda() if on_gpu else self.counts
        torch.distributed.all_reduce(summed)
        self.counts = summed.cpu()


@dataclass(frozen=True, eq=False)
class SemanticKittiMetrics:
    """The numbers of SemanticKITTI's single-scan benchmark.

    Points whose ground truth is unlabelled never count. A prediction of *unlabelled* on a labelled point is a
    false negative. IoU = tp / (tp + fp + fn + 1e-15).

    Attributes:
        iou: (n_classes,) float64, by target; 0 for a class that neither occurs nor is predicted.
        n_truth: (n_classes,) int64, labelled points of each class.
        n_predicted: (n_classes,) int64, labelled points predicted as each class.
        mean_iou: **the official number**: mean over all classes, absent ones as 0.
        mean_iou_present: mean over the classes that occur in the ground truth. Not the benchmark's number;
            for sets in which some classes cannot occur. 0 where none occurs.
        accuracy: sum tp / sum (tp + fp), over labelled points that got a class.

    Source: PRBonn/semantic-kitti-api@a9c749e:auxiliary/np_ioueval.py.
    """

    iou: npt.NDArray[np.float64]
    n_truth: npt.NDArray[np.int64]
    n_predicted: npt.NDArray[np.int64]
    mean_iou: float
    mean_iou_present: float
    accuracy: float

    @classmethod
    def of(cls, confusion: ConfusionMatrix) -> Self:
        """The metrics of a confusion matrix (already summed over clouds and ranks)."""
        counts = confusion.counts.numpy().copy()
        counts[:, 0] = 0
        tp = np.diag(counts)[1:]
        n_predicted = counts.sum(axis=1)[1:]
        # the column keeps row 0: labelled points predicted as unlabelled
        n_truth = counts.sum(axis=0)[1:]
        iou = tp / (n_predicted + n_truth - tp + _IOU_FLOOR)
        present = n_truth > 0
        return cls(
            iou=iou,
            n_truth=n_truth,
            n_predicted=n_predicted,
            mean_iou=float(iou.mean()),
            mean_iou_present=float(iou[present].mean()) if present.any() else 0.0,
            accuracy=float(tp.sum() / (n_predicted.sum() + _IOU_FLOOR)),
        )

    def table(self, names: Sequence[str]) -> str:
        """The metrics as text, one class a line, the official mean last but one.

        Args:
            names: n_classes names, by target.

        Raises:
            ShapeError: another number of names.
        """
        if len(names) != len(self.iou):
            raise ShapeError(f"{len(self.iou)} classes need as many names, got {len(names)}")
        width = max(len("mean over present classes"), *(len(name) for name in names))
        total = max(int(self.n_truth.sum()), 1)
        lines = [f"{'class':<{width}}   IoU %   points   share %"]
        for name, iou, n_truth in zip(names, self.iou, self.n_truth, strict=True):
            shown = f"{100 * iou:7.2f}" if n_truth else "      -"
            lines.append(f"{name:<{width}} {shown} {n_truth:>8}   {100 * n_truth / total:7.2f}")
        n_present = int((self.n_truth > 0).sum())
        lines.append(f"{f'mIoU over all {len(names)} (official)':<{width}} {100 * self.mean_iou:7.2f}")
        present = f"{100 * self.mean_iou_present:7.2f}   ({n_present} classes)"
        lines.append(f"{'mean over present classes':<{width}} {present}")
        lines.append(f"{'accuracy':<{width}} {100 * self.accuracy:7.2f}")
        return "\n".join(lines)
