"""Twins of the kernels of maps as tables."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pcsparse.kernels.jobs import LevelStep, Search
from pcsparse.kernels.key_layout import check_offset_count, key_holds
from pcsparse.kernels.reference.keys import pack_rows, scale_keys, unpack_keys
from pcsparse.kernels.reference.levels import partition_keys, reached_cells
from pcsparse.kernels.reference.rows import pairs_to_table
from pcsparse.types import Bounds, Triple


def match_table(keys: Tensor, queries: Tensor, deltas: Tensor, mirrored: bool = False) -> Tensor:
    check_offset_count(deltas.numel())
    table = torch.full((len(deltas), len(queries)), -1, dtype=torch.int32, device=keys.device)
    for k, delta in enumerate(deltas.tolist()):
        wanted = queries + delta
        found = torch.searchsorted(keys, wanted)
        hit = torch.zeros_like(found, dtype=torch.bool)
        inside = found < len(keys)
        hit[inside] = keys[found[inside]] == wanted[inside]
        table[k, hit] = found[hit].int()
    if mirrored:
        same = torch.arange(len(keys), dtype=torch.int32, device=keys.device)
        return torch.cat([table, same[None], transpose_table(table, len(keys)).flip(0)])
    return table


def match_tables(searches: Sequence[Search]) -> list[Tensor]:
    tables = []
    for search in searches:
        queries = scale_keys(search.queries, search.stride)
        table = match_table(
            search.keys, queries, torch.tensor(search.deltas, dtype=torch.int64, device="cpu")
        )
        table = renumber_table(table, search.order_in, search.order_out)
        if search.out is not None:
            search.out.fill_(-1)
            search.out[:, : table.shape[1]] = table
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
    return coarse, pairs_to_table(rows_in, rows_out, starts, len(coarse))


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
        low, high = (coords.new_tensor(end) for end in step.bounds)
        inside = ((coords >= low) & (coords <= high)).all(dim=1)
        keys = keys[inside]
        levels.append((keys, coords[inside]))
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
    named = table.clone()
    if order_in is not None:
        there = table >= 0
        named[there] = order_in[table[there].long()]
    if order_out is None:
        return named
    out = torch.empty_like(named)
    out[:, order_out.long()] = named
    return out


def transpose_table(table: Tensor, n_in: int) -> Tensor:
    out = table.new_full((len(table), n_in), -1)
    offset, output = torch.nonzero(table >= 0).unbind(dim=1)
    out[offset, table[offset, output].long()] = output.int()
    return out


def table_to_pairs(table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    offset, output = torch.nonzero(table >= 0).unbind(dim=1)
    starts = torch.cat([offset.new_zeros(1), torch.bincount(offset, minlength=len(table)).cumsum(0)])
    return table[offset, output], output.int(), starts


def mask_table_outputs(table: Tensor, mask: Tensor, whole: int | None = None) -> Tensor:
    masked = table.masked_fill(~mask, -1)
    if whole is not None:
        masked[whole] = table[whole]
    return masked
