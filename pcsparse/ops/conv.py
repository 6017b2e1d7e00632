"""Sparse convolution as one typed, opaque operator with registered gradients.

`torch.compile` and `torch.export` see `pcsparse::sparse_conv`; n_out is a SymInt, so one graph serves every
cloud.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pcsparse.checks import NamesSizes, check_shape
from pcsparse.coords.kernel_map import KernelMap
from pcsparse.coords.map_header import volume_of
from pcsparse.engine.dataflow import Epilogue
from pcsparse.engine.plan import DATAFLOWS, Choice, Plan, plan_for
from pcsparse.engine.problem import ConvProblem
from pcsparse.engine.tune_cache import TuneTable
from pcsparse.errors import DtypeError, ShapeError, UnsupportedError
from pcsparse.ops.operator import operator, plain_function, runs_plainly, wants_gradients


def check_choice(choice: Choice, problem: ConvProblem) -> None:
    """Raise UnsupportedError where the dataflow of a choice cannot run a problem."""
    # the operators are public, and an exported program runs them without `sparse_conv`
    reason = DATAFLOWS[choice.dataflow].refuses(problem)
    if reason is not None:
        raise UnsupportedError(
            f"the plan names {choice.dataflow}, which cannot run {problem}: {reason}; plan it with plan_for"
        )


def run_forward(
    problem: ConvProblem, choice: Choice, feats: Tensor, weight: Tensor, kmap: KernelMap, epilogue: Epilogue
) -> Tensor:
    """What a choice makes of a convolution.

    Raises:
        OutOfMemoryError: the device's memory does not suffice; the text names the sizes.
    """
    with NamesSizes(lambda: problem.sizes("the forward pass")):
        return DATAFLOWS[choice.dataflow].forward(feats.contiguous(), weight, kmap, choice.config, epilogue)


def run_grad_feats(
    problem: ConvProblem, choice: Choice, grad_out: Tensor, weight: Tensor, kmap: KernelMap
) -> Tensor:
    """As `run_forward`, the gradient of the inputs."""
    with NamesSizes(lambda: problem.sizes("the input gradient")):
        return DATAFLOWS[choice.dataflow].grad_feats(grad_out.contiguous(), weight, kmap, choice.config)


def run_grad_weight(
    problem: ConvProblem, choice: Choice, feats: Tensor, grad_out: Tensor, kmap: KernelMap
) -> Tensor:
    """As `run_forward`, the gradient of the weights."""
    with NamesSizes(lambda: problem.sizes("the weight gradient")):
        return DATAFLOWS[choice.dataflow].grad_weight(
            feats.contiguous(), grad_out.contiguous(), kmap, choice.config
        )


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
    return run_grad_feats(problem, choice, grad_out, weight, kmap)


@_grad_feats.register_fake
def _grad_feats_fake(
    grad_out: Tensor, weight: Tensor, kernel_map: Sequence[Tensor], n_in: int, plan: str
) -> Tensor:
    return grad_out.new_empty(n_in, weight.shape[1])


_grad_feats.refuse_autograd()


@operator("pcsparse::sparse_conv_grad_weight")
def _grad_weight(feats: Tensor, grad_out: Tensor, kernel_map: Sequence[Tensor], plan: str) -> Tensor:
    choice = Plan.decode(plan).grad_weight
    kmap = KernelMap.from_tensors(list(kernel_map))
    check_shape("grad_out", grad_out, (kmap.n_out, None))
    if grad_out.dtype != feats.dtype:
        raise DtypeError(f"grad_out is {grad_out.dtype}, feats is {feats.dtype}; use one dtype")
    # a weight without memory: the pass has none, only its shape
    weight = feats.new_empty(1).expand(kmap.volume, feats.shape[-1], grad_out.shape[1])
    problem = ConvProblem.of(feats, weight, kmap)
    check_choice(choice, problem)
    return run_grad_weight(problem, choice, feats, grad_out, kmap)


@_grad_weight.register_fake
def _grad_weight_fake(feats: Tensor, grad_out: Tensor, kernel_map: Sequence[Tensor], plan: str) -> Tensor:
    return feats.new_empty(volume_of(kernel_map), feats.shape[1], grad_out.shape[1])


_grad_weight.refuse_autograd()


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    feats, weight, bias, kernel_map, _, plan, residual, relu = inputs
    ctx.save_for_backward(feats, weight, output if relu else None, *kernel_map)
    ctx.plan, ctx.has_bias, ctx.has_residual = plan, bias is not None, residual is not None


def _backward(ctx: Any, grad_out: Tensor) -> tuple[Any, ...]:
    feats, weight, rectified, *kernel_map = ctx.saved_tensors
    needs_feats, needs_weight, needs_bias, *_, needs_residual, _ = ctx.needs_input_grad
    grad_feats = grad_weight = None
    if rectified is not None:
        # not a product: infinity times zero is NaN
        grad_out = torch.where(rectified > 0, grad_out, 0)
    given = grad_out, feats, weight
    if runs_plainly(*given) and not wants_gradients(*given):
        grad_feats, grad_weight = _gradients(ctx.plan, *given, kernel_map, needs_feats, needs_weight)
    else:
        if needs_feats:
            grad_feats = _grad_feats(grad_out, weight, kernel_map, feats.shape[0], ctx.plan)
        if needs_weight:
            grad_weight = _grad_weight(feats, grad_out, kernel_map, ctx.plan)
    grad_bias = grad_out.sum(dim=0) if ctx.has_bias and needs_bias else None
    grad_residual = grad_out if ctx.has_residual and needs_residual else None
    nothing = [None] * len(kernel_map)
    return grad_feats, grad_weight, grad_bias, nothing, None, None, grad_residual, None


def _gradients(
    plan: str,
    grad_out: Tensor,
    feats: Tensor,
    weight: Tensor,
    kernel_map: list[Tensor],
    needs_feats: bool,
    needs_weight: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """What the two operators do, with map and plan found once."""
    to_feats = to_weight = None
    choices, kmap = Plan.decode(plan), KernelMap.from_tensors(kernel_map)
    # hooks on saved tensors may have changed any of them
    problem = ConvProblem.of(feats, weight, kmap)
    back = ConvProblem.of(grad_out, weight.transpose(1, 2), kmap, back=True)
    if needs_feats:
        check_choice(choices.grad_feats, back)
        to_feats = run_grad_feats(back, choices.grad_feats, grad_out, weight, kmap)
    if needs_weight:
        check_choice(choices.grad_weight, problem)
        to_weight = run_grad_weight(problem, choices.grad_weight, feats, grad_out, kmap)
    return to_feats, to_weight


_sparse_conv.register_autograd(_backward, setup_context=_setup)


def _known_conv(
    feats: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    kmap: KernelMap,
    problem: ConvProblem,
    plan: Plan,
    residual: Tensor | None,
    relu: bool,
) -> Tensor:
    """What the operator does, where map and plan need not be found again."""
    return run_forward(problem, plan.forward, feats, weight, kmap, Epilogue(bias, residual, relu))


def _setup_known(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    feats, weight, bias, kmap, _, plan, residual, relu = inputs
    # the cloud may be gone before backward, and its maps are not to be read and laid out again
    tensors = kmap.lasting_tensors()
    _setup(ctx, (feats, weight, bias, tensors, None, plan.encode(), residual, relu), output)


_known_conv_with_gradients = plain_function("pcsparse::sparse_conv", _known_conv, _backward, _setup_known)


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
    and are rounded once, after bias, residual and ReLU.

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
        UnsupportedError: the named `dataflow` refuses the problem, or all do; the text lists each reason.
        OutOfMemoryError: the device's memory does not suffice; the text names the sizes.
    """
    kind = feats.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind) and feats.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(kind)
        feats, weight = feats.to(dtype), weight.to(dtype)
        bias, residual = (None if part is None else part.to(dtype) for part in (bias, residual))
    problem = ConvProblem.of(feats, weight, kmap, bias, residual)
    plan = plan_for(problem, dataflow, tuned)
    given = feats, weight, bias, residual
    out: Tensor
    if not runs_plainly(*given):
        out = _sparse_conv(feats, weight, bias, kmap.tensors(), kmap.n_out, plan.encode(), residual, relu)
    elif wants_gradients(*given):
        out = _known_conv_with_gradients(feats, weight, bias, kmap, problem, plan, residual, relu)
    else:
        out = _known_conv(feats, weight, bias, kmap, problem, plan, residual, relu)
    return out
