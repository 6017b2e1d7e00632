"""Implicit GEMM on a CPU: plain torch, so that the contract holds there; no dataflow runs it.

The CPU has a faster dataflow, `output_stationary`.
"""

import torch
from torch import Tensor

from pcsparse.kernels.cpu.gather import wide_matmul


def gemm_layout(table: Tensor, splits: int, tile: int) -> list[Tensor]:
    return [table]


def implicit_gemm(
    feats: Tensor,
    weight: Tensor,
    layout: list[Tensor],
    n_out: int,
    tile_out: int,
    tile_in: int,
    warps: int,
    stages: int,
    parts: int,
    precision: str,
    mirrored: bool = False,
    *,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
    mask: Tensor | None = None,
    through: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    wide = torch.float64 if feats.dtype == torch.float64 else torch.float32
    out = torch.zeros(n_out, weight.shape[2], dtype=wide, device=feats.device)
    table = layout[0]
    for k in range(len(table)):
        rows = torch.nonzero(table[k] >= 0).squeeze(1)
        offset = len(table) - 1 - k if mirrored else k
        gathered = feats.index_select(0, table[k].index_select(0, rows))
        # an output row occurs once in `rows`
        out.index_add_(0, rows, wide_matmul(gathered, weight[offset]))
    if bias is not None:
        out += bias.to(wide)
    if mask is not None and through is not None:
        passed = through.to(wide) * (1 if scale is None else scale) + (0 if shift is None else shift)
        out = torch.where(mask[:, None], out, passed)
    if residual is not None:
        out += residual.to(wide)
    return (out.clamp(min=0) if relu else out).to(feats.dtype)
