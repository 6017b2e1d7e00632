"""How networks are scored while a scan or a search runs: mean IoU on a few sweeps that stay in memory."""

import hashlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pcsparse.compress.channel_scores import Losses
from pcsparse.compress.finetune import recalibrate
from pcsparse.compress.pruning import Networks
from pcsparse.compress.search.space import Assignment
from pcsparse.compress.sensitivity_table import Evaluation
from pcsparse.data.collate import SweepSource, VoxelBatch, VoxelSettings, voxel_batch
from pcsparse.data.label_map import IGNORE
from pcsparse.errors import FormatError
from pcsparse.sparse_tensor import SparseTensor
from pcsparse.train.evaluation import evaluating
from pcsparse.train.metrics import ConfusionMatrix, SemanticKittiMetrics


def spread_batches(source: SweepSource, n: int, voxels: VoxelSettings) -> list[VoxelBatch]:
    """At most `n` sweeps, evenly spread over a set, as voxels.

    Raises:
        FormatError: one has no labels, or nothing in it is labelled after the crop.
    """
    places = np.unique(np.linspace(0, len(source) - 1, min(n, len(source))).round().astype(int))
    batches = [voxel_batch(source[int(place)], voxels) for place in places]
    for batch in batches:
        if not batch.n_labelled:
            raise FormatError(
                f"{batch.names[0]} has no labelled voxel{' within the crop' if voxels.crop else ''}, and a "
                "score needs some; choose another split or crop"
            )
    return batches


def inputs_of(batches: Iterable[VoxelBatch], device: torch.device) -> list[SparseTensor]:
    """Network inputs; each keeps the maps that the first network on it builds."""
    return [batch.tensor(device) for batch in batches]


def digest_of(batches: Iterable[VoxelBatch]) -> str:
    """A short hash of voxels, features and targets: equal for equal bits."""
    digest = hashlib.sha256()
    for batch in batches:
        for tensor in (batch.coords, batch.feats, batch.targets):
            if tensor is not None:
                digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:16]


def losses_on(batches: Sequence[VoxelBatch], device: torch.device) -> Losses:
    """Cross entropy of calibration batches, for Taylor scores."""
    inputs = inputs_of(batches, device)

    def losses(model: nn.Module) -> Iterable[Tensor]:
        for batch, x in zip(batches, inputs, strict=True):
            yield _cross_entropy(model(x).feats, batch)

    return losses


def _cross_entropy(logits: Tensor, batch: VoxelBatch) -> Tensor:
    assert batch.targets is not None
    targets = batch.targets.to(logits.device)
    return functional.cross_entropy(logits.float(), targets, ignore_index=IGNORE)


class SweepScorer:
    """Scores a network on sweeps that stay in memory with their maps; can be sent to other processes.

    The metric is the mean IoU over the classes that are present, of all sweeps together, voxel by voxel, 0 to
    1; NaN where the network returns values that are not finite.

    Args:
        batches: labelled sweeps.
        calibration: inputs to measure batch norms anew on, before each score; none leaves them.
        n_classes: of the label set.
        device: of the networks.
    """

    def __init__(
        self,
        batches: Sequence[VoxelBatch],
        calibration: Sequence[SparseTensor],
        n_classes: int,
        device: torch.device,
    ) -> None:
        self._batches, self._n_classes = list(batches), n_classes
        self._inputs = inputs_of(batches, device)
        self._calibration = list(calibration)

    def __call__(self, model: nn.Module) -> Evaluation:
        """The score of a network; its batch norms keep what was measured anew."""
        if self._calibration:
            recalibrate(model, self._calibration)
        total = ConfusionMatrix(self._n_classes)
        per_sweep, losses = [], []
        with evaluating(model):
            for batch, x in zip(self._batches, self._inputs, strict=True):
                logits = model(x).feats
                if not bool(torch.isfinite(logits).all()):
                    return Evaluation(float("nan"))
                assert batch.targets is not None
                one = ConfusionMatrix(self._n_classes)
                one.update(logits.argmax(dim=1).cpu(), batch.targets)
                per_sweep.append(SemanticKittiMetrics.of(one).mean_iou_present)
                losses.append(float(_cross_entropy(logits, batch)))
                total = total + one
        metric = SemanticKittiMetrics.of(total).mean_iou_present
        return Evaluation(metric, sum(losses) / len(losses), tuple(per_sweep))


class SearchScore:
    """The score of an assignment, for `search`; can be sent to other processes.

    Args:
        networks: makes the smaller network.
        score: of a network.
    """

    def __init__(self, networks: Networks, score: Callable[[nn.Module], Evaluation]) -> None:
        self._networks, self._score = networks, score

    def __call__(self, assignment: Assignment) -> float:
        """0 to 1, or NaN."""
        return self._score(self._networks(assignment)).metric
