"""Twins of the row kernels."""

from itertools import pairwise

import torch
from torch import Tensor


def group_rows(rows: Tensor, n: int) -> tuple[Tensor, Tensor]:
    order = torch.argsort(rows, stable=True).int()
    starts = rows.new_zeros(n + 1, dtype=torch.int64)
    starts[1:] = torch.bincount(rows, minlength=n).cumsum(0)
    return order, starts


def pairs_to_table(rows_in: Tensor, rows_out: Tensor, starts: Tensor, n_out: int) -> Tensor:
    bounds = starts.tolist()
    table = rows_in.new_full((len(bounds) - 1, n_out), -1)
    for k, (start, stop) in enumerate(pairwise(bounds)):
        table[k, rows_out[start:stop].long()] = rows_in[start:stop]
    return table


def renumber_pairs(
    rows_in: Tensor,
    rows_out: Tensor,
    starts: Tensor,
    order_in: Tensor | None,
    order_out: Tensor | None,
    n_out: int,
) -> tuple[Tensor, Tensor]:
    rows_in = rows_in if order_in is None else order_in[rows_in.long()]
    rows_out = rows_out if order_out is None else order_out[rows_out.long()]
    nothing = torch.zeros(0, dtype=torch.int64, device=rows_in.device)
    parts = [
        start + torch.argsort(rows_out[start:stop], stable=True) for start, stop in pairwise(starts.tolist())
    ]
    order = torch.cat([nothing, *parts])
    return rows_in[order], rows_out[order]


def keep_outputs(
    rows_in: Tensor, rows_out: Tensor, starts: Tensor, mask: Tensor, whole: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    kept = mask[rows_out.long()]
    if whole is not None:
        kept[starts[whole] : starts[whole + 1]] = True
    before = torch.cat([starts.new_zeros(1), kept.cumsum(0)])
    return rows_in[kept], rows_out[kept], before[starts]


def tile_spans(rows_out: Tensor, starts: Tensor, n_out: int, tile: int) -> Tensor:
    edges = torch.arange(-(-n_out // tile) + 1, dtype=torch.int32, device=rows_out.device) * tile
    spans = [
        start + torch.searchsorted(rows_out[start:stop].contiguous(), edges)
        for start, stop in pairwise(starts.tolist())
    ]
    return torch.stack(spans, dim=1) if spans else starts.new_zeros(edges.numel(), 0)


def row_masks(table: Tensor, splits: int) -> Tensor:
    chunk = -(-table.shape[0] // splits)
    masks = torch.zeros(splits, table.shape[1], dtype=torch.int64, device=table.device)
    for k in range(table.shape[0]):
        masks[k // chunk] |= (table[k] >= 0).long() << (k % chunk)
    return masks


def gray_rank(masks: Tensor) -> Tensor:
    rank, shifted = masks.clone(), masks >> 1
    while bool(shifted.any()):
        rank ^= shifted
        shifted = shifted >> 1
    return rank
