"""Gather and product on a CPU: both are torch's, in the type that accumulates."""

import torch
from torch import Tensor


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def wide_matmul(a: Tensor, b: Tensor) -> Tensor:
    wide = _accumulator(a.dtype)
    # into given memory: under autocast `@` would narrow both
    out = torch.empty(a.shape[0], b.shape[1], dtype=wide, device=a.device)
    return torch.mm(a.to(wide), b.to(wide), out=out)


def gather_layout(rows_in: Tensor, places: Tensor, n_in: int, n_places: int) -> list[Tensor]:
    # padding gathers row 0; the place behind the last one takes the pairs that have none
    source = torch.zeros(n_places + 1, dtype=torch.int64, device="cpu")
    source[torch.where(places >= 0, places, n_places).long()] = rows_in.long()
    return [source[:n_places]]


def gather_gemm(
    feats: Tensor, weight: Tensor, runs: list[tuple[tuple[int, ...], int]], layout: list[Tensor]
) -> Tensor:
    wide = _accumulator(feats.dtype)
    feats, weight = feats.to(wide), weight.to(wide)
    gathered = feats.index_select(0, layout[0])
    products = gathered.new_empty(gathered.shape[0], weight.shape[2])
    begin = 0
    for offsets, rows in runs:
        end = begin + len(offsets) * rows
        if len(offsets) == 1:
            torch.mm(gathered[begin:end], weight[offsets[0]], out=products[begin:end])
        else:
            shape = (len(offsets), rows, -1)
            batch = products[begin:end].view(shape)
            torch.bmm(gathered[begin:end].view(shape), weight[list(offsets)], out=batch)
        begin = end
    return products
