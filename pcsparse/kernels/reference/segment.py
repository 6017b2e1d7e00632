"""Twins of the kernels over ragged rows."""

from itertools import pairwise

import torch
from torch import Tensor


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def segment_sum(values: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    out = values.new_zeros(starts.numel() - 1, values.shape[1])
    wide = values.to(_accumulator(values.dtype))
    for row, (start, stop) in enumerate(pairwise(starts.tolist())):
        out[row] = wide[order[start:stop].long()].sum(dim=0).to(values.dtype)
    return out


def segment_weighted_sum(values: Tensor, order: Tensor, weights: Tensor, starts: Tensor) -> Tensor:
    wide = values.to(_accumulator(values.dtype))
    terms = wide[order.long()] * weights.to(wide.dtype)[:, None]
    each = torch.arange(order.numel(), dtype=torch.int32, device=order.device)
    return segment_sum(terms, each, starts).to(values.dtype)


def segment_max(values: Tensor, order: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    shape = (starts.numel() - 1, values.shape[1])
    out, arg = values.new_zeros(shape), torch.full(shape, -1, dtype=torch.int32, device=values.device)
    for row, (start, stop) in enumerate(pairwise(starts.tolist())):
        if stop > start:
            members = order[start:stop].long()
            out[row] = values[members].amax(dim=0)
            # the first that is equal, or the first NaN
            equal = (values[members] == out[row]) | values[members].isnan()
            arg[row] = members[equal.int().argmax(dim=0)].int()
    return out, arg


def segment_max_grad(grad_out: Tensor, arg: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    grad = grad_out.new_zeros(starts.numel() - 1, grad_out.shape[1])
    wide = grad_out.to(_accumulator(grad_out.dtype))
    for row, (start, stop) in enumerate(pairwise(starts.tolist())):
        members = order[start:stop].long()
        grad[row] = torch.where(arg[members] == row, wide[members], 0).sum(dim=0).to(grad.dtype)
    return grad
