"""Scale and shift of every channel of feature rows, with a residual and a ReLU in the same pass."""

from typing import Any

import torch
from torch import Tensor

from pcsparse.checks import check_dtype, check_same_device, check_shape
from pcsparse.errors import ShapeError
from pcsparse.kernels.select import backend_of
from pcsparse.lack_of_memory import raise_with_sizes, rows_of
from pcsparse.ops.operator import operator

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def cast(dtype: torch.dtype, *parts: Tensor | None) -> list[Any]:
    """Each part in `dtype`; without asking torch where it is."""
    return [part if part is None or part.dtype == dtype else part.to(dtype) for part in parts]


def wide_of(dtype: torch.dtype) -> torch.dtype:
    """The type of factors, moments and sums of features of `dtype`."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@operator("pcsparse::scale_shift_sums")
def scale_shift_sums(
    grad_out: Tensor, feats: Tensor, out: Tensor | None, mean: Tensor
) -> tuple[Tensor, Tensor]:
    """See `kernels.protocol`."""
    try:
        return backend_of(grad_out, feats).scale_shift_sums(grad_out, feats, out, mean)
    except (RuntimeError, MemoryError) as error:
        raise_with_sizes(error, lambda: f"the gradients of scale and shift of {rows_of(feats)}")


@scale_shift_sums.register_fake
def _sums_fake(grad_out: Tensor, feats: Tensor, out: Tensor | None, mean: Tensor) -> tuple[Tensor, Tensor]:
    shape, dtype = feats.shape[1], wide_of(feats.dtype)
    return feats.new_empty(shape, dtype=dtype), feats.new_empty(shape, dtype=dtype)


scale_shift_sums.refuse_autograd()


@operator("pcsparse::scale_shift_grad")
def scale_shift_grad(
    grad_out: Tensor,
    feats: Tensor,
    out: Tensor | None,
    scale_grad: Tensor,
    scale_feats: Tensor,
    shift: Tensor,
    with_gated: bool,
) -> tuple[Tensor, Tensor]:
    """See `kernels.protocol`; the second result has no rows where it is not wanted."""
    try:
        grad, gated = backend_of(grad_out, feats).scale_shift_grad(
            grad_out, feats, out, scale_grad, scale_feats, shift, with_gated
        )
    except (RuntimeError, MemoryError) as error:
        raise_with_sizes(error, lambda: f"the gradient of {rows_of(feats)} by scale and shift")
    return grad, feats.new_empty(0, feats.shape[1]) if gated is None else gated


@scale_shift_grad.register_fake
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


scale_shift_grad.refuse_autograd()


@operator("pcsparse::scale_shift")
def _scale_shift(feats: Tensor, scale: Tensor, shift: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    try:
        return backend_of(feats).scale_shift(feats, scale, shift, residual, relu)
    except (RuntimeError, MemoryError) as error:
        raise_with_sizes(error, lambda: f"scale and shift of {rows_of(feats)}")


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
        grad_feats, gated = scale_shift_grad(
            grad_out, feats, out, scale, nothing, nothing, out is not None and needs_residual
        )
        grad_residual = grad_out if out is None else gated
    if needs_scale or needs_shift:
        grad_shift, grad_scale = scale_shift_sums(grad_out, feats, out, nothing)
    return grad_feats, grad_scale, grad_shift, grad_residual if ctx.has_residual else None, None


_scale_shift.register_autograd(_scale_shift_backward, setup_context=_scale_shift_setup)


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
    check_rows(feats, residual, scale=scale, shift=shift)
    (residual,), (scale, shift) = cast(feats.dtype, residual), cast(wide_of(feats.dtype), scale, shift)
    out: Tensor = _scale_shift(feats, scale, shift, residual, relu)
    return out


def check_rows(feats: Tensor, residual: Tensor | None, **factors: Tensor | None) -> None:
    """Raise unless rows (n, c), what is added to them, and factors (c,) fit each other.

    Raises:
        ShapeError: shapes disagree.
        DtypeError: `feats` are no floats.
        DeviceError: devices differ.
    """
    if feats.dim() == 2 and feats.dtype in FLOATS:
        # nearly every call ends here; the checks below find words for the others
        device, channels = feats.device, feats.shape[1:]
        same = residual is None or (residual.shape == feats.shape and residual.device == device)
        for factor in factors.values():
            same = same and (factor is None or (factor.shape == channels and factor.device == device))
        if same:
            return
    check_shape("feats", feats, (None, None))
    check_dtype("feats", feats, *FLOATS)
    given = {"residual": residual, **factors}
    check_same_device(feats=feats, **{name: part for name, part in given.items() if part is not None})
    for name, factor in factors.items():
        if factor is not None:
            check_shape(name, factor, (feats.shape[1],))
    if residual is not None and residual.shape != feats.shape:
        raise ShapeError(
            f"residual must have the shape of feats, {tuple(feats.shape)}, got {tuple(residual.shape)}"
        )
