"""Normalisation of feature rows by moments that are known, such as a batch norm's in evaluation."""

from typing import Any

import torch
from torch import Tensor

from pcsparse.kernels.select import backend_of
from pcsparse.lack_of_memory import raise_of_owner, raise_with_sizes, rows_of
from pcsparse.ops.operator import operator
from pcsparse.ops.scale_shift import cast, check_rows, scale_shift_grad, scale_shift_sums, wide_of


@operator("pcsparse::norm_by_moments")
def _norm_by_moments(
    feats: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    relu: bool,
    eps: float,
) -> Tensor:
    try:
        return backend_of(feats).norm_by_moments(feats, mean, var, weight, bias, residual, relu, eps)
    except (RuntimeError, MemoryError) as error:
        raise_with_sizes(error, lambda: f"the norm by known moments of {rows_of(feats)}")


@_norm_by_moments.register_fake
def _norm_by_moments_fake(
    feats: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    relu: bool,
    eps: float,
) -> Tensor:
    return feats.new_empty(feats.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    feats, mean, var, weight, bias, residual, relu, eps = inputs
    ctx.save_for_backward(feats, mean, var, weight, output if relu else None)
    ctx.has = (weight is not None, bias is not None, residual is not None)
    ctx.eps = eps


def _backward(ctx: Any, grad_out: Tensor) -> tuple[Any, ...]:
    feats, mean, var, weight, out = ctx.saved_tensors
    has_weight, has_bias, has_residual = ctx.has
    needs_feats, _, _, needs_weight, needs_bias, needs_residual, *_ = ctx.needs_input_grad
    inverse = torch.rsqrt(var + ctx.eps)
    grad_feats = grad_weight = grad_bias = grad_residual = None
    try:
        if needs_feats or needs_residual:
            nothing, with_gated = torch.zeros_like(inverse), out is not None and needs_residual
            scale = inverse if weight is None else inverse * weight
            grad_feats, gated = scale_shift_grad(grad_out, feats, out, scale, nothing, nothing, with_gated)
            grad_residual = gated if with_gated else grad_out
        if needs_weight or needs_bias:
            grad_bias, product = scale_shift_sums(grad_out, feats, out, mean)
            grad_weight = product * inverse
    except (RuntimeError, MemoryError) as error:
        place = 3 if has_weight or has_bias else None
        raise_of_owner(error, lambda: f"the gradients of a norm of {rows_of(feats)}", ctx, place)
    return (
        grad_feats,
        None,
        None,
        grad_weight if has_weight else None,
        grad_bias if has_bias else None,
        grad_residual if has_residual else None,
        None,
        None,
    )


_norm_by_moments.register_autograd(_backward, setup_context=_setup)


def norm_by_moments(
    feats: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    eps: float = 1e-5,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """act((feats - mean) / sqrt(var + eps) * weight + bias + residual).

    Args:
        feats: (n, c) float.
        mean: (c,) float; it gets no gradient.
        var: (c,), as `mean`.
        weight: (c,) float, or None for one.
        bias: (c,) float, or None for zero.
        eps: added to the variance.
        residual: (n, c) to add, or None.
        relu: whether negative values become zero.

    Returns:
        (n, c), dtype of `feats`.

    Raises:
        ShapeError: shapes disagree.
        DtypeError: `feats` are no floats.
        DeviceError: devices differ.
    """
    check_rows(feats, residual, mean=mean, var=var, weight=weight, bias=bias)
    mean, var, weight, bias = cast(wide_of(feats.dtype), mean, var, weight, bias)
    (residual,) = cast(feats.dtype, residual)
    out: Tensor = _norm_by_moments(feats, mean, var, weight, bias, residual, relu, eps)
    return out
