"""Gradient of the weights from a table: one product of gathered rows an offset, by torch.

The maps of a CPU are lists, and `output_stationary_grad_weight` is what runs there; this one is complete, not
fast.
"""

import torch
from torch import Tensor


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
    left, right = feats.to(wide), grad_out.to(wide)
    grad = left.new_empty(table.shape[0], feats.shape[1], grad_out.shape[1])
    for offset, rows in enumerate(table):
        outputs = torch.nonzero(rows >= 0).squeeze(1)
        torch.mm(left[rows[outputs].long()].T, right[outputs], out=grad[offset])
    return grad.to(dtype or feats.dtype)
