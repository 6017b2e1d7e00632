"""Convolution over pair lists, an offset after the other, with torch's matrix products.

For maps that are lists; what is made for speed reads tables, `implicit_gemm`.
"""

from itertools import pairwise

import torch
from torch import Tensor

from pcsparse.kernels.gpu.gather import wide_matmul
from pcsparse.kernels.gpu.row_tiles import wide


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
    kind = wide(feats.dtype)
    out = torch.zeros(n_out, weight.shape[2], dtype=kind, device=feats.device)
    for k, (start, stop) in enumerate(pairwise(starts.tolist())):
        if stop > start:
            rows = rows_out[start:stop].long()
            products = wide_matmul(feats.index_select(0, rows_in[start:stop]), weight[k])
            # unique within an offset: no row is written twice
            out[rows] = out.index_select(0, rows) + products
    if bias is not None:
        out += bias.to(kind)
    if mask is not None and through is not None:
        passed = through.to(kind) * (1 if scale is None else scale) + (0 if shift is None else shift)
        out = torch.where(mask[:, None], out, passed)
    if residual is not None:
        out += residual.to(kind)
    return (out.clamp_(min=0) if relu else out).to(feats.dtype)


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
    kind = wide(feats.dtype)
    shape = (starts.numel() - 1, feats.shape[1], grad_out.shape[1])
    grad = torch.zeros(shape, dtype=kind, device=feats.device)
    for k, (start, stop) in enumerate(pairwise(starts.tolist())):
        if stop > start:
            gathered = feats.index_select(0, rows_in[start:stop])
            grad[k] = wide_matmul(gathered.T, grad_out.index_select(0, rows_out[start:stop]))
    return grad.to(dtype or feats.dtype)
