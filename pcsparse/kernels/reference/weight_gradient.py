"""Twins of the gradient of the weights from a table."""

import torch
from torch import Tensor

from pcsparse.kernels.reference.gather import wide_matmul


def grad_weight_layout(table: Tensor) -> list[Tensor]:
    return []


def implicit_gemm_grad_weight(
    feats: Tensor,
    grad_out: Tensor,
    table: Tensor,
    layout: list[Tensor] | None,
    *,
    tile_in: int = 0,
    tile_out: int = 0,
    tile_rows: int = 0,
    partials: int = 0,
    precision: str = "ieee",
    dtype: torch.dtype | None = None,
) -> Tensor:
    wide = torch.float64 if feats.dtype == torch.float64 else torch.float32
    k, c_in, c_out = table.shape[0], feats.shape[1], grad_out.shape[1]
    grad = torch.zeros(k, c_in, c_out, dtype=wide, device=feats.device)
    for offset in range(k):
        found = table[offset] >= 0
        gathered = feats[table[offset][found].long()]
        grad[offset] = wide_matmul(gathered.T, grad_out[found])
    return grad.to(dtype or feats.dtype)
