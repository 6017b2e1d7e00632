"""Losses of per-voxel classification. A row whose target is negative never counts."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pcsparse.errors import RangeError, ShapeError, UnsupportedError
from pcsparse.train.settings import LossSettings


def _labelled(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    if logits.dim() != 2 or targets.shape != logits.shape[:1]:
        raise ShapeError(
            f"logits must be (n, classes) and targets (n,), got {tuple(logits.shape)} and "
            f"{tuple(targets.shape)}"
        )
    if targets.numel() and int(targets.max()) >= logits.shape[1]:
        raise RangeError(
            f"targets reach {int(targets.max())}, the network has {logits.shape[1]} classes; "
            "give the model as many classes as the label set"
        )
    rows = targets >= 0
    return logits[rows].float(), targets[rows]


def cross_entropy(
    logits: Tensor, targets: Tensor, class_weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Mean of -log softmax(logits)[target], each row weighted by its class.

    Args:
        logits: (n, n_classes), any float dtype; computed in float32.
        targets: (n,) int64, 0 ... n_classes - 1, or negative for a row that never counts.
        class_weights: (n_classes,) float32; None for equal weights.
        label_smoothing: share of each target spread evenly over all classes.

    Returns:
        () float32; 0, with zero gradients, where no row counts.
    """
    return _cross_entropy(*_labelled(logits, targets), class_weights, label_smoothing)


def _cross_entropy(
    logits: Tensor, targets: Tensor, class_weights: Tensor | None, label_smoothing: float
) -> Tensor:
    if not targets.numel():
        return logits.sum()
    return F.cross_entropy(logits, targets, weight=class_weights, label_smoothing=label_smoothing)


def lovasz_softmax(logits: Tensor, targets: Tensor) -> Tensor:
    """Lovasz-softmax: a convex surrogate of 1 - mean IoU over the classes present in `targets`.

    For each present class, the errors e = |[target = c] - p_c|, sorted downwards, are weighted by the growth
    of the Jaccard loss when rows are added in that order.

    Args:
        logits: (n, n_classes), any float dtype; computed in float32.
        targets: (n,) int64; negative rows never count.

    Returns:
        () float32, 0 ... 1; 0, with zero gradients, where no row counts.

    Source: M. Berman, A. Rannen Triki, M. Blaschko, The Lovasz-Softmax loss, CVPR 2018, algorithm 1.
    """
    return _lovasz_softmax(*_labelled(logits, targets))


def _lovasz_softmax(logits: Tensor, targets: Tensor) -> Tensor:
    if not targets.numel():
        return logits.sum()
    present = torch.unique(targets)
    probabilities = logits.softmax(dim=1).t()[present]  # (present, n)
    inside = (targets == present[:, None]).float()
    errors = (inside - probabilities).abs()
    order = downwards(errors.detach())
    errors, inside = errors.gather(1, order), inside.gather(1, order)
    total = inside.sum(dim=1, keepdim=True)
    intersection = total - inside.cumsum(dim=1)
    union = total + (1.0 - inside).cumsum(dim=1)
    jaccard = 1.0 - intersection / union
    growth = torch.cat([jaccard[:, :1], jaccard[:, 1:] - jaccard[:, :-1]], dim=1)
    return (errors * growth).sum(dim=1).mean()


def downwards(errors: Tensor) -> Tensor:
    """What sorts every row downwards, equal ones by their place.

    Args:
        errors: (rows, n) float32, none below zero; NaN comes first.

    Returns:
        (rows, n) int64 places.
    """
    if errors.device.type != "cpu":
        return errors.sort(dim=1, descending=True, stable=True).indices
    # bits of such numbers are in the order of their values; no two keys are equal, and numpy sorts whole
    # numbers by vectors, ten times as fast as torch sorts numbers and their places
    keys = (-1 - errors.contiguous().view(torch.int32).long() << 32) | torch.arange(
        errors.shape[1], device="cpu"
    )
    keys.numpy().sort(axis=1)
    return keys & 0xFFFFFFFF


def segmentation_loss(
    logits: Tensor, targets: Tensor, settings: LossSettings, class_weights: Tensor | None
) -> Tensor:
    """The training loss of one network pass: () float32, finite for every finite `logits`, empty ones too."""
    # once for both terms: a GPU is waited for here
    rows, wanted = _labelled(logits, targets)
    loss = _cross_entropy(rows, wanted, class_weights, settings.label_smoothing)
    if settings.lovasz:
        loss = loss + settings.lovasz * _lovasz_softmax(rows, wanted)
    return loss


def class_weights(counts: Tensor, rule: str, limit: float) -> Tensor | None:
    """Weights that balance classes of different size.

    Args:
        counts: (n_classes,) how often each class occurs.
        rule: none, sqrt or inverse.
        limit: largest weight over smallest.

    Returns:
        (n_classes,) float32 whose mean, weighted by `counts`, is 1; a class without rows has the weight of
        the rarest one that has some. None for the rule none.

    Raises:
        RangeError: no class occurs at all.
        UnsupportedError: an unknown rule.
    """
    if rule == "none":
        return None
    if rule not in ("sqrt", "inverse"):
        raise UnsupportedError(f"class weights follow one of none, sqrt, inverse, got {rule!r}")
    present = counts > 0
    if not present.any():
        raise RangeError("class weights need labels, and not one point of the training set has any")
    share = counts.double() / counts.sum()
    share = share.clamp_min(share[present].min())
    weights = share.rsqrt() if rule == "sqrt" else share.reciprocal()
    weights = weights.clamp_max(weights.min() * limit)
    weights = weights * counts.sum() / (weights * counts).sum()
    return weights.float()
