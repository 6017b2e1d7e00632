"""Convolution of some rows of a cloud; the others pass or keep their centre, other pairs cost nothing.

What SPS-Conv simulates, by a convolution of all rows that are then overwritten, is done here: the pairs of
rows that pass are not there. Where rows keep their centre it is a plain convolution over a filtered map.

Source: Liu et al., "Spatial Pruned Sparse Convolution", NeurIPS 2022 (arXiv 2209.14201).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pcsparse.checks import check_same_device, check_shape
from pcsparse.coords.kept_outputs import kept_outputs
from pcsparse.coords.kernel_map import KernelMap
from pcsparse.coords.map_header import volume_of
from pcsparse.engine.dataflow import Epilogue, Passing
from pcsparse.engine.plan import Plan, plan_for
from pcsparse.engine.problem import ConvProblem
from pcsparse.engine.tune_cache import TuneTable
from pcsparse.errors import DtypeError, RangeError, ShapeError, UnsupportedError
from pcsparse.lack_of_memory import raise_of_owner, rows_of
from pcsparse.ops.bias_grad import bias_grad
from pcsparse.ops.conv_passes import check_choice, run_forward, run_grad_feats, run_grad_weight
from pcsparse.ops.narrow import cast_rows, is_narrow, narrowed, unread
from pcsparse.ops.operator import operator, runs_plainly, wants_gradients


def _kept(kernel_map: Sequence[Tensor], mask: Tensor, centre: int | None) -> KernelMap:
    return kept_outputs(KernelMap.from_tensors(list(kernel_map)), mask, centre)


@operator("pcsparse::partial_sparse_conv")
def _partial_conv(
    feats: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    kernel_map: Sequence[Tensor],
    mask: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    plan: str,
    residual: Tensor | None,
    relu: bool,
    centre: int | None,
) -> Tensor:
    choice = Plan.decode(plan).forward
    kmap = KernelMap.from_tensors(list(kernel_map))
    weight, bias = narrowed(weight, feats), None if bias is None else narrowed(bias, feats)
    problem = ConvProblem.of(feats, weight, kmap, bias, residual)
    check_choice(choice, problem)
    _check_rest(problem, feats, scale, shift, centre)
    passing = Passing(mask, feats, scale, shift) if centre is None else None
    kept = kept_outputs(kmap, mask, centre)
    return run_forward(problem, choice, feats, weight, kept, Epilogue(bias, residual, relu, passing))


@_partial_conv.register_fake
def _partial_conv_fake(
    feats: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    kernel_map: Sequence[Tensor],
    mask: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    plan: str,
    residual: Tensor | None,
    relu: bool,
    centre: int | None,
) -> Tensor:
    return feats.new_empty(feats.shape[0], weight.shape[2])


@operator("pcsparse::partial_sparse_conv_grad_feats")
def _grad_feats(
    grad_out: Tensor,
    weight: Tensor,
    kernel_map: Sequence[Tensor],
    mask: Tensor,
    scale: Tensor | None,
    plan: str,
    centre: int | None,
) -> Tensor:
    choice = Plan.decode(plan).grad_feats
    kept = _kept(kernel_map, mask, centre)
    problem = ConvProblem.of(grad_out, weight.transpose(1, 2), kept, back=True)
    check_choice(choice, problem)
    grad = run_grad_feats(lambda: problem, choice, grad_out, weight, kept)
    if centre is not None:
        return grad
    passed = grad_out if scale is None else (grad_out * scale).to(grad_out.dtype)
    return grad.add_(passed.masked_fill(mask[:, None], 0))


@_grad_feats.register_fake
def _grad_feats_fake(
    grad_out: Tensor,
    weight: Tensor,
    kernel_map: Sequence[Tensor],
    mask: Tensor,
    scale: Tensor | None,
    plan: str,
    centre: int | None,
) -> Tensor:
    return grad_out.new_empty(grad_out.shape[0], weight.shape[1])


_grad_feats.refuse_autograd()


@operator("pcsparse::partial_sparse_conv_grad_weight")
def _grad_weight(
    feats: Tensor,
    grad_out: Tensor,
    kernel_map: Sequence[Tensor],
    mask: Tensor,
    plan: str,
    centre: int | None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    choice = Plan.decode(plan).grad_weight
    kept = _kept(kernel_map, mask, centre)
    check_shape("grad_out", grad_out, (mask.shape[0], None))
    if grad_out.dtype != feats.dtype:
        raise DtypeError(f"grad_out is {grad_out.dtype}, feats is {feats.dtype}; use one dtype")
    # a weight without memory: the pass has none, only its shape
    weight = feats.new_empty(1).expand(kept.volume, feats.shape[-1], grad_out.shape[1])
    problem = ConvProblem.of(feats, weight, kept)
    check_choice(choice, problem)
    return run_grad_weight(problem, choice, feats, grad_out, kept, dtype)


@_grad_weight.register_fake
def _grad_weight_fake(
    feats: Tensor,
    grad_out: Tensor,
    kernel_map: Sequence[Tensor],
    mask: Tensor,
    plan: str,
    centre: int | None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    return feats.new_empty(volume_of(kernel_map), feats.shape[1], grad_out.shape[1], dtype=dtype)


_grad_weight.refuse_autograd()


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    feats, weight, bias, kernel_map, mask, scale, _, plan, residual, relu, centre = inputs
    ctx.save_for_backward(feats, weight, output if relu else None, mask, scale, *kernel_map)
    ctx.plan, ctx.centre, ctx.has_residual = plan, centre, residual is not None
    ctx.of_bias = None if bias is None else bias.dtype


def _backward(ctx: Any, grad_out: Tensor) -> tuple[Any, ...]:
    try:
        return _all_gradients(ctx, grad_out)
    except (RuntimeError, MemoryError) as error:
        raise_of_owner(error, lambda: f"the gradients of a convolution to {rows_of(grad_out)}", ctx, 1)


def _all_gradients(ctx: Any, grad_out: Tensor) -> tuple[Any, ...]:
    feats, weight, rectified, mask, scale, *kernel_map = ctx.saved_tensors
    needs_feats, needs_weight, needs_bias, *_, needs_residual, _, _ = ctx.needs_input_grad
    grad_feats = grad_weight = grad_bias = None
    if rectified is not None:
        # not a product: infinity times zero is NaN
        grad_out = torch.where(rectified > 0, grad_out, 0)
    if needs_feats:
        narrow = narrowed(weight, feats)
        grad_feats = _grad_feats(grad_out, narrow, kernel_map, mask, scale, ctx.plan, ctx.centre)
    if needs_weight:
        grad_weight = _grad_weight(feats, grad_out, kernel_map, mask, ctx.plan, ctx.centre, weight.dtype)
    if ctx.of_bias is not None and needs_bias:
        biased = grad_out if ctx.centre is not None else grad_out.masked_fill(~mask[:, None], 0)
        grad_bias = bias_grad(biased, ctx.of_bias)
    grad_residual = grad_out if ctx.has_residual and needs_residual else None
    nothing = [None] * len(kernel_map)
    return grad_feats, grad_weight, grad_bias, nothing, None, None, None, None, grad_residual, None, None


_partial_conv.register_autograd(_backward, setup_context=_setup)


def partial_sparse_conv(
    feats: Tensor,
    weight: Tensor,
    kmap: KernelMap,
    mask: Tensor,
    *,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
    centre: int | None = None,
    dataflow: str = "auto",
    tuned: TuneTable | None = None,
) -> Tensor:
    """act(residual[j] + (convolution of row j if mask[j], else feats[j] * scale + shift)).

    The convolution of row j is bias + the sum over its pairs (i, j) of offset k of feats[i] @ weight[k]. With
    `centre`, the others are bias + the sum over their pairs of that offset alone, where in a submanifold
    convolution a row meets itself: bias + feats[j] @ weight[centre]; c_in and c_out may differ.

    Other pairs of these rows are dropped from the map before anything is multiplied: the time falls with
    them. Autocast, sums and rounding are those of `sparse_conv`. A row that passes without scale, shift,
    residual and ReLU keeps its values; -0.0 may become 0.0.

    Args:
        feats: (n, c_in) float32, float64, float16 or bfloat16.
        weight: (k, c_in, c_out), dtype of `feats`.
        kmap: kernel map from n to n rows.
        mask: (n,) bool: the rows to convolve. What was made of it is kept with it, for the backward pass.
        bias: (c_out,) or None.
        scale: (c_out,) or None for 1, without gradient: what a norm makes of rows that pass, see `nn.fuse`.
        shift: (c_out,) or None for 0, without gradient.
        residual: (n, c_out) to add, or None.
        relu: whether negative outputs become zero.
        centre: in [0, k), the offset whose pairs all rows keep; None: the others pass.
        dataflow: "auto", or the name of one in `engine.plan.DATAFLOWS`.
        tuned: a table of measured plans, looked up with the sizes of the whole map.

    Returns:
        (n, c_out), dtype of `feats`.

    Raises:
        ShapeError: the operands disagree, or the convolution has not as many outputs as inputs, in rows or,
            where rows pass, in channels.
        RangeError: there is no offset `centre`, or the map was changed in place and names rows that are not
            there.
        DtypeError: dtypes differ or are no floats, or `mask` is not bool.
        DeviceError: devices differ.
        UnsupportedError: `scale` or `shift` wants a gradient or goes with `centre`, or no dataflow runs the
            problem.
        OutOfMemoryError: the device's memory does not suffice; see `sparse_conv`.
    """
    kind = feats.device.type
    autocast = kind != "meta" and torch.is_autocast_enabled(kind) and feats.dtype != torch.float64
    if autocast:
        dtype = torch.get_autocast_dtype(kind)
        feats, residual = cast_rows(feats, dtype), None if residual is None else cast_rows(residual, dtype)
    given = (feats, weight, bias, residual, mask, scale, shift)
    plainly = runs_plainly(*given) and not wants_gradients(*given)
    if plainly:
        # as the operator does: lists that were changed in place are read again
        kmap = kmap.as_it_is()
    operands = weight, bias
    if autocast and not plainly and is_narrow(feats) and torch.is_grad_enabled():
        # the operator narrows them itself, and so gives gradients that never were narrow
        operands = unread(weight, dtype), None if bias is None else unread(bias, dtype)
    elif autocast:
        weight, bias = operands = weight.to(dtype), None if bias is None else bias.to(dtype)
    problem = ConvProblem.of(feats, operands[0], kmap, operands[1], residual)
    wide = torch.float64 if feats.dtype == torch.float64 else torch.float32
    scale, shift = (None if part is None else part.to(wide) for part in (scale, shift))
    _check_rest(problem, feats, scale, shift, centre)
    plan = plan_for(problem, dataflow, tuned)
    if plainly:
        # what the operator does, without torch's dispatcher
        passing = Passing(mask, feats, scale, shift) if centre is None else None
        kept = kept_outputs(kmap, mask, centre)
        epilogue = Epilogue(bias, residual, relu, passing)
        return run_forward(problem, plan.forward, feats, weight, kept, epilogue)
    out: Tensor = _partial_conv(
        feats, weight, bias, kmap.tensors(), mask, scale, shift, plan.encode(), residual, relu, centre
    )
    return out


def _check_rest(
    problem: ConvProblem, feats: Tensor, scale: Tensor | None, shift: Tensor | None, centre: int | None
) -> None:
    if centre is not None:
        if problem.n_in != problem.n_out:
            raise ShapeError(
                f"rows keep their centre only where outputs are the inputs' voxels, got {problem.n_in} rows "
                f"in and {problem.n_out} out; convolve all rows with sparse_conv"
            )
        if not 0 <= centre < problem.k:
            raise RangeError(f"centre must be an offset in 0 ... {problem.k - 1}, got {centre}")
        if scale is not None or shift is not None:
            raise UnsupportedError("scale and shift are for rows that pass; fold them into the weights")
        return
    if problem.c_in != problem.c_out or problem.n_in != problem.n_out:
        raise ShapeError(
            f"rows pass a convolution only where it has as many outputs as inputs, got {problem.n_in} rows "
            f"of {problem.c_in} channels in and {problem.n_out} of {problem.c_out} out; convolve all rows "
            "with sparse_conv"
        )
    for name, part in (("scale", scale), ("shift", shift)):
        if part is not None:
            check_shape(name, part, (problem.c_out,))
            check_same_device(feats=feats, **{name: part})
            if part.requires_grad:
                raise UnsupportedError(f"{name} has no gradient here; detach it")
