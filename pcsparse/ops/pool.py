"""Sums and maxima over the neighbours that a kernel map names."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pcsparse.checks import check_dtype, check_same_device, check_shape
from pcsparse.coords.kernel_map import KernelMap
from pcsparse.errors import ShapeError
from pcsparse.kernels.select import backend_of
from pcsparse.lack_of_memory import raise_with_sizes, rows_of
from pcsparse.ops.operator import operator


def _by_output(feats: Tensor, kernel_map: Sequence[Tensor], n_out: int) -> tuple[Tensor, Tensor]:
    """Input rows grouped by output row, and where each group starts."""
    kmap = KernelMap.from_tensors(list(kernel_map))
    # the operators are public, and an exported program runs them without the functions below
    _check("feats", feats, kmap.n_in)
    check_same_device(feats=feats, kernel_map=kmap.tensors()[1])
    if n_out != kmap.n_out:
        raise ShapeError(f"n_out={n_out}, but this kernel map has {kmap.n_out} outputs; give that number")
    return kmap.inputs_by_output()


def _by_input(grad_out: Tensor, kernel_map: Sequence[Tensor], n_in: int) -> tuple[Tensor, Tensor]:
    kmap = KernelMap.from_tensors(list(kernel_map))
    _check("grad_out", grad_out, kmap.n_out)
    check_same_device(grad_out=grad_out, kernel_map=kmap.tensors()[1])
    if n_in != kmap.n_in:
        raise ShapeError(f"n_in={n_in}, but this kernel map has {kmap.n_in} inputs; give that number")
    return kmap.outputs_by_input()


def _check(name: str, values: Tensor, rows: int) -> None:
    if values.dim() != 2 or values.shape[0] != rows:
        raise ShapeError(f"{name} must be ({rows}, c) for this kernel map, got {tuple(values.shape)}")


@operator("pcsparse::sum_pool")
def _sum_pool(feats: Tensor, kernel_map: Sequence[Tensor], n_out: int) -> Tensor:
    try:
        return backend_of(feats).segment_sum(feats, *_by_output(feats, kernel_map, n_out))
    except (RuntimeError, MemoryError) as error:
        raise_with_sizes(error, lambda: f"the sums of {rows_of(feats)} at {n_out} voxels")


@_sum_pool.register_fake
def _sum_pool_fake(feats: Tensor, kernel_map: Sequence[Tensor], n_out: int) -> Tensor:
    return feats.new_empty(n_out, feats.shape[1])


@operator("pcsparse::sum_pool_grad")
def _sum_pool_grad(grad_out: Tensor, kernel_map: Sequence[Tensor], n_in: int) -> Tensor:
    try:
        return backend_of(grad_out).segment_sum(grad_out, *_by_input(grad_out, kernel_map, n_in))
    except (RuntimeError, MemoryError) as error:
        raise_with_sizes(error, lambda: f"the gradient of sums, {rows_of(grad_out)}, at {n_in} voxels")


@_sum_pool_grad.register_fake
def _sum_pool_grad_fake(grad_out: Tensor, kernel_map: Sequence[Tensor], n_in: int) -> Tensor:
    return grad_out.new_empty(n_in, grad_out.shape[1])


_sum_pool_grad.refuse_autograd()


def _sum_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    feats, kernel_map, _ = inputs
    ctx.save_for_backward(*kernel_map)
    ctx.n_in = feats.shape[0]


def _sum_backward(ctx: Any, grad_out: Tensor) -> tuple[Any, ...]:
    kernel_map = list(ctx.saved_tensors)
    return _sum_pool_grad(grad_out, kernel_map, ctx.n_in), [None] * len(kernel_map), None


_sum_pool.register_autograd(_sum_backward, setup_context=_sum_setup)


@operator("pcsparse::max_pool")
def _max_pool(feats: Tensor, kernel_map: Sequence[Tensor], n_out: int) -> tuple[Tensor, Tensor]:
    try:
        return backend_of(feats).segment_max(feats, *_by_output(feats, kernel_map, n_out))
    except (RuntimeError, MemoryError) as error:
        raise_with_sizes(error, lambda: f"the maxima of {rows_of(feats)} at {n_out} voxels")


@_max_pool.register_fake
def _max_pool_fake(feats: Tensor, kernel_map: Sequence[Tensor], n_out: int) -> tuple[Tensor, Tensor]:
    shape = (n_out, feats.shape[1])
    return feats.new_empty(shape), feats.new_empty(shape, dtype=torch.int32)


@operator("pcsparse::max_pool_grad")
def _max_pool_grad(grad_out: Tensor, arg: Tensor, kernel_map: Sequence[Tensor], n_in: int) -> Tensor:
    check_shape("arg", arg, tuple(grad_out.shape))
    check_dtype("arg", arg, torch.int32)
    try:
        groups = _by_input(grad_out, kernel_map, n_in)
        return backend_of(grad_out, arg).segment_max_grad(grad_out, arg.contiguous(), *groups)
    except (RuntimeError, MemoryError) as error:
        raise_with_sizes(error, lambda: f"the gradient of maxima, {rows_of(grad_out)}, at {n_in} voxels")


@_max_pool_grad.register_fake
def _max_pool_grad_fake(grad_out: Tensor, arg: Tensor, kernel_map: Sequence[Tensor], n_in: int) -> Tensor:
    return grad_out.new_empty(n_in, grad_out.shape[1])


_max_pool_grad.refuse_autograd()


def _max_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    feats, kernel_map, _ = inputs
    ctx.save_for_backward(output[1], *kernel_map)
    ctx.n_in = feats.shape[0]
    ctx.mark_non_differentiable(output[1])


def _max_backward(ctx: Any, grad_out: Tensor, _: Tensor | None) -> tuple[Any, ...]:
    arg, *kernel_map = ctx.saved_tensors
    return _max_pool_grad(grad_out, arg, kernel_map, ctx.n_in), [None] * len(kernel_map), None


_max_pool.register_autograd(_max_backward, setup_context=_max_setup)


def sum_pool(feats: Tensor, kmap: KernelMap) -> Tensor:
    """out[j] = sum of feats[i] over the pairs (i, j) of `kmap`.

    Args:
        feats: (n_in, c) float.
        kmap: kernel map; the offsets play no role.

    Returns:
        (n_out, c); 0 where an output has no pair.

    Raises:
        ShapeError: `feats` does not have n_in rows.
        DeviceError: `feats` and `kmap` live on different devices.
    """
    _check("feats", feats, kmap.n_in)
    out: Tensor = _sum_pool(feats, kmap.tensors(), kmap.n_out)
    return out


def mean_pool(feats: Tensor, kmap: KernelMap) -> Tensor:
    """out[j] = mean of feats[i] over the pairs (i, j) of `kmap`; inputs that are absent do not count.

    Args:
        feats: (n_in, c) float; 16-bit ones are added and divided in float32, where neither a sum nor a count
            overflows.
        kmap: kernel map; the offsets play no role.

    Returns:
        (n_out, c), dtype of `feats`; 0 where an output has no pair.

    Raises:
        ShapeError: `feats` does not have n_in rows.
        DeviceError: `feats` and `kmap` live on different devices.
    """
    wide = feats.dtype if feats.dtype == torch.float64 else torch.float32
    try:
        counts = kmap.pairs_per_output().clamp(min=1)
        # features may be on the meta device, where no map lives
        return (sum_pool(feats.to(wide), kmap) / counts.to(feats.device)[:, None]).to(feats.dtype)
    except (RuntimeError, MemoryError) as error:
        raise_with_sizes(error, lambda: f"the means of {rows_of(feats)} at {kmap.n_out} voxels")


def max_pool(feats: Tensor, kmap: KernelMap) -> Tensor:
    """out[j] = channel by channel the largest feats[i] over the pairs (i, j) of `kmap`.

    Args:
        feats: (n_in, c) float.
        kmap: kernel map; the offsets play no role.

    Returns:
        (n_out, c); 0 where an output has no pair. The gradient goes to the first largest one.

    Raises:
        ShapeError: `feats` does not have n_in rows.
        DeviceError: `feats` and `kmap` live on different devices.
    """
    _check("feats", feats, kmap.n_in)
    out: Tensor = _max_pool(feats, kmap.tensors(), kmap.n_out)[0]
    return out
