"""Regrouping of row numbers: sorts are torch's, everything else is a thread an entry."""

import torch
from torch import Tensor

from pcsparse.kernels.gpu import cuda_text

_THREADS = 256


def _launch(name: str, entries: int, *args: Tensor | int) -> None:
    cuda_text.launch("rows.cu", name, -(-entries // _THREADS), _THREADS, *args)


def _lists(starts: Tensor, n_pairs: int) -> Tensor:
    """(n_pairs,) int64: the list of each pair."""
    return torch.searchsorted(starts[1:], torch.arange(n_pairs, device=starts.device), right=True)


def group_rows(rows: Tensor, n: int) -> tuple[Tensor, Tensor]:
    # a radix sort of 32 bits takes half the passes
    ascending, order = torch.sort(rows.int(), stable=True)
    numbers = torch.arange(n + 1, dtype=torch.int32, device=rows.device)
    return order.int(), torch.searchsorted(ascending, numbers)


def pairs_to_table(rows_in: Tensor, rows_out: Tensor, starts: Tensor, n_out: int) -> Tensor:
    k, n_pairs = starts.numel() - 1, rows_in.numel()
    table = torch.full((k, n_out), -1, dtype=torch.int32, device=rows_in.device)
    _launch("pairs_to_table", n_pairs, rows_in, rows_out, starts, table, n_pairs, k, n_out)
    return table


def renumber_pairs(
    rows_in: Tensor,
    rows_out: Tensor,
    starts: Tensor,
    order_in: Tensor | None,
    order_out: Tensor | None,
    n_out: int,
) -> tuple[Tensor, Tensor]:
    if order_in is not None:
        rows_in = order_in.index_select(0, rows_in)
    if order_out is not None:
        rows_out = order_out.index_select(0, rows_out)
    keys = _lists(starts, rows_out.numel()) * n_out + rows_out
    if (starts.numel() - 1) * n_out < 1 << 31:
        keys = keys.int()
    order = torch.sort(keys, stable=True).indices
    return rows_in.index_select(0, order), rows_out.index_select(0, order)


def keep_outputs(
    rows_in: Tensor, rows_out: Tensor, starts: Tensor, mask: Tensor, whole: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    kept = mask.index_select(0, rows_out)
    if whole is not None:
        # not a slice: where it begins is known to the device alone
        place = torch.arange(kept.numel(), device=kept.device)
        kept |= (place >= starts[whole]) & (place < starts[whole + 1])
    # the one place that waits for the device: how many are kept
    place = torch.nonzero(kept).squeeze(1)
    before = torch.zeros(kept.numel() + 1, dtype=torch.int64, device=kept.device)
    torch.cumsum(kept, 0, out=before[1:])
    return (
        rows_in.index_select(0, place),
        rows_out.index_select(0, place),
        before.index_select(0, starts),
    )


def tile_spans(rows_out: Tensor, starts: Tensor, n_out: int, tile: int) -> Tensor:
    edges, k = -(-n_out // tile) + 1, starts.numel() - 1
    spans = torch.empty(edges, k, dtype=torch.int64, device=starts.device)
    _launch("tile_spans", edges * k, rows_out, starts, spans, edges, k, tile)
    return spans


def row_masks(table: Tensor, splits: int) -> Tensor:
    k, n_out = table.shape
    masks = torch.empty(splits, n_out, dtype=torch.int64, device=table.device)
    _launch("row_masks", splits * n_out, table, masks, k, n_out, splits, -(-k // splits))
    return masks


def gray_rank(masks: Tensor) -> Tensor:
    ranks = torch.empty_like(masks)
    _launch("gray_rank", masks.numel(), masks, ranks, masks.numel())
    return ranks
