"""Twins of gather and product."""

import torch
from torch import Tensor


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def wide_matmul(a: Tensor, b: Tensor) -> Tensor:
    wide = _accumulator(a.dtype)
    # under autocast both would be narrowed; into given memory there would be no gradients
    with torch.autocast(a.device.type, enabled=False):
        return a.to(wide) @ b.to(wide)


def gather_layout(rows_in: Tensor, places: Tensor, n_in: int, n_places: int) -> list[Tensor]:
    source = torch.zeros(n_places, dtype=torch.int64, device=places.device)
    source[places[places >= 0].long()] = rows_in[places >= 0].long()
    return [source]


def gather_gemm(
    feats: Tensor, weight: Tensor, runs: list[tuple[tuple[int, ...], int]], layout: list[Tensor]
) -> Tensor:
    gathered = feats[layout[0]]
    products, begin = [gathered.new_zeros(0, weight.shape[2], dtype=_accumulator(feats.dtype))], 0
    for offsets, rows in runs:
        for offset in offsets:
            products.append(wide_matmul(gathered[begin : begin + rows], weight[offset]))
            begin += rows
    return torch.cat(products)
