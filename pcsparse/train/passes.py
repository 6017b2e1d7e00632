"""One network pass of a training step: forward, loss, gradients; on a GPU recorded as a CUDA graph."""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pcsparse.data.collate import VoxelBatch
from pcsparse.data.label_map import IGNORE
from pcsparse.errors import RangeError, UnsupportedError
from pcsparse.nn.recorded_training import RecordedTraining
from pcsparse.sparse_tensor import SparseTensor
from pcsparse.train.losses import segmentation_loss
from pcsparse.train.recordable_loss import recordable_loss
from pcsparse.train.settings import FitSettings

ExtraLoss = Callable[[SparseTensor, Tensor], Tensor]
"""A term beside the loss of the labels: the network's input and its logits (m, n_classes) to a scalar. Its
`repr` says what it is, so that a run goes on with the same one only."""

Penalty = Callable[[nn.Module], Tensor]
"""A term that looks at the weights alone: adds its gradients to those that are there, once a step and before
they are clipped, and returns its value, a scalar. Its `repr` says what it is, as with `ExtraLoss`."""

# targets of a recorded pass that has an extra loss: rows without a label, and rows beyond the cloud
_UNLABELLED, _BEYOND = -2.0, -1.0


@runtime_checkable
class RowLoss(Protocol):
    """An extra loss that can be recorded: what it compares rows with is made before, by itself."""

    def told(self, x: SparseTensor) -> Tensor:
        """(m, k) what the rows of the network's output are compared with."""

    def of_rows(self, logits: Tensor, told: Tensor, counts: Tensor) -> Tensor:
        """The term for logits (m, n_classes) and what was told of them.

        Rows that are not in `counts`, (m,) bool, are left out. The host must not wait for the device in it.
        """


class Passes:
    """Network passes of one run.

    Args:
        model: on its device.
        settings: of the run.
        weights: (n_classes,) class weights on that device, or None.
        extra_loss: added to the loss; None for none.
    """

    def __init__(
        self, model: nn.Module, settings: FitSettings, weights: Tensor | None, extra_loss: ExtraLoss | None
    ) -> None:
        self._model, self._settings, self._weights = model, settings, weights
        self._extra_loss = extra_loss
        self._device = torch.device(settings.device)
        self._recorded: RecordedTraining | None = None
        self._records = settings.record != "never" and self._refusal() is None
        if settings.record == "always" and not self._records:
            raise UnsupportedError(f"record=always, but {self._refusal()}; use record=auto")

    def _refusal(self) -> str | None:
        if self._device.type != "cuda":
            return f"a CUDA graph needs a CUDA device, and the run is on {self._device}"
        if self._extra_loss is not None and not isinstance(self._extra_loss, RowLoss):
            return "an extra loss may run what cannot be recorded"
        if self._settings.accumulate > 1:
            return "a recorded pass replaces gradients, and accumulate adds those of several"
        return None

    def run(self, batch: VoxelBatch, share: float) -> Tensor:
        """The loss () of one pass times `share`, on its device; gradients are added to the parameters'.

        Args:
            batch: with labels.
            share: of this pass in the step; 1 where passes are recorded.

        Raises:
            RangeError: a target is no class of the network.
        """
        # a batch without labels has been left out
        assert batch.targets is not None
        x, targets = batch.tensor(self._device), batch.targets
        # asked for here: it may lie on the device, and what is recorded must not wait for that
        highest = int(targets.max()) if targets.numel() else IGNORE
        if self._device.type == "cuda":
            targets = targets.to(self._device)
        with self._autocast():
            # the last batch of an epoch may be smaller, and a recording is for one number of clouds
            if self._records and len(batch.names) == self._settings.batch_size:
                recorded = self._recording(x, highest, targets)
                if recorded is not None:
                    return recorded(x, self._rows(x, targets))
            loss = self._loss(x, targets, highest) * share
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _loss(self, x: SparseTensor, targets: Tensor, highest: int) -> Tensor:
        logits = self._model(x).feats
        given = self._settings.loss, self._weights
        if targets.is_cuda:
            _check_classes(highest, logits.shape[1])
            loss = recordable_loss(logits, targets, *given)
        else:
            loss = segmentation_loss(logits, targets, *given)
        # the same input: what it computes there finds its maps built
        return loss if self._extra_loss is None else loss + self._extra_loss(x, logits)

    def _rows(self, x: SparseTensor, targets: Tensor) -> Tensor:
        """The targets of a recorded pass, (m,); with an extra loss (m, 1 + k), what it compares with too."""
        if not isinstance(self._extra_loss, RowLoss):
            return targets
        labels = torch.where(targets == IGNORE, _UNLABELLED, targets.float())
        return torch.cat([labels[:, None], self._extra_loss.told(x).float()], dim=1)

    def _recorded_loss(self, logits: Tensor, rows: Tensor) -> Tensor:
        given = self._settings.loss, self._weights
        if not isinstance(self._extra_loss, RowLoss):
            return recordable_loss(logits, rows, *given)
        labels, told = rows[:, 0], rows[:, 1:]
        loss = recordable_loss(logits, labels.long(), *given)
        return loss + self._extra_loss.of_rows(logits, told, labels != _BEYOND)

    def _recording(self, x: SparseTensor, highest: int, targets: Tensor) -> RecordedTraining | None:
        """The recorded pass, made with the first batch; None, once and for all, where the model refuses."""
        if self._recorded is None:
            classes: list[int] = []

            def loss(out: SparseTensor, rows: Tensor) -> Tensor:
                classes.append(out.feats.shape[1])
                # before the device reads beyond its memory with one
                _check_classes(highest, out.feats.shape[1])
                return self._recorded_loss(out.feats, rows)

            try:
                rows = self._rows(x, targets)
                self._recorded = RecordedTraining(self._model, loss, x, rows, ignore=_BEYOND)
            except UnsupportedError as error:
                if self._settings.record == "always":
                    raise
                self._records = False
                warnings.warn(
                    f"the training step runs launch by launch, not as one CUDA graph: {error}", stacklevel=2
                )
                return None
            self._n_classes = classes[0]
        _check_classes(highest, self._n_classes)
        return self._recorded

    def _autocast(self) -> AbstractContextManager[object]:
        if self._settings.precision == "bfloat16":
            return torch.autocast(self._device.type, dtype=torch.bfloat16)
        return nullcontext()


def _check_classes(highest: int, n_classes: int) -> None:
    """Raise RangeError for targets that the device would read beyond its memory with."""
    if highest >= n_classes:
        raise RangeError(
            f"targets reach {highest}, the network has {n_classes} classes; "
            "give the model as many classes as the label set"
        )
