"""Sums and maxima over ragged rows; a thread owns an output row, so the order of addition is fixed."""

import numpy as np
import torch
from numba import prange
from torch import Tensor

from pcsparse.kernels.cpu.launch import jit_parallel


def _widened(values: Tensor) -> Tensor:
    half = values.dtype in (torch.float16, torch.bfloat16)
    return (values.float() if half else values).detach().contiguous()


@jit_parallel()
def _segment_sum(values, order, starts, out):
    for row in prange(out.shape[0]):
        out[row, :] = 0
        for i in range(starts[row], starts[row + 1]):
            source = order[i]
            for c in range(out.shape[1]):
                out[row, c] += values[source, c]


def segment_sum(values: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    wide = _widened(values)
    out = torch.empty(starts.numel() - 1, values.shape[1], dtype=wide.dtype, device="cpu")
    _segment_sum(wide.numpy(), order.numpy(), starts.numpy(), out.numpy())
    return out.to(values.dtype)


@jit_parallel()
def _segment_weighted_sum(values, order, weights, starts, out):
    for row in prange(out.shape[0]):
        out[row, :] = 0
        for i in range(starts[row], starts[row + 1]):
            source, weight = order[i], weights[i]
            for c in range(out.shape[1]):
                out[row, c] += weight * values[source, c]


def segment_weighted_sum(values: Tensor, order: Tensor, weights: Tensor, starts: Tensor) -> Tensor:
    wide = _widened(values)
    out = torch.empty(starts.numel() - 1, values.shape[1], dtype=wide.dtype, device="cpu")
    scales = weights.detach().to(wide.dtype).contiguous()
    _segment_weighted_sum(wide.numpy(), order.numpy(), scales.numpy(), starts.numpy(), out.numpy())
    return out.to(values.dtype)


@jit_parallel()
def _segment_max(values, order, starts, out, arg):
    for row in prange(out.shape[0]):
        out[row, :] = 0
        arg[row, :] = -1
        for i in range(starts[row], starts[row + 1]):
            source = order[i]
            for c in range(out.shape[1]):
                value = values[source, c]
                best = out[row, c]
                if arg[row, c] < 0 or value > best or (np.isnan(value) and not np.isnan(best)):
                    out[row, c] = value
                    arg[row, c] = source


def segment_max(values: Tensor, order: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    wide = _widened(values)
    out = torch.empty(starts.numel() - 1, values.shape[1], dtype=wide.dtype, device="cpu")
    arg = torch.empty(out.shape, dtype=torch.int32, device="cpu")
    _segment_max(wide.numpy(), order.numpy(), starts.numpy(), out.numpy(), arg.numpy())
    return out.to(values.dtype), arg


@jit_parallel()
def _segment_max_grad(grad_out, arg, order, starts, grad):
    for row in prange(grad.shape[0]):
        grad[row, :] = 0
        for i in range(starts[row], starts[row + 1]):
            segment = order[i]
            for c in range(grad.shape[1]):
                if arg[segment, c] == row:
                    grad[row, c] += grad_out[segment, c]


def segment_max_grad(grad_out: Tensor, arg: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    wide = _widened(grad_out)
    grad = torch.empty(starts.numel() - 1, grad_out.shape[1], dtype=wide.dtype, device="cpu")
    _segment_max_grad(wide.numpy(), arg.numpy(), order.numpy(), starts.numpy(), grad.numpy())
    return grad.to(grad_out.dtype)
