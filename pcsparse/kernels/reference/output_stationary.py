"""Twins of the convolution kernels: gather, multiply, add, one offset after the other."""

from itertools import pairwise

import torch
from torch import Tensor

from pcsparse.kernels.reference.gather import wide_matmul


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def output_stationary(
    feats: Tensor,
    weight: Tensor,
    rows_in: Tensor,
    rows_out: Tensor,
    starts: Tensor,
    n_out: int,
    tile: int,
    panel: int = 0,
    *,
    spans: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
    mask: Tensor | None = None,
    through: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    wide = _accumulator(feats.dtype)
    out = torch.zeros(n_out, weight.shape[2], dtype=wide, device=feats.device)
    for k, (start, stop) in enumerate(pairwise(starts.tolist())):
        products = wide_matmul(feats[rows_in[start:stop].long()], weight[k])
        out.index_add_(0, rows_out[start:stop].long(), products)
    if bias is not None:
        out += bias.to(wide)
    if mask is not None and through is not None:
        passed = through.to(wide) * (1 if scale is None else scale) + (0 if shift is None else shift)
        out = torch.where(mask[:, None], out, passed)
    if residual is not None:
        out += residual.to(wide)
    return (out.clamp(min=0) if relu else out).to(feats.dtype)


def output_stationary_grad_weight(
    feats: Tensor,
    grad_out: Tensor,
    rows_in: Tensor,
    rows_out: Tensor,
    starts: Tensor,
    tile: int,
    panel: int = 0,
    partials: int = 0,
    *,
    spans: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    wide = _accumulator(feats.dtype)
    grad = torch.zeros(starts.numel() - 1, feats.shape[1], grad_out.shape[1], dtype=wide, device=feats.device)
    for k, (start, stop) in enumerate(pairwise(starts.tolist())):
        gathered = feats[rows_in[start:stop].long()]
        grad[k] = wide_matmul(gathered.T, grad_out[rows_out[start:stop].long()])
    return grad.to(dtype or feats.dtype)
