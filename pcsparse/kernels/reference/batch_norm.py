"""Twins of batch normalisation."""

import torch
from torch import Tensor

from pcsparse.kernels.running import Running


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _gated(grad_out: Tensor, out: Tensor | None) -> Tensor:
    wide = grad_out.to(_accumulator(grad_out.dtype))
    return wide if out is None else torch.where(out > 0, wide, 0)


def _filled(rows: Tensor, n: int) -> Tensor:
    return torch.cat([rows, rows.new_zeros(n - len(rows), rows.shape[1])])


def batch_norm(
    feats: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    relu: bool,
    eps: float,
    running: Running | None,
    real: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    if real is not None:
        n, residual = int(real), None if residual is None else residual[: int(real)]
        out, moments = batch_norm(feats[:n], weight, bias, residual, relu, eps, running)
        return _filled(out, len(feats)), moments
    var, mean = torch.var_mean(feats.double(), dim=0, correction=0)
    if running is not None:
        running.batches.add_(1)
        share = 1 / running.batches.item() if running.momentum is None else running.momentum
        unbiased = var * len(feats) / (len(feats) - 1)
        running.mean.copy_((1 - share) * running.mean + share * mean)
        running.var.copy_((1 - share) * running.var + share * unbiased)
    scale = torch.rsqrt(var + eps) * (1 if weight is None else weight)
    shift = (0 if bias is None else bias) - mean * scale
    wide = _accumulator(feats.dtype)
    out = scale_shift(feats, scale.to(wide), shift.to(wide), residual, relu)
    return out, torch.stack((mean, var)).to(wide)


def norm_by_moments(
    feats: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    relu: bool,
    eps: float,
) -> Tensor:
    scale = torch.rsqrt(var.double() + eps) * (1 if weight is None else weight)
    shift = (0 if bias is None else bias) - mean * scale
    wide = _accumulator(feats.dtype)
    return scale_shift(feats, scale.to(wide), shift.to(wide), residual, relu)


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


def batch_norm_grad(
    grad_out: Tensor,
    feats: Tensor,
    weight: Tensor | None,
    out: Tensor | None,
    moments: Tensor,
    eps: float,
    with_gated: bool,
    real: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    if real is not None:
        n, whole = int(real), len(feats)
        out = None if out is None else out[:n]
        grad, passed, *grads = batch_norm_grad(grad_out[:n], feats[:n], weight, out, moments, eps, with_gated)
        return _filled(grad, whole), None if passed is None else _filled(passed, whole), grads[0], grads[1]
    gated, wide = _gated(grad_out, out).double(), _accumulator(feats.dtype)
    mean, var = moments.double()
    grad_bias, product = gated.sum(dim=0), (gated * (feats.double() - mean)).sum(dim=0)
    inverse = torch.rsqrt(var + eps)
    scale_grad = inverse * (1 if weight is None else weight)
    scale_feats = -scale_grad * inverse.square() * product / len(feats)
    shift = -scale_grad * grad_bias / len(feats) - scale_feats * mean
    first, second, third = (part.to(wide) for part in (scale_grad, scale_feats, shift))
    grad, passed = scale_shift_grad(grad_out, feats, out, first, second, third, with_gated)
    return grad, passed, (product * inverse).to(wide), grad_bias.to(wide)


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
