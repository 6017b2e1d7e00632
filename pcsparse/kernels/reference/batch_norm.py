"""Twins of batch normalisation."""

import torch
from torch import Tensor


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _gated(grad_out: Tensor, out: Tensor | None) -> Tensor:
    wide = grad_out.to(_accumulator(grad_out.dtype))
    return wide if out is None else torch.where(out > 0, wide, 0)


def batch_moments(feats: Tensor) -> tuple[Tensor, Tensor]:
    wide = feats.double()
    var, mean = torch.var_mean(wide, dim=0, correction=0)
    return mean.to(_accumulator(feats.dtype)), var.to(_accumulator(feats.dtype))


def scale_shift(feats: Tensor, scale: Tensor, shift: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    out = feats.to(_accumulator(feats.dtype)) * scale + shift
    if residual is not None:
        out = out + residual
    return (out.clamp(min=0) if relu else out).to(feats.dtype)


def scale_shift_sums(
    grad_out: Tensor, feats: Tensor, out: Tensor | None, mean: Tensor
) -> tuple[Tensor, Tensor]:
    wide = _accumulator(feats.dtype)
    gated = _gated(grad_out, out).double()
    return gated.sum(dim=0).to(wide), (gated * (feats.double() - mean)).sum(dim=0).to(wide)


def scale_shift_grad(
    grad_out: Tensor,
    feats: Tensor,
    out: Tensor | None,
    scale_grad: Tensor,
    scale_feats: Tensor,
    shift: Tensor,
    with_gated: bool,
) -> tuple[Tensor, Tensor | None]:
    gated = _gated(grad_out, out)
    grad = gated * scale_grad + feats.to(gated.dtype) * scale_feats + shift
    return grad.to(feats.dtype), gated.to(feats.dtype) if with_gated else None
