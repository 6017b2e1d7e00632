"""Point-level evaluation: every point of every sweep counts, not every voxel."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pcsparse.data.collate import PlainSamples, SweepSource, VoxelBatch, VoxelSettings
from pcsparse.errors import FormatError, RangeError
from pcsparse.nn.modes import modes_kept
from pcsparse.train.loading import open_loader
from pcsparse.train.metrics import ConfusionMatrix
from pcsparse.train.sweep_scores import SweepScores


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the mode of each module comes back, that of frozen norms too."""
    with modes_kept(model), torch.no_grad():
        model.eval()
        yield


def predict_voxels(model: nn.Module, batch: VoxelBatch, device: torch.device) -> Tensor:
    """Targets of the voxels of a batch: (m,) int64 on the CPU, the class of the highest logit.

    Raises:
        RangeError: a logit is not finite.
    """
    logits = model(batch.tensor(device)).feats
    if not bool(torch.isfinite(logits).all()):
        raise RangeError(
            f"the network returned values that are not finite for {', '.join(batch.names)}; did its training "
            "diverge, are intensities 0-1?"
        )
    return logits.argmax(dim=1).cpu()


def evaluate(
    model: nn.Module,
    source: SweepSource,
    voxels: VoxelSettings,
    n_classes: int,
    *,
    device: torch.device,
    workers: int = 0,
    on_sweep: Callable[[str, Tensor], None] | None = None,
) -> ConfusionMatrix:
    """Run a model over a data set and count its predictions, point by point.

    Args:
        model: takes a SparseTensor, returns one whose feats are logits (m, n_classes).
        source: sweeps; one without labels is predicted but not counted.
        voxels: as in training.
        n_classes: of the label set.
        device: where the network runs.
        workers: loader processes.
        on_sweep: called with the name of each sweep and its predicted targets, (n,) int64, -1 for points that
            were left out.

    Returns:
        The confusion matrix of all labelled sweeps together.

    Raises:
        FormatError: the model has another number of classes.
    """
    return evaluate_sweeps(
        model, source, voxels, n_classes, device=device, workers=workers, on_sweep=on_sweep
    ).confusion()


def evaluate_sweeps(
    model: nn.Module,
    source: SweepSource,
    voxels: VoxelSettings,
    n_classes: int,
    *,
    device: torch.device,
    workers: int = 0,
    on_sweep: Callable[[str, Tensor], None] | None = None,
) -> SweepScores:
    """The same with the counts of each labelled sweep apart; see `evaluate`."""
    found: list[tuple[str, ConfusionMatrix]] = []
    with evaluating(model), open_loader(PlainSamples(source, voxels), None, workers) as batches:
        for batch in batches:
            predicted = batch.to_points(predict_voxels(model, batch, device))[0]
            if len(predicted) and int(predicted.max()) >= n_classes:
                raise FormatError(
                    f"the model predicts class {int(predicted.max())} of {n_classes}; wrong label set?"
                )
            if batch.point_targets is not None:
                confusion = ConfusionMatrix(n_classes)
                confusion.update(predicted, batch.point_targets)
                found.append((batch.names[0], confusion))
            if on_sweep is not None:
                on_sweep(batch.names[0], predicted)
    return SweepScores.of(found, n_classes)
