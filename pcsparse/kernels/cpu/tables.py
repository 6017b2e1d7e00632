"""Maps as tables, by way of lists: a CPU makes and reads lists. Contract: `kernels.protocol.Backend`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pcsparse.kernels.cpu.keys import pack_rows, scale_keys, unpack_keys
from pcsparse.kernels.cpu.levels import partition_keys, reached_cells
from pcsparse.kernels.cpu.match import match_keys
from pcsparse.kernels.cpu.rows import pairs_to_table
from pcsparse.kernels.jobs import LevelStep, Search
from pcsparse.kernels.key_layout import key_holds
from pcsparse.types import Bounds, Triple


def match_table(keys: Tensor, queries: Tensor, deltas: Tensor, mirrored: bool = False) -> Tensor:
    return pairs_to_table(*match_keys(keys, queries, deltas, mirrored), queries.numel())


def match_tables(searches: Sequence[Search]) -> list[Tensor]:
    tables = []
    for search in searches:
        half = len(search.deltas) // 2 if search.symmetric else len(search.deltas)
        deltas = torch.tensor(search.deltas[:half], dtype=torch.int64, device="cpu")
        queries = search.queries if search.stride == (1, 1, 1) else scale_keys(search.queries, search.stride)
        table = match_table(search.keys, queries, deltas, search.symmetric)
        if search.order_in is not None or search.order_out is not None:
            table = renumber_table(table, search.order_in, search.order_out)
        if search.out is not None:
            search.out[:, : table.shape[1]] = table
            search.out[:, table.shape[1] :] = -1
        tables.append(table if search.out is None else search.out)
    return tables


def pack_and_match(
    coords: Tensor, deltas: tuple[int, ...]
) -> tuple[Tensor, tuple[int, ...], tuple[int, ...], Tensor | None]:
    keys, low, high, ascending = pack_rows(coords)
    steps = torch.tensor(deltas, dtype=torch.int64, device="cpu")
    return keys, low, high, match_table(keys, keys, steps) if ascending else None


def partition_table(
    keys: Tensor, stride: Triple, first: Triple, bounds: Bounds | None = None
) -> tuple[Tensor, Tensor]:
    coarse, rows_in, rows_out, starts = partition_keys(keys, stride, first)
    return coarse, pairs_to_table(rows_in, rows_out, starts, coarse.numel())


def reached_level(
    keys: Tensor,
    size: Triple,
    stride: Triple,
    dilation: Triple,
    first: Triple,
    expand: bool = False,
    bounds: Bounds | None = None,
) -> Tensor:
    return reached_cells(keys, size, stride, dilation, first, expand)[0]


def reached_levels(keys: Tensor, steps: Sequence[LevelStep]) -> list[tuple[Tensor, Tensor]]:
    levels = []
    for step in steps:
        keys = reached_level(keys, step.size, step.stride, step.dilation, step.first)
        coords = unpack_keys(keys)
        low, high = (torch.tensor(end, device="cpu") for end in step.bounds)
        inside = ((coords >= low) & (coords <= high)).all(dim=1)
        if not bool(inside.all()):
            keys, coords = keys[inside], coords[inside]
        levels.append((keys, coords))
    return levels


def pack_and_reach(
    coords: Tensor, steps: Sequence[LevelStep], deltas: tuple[int, ...] | None = None
) -> tuple[Tensor, tuple[int, ...], tuple[int, ...], list[tuple[Tensor, Tensor]] | None, Tensor | None]:
    keys, low, high, ascending = pack_rows(coords)
    if not ascending or not key_holds(low, high):
        return keys, low, high, None, None
    levels, table = reached_levels(keys, steps), None
    if deltas is not None and levels:
        table = match_tables([Search(keys, levels[0][0], deltas, steps[0].stride)])[0]
    return keys, low, high, levels, table


def renumber_table(table: Tensor, order_in: Tensor | None, order_out: Tensor | None) -> Tensor:
    if order_in is not None:
        # one more name, for what is not there: index -1 is the last
        named = torch.cat([order_in, order_in.new_full((1,), -1)])[table.long()]
    else:
        named = table.clone()
    return named if order_out is None else torch.empty_like(named).index_copy_(1, order_out.long(), named)


def transpose_table(table: Tensor, n_in: int) -> Tensor:
    # a column more takes what is not there
    out = table.new_full((table.shape[0], n_in + 1), -1)
    places = torch.where(table < 0, n_in, table).long()
    out.scatter_(1, places, torch.arange(table.shape[1], dtype=torch.int32, device="cpu").expand_as(table))
    return out[:, :n_in].contiguous()


def table_to_pairs(table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    there = table >= 0
    starts = torch.nn.functional.pad(there.sum(dim=1).cumsum(0), (1, 0))
    return table[there], torch.nonzero(there)[:, 1].int(), starts


def mask_table_outputs(table: Tensor, mask: Tensor, whole: int | None = None) -> Tensor:
    masked = table.masked_fill(~mask, -1)
    if whole is not None:
        masked[whole] = table[whole]
    return masked
