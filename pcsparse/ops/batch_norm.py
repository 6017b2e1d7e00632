"""Batch normalisation of feature rows, with a residual and a ReLU in the same pass.

Torch's own works on a CPU too, but needs a pass of its own for the sum, one for the ReLU, and the same again
backward; and its sums depend on the number of threads.

Source: Ioffe and Szegedy, ICML 2015 (arXiv 1502.03167).
"""

from typing import Any

import torch
from torch import Tensor

from pcsparse.checks import check_same_device
from pcsparse.errors import RangeError
from pcsparse.kernels.running import Running
from pcsparse.kernels.select import backend_of
from pcsparse.lack_of_memory import raise_of_owner, raise_with_sizes, rows_of
from pcsparse.ops.operator import bare_function, operator, runs_plainly, wants_gradients
from pcsparse.ops.scale_shift import FLOATS, cast, check_rows, wide_of


@operator("pcsparse::batch_norm")
def _batch_norm(
    feats: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    relu: bool,
    eps: float,
) -> tuple[Tensor, Tensor]:
    return _and_follow(feats, weight, bias, residual, relu, eps, None, None)


@_batch_norm.register_fake
def _batch_norm_fake(
    feats: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    relu: bool,
    eps: float,
) -> tuple[Tensor, Tensor]:
    moments = feats.new_empty(2, feats.shape[1], dtype=wide_of(feats.dtype))
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
    try:
        grad, gated, grad_weight, grad_bias = backend_of(grad_out, feats).batch_norm_grad(
            grad_out, feats, weight, out, moments, eps, with_gated
        )
    except (RuntimeError, MemoryError) as error:
        raise_with_sizes(error, lambda: _gradient_text(feats))
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
    shape, dtype = feats.shape[1], wide_of(feats.dtype)
    return (
        feats.new_empty(feats.shape),
        feats.new_empty(feats.shape if with_gated else (0, feats.shape[1])),
        feats.new_empty(shape, dtype=dtype),
        feats.new_empty(shape, dtype=dtype),
    )


_batch_norm_grad.refuse_autograd()


def _batch_norm_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    feats, weight, bias, residual, relu, eps, *_ = inputs
    out, moments = output
    ctx.save_for_backward(feats, weight, out if relu else None, moments)
    # else torch makes zeros for the gradient of the moments
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(moments)
    ctx.has = (weight is not None, bias is not None, residual is not None)
    ctx.eps, ctx.real = eps, None


def _batch_norm_backward(ctx: Any, grad_out: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if grad_out is None:
        return (None,) * 6
    feats, weight, out, moments = ctx.saved_tensors
    has_weight, has_bias, has_residual = ctx.has
    with_gated = has_residual and out is not None
    given = (grad_out, feats, weight, out, moments, ctx.eps, with_gated)
    try:
        # past the operator, which returns rows even where none are wanted
        if ctx.real is not None or (runs_plainly(*given) and not wants_gradients(*given)):
            grads = backend_of(feats).batch_norm_grad(*given, ctx.real)
        else:
            grads = _batch_norm_grad(*given)
    except (RuntimeError, MemoryError) as error:
        raise_of_owner(error, lambda: _gradient_text(feats), ctx, 1 if has_weight or has_bias else None)
    grad_feats, gated, grad_weight, grad_bias = grads
    return (
        grad_feats,
        grad_weight if has_weight else None,
        grad_bias if has_bias else None,
        (gated if with_gated else grad_out) if has_residual else None,
        None,
        None,
    )


def _gradient_text(feats: Tensor) -> str:
    return f"the gradients of a batch norm of {rows_of(feats)}"


_batch_norm.register_autograd(_batch_norm_backward, setup_context=_batch_norm_setup)


def _and_follow(
    feats: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    relu: bool,
    eps: float,
    running: Running | None,
    real: Tensor | None,
) -> tuple[Tensor, Tensor]:
    try:
        return backend_of(feats).batch_norm(feats, weight, bias, residual, relu, eps, running, real)
    except (RuntimeError, MemoryError) as error:
        raise_with_sizes(error, lambda: f"the batch norm of {rows_of(feats)}")


def _following_forward(ctx: Any, *given: Any) -> Tensor:
    # moments are no result of the node, so that nothing is made of their gradients
    out, moments = _and_follow(*given)
    feats, weight, bias, residual, relu, eps, _, real = given
    ctx.save_for_backward(feats, weight, out if relu else None, moments)
    ctx.has = (weight is not None, bias is not None, residual is not None)
    # a number of rows, which backward reads when its turn comes
    ctx.eps, ctx.real = eps, real
    return out


def _following_backward(ctx: Any, grad_out: Tensor) -> tuple[Any, ...]:
    return *_batch_norm_backward(ctx, grad_out), None, None


_with_gradients = bare_function("pcsparse::batch_norm", _following_forward, _following_backward)


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
    given = _operands(feats, weight, bias, residual, relu, eps)
    out, moments = _batch_norm(*given)
    mean, var = moments.unbind()
    return out, mean, var


def batch_norm_following(
    feats: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running: Running | None,
    *,
    eps: float = 1e-5,
    residual: Tensor | None = None,
    relu: bool = False,
    real: Tensor | None = None,
) -> Tensor:
    """`batch_norm`, after which running moments are nearer those of these rows.

    Args:
        feats: (n, c) float, n at least 2.
        weight: (c,) float, or None for one.
        bias: (c,) float, or None for zero.
        running: of `c` channels; changed in place. None for none.
        eps: added to the variance.
        residual: (n, c) to add, or None.
        relu: whether negative values become zero.
        real: () int64 on the device of `feats`, 2 to n: only so many first rows count, and those behind them
            become zero, and torch.compile and torch.export do not see an operator. None: all do.

    Returns:
        (n, c), dtype of `feats`.

    Raises:
        ShapeError: shapes disagree.
        DtypeError: `feats` are no floats.
        DeviceError: devices differ.
        RangeError: fewer than two rows, which have no variance.
    """
    if not _fit(feats, weight, bias, residual, running):
        # finds words for what is wrong, or mends it
        _, weight, bias, residual, *_ = _operands(feats, weight, bias, residual, relu, eps)
        if running is not None:
            check_rows(feats, None, running_mean=running.mean, running_var=running.var)
            check_same_device(feats=feats, batches=running.batches)
    statistics = () if running is None else running[:3]
    tensors = (feats, weight, bias, residual, *statistics)
    # the operators know of no rows that do not count
    if real is not None or (runs_plainly(*tensors) and _gapless(running)):
        if wants_gradients(*tensors):
            followed: Tensor = _with_gradients(feats, weight, bias, residual, relu, eps, running, real)
            return followed
        return _and_follow(feats, weight, bias, residual, relu, eps, running, real)[0]
    out, moments = _batch_norm(feats, weight, bias, residual, relu, eps)
    if running is not None:
        with torch.no_grad():
            running.follow(moments[0], moments[1], feats.shape[0])
    return out


def _gapless(running: Running | None) -> bool:
    return running is None or (
        running.mean.is_contiguous() and running.var.is_contiguous() and running.batches.is_contiguous()
    )


def _fit(
    feats: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running: Running | None,
) -> bool:
    """Whether all is as kernels take it. Nearly always: so it asks for little, and finds no words."""
    shape, dtype, device = feats.shape, feats.dtype, feats.device
    if len(shape) != 2 or shape[0] < 2 or dtype not in FLOATS:
        return False
    channels, wide = shape[1:], wide_of(dtype)
    for factor in (weight, bias):
        if factor is not None and (
            factor.dtype != wide or factor.shape != channels or factor.device != device
        ):
            return False
    if residual is not None and (
        residual.dtype != dtype or residual.shape != shape or residual.device != device
    ):
        return False
    return running is None or (
        running.mean.shape == channels
        and running.var.shape == channels
        and running.mean.device == running.var.device == running.batches.device == device
    )


def _operands(
    feats: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    relu: bool,
    eps: float,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, bool, float]:
    """Checked, in the types that kernels take."""
    check_rows(feats, residual, weight=weight, bias=bias)
    if feats.shape[0] < 2:
        raise RangeError(
            f"batch norm needs at least 2 rows to find a variance, got {feats.shape[0]}; use "
            "`norm_by_moments` with running ones"
        )
    (residual,), (weight, bias) = cast(feats.dtype, residual), cast(wide_of(feats.dtype), weight, bias)
    return feats, weight, bias, residual, relu, eps
