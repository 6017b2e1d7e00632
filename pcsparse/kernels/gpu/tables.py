"""Kernel maps as tables: other names, the way back, and lists."""

import torch
from torch import Tensor

from pcsparse.kernels import key_layout
from pcsparse.kernels.gpu import cuda_text

_THREADS = 256
# entries of the table that a block reads: ROWS there
_CHUNK = 4 * _THREADS


def renumber_table(table: Tensor, order_in: Tensor | None, order_out: Tensor | None) -> Tensor:
    size, out = table.numel(), torch.empty_like(table)
    # 0 is no address
    orders = [0 if order is None else order for order in (order_in, order_out)]
    blocks = -(-size // _THREADS)
    cuda_text.launch(
        "tables.cu", "renumber_table", blocks, _THREADS, table, *orders, out, table.shape[1], size
    )
    return out


def transpose_table(table: Tensor, n_in: int) -> Tensor:
    size = table.numel()
    out = torch.full((table.shape[0], n_in), -1, dtype=torch.int32, device=table.device)
    blocks = -(-size // _THREADS)
    cuda_text.launch("tables.cu", "transpose_table", blocks, _THREADS, table, out, table.shape[1], n_in, size)
    return out


def mask_table_outputs(table: Tensor, mask: Tensor, whole: int | None = None) -> Tensor:
    masked = torch.where(mask, table, -1)
    if whole is not None:
        masked[whole] = table[whole]
    return masked


def table_to_pairs(table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return to_pairs(table, None)


def to_pairs(table: Tensor, n_in: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """`table_to_pairs`; waits for the number of pairs.

    Args:
        table: (k, n_out) int32.
        n_in: input rows, for the text of a refusal; found there if None.

    Raises:
        RangeError: more pairs than `key_layout.MOST_PAIRS`.
    """
    (k, n_out), size = table.shape, table.numel()
    blocks = -(-size // _CHUNK)
    counts = torch.empty(blocks, dtype=torch.int64, device=table.device)
    cuda_text.launch("tables.cu", "count_pairs", blocks, _THREADS, table, counts, size)
    ends = counts.cumsum(0)
    n_pairs = int(ends[-1]) if blocks else 0
    if n_pairs > key_layout.MOST_PAIRS:
        n_in = int(table.max()) + 1 if n_in is None else n_in
        key_layout.check_pair_count(n_pairs, n_in, n_out, k)
    # every start is written where there are outputs
    starts = (torch.empty if size else torch.zeros)(k + 1, dtype=torch.int64, device=table.device)
    rows_in, rows_out = (torch.empty(n_pairs, dtype=torch.int32, device=table.device) for _ in range(2))
    lists = rows_in, rows_out, starts
    cuda_text.launch("tables.cu", "list_pairs", blocks, _THREADS, table, ends, *lists, n_out, size)
    return lists
