"""Sparse convolution as one typed, opaque operator with registered gradients.

`torch.compile` and `torch.export` see `pcsparse::sparse_conv`; n_out is a SymInt, so one graph serves every
cloud.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pcsparse.coords.kernel_map import KernelMap
from pcsparse.engine.plan import DATAFLOWS, Plan, plan_for
from pcsparse.engine.problem import ConvProblem


@torch.library.custom_op("pcsparse::sparse_conv", mutates_args=())
def _sparse_conv(
    feats: Tensor, weight: Tensor, bias: Tensor | None, kernel_map: Sequence[Tensor], n_out: int, plan: str
) -> Tensor:
    choice = Plan.decode(plan).forward
    kmap = KernelMap.from_tensors(list(kernel_map))
    out = DATAFLOWS[choice.dataflow].forward(feats.contiguous(), weight, kmap, choice.config)
    return out if bias is None else out.add_(bias)


@_sparse_conv.register_fake
def _sparse_conv_fake(
    feats: Tensor, weight: Tensor, bias: Tensor | None, kernel_map: Sequence[Tensor], n_out: int, plan: str
) -> Tensor:
    return feats.new_empty(n_out, weight.shape[2])


@torch.library.custom_op("pcsparse::sparse_conv_grad_feats", mutates_args=())
def _grad_feats(
    grad_out: Tensor, weight: Tensor, kernel_map: Sequence[Tensor], n_in: int, plan: str
) -> Tensor:
    choice = Plan.decode(plan).grad_feats
    kmap = KernelMap.from_tensors(list(kernel_map))
    return DATAFLOWS[choice.dataflow].grad_feats(grad_out.contiguous(), weight, kmap, choice.config)


@_grad_feats.register_fake
def _grad_feats_fake(
    grad_out: Tensor, weight: Tensor, kernel_map: Sequence[Tensor], n_in: int, plan: str
) -> Tensor:
    return grad_out.new_empty(n_in, weight.shape[1])


@torch.library.custom_op("pcsparse::sparse_conv_grad_weight", mutates_args=())
def _grad_weight(feats: Tensor, grad_out: Tensor, kernel_map: Sequence[Tensor], plan: str) -> Tensor:
    choice = Plan.decode(plan).grad_weight
    kmap = KernelMap.from_tensors(list(kernel_map))
    return DATAFLOWS[choice.dataflow].grad_weight(
        feats.contiguous(), grad_out.contiguous(), kmap, choice.config
    )


@_grad_weight.register_fake
def _grad_weight_fake(feats: Tensor, grad_out: Tensor, kernel_map: Sequence[Tensor], plan: str) -> Tensor:
    # starts has one entry more than there are offsets
    return feats.new_empty(kernel_map[3].shape[0] - 1, feats.shape[1], grad_out.shape[1])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    feats, weight, bias, kernel_map, _, plan = inputs
    ctx.save_for_backward(feats, weight, *kernel_map)
    ctx.plan, ctx.has_bias = plan, bias is not None


def _backward(ctx: Any, grad_out: Tensor) -> tuple[Any, ...]:
    feats, weight, *kernel_map = ctx.saved_tensors
    needs_feats, needs_weight, needs_bias, *_ = ctx.needs_input_grad
    grad_feats = grad_weight = None
    if needs_feats:
        grad_feats = _grad_feats(grad_out, weight, kernel_map, feats.shape[0], ctx.plan)
    if needs_weight:
        grad_weight = _grad_weight(feats, grad_out, kernel_map, ctx.plan)
    grad_bias = grad_out.sum(dim=0) if ctx.has_bias and needs_bias else None
    return grad_feats, grad_weight, grad_bias, [None] * len(kernel_map), None, None


_sparse_conv.register_autograd(_backward, setup_context=_setup)


def sparse_conv(
    feats: Tensor, weight: Tensor, kmap: KernelMap, *, bias: Tensor | None = None, dataflow: str = "auto"
) -> Tensor:
    """out[j] = bias + sum over pairs (i, j) of offset k in `kmap` of feats[i] @ weight[k].

    Under autocast, features and weights are cast to the autocast dtype. Sums are in float32, or float64 for
    float64.

    Args:
        feats: (n_in, c_in) float32, float64, float16 or bfloat16.
        weight: (k, c_in, c_out), dtype of `feats`.
        kmap: kernel map from n_in to n_out rows.
        bias: (c_out,) or None.
        dataflow: "auto", or the name of one in `engine.plan.DATAFLOWS`.

    Returns:
        (n_out, c_out), dtype of `feats`.

    Raises:
        ShapeError: `feats`, `weight` and `kmap` disagree on n_in, c_in or k.
        DtypeError: dtypes differ or are no floats.
        DeviceError: devices differ.
        UnsupportedError: the named `dataflow` refuses the problem, or all do; the text lists each reason.
    """
    kind = feats.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind) and feats.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(kind)
        feats, weight, bias = feats.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    problem = ConvProblem.of(feats, weight, kmap, bias)
    plan = plan_for(problem, dataflow)
    out: Tensor = _sparse_conv(feats, weight, bias, kmap.tensors(), kmap.n_out, plan.encode())
    return out
