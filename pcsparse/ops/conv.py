"""Sparse convolution as one typed, opaque operator with registered gradients.

`torch.compile` and `torch.export` see `pcsparse::sparse_conv`; n_out is a SymInt, so one graph serves every
cloud.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pcsparse.checks import check_shape
from pcsparse.coords.kernel_map import KernelMap
from pcsparse.coords.map_header import volume_of
from pcsparse.engine.dataflow import PLAIN, Epilogue
from pcsparse.engine.plan import Plan, plan_for
from pcsparse.engine.problem import ConvProblem
from pcsparse.engine.tune_cache import TuneTable
from pcsparse.errors import DtypeError, ShapeError
from pcsparse.lack_of_memory import raise_of_owner, rows_of
from pcsparse.ops.bias_grad import bias_grad
from pcsparse.ops.conv_passes import check_choice, run_forward, run_grad_feats, run_grad_weight
from pcsparse.ops.narrow import cast_rows, is_narrow, narrowed, unread
from pcsparse.ops.operator import bare_function, operator, runs_plainly, wants_gradients


def _check_rows(name: str, given: int, kmap: KernelMap, rows: int) -> None:
    if given != rows:
        raise ShapeError(
            f"{name}={given}, but the kernel map leads from {kmap.n_in} to {kmap.n_out} rows; give {rows}"
        )


@operator("pcsparse::sparse_conv")
def _sparse_conv(
    feats: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    kernel_map: Sequence[Tensor],
    n_out: int,
    plan: str,
    residual: Tensor | None,
    relu: bool,
) -> Tensor:
    choice = Plan.decode(plan).forward
    kmap = KernelMap.from_tensors(list(kernel_map))
    weight, bias = narrowed(weight, feats), None if bias is None else narrowed(bias, feats)
    problem = ConvProblem.of(feats, weight, kmap, bias, residual)
    check_choice(choice, problem)
    _check_rows("n_out", n_out, kmap, kmap.n_out)
    return run_forward(problem, choice, feats, weight, kmap, Epilogue(bias, residual, relu))


@_sparse_conv.register_fake
def _sparse_conv_fake(
    feats: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    kernel_map: Sequence[Tensor],
    n_out: int,
    plan: str,
    residual: Tensor | None,
    relu: bool,
) -> Tensor:
    return feats.new_empty(n_out, weight.shape[2])


@operator("pcsparse::sparse_conv_grad_feats")
def _grad_feats(
    grad_out: Tensor, weight: Tensor, kernel_map: Sequence[Tensor], n_in: int, plan: str
) -> Tensor:
    choice = Plan.decode(plan).grad_feats
    kmap = KernelMap.from_tensors(list(kernel_map))
    problem = ConvProblem.of(grad_out, weight.transpose(1, 2), kmap, back=True)
    check_choice(choice, problem)
    _check_rows("n_in", n_in, kmap, kmap.n_in)
    return run_grad_feats(lambda: problem, choice, grad_out, weight, kmap)


@_grad_feats.register_fake
def _grad_feats_fake(
    grad_out: Tensor, weight: Tensor, kernel_map: Sequence[Tensor], n_in: int, plan: str
) -> Tensor:
    return grad_out.new_empty(n_in, weight.shape[1])


_grad_feats.refuse_autograd()


@operator("pcsparse::sparse_conv_grad_weight")
def _grad_weight(
    feats: Tensor,
    grad_out: Tensor,
    kernel_map: Sequence[Tensor],
    plan: str,
    dtype: torch.dtype | None = None,
) -> Tensor:
    choice = Plan.decode(plan).grad_weight
    kmap = KernelMap.from_tensors(list(kernel_map))
    check_shape("grad_out", grad_out, (kmap.n_out, None))
    if grad_out.dtype != feats.dtype:
        raise DtypeError(f"grad_out is {grad_out.dtype}, feats is {feats.dtype}; use one dtype")
    # a weight without memory: the pass has none, only its shape
    weight = feats.new_empty(1).expand(kmap.volume, feats.shape[-1], grad_out.shape[1])
    problem = ConvProblem.of(feats, weight, kmap)
    check_choice(choice, problem)
    return run_grad_weight(problem, choice, feats, grad_out, kmap, dtype)


@_grad_weight.register_fake
def _grad_weight_fake(
    feats: Tensor,
    grad_out: Tensor,
    kernel_map: Sequence[Tensor],
    plan: str,
    dtype: torch.dtype | None = None,
) -> Tensor:
    return feats.new_empty(volume_of(kernel_map), feats.shape[1], grad_out.shape[1], dtype=dtype)


_grad_weight.refuse_autograd()


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    feats, weight, bias, kernel_map, _, plan, residual, relu = inputs
    # the weight as it is multiplied, as past the dispatcher: a checkpoint may be computed again there
    ctx.save_for_backward(feats, narrowed(weight, feats), output if relu else None, *kernel_map)
    ctx.plan, ctx.problem = Plan.decode(plan), None
    ctx.of_weight, ctx.of_bias = weight.dtype, None if bias is None else bias.dtype
    # the map counted here: what is saved may be unpacked once only within a checkpoint
    ctx.has_residual, ctx.n_map = residual is not None, len(kernel_map)


def _backward(ctx: Any, grad_out: Tensor) -> tuple[Any, ...]:
    needs_feats, needs_weight, needs_bias, *_, needs_residual, _ = ctx.needs_input_grad
    needs_bias, needs_residual = ctx.of_bias is not None and needs_bias, ctx.has_residual and needs_residual
    needs = needs_feats, needs_weight, needs_bias, needs_residual
    try:
        grad_feats, grad_weight, grad_bias, grad_residual = _all_gradients(ctx, grad_out, needs)
    except (RuntimeError, MemoryError) as error:
        raise_of_owner(error, lambda: _gradients_text(grad_out), ctx, 1)
    nothing = [None] * ctx.n_map
    return grad_feats, grad_weight, grad_bias, nothing, None, None, grad_residual, None


def _gradients_text(grad_out: Tensor) -> str:
    return f"the gradients of a convolution to {rows_of(grad_out)}"


def _all_gradients(
    ctx: Any, grad_out: Tensor, needs: tuple[bool, bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Those of feats, weight, bias and residual."""
    feats, weight, rectified, *kernel_map = ctx.saved_tensors
    grad_feats = grad_weight = None
    if rectified is not None:
        # not a product: infinity times zero is NaN
        grad_out = torch.where(rectified > 0, grad_out, 0)
    given = grad_out, feats, weight
    if runs_plainly(*given) and not wants_gradients(*given):
        grad_feats, grad_weight = _gradients(ctx.plan, ctx.problem, *given, kernel_map, needs, ctx.of_weight)
    else:
        if needs[0]:
            grad_feats = _grad_feats(grad_out, weight, kernel_map, feats.shape[0], ctx.plan.encode())
        if needs[1]:
            grad_weight = _grad_weight(feats, grad_out, kernel_map, ctx.plan.encode(), ctx.of_weight)
    grad_bias = bias_grad(grad_out, ctx.of_bias) if needs[2] else None
    return grad_feats, grad_weight, grad_bias, grad_out if needs[3] else None


def _gradients(
    plan: Plan,
    problem: ConvProblem | None,
    grad_out: Tensor,
    feats: Tensor,
    weight: Tensor,
    kernel_map: list[Tensor],
    needs: tuple[bool, ...],
    of_weight: torch.dtype,
) -> tuple[Tensor | None, Tensor | None]:
    """What the two operators do, with map and plan found once."""
    to_feats = to_weight = None
    kmap = KernelMap.from_tensors(kernel_map)
    back: Callable[[], ConvProblem]
    # hooks on saved tensors may have changed any of them
    if problem is not None and problem.is_of(feats, weight, kmap, grad_out):
        back = problem.transposed
    else:
        problem = ConvProblem.of(feats, weight, kmap)
        turned = ConvProblem.of(grad_out, weight.transpose(1, 2), kmap, back=True)
        check_choice(plan.grad_feats, turned)
        check_choice(plan.grad_weight, problem)

        def back() -> ConvProblem:
            return turned

    if needs[0]:
        to_feats = run_grad_feats(back, plan.grad_feats, grad_out, weight, kmap)
    if needs[1]:
        to_weight = run_grad_weight(problem, plan.grad_weight, feats, grad_out, kmap, of_weight)
    return to_feats, to_weight


_sparse_conv.register_autograd(_backward, setup_context=_setup)


def _known_conv(
    feats: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    kmap: KernelMap,
    problem: ConvProblem,
    plan: Plan,
    relu: bool,
) -> Tensor:
    """What the operator does, where map and plan need not be found again."""
    bare = bias is None and residual is None and not relu
    epilogue = PLAIN if bare else Epilogue(bias, residual, relu)
    return run_forward(problem, plan.forward, feats, weight, kmap, epilogue)


def _known_forward(
    ctx: Any,
    weight: Tensor,
    feats: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    narrow: tuple[Tensor, Tensor | None] | None,
    kmap: KernelMap,
    problem: ConvProblem,
    plan: Plan,
    relu: bool,
) -> Tensor:
    """Gradients are for `weight` and `bias`; `narrow` are both in the type of `feats`."""
    ctx.of_weight, ctx.of_bias = weight.dtype, None if bias is None else bias.dtype
    if narrow is not None:
        weight, bias = narrow
    out = _known_conv(feats, weight, bias, residual, kmap, problem, plan, relu)
    # the cloud may be gone before backward, and its maps are not to be read and laid out again
    ctx.save_for_backward(feats, weight, out if relu else None, *kmap.lasting_tensors())
    ctx.plan, ctx.problem = plan, problem
    return out


def _known_backward(ctx: Any, grad_out: Tensor) -> tuple[Any, ...]:
    needs_weight, needs_feats, needs_bias, needs_residual, *_ = ctx.needs_input_grad
    needs = needs_feats, needs_weight, needs_bias, needs_residual
    try:
        grad_feats, grad_weight, grad_bias, grad_residual = _all_gradients(ctx, grad_out, needs)
    except (RuntimeError, MemoryError) as error:
        raise_of_owner(error, lambda: _gradients_text(grad_out), ctx, 0)
    return grad_weight, grad_feats, grad_bias, grad_residual, None, None, None, None, None


_known_conv_with_gradients = bare_function("pcsparse::sparse_conv", _known_forward, _known_backward)


def sparse_conv(
    feats: Tensor,
    weight: Tensor,
    kmap: KernelMap,
    *,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
    dataflow: str = "auto",
    tuned: TuneTable | None = None,
) -> Tensor:
    """out[j] = act(bias + residual[j] + sum over pairs (i, j) of offset k in `kmap` of feats[i] @ weight[k]).

    Under autocast, all operands are cast to the autocast dtype. Sums are in float32, or float64 for float64,
    and are rounded once, after bias, residual and ReLU. So are those of gradients, for
    weight and bias to the dtype that these had before autocast.

    Args:
        feats: (n_in, c_in) float32, float64, float16 or bfloat16.
        weight: (k, c_in, c_out), dtype of `feats`.
        kmap: kernel map from n_in to n_out rows.
        bias: (c_out,) or None.
        residual: (n_out, c_out) to add, or None.
        relu: whether negative outputs become zero.
        dataflow: "auto", or the name of one in `engine.plan.DATAFLOWS`.
        tuned: a table of measured plans; where it is None or does not know the problem, the rule decides.

    Returns:
        (n_out, c_out), dtype of `feats`.

    Raises:
        ShapeError: `feats`, `weight`, `kmap`, `bias` and `residual` disagree.
        DtypeError: dtypes differ or are no floats.
        DeviceError: devices differ.
        RangeError: the map was changed in place, and names rows that are not there.
        UnsupportedError: the named `dataflow` refuses the problem, or all do; the text lists each reason.
        OutOfMemoryError: the device's memory does not suffice; the text names the sizes, and the layer if a
            module calls this.
    """
    kind, own_weight, own_bias = feats.device.type, weight, bias
    plainly = runs_plainly(feats, weight, bias, residual)
    follows = plainly and wants_gradients(feats, weight, bias, residual)
    operands = weight, bias
    if kind != "meta" and torch.is_autocast_enabled(kind) and feats.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(kind)
        feats, residual = cast_rows(feats, dtype), None if residual is None else cast_rows(residual, dtype)
        if not plainly and torch.is_grad_enabled() and is_narrow(feats):
            # the operator narrows them itself, and so gives gradients that never were narrow
            operands = unread(weight, dtype), None if bias is None else unread(bias, dtype)
        else:
            # the convolution's own node of the graph has the gradients of what was there before
            weight = (weight.detach() if follows else weight).to(dtype)
            if bias is not None:
                bias = (bias.detach() if follows else bias).to(dtype)
            operands = weight, bias
    if plainly:
        # as the operator does: lists that were changed in place are read again
        kmap = kmap.as_it_is()
    problem = ConvProblem.of(feats, operands[0], kmap, operands[1], residual)
    plan = plan_for(problem, dataflow, tuned)
    out: Tensor
    if not plainly:
        out = _sparse_conv(feats, weight, bias, kmap.tensors(), kmap.n_out, plan.encode(), residual, relu)
    elif follows:
        narrow = None if weight is own_weight and bias is own_bias else (weight, bias)
        given = own_weight, feats, own_bias, residual, narrow
        out = _known_conv_with_gradients(*given, kmap, problem, plan, relu)
    else:
        out = _known_conv(feats, weight, bias, residual, kmap, problem, plan, relu)
    return out
