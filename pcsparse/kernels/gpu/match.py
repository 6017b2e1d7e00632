"""The search of a kernel map: z-delta, one search a query and column of offsets, then steps.

A *column* is a run of offsets whose deltas ascend in small steps, as those do that differ in z only. A block
of threads takes neighbouring queries of one column, so that they walk the same keys and write side by side.

Source: Spira (MLSys 2026, arXiv 2511.20834), z-delta search; here a block narrows the keys down first.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pcsparse.kernels.gpu import cuda_text
from pcsparse.kernels.gpu.constants import Kept, made
from pcsparse.kernels.gpu.keys import FACTS, NOTHING, facts_of, start_packing
from pcsparse.kernels.gpu.tables import to_pairs
from pcsparse.kernels.jobs import Search
from pcsparse.kernels.key_layout import check_offset_count
from pcsparse.kernels.map_ways import columns_of
from pcsparse.types import Triple

_THREADS = 256


def _made(deltas: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    return made(deltas, device), made(columns_of(deltas), device)


_OFFSETS = Kept(_made)


def offsets_of(deltas: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """The deltas and where their columns begin, (k,) and (columns + 1,) int64 on a device."""
    return _OFFSETS(deltas, device)


def match_table(keys: Tensor, queries: Tensor, deltas: Tensor, mirrored: bool = False) -> Tensor:
    check_offset_count(deltas.numel())
    # nothing comes back from a device, as deltas are made on the host
    listed = tuple(deltas.tolist())
    if mirrored:
        # the second half is searched, too: a table that one thread a place writes need not be cleared before
        listed = (*listed, 0, *[-delta for delta in reversed(listed)])
    return _one(Search(keys, queries, listed))


def searched(searches: Sequence[Search]) -> list[Tensor]:
    """The tables of searches by z-delta, see `Backend.match_tables`."""
    if len(searches) == 1:
        return [_one(searches[0])]
    tables, jobs, blocks = [], [], 0
    # of what is launched only addresses are sent: until then nobody else may get this memory
    alive: list[Tensor] = []
    for search in searches:
        table = table_of(search)
        tables.append(table)
        if table.numel() == 0:
            continue
        deltas, columns = offsets_of(search.deltas, table.device)
        parts = -(-table.shape[1] // _THREADS)
        # one job may be as large as a grid; it would not fit a card's memory
        blocks += parts * (columns.numel() - 1)
        tensors = (search.keys, search.queries, deltas, columns)
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


def table_of(search: Search) -> Tensor:
    """An unwritten table (k, room) int32."""
    if search.out is not None:
        return search.out
    shape = (len(search.deltas), search.queries.numel())
    return torch.empty(shape, dtype=torch.int32, device=search.keys.device)


def _one(search: Search) -> Tensor:
    table, (order_in, order_out) = table_of(search), (search.order_in, search.order_out)
    # 0 is no address
    orders = (0 if order_in is None else order_in, 0 if order_out is None else order_out)
    _launch(search.keys, search.queries, search.deltas, table, orders, search.stride)
    return table


def _launch(
    keys: Tensor,
    queries: Tensor,
    deltas: tuple[int, ...],
    table: Tensor,
    orders: tuple[Tensor | int, Tensor | int] = (0, 0),
    stride: Triple = (1, 1, 1),
    told: Tensor | int = 0,
) -> None:
    """The kernel `match_table` of match.cu, which see."""
    if table.numel() == 0:
        return
    room, (steps, columns) = table.shape[1], offsets_of(deltas, table.device)
    parts = -(-room // _THREADS)
    cuda_text.launch(
        "match.cu", "match_table", parts * (columns.numel() - 1), _THREADS, keys, keys.numel(), queries,
        queries.numel(), steps, columns, table, *orders, room, parts, *stride, told,
    )  # fmt: skip


def pack_and_match(
    coords: Tensor, deltas: tuple[int, ...]
) -> tuple[Tensor, tuple[int, ...], tuple[int, ...], Tensor | None]:
    check_offset_count(len(deltas))
    n, device = coords.shape[0], coords.device
    # all memory before the first launch: a lack of it must not leave a letter behind
    keys = torch.empty(n, dtype=torch.int64, device=device)
    table = torch.empty((len(deltas), n), dtype=torch.int32, device=device)
    if n == 0:
        return keys, NOTHING, NOTHING, table
    told = torch.empty(FACTS, dtype=torch.int64, device=device)
    box, _ = start_packing(coords, keys, told)
    # before the host knows whether rows ascend: the kernel finds that out by itself
    _launch(keys, keys, deltas, table, told=told)
    low, high, ascending = facts_of(box.read(FACTS))
    return keys, low, high, table if ascending else None


def match_keys(
    keys: Tensor, queries: Tensor, deltas: Tensor, mirrored: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    return to_pairs(match_table(keys, queries, deltas, mirrored), keys.numel())
