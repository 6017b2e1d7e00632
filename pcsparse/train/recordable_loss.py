"""The training loss for a device that the host does not wait for: rows that do not count stay in it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pcsparse.train.settings import LossSettings


def recordable_loss(
    logits: Tensor, targets: Tensor, settings: LossSettings, class_weights: Tensor | None
) -> Tensor:
    """`losses.segmentation_loss`, in steps whose sizes do not depend on the targets.

    Args:
        logits: (n, n_classes), any float dtype; computed in float32.
        targets: (n,) int64 below n_classes, which is not checked; negative ones never count.
        settings: see there.
        class_weights: (n_classes,) float32; None for equal weights.

    Returns:
        () float32; 0, with zero gradients, where no row counts.
    """
    logits, counts = logits.float(), targets >= 0
    targets = targets.clamp_min(0)
    loss = _cross_entropy(logits, targets, counts, class_weights, settings.label_smoothing)
    if settings.lovasz:
        loss = loss + settings.lovasz * _lovasz_softmax(logits, targets, counts)
    return loss


def _cross_entropy(
    logits: Tensor, targets: Tensor, counts: Tensor, class_weights: Tensor | None, label_smoothing: float
) -> Tensor:
    rows = F.cross_entropy(
        logits, targets, weight=class_weights, label_smoothing=label_smoothing, reduction="none"
    )
    weight = counts.float() if class_weights is None else class_weights[targets] * counts
    total = weight.sum()
    # nothing over nothing is nothing
    return (rows * counts).sum() / torch.where(total > 0, total, 1)


def _lovasz_softmax(logits: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
    """Of all classes, absent ones left out of the mean; a row that does not count has no error."""
    probabilities = logits.softmax(dim=1).t()
    classes = torch.arange(len(probabilities), device=logits.device)
    inside = ((targets == classes[:, None]) & counts).float()
    errors = (inside - probabilities).abs() * counts
    # errors of nothing come last, and what the loss grows by there is multiplied by them
    errors, order = errors.sort(dim=1, descending=True, stable=True)
    inside = inside.gather(1, order)
    total = inside.sum(dim=1, keepdim=True)
    union = total + (1.0 - inside).cumsum(dim=1)
    jaccard = 1.0 - (total - inside.cumsum(dim=1)) / union
    growth = torch.cat([jaccard[:, :1], jaccard[:, 1:] - jaccard[:, :-1]], dim=1)
    present = (total[:, 0] > 0).float()
    return ((errors * growth).sum(dim=1) * present).sum() / present.sum().clamp_min(1)
