"""2:4 sparsity: which two of four weights to keep, and training that ends in such a matrix.

Two ways lead there. One-shot: train dense, fix the mask, repeat the training (`one_shot_two_four`). SR-STE:
train from the start with the mask of the moment (`attach_sr_ste`, then `bake`).

Source: Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021 (arXiv 2104.08378), section 4; Zhou et
al., "Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch", ICLR 2021 (arXiv 2102.04010),
section 3.3.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pcsparse.checks import check_dtype, check_shape
from pcsparse.errors import RangeError, UnsupportedError
from pcsparse.packed.two_four import GROUP, check_groups


def two_four_mask(weight: Tensor) -> Tensor:
    """The two largest of each four weights along the last dimension.

    Args:
        weight: (..., n_in) float, finite, n_in a multiple of 4; of equal magnitudes the first ones stay.

    Returns:
        bool, the shape of `weight`, two True in each group of four.

    Raises:
        ShapeError: n_in is no multiple of 4.
        RangeError: a weight that is not finite.
    """
    n_in = weight.shape[-1]
    check_groups("weight", n_in)
    weight = weight.detach()
    n_wrong = int((~weight.isfinite()).sum())
    if n_wrong:
        raise RangeError(f"{n_wrong} of {weight.numel()} weights are not finite; look for what made them so")
    return _best_two(weight)


def _best_two(weight: Tensor) -> Tensor:
    columns = weight.abs().unflatten(-1, (-1, GROUP)).unbind(-1)
    # how many others of the group go before each one
    ranks = [torch.zeros_like(columns[0], dtype=torch.int8) for _ in range(GROUP)]
    for i in range(GROUP):
        for j in range(i + 1, GROUP):
            later_wins = columns[j] > columns[i]
            ranks[i] += later_wins
            ranks[j] += ~later_wins
    return torch.stack([rank < 2 for rank in ranks], dim=-1).flatten(-2)


class _StraightThrough(torch.autograd.Function):
    """weight * mask; the gradient passes as if there were no mask, plus decay * (1 - mask) * weight."""

    @staticmethod
    def forward(ctx, weight: Tensor, decay: float) -> Tensor:  # type: ignore[no-untyped-def]
        # groups lie along the input channels, the last dimension of a linear layer only
        mask = _best_two(weight.movedim(1, -1)).movedim(-1, 1)
        ctx.save_for_backward(weight, mask)
        ctx.decay = decay
        return weight * mask

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        weight, mask = ctx.saved_tensors
        return grad + ctx.decay * weight.masked_fill(mask, 0), None


class SRSTE(nn.Module):
    """The 2:4 part of a weight, chosen anew at every forward, for `torch.nn.utils.parametrize`.

    The dense weight below goes on learning: dropped weights get the gradient of their place (a
    straight-through estimator), and a decay of their own, so that the mask settles (sparse-refined).

    Args:
        decay: lambda_W of the paper, of the dropped weights only, on top of the optimiser's.
    """

    def __init__(self, decay: float = 2e-4) -> None:
        super().__init__()
        self.decay = decay

    def forward(self, weight: Tensor) -> Tensor:
        """(n_out, n_in, ...) -> the same with two of each four input channels zero."""
        return _StraightThrough.apply(weight, self.decay)


class FixedMask(nn.Module):
    """A weight of which only some are kept, for `torch.nn.utils.parametrize`; the others get no gradient."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask: Tensor
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        """(n_out, n_in, ...) -> the same with zeros."""
        return weight * self.mask


def attach_sr_ste(linear: nn.Linear | nn.Conv2d, decay: float = 2e-4) -> None:
    """Let a layer train with the 2:4 part of its weight; `bake` ends it.

    Args:
        linear: or a convolution, whose groups lie along its input channels; changed in place. Its parameter
            is now `parametrizations.weight.original`, the same object.
        decay: see `SRSTE`; the paper takes 2e-4 for its networks trained from scratch.

    Raises:
        ShapeError: its inputs are no multiple of 4.
        RangeError: a decay below 0 or not finite.
        UnsupportedError: its weight is parametrised already.
    """
    check_groups("weight", linear.weight.shape[1])
    if not 0 <= decay < float("inf"):
        raise RangeError(f"decay must be at least 0, got {decay}; the paper takes 2e-4")
    _refuse_parametrised(linear)
    parametrize.register_parametrization(linear, "weight", SRSTE(decay))


def attach_mask(linear: nn.Linear | nn.Conv2d, mask: Tensor) -> None:
    """Let a layer train with some weights held at zero; `bake` ends it.

    Raises:
        ShapeError, DtypeError: the mask is no bool of the weight's shape.
        UnsupportedError: the weight is parametrised already.
    """
    check_shape("mask", mask, tuple(linear.weight.shape))
    check_dtype("mask", mask, torch.bool)
    _refuse_parametrised(linear)
    parametrize.register_parametrization(linear, "weight", FixedMask(mask))


def bake(linear: nn.Linear | nn.Conv2d) -> None:
    """Make a plain layer again, with the zeros in its weight.

    Raises:
        UnsupportedError: neither `attach_sr_ste` nor `attach_mask` was called.
    """
    listed: Any = getattr(getattr(linear, "parametrizations", None), "weight", [])
    if len(listed) != 1 or not isinstance(listed[0], SRSTE | FixedMask):
        raise UnsupportedError(
            "this layer has no 2:4 mask to bake in; call attach_sr_ste or attach_mask before training"
        )
    parametrize.remove_parametrizations(linear, "weight")


@dataclass(frozen=True)
class MaskedLayer:
    """What one-shot pruning made of a layer.

    Attributes:
        name: in the model.
        kept: share of the sum of magnitudes that the mask kept before training, 0 to 1; 1 where all are 0.
        refused: why the layer stayed dense; None if it did not.
    """

    name: str
    kept: float
    refused: str | None = None


def one_shot_two_four(
    model: nn.Module, fit: Callable[[nn.Module], object] | None = None
) -> tuple[MaskedLayer, ...]:
    """Prune every `nn.Linear` of a trained model to 2:4 by magnitude, then train again with the mask held.

    Args:
        model: trained dense; changed in place. Its layers are plain ones afterwards, also if `fit` raises.
        fit: repeats the training of `model`: the published recipe is the whole schedule again, with its first
            learning rate. None to prune only.

    Returns:
        One entry a linear layer, in the order of the model.

    Raises:
        RangeError: a weight that is not finite.
        UnsupportedError: a weight is parametrised already.

    Source: arXiv 2104.08378, section 4. Order the channels before (`compress.channel_order`) to keep more.
    """
    masks, found = [], []
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        if module.in_features % GROUP:
            found.append(MaskedLayer(name, 1.0, f"{module.in_features} inputs are no multiple of {GROUP}"))
            continue
        _refuse_parametrised(module)
        mask = two_four_mask(module.weight)
        size = module.weight.detach().abs().double()
        total = float(size.sum())
        found.append(MaskedLayer(name, float((size * mask).sum()) / total if total else 1.0))
        masks.append((module, mask))
    for module, mask in masks:
        attach_mask(module, mask)
    try:
        if fit is not None:
            fit(model)
    finally:
        for module, _ in masks:
            bake(module)
    return tuple(found)


def _refuse_parametrised(linear: nn.Linear | nn.Conv2d) -> None:
    # torch's parametrisations, and its older hooks, take the parameter of this name away
    if "weight" not in dict(linear.named_parameters(recurse=False)):
        raise UnsupportedError(
            "the weight of this layer is parametrised already; remove that or bake it first"
        )
