"""Batch normalisation of feature rows, with a residual and a ReLU in the same pass.

Torch's own works on a CPU too, but needs a pass of its own for the sum, one for the ReLU, and the same again
backward; and its sums depend on the number of threads.

Source: Ioffe and Szegedy, ICML 2015 (arXiv 1502.03167).
"""

from typing import Any

import torch
from torch import Tensor

from pcsparse.checks import check_dtype, check_same_device, check_shape
from pcsparse.errors import RangeError, ShapeError
from pcsparse.kernels.select import backend_of
from pcsparse.ops.operator import operator


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


@operator("pcsparse::scale_shift_sums")
def _sums(grad_out: Tensor, feats: Tensor, out: Tensor | None, mean: Tensor) -> tuple[Tensor, Tensor]:
    return backend_of(grad_out, feats).scale_shift_sums(grad_out, feats, out, mean)


@_sums.register_fake
def _sums_fake(grad_out: Tensor, feats: Tensor, out: Tensor | None, mean: Tensor) -> tuple[Tensor, Tensor]:
    shape, dtype = feats.shape[1], _wide(feats.dtype)
    return feats.new_empty(shape, dtype=dtype), feats.new_empty(shape, dtype=dtype)


_sums.refuse_autograd()


@operator("pcsparse::scale_shift_grad")
def _grad(
    grad_out: Tensor,
    feats: Tensor,
    out: Tensor | None,
    scale_grad: Tensor,
    scale_feats: Tensor,
    shift: Tensor,
    with_gated: bool,
) -> tuple[Tensor, Tensor]:
    grad, gated = backend_of(grad_out, feats).scale_shift_grad(
        grad_out, feats, out, scale_grad, scale_feats, shift, with_gated
    )
    # an operator returns tensors only
    return grad, feats.new_empty(0, feats.shape[1]) if gated is None else gated


@_grad.register_fake
def _grad_fake(
    grad_out: Tensor,
    feats: Tensor,
    out: Tensor | None,
    scale_grad: Tensor,
    scale_feats: Tensor,
    shift: Tensor,
    with_gated: bool,
) -> tuple[Tensor, Tensor]:
    return feats.new_empty(feats.shape), feats.new_empty(feats.shape if with_gated else (0, feats.shape[1]))


_grad.refuse_autograd()


@operator("pcsparse::scale_shift")
def _scale_shift(feats: Tensor, scale: Tensor, shift: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    return backend_of(feats).scale_shift(feats, scale, shift, residual, relu)


@_scale_shift.register_fake
def _scale_shift_fake(
    feats: Tensor, scale: Tensor, shift: Tensor, residual: Tensor | None, relu: bool
) -> Tensor:
    return feats.new_empty(feats.shape)


def _scale_shift_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    feats, scale, _, residual, relu = inputs
    ctx.save_for_backward(feats, scale, output if relu else None)
    ctx.has_residual = residual is not None


def _scale_shift_backward(ctx: Any, grad_out: Tensor) -> tuple[Any, ...]:
    feats, scale, out = ctx.saved_tensors
    needs_feats, needs_scale, needs_shift, needs_residual, _ = ctx.needs_input_grad
    nothing = torch.zeros_like(scale)
    grad_feats = grad_scale = grad_shift = grad_residual = None
    if needs_feats or needs_residual:
        grad_feats, gated = _grad(
            grad_out, feats, out, scale, nothing, nothing, out is not None and needs_residual
        )
        grad_residual = grad_out if out is None else gated
    if needs_scale or needs_shift:
        grad_shift, grad_scale = _sums(grad_out, feats, out, nothing)
    return grad_feats, grad_scale, grad_shift, grad_residual if ctx.has_residual else None, None


_scale_shift.register_autograd(_scale_shift_backward, setup_context=_scale_shift_setup)


@operator("pcsparse::batch_norm")
def _batch_norm(
    feats: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    relu: bool,
    eps: float,
) -> tuple[Tensor, Tensor]:
    return backend_of(feats).batch_norm(feats, weight, bias, residual, relu, eps, None)


@_batch_norm.register_fake
def _batch_norm_fake(
    feats: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    relu: bool,
    eps: float,
) -> tuple[Tensor, Tensor]:
    moments = feats.new_empty(2, feats.shape[1], dtype=_wide(feats.dtype))
    return feats.new_empty(feats.shape), moments


@operator("pcsparse::batch_norm_grad")
def _batch_norm_grad(
    grad_out: Tensor,
    feats: Tensor,
    weight: Tensor | None,
    out: Tensor | None,
    moments: Tensor,
    eps: float,
    with_gated: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad, gated, grad_weight, grad_bias = backend_of(grad_out, feats).batch_norm_grad(
        grad_out, feats, weight, out, moments, eps, with_gated
    )
    gated = feats.new_empty(0, feats.shape[1]) if gated is None else gated
    return grad, gated, grad_weight, grad_bias


@_batch_norm_grad.register_fake
def _batch_norm_grad_fake(
    grad_out: Tensor,
    feats: Tensor,
    weight: Tensor | None,
    out: Tensor | None,
    moments: Tensor,
    eps: float,
    with_gated: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape, dtype = feats.shape[1], _wide(feats.dtype)
    return (
        feats.new_empty(feats.shape),
        feats.new_empty(feats.shape if with_gated else (0, feats.shape[1])),
        feats.new_empty(shape, dtype=dtype),
        feats.new_empty(shape, dtype=dtype),
    )


_batch_norm_grad.refuse_autograd()


def _batch_norm_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    feats, weight, bias, residual, relu, eps = inputs
    out, moments = output
    ctx.save_for_backward(feats, weight, out if relu else None, moments)
    ctx.has = (weight is not None, bias is not None, residual is not None)
    ctx.eps = eps


def _batch_norm_backward(ctx: Any, grad_out: Tensor, *_: Tensor) -> tuple[Any, ...]:
    feats, weight, out, moments = ctx.saved_tensors
    has_weight, has_bias, has_residual = ctx.has
    with_gated = has_residual and out is not None
    grad_feats, gated, grad_weight, grad_bias = _batch_norm_grad(
        grad_out, feats, weight, out, moments, ctx.eps, with_gated
    )
    return (
        grad_feats,
        grad_weight if has_weight else None,
        grad_bias if has_bias else None,
        (gated if with_gated else grad_out) if has_residual else None,
        None,
        None,
    )


_batch_norm.register_autograd(_batch_norm_backward, setup_context=_batch_norm_setup)


def scale_shift(
    feats: Tensor, scale: Tensor, shift: Tensor, *, residual: Tensor | None = None, relu: bool = False
) -> Tensor:
    """act(feats * scale + shift + residual), rounded once.

    Args:
        feats: (n, c) float.
        scale: (c,) float.
        shift: (c,) float.
        residual: (n, c) to add, or None.
        relu: whether negative values become zero.

    Returns:
        (n, c), dtype of `feats`.

    Raises:
        ShapeError: shapes disagree.
        DtypeError: `feats` are no floats.
        DeviceError: devices differ.
    """
    _check(feats, residual, scale=scale, shift=shift)
    wide = _wide(feats.dtype)
    residual = None if residual is None else residual.to(feats.dtype)
    out: Tensor = _scale_shift(feats, scale.to(wide), shift.to(wide), residual, relu)
    return out


def batch_norm(
    feats: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    eps: float = 1e-5,
    residual: Tensor | None = None,
    relu: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """act((feats - mean) / sqrt(var + eps) * weight + bias + residual) with the moments of these rows.

    The moments are float32 (float64 for float64) and have the same bits at any number of threads.

    Args:
        feats: (n, c) float, n at least 2.
        weight: (c,) float, or None for one.
        bias: (c,) float, or None for zero.
        eps: added to the variance.
        residual: (n, c) to add, or None.
        relu: whether negative values become zero.

    Returns:
        (n, c), dtype of `feats`; mean and biased variance, (c,), without gradients.

    Raises:
        ShapeError: shapes disagree.
        DtypeError: `feats` are no floats.
        DeviceError: devices differ.
        RangeError: fewer than two rows, which have no variance.
    """
    _check(feats, residual, weight=weight, bias=bias)
    if feats.shape[0] < 2:
        raise RangeError(
            f"batch norm needs at least 2 rows to find a variance, got {feats.shape[0]}; use `scale_shift` "
            "with running moments"
        )
    wide = _wide(feats.dtype)
    weight, bias = (None if part is None else part.to(wide) for part in (weight, bias))
    residual = None if residual is None else residual.to(feats.dtype)
    out, moments = _batch_norm(feats, weight, bias, residual, relu, eps)
    mean, var = moments.detach().unbind()
    return out, mean, var


def _check(feats: Tensor, residual: Tensor | None, **factors: Tensor | None) -> None:
    check_shape("feats", feats, (None, None))
    check_dtype("feats", feats, torch.float32, torch.float64, torch.float16, torch.bfloat16)
    given = {"residual": residual, **factors}
    check_same_device(feats=feats, **{name: part for name, part in given.items() if part is not None})
    for name, factor in factors.items():
        if factor is not None:
            check_shape(name, factor, (feats.shape[1],))
    if residual is not None and residual.shape != feats.shape:
        raise ShapeError(
            f"residual must have the shape of feats, {tuple(feats.shape)}, got {tuple(residual.shape)}"
        )
