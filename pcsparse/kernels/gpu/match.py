"""The search of a kernel map: z-delta, one search a query and column of offsets, then steps.

A *column* is a run of offsets whose deltas ascend in small steps, as those do that differ in z only. A block
of threads takes neighbouring queries of one column, so that they walk the same keys and write side by side.

Source: Spira (MLSys 2026, arXiv 2511.20834), z-delta search; here a block narrows the keys down first.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from pcsparse.kernels.gpu import cuda_text
from pcsparse.kernels.gpu.constants import on_device
from pcsparse.kernels.gpu.tables import to_pairs
from pcsparse.kernels.jobs import Search
from pcsparse.kernels.key_layout import check_offset_count

_THREADS = 256
# keys that a thread may pass from one offset to the next; further on a search is cheaper
_NEAR = 8
# offsets of one thread: kernels are smaller, but lists of deltas may be long
_LONGEST = 32


@functools.lru_cache(maxsize=256)
def _columns(deltas: tuple[int, ...]) -> tuple[int, ...]:
    """Where the columns of `deltas` begin; and their number."""
    begins: list[int] = []
    for k, delta in enumerate(deltas):
        if not begins or k - begins[-1] == _LONGEST or not 0 < delta - deltas[k - 1] <= _NEAR:
            begins.append(k)
    return (*begins, len(deltas))


def match_table(keys: Tensor, queries: Tensor, deltas: Tensor, mirrored: bool = False) -> Tensor:
    check_offset_count(deltas.numel())
    # nothing comes back from a device, as deltas are made on the host
    listed = tuple(deltas.tolist())
    if mirrored:
        # the second half is searched, too: a table that one thread a place writes need not be cleared before
        listed = (*listed, 0, *[-delta for delta in reversed(listed)])
    return _one(Search(keys, queries, listed))


def match_tables(searches: Sequence[Search]) -> list[Tensor]:
    if len(searches) == 1:
        check_offset_count(len(searches[0].deltas))
        return [_one(searches[0])]
    tables, jobs, blocks = [], [], 0
    # of what is launched only addresses are sent: until then nobody else may get this memory
    alive: list[Tensor] = []
    for search in searches:
        check_offset_count(len(search.deltas))
        table, columns, parts = _room(search)
        tables.append(table)
        if columns is None:
            continue
        # one job may be as large as a grid; it would not fit a card's memory
        blocks += parts * (columns.numel() - 1)
        tensors = (search.keys, search.queries, on_device(search.deltas, table.device), columns)
        alive += tensors
        orders = (search.order_in, search.order_out)
        jobs += [tensor.data_ptr() for tensor in tensors]
        jobs += [0 if order is None else order.data_ptr() for order in orders]
        jobs += [table.data_ptr(), search.keys.numel(), search.queries.numel()]
        jobs += [table.shape[1], parts, *search.stride, blocks]
    if jobs:
        device = searches[0].keys.device
        # the numbers are copied to a place of the driver's own before this returns
        sent = torch.tensor(jobs, dtype=torch.int64, device="cpu").to(device, non_blocking=True)
        cuda_text.launch("match.cu", "match_tables", blocks, _THREADS, sent)
    return tables


def _room(search: Search) -> tuple[Tensor, Tensor | None, int]:
    """An unwritten table, where its columns begin (None: there is nothing to be written), blocks a column."""
    k, table = len(search.deltas), search.out
    if table is None:
        table = torch.empty((k, search.queries.numel()), dtype=torch.int32, device=search.keys.device)
    room = table.shape[1]
    if k == 0 or room == 0:
        return table, None, 0
    return table, on_device(_columns(search.deltas), table.device), -(-room // _THREADS)


def _one(search: Search) -> Tensor:
    table, columns, parts = _room(search)
    if columns is None:
        return table
    keys, queries, deltas = search.keys, search.queries, on_device(search.deltas, table.device)
    # 0 is no address
    orders = [0 if order is None else order for order in (search.order_in, search.order_out)]
    cuda_text.launch(
        "match.cu", "match_table", parts * (columns.numel() - 1), _THREADS, keys, keys.numel(), queries,
        queries.numel(), deltas, columns, table, *orders, table.shape[1], parts, *search.stride,
    )  # fmt: skip
    return table


def match_keys(
    keys: Tensor, queries: Tensor, deltas: Tensor, mirrored: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    return to_pairs(match_table(keys, queries, deltas, mirrored), keys.numel())
