"""How networks are scored while a scan or a search runs: mean IoU on a few sweeps that stay in memory."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

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

Needs = Literal["nothing", "voxels", "labels"]
"""What a sweep must have to be taken; labels are those of voxels, within the crop."""
# sweeps that are looked at for one that has what is needed
_TRIES = 8


def spread_batches(source: SweepSource, n: int, voxels: VoxelSettings, needs: Needs) -> list[VoxelBatch]:
    """At most `n` sweeps, evenly spread over a set, as voxels.

    In place of a sweep without what is needed comes the next one that has it, before the next place and
    within 8 sweeps; where there is none the place is left out. The same set gives the same sweeps.

    Raises:
        FormatError: no place is left.
    """
    total = len(source)
    places = np.unique(np.linspace(0, total - 1, min(n, total)).round().astype(int)).tolist()
    batches = []
    for place, after in zip(places, [*places[1:], total][: len(places)], strict=True):
        tried = (voxel_batch(source[i], voxels) for i in range(place, min(after, place + _TRIES)))
        found = next((batch for batch in tried if _has(batch, needs)), None)
        if found is not None:
            batches.append(found)
    if not batches and needs != "nothing":
        what, why = _LACKING[needs]
        raise FormatError(
            f"none of the sweeps that were looked at, {len(places)} of {total} and those after them, "
            f"has a {what}{' within the crop' if voxels.crop else ''}, and {why}; choose another split or "
            "crop"
        )
    if len(batches) < len(places):
        print(
            f"{len(batches)} sweeps instead of {len(places)}: at the other places none of {_TRIES} has a "
            f"{_LACKING[needs][0]}"
        )
    return batches


_LACKING = {
    "voxels": ("voxel", "costs and batch norms are measured on some"),
    "labels": ("labelled voxel", "a score needs some"),
}


def _has(batch: VoxelBatch, needs: Needs) -> bool:
    if needs == "labels":
        return batch.n_labelled > 0
    return needs == "nothing" or len(batch.coords) > 0


def has_labels(source: SweepSource) -> bool:
    """Whether any point of a set is labelled; reads sweeps until one is."""
    sweeps = (source[i].targets for i in range(len(source)))
    return any(targets is not None and bool((targets != IGNORE).any()) for targets in sweeps)


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
    """Cross entropy of the calibration batches that are labelled, for Taylor scores.

    What it returns raises FormatError where none is.
    """
    labelled = [batch for batch in batches if batch.n_labelled]
    inputs = inputs_of(labelled, device)

    def losses(model: nn.Module) -> Iterable[Tensor]:
        if not labelled:
            raise FormatError(
                f"none of the calibration sweeps is labelled ({', '.join(b.names[0] for b in batches)}), and "
                "taylor scores need labels; set evaluation.calibration higher, or another compress.score"
            )
        for batch, x in zip(labelled, inputs, strict=True):
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
