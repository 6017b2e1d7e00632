"""Regrouping of row numbers: counting sort, tables, bit masks."""

import numpy as np
import torch
from numba import prange
from torch import Tensor

from pcsparse.kernels.cpu.bits import lowest_one
from pcsparse.kernels.cpu.launch import jit_parallel, jit_serial
from pcsparse.kernels.cpu.microkernel import next_item


@jit_serial
def _group_rows(rows, order, starts):
    for i in range(rows.size):
        starts[rows[i] + 1] += 1
    for row in range(1, starts.size):
        starts[row] += starts[row - 1]
    place = starts[:-1].copy()
    for i in range(rows.size):
        order[place[rows[i]]] = i
        place[rows[i]] += 1


def group_rows(rows: Tensor, n: int) -> tuple[Tensor, Tensor]:
    order, starts = np.empty(rows.numel(), np.int32), np.zeros(n + 1, np.int64)
    _group_rows(rows.numpy(), order, starts)
    return torch.from_numpy(order), torch.from_numpy(starts)


@jit_parallel()
def _pairs_to_table(rows_in, rows_out, starts, table):
    for k in prange(table.shape[0]):
        table[k, :] = -1
        for p in range(starts[k], starts[k + 1]):
            table[k, rows_out[p]] = rows_in[p]


def pairs_to_table(rows_in: Tensor, rows_out: Tensor, starts: Tensor, n_out: int) -> Tensor:
    table = np.empty((starts.numel() - 1, n_out), np.int32)
    _pairs_to_table(rows_in.numpy(), rows_out.numpy(), starts.numpy(), table)
    return torch.from_numpy(table)


@jit_parallel()
def _renumber(rows_in, rows_out, starts, order_in, order_out, taken, values, bits, heads, new_in, new_out):
    for worker in prange(values.shape[0]):
        # a thread takes the next list when it is done with one, and keeps its column in its cache
        while True:
            k = next_item(taken.ctypes.data)
            if k >= starts.size - 1:
                break
            for p in range(starts[k], starts[k + 1]):
                j = order_out[rows_out[p]] if order_out.size else rows_out[p]
                values[worker, j] = order_in[rows_in[p]] if order_in.size else rows_in[p]
                bits[worker, j >> 6] |= np.int64(1) << (j & 63)
            place = starts[k]
            for word in range(bits.shape[1]):
                left = bits[worker, word]
                bits[worker, word] = 0
                while left != 0:
                    j = (word << 6) + lowest_one(left)
                    left &= left - 1
                    new_in[place], new_out[place] = values[worker, j], j
                    place += 1
            if place == starts[k + 1]:
                continue
            # an output occurs twice, as in a map of groups: count instead of setting bits
            for j in range(values.shape[1] + 1):
                heads[worker, j] = 0
            for p in range(starts[k], starts[k + 1]):
                heads[worker, (order_out[rows_out[p]] if order_out.size else rows_out[p]) + 1] += 1
            for j in range(values.shape[1]):
                heads[worker, j + 1] += heads[worker, j]
            for p in range(starts[k], starts[k + 1]):
                j = order_out[rows_out[p]] if order_out.size else rows_out[p]
                place = starts[k] + heads[worker, j]
                heads[worker, j] += 1
                new_in[place], new_out[place] = order_in[rows_in[p]] if order_in.size else rows_in[p], j


def renumber_pairs(
    rows_in: Tensor,
    rows_out: Tensor,
    starts: Tensor,
    order_in: Tensor | None,
    order_out: Tensor | None,
    n_out: int,
) -> tuple[Tensor, Tensor]:
    # no result depends on their number
    workers = max(1, min(torch.get_num_threads(), starts.numel() - 1))
    # numba has one type for an array and none: an empty one stands for "as it is"
    orders = [np.empty(0, np.int32) if order is None else order.numpy() for order in (order_in, order_out)]
    values, bits = np.empty((workers, n_out), np.int32), np.zeros((workers, -(-n_out // 64)), np.int64)
    # torch, as most often none of it is touched
    heads = torch.empty(workers, n_out + 1, dtype=torch.int64, device="cpu").numpy()
    new_in, new_out = np.empty(rows_in.numel(), np.int32), np.empty(rows_in.numel(), np.int32)
    lists, taken = (rows_in.numpy(), rows_out.numpy(), starts.numpy()), np.zeros(1, np.int64)
    _renumber(*lists, *orders, taken, values, bits, heads, new_in, new_out)
    return torch.from_numpy(new_in), torch.from_numpy(new_out)


@jit_parallel()
def _count_kept(rows_out, starts, mask, whole, counts):
    for k in prange(counts.size):
        if k == whole:
            counts[k] = starts[k + 1] - starts[k]
            continue
        n = np.uint32(0)
        for p in range(starts[k], starts[k + 1]):
            n += mask[np.uint32(rows_out[p])]
        counts[k] = n


@jit_parallel()
def _keep(rows_in, rows_out, starts, mask, whole, places, new_in, new_out):
    for k in prange(starts.size - 1):
        if k == whole:
            new_in[places[k] : places[k + 1]] = rows_in[starts[k] : starts[k + 1]]
            new_out[places[k] : places[k + 1]] = rows_out[starts[k] : starts[k + 1]]
            continue
        # unsigned: numba looks whether a signed index counts from the end, which takes twice as long
        place, stop, p = np.uint64(places[k]), np.uint64(places[k + 1]), np.uint64(starts[k])
        # no branch, which a random mask would mispredict: the next pair overwrites one that is not kept. The
        # last kept one ends the list, so that nothing is written where the next list begins
        while place < stop:
            row = np.uint32(rows_out[p])
            new_in[place], new_out[place] = rows_in[p], row
            place += np.uint64(mask[row])
            p += np.uint64(1)


def keep_outputs(
    rows_in: Tensor, rows_out: Tensor, starts: Tensor, mask: Tensor, whole: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    # bytes add up faster than truth values
    bits, every = mask.numpy().view(np.uint8), -1 if whole is None else whole
    lists = (rows_in.numpy(), rows_out.numpy(), starts.numpy(), bits, every)
    places, counts = np.zeros_like(lists[2]), np.empty(starts.numel() - 1, np.int64)
    _count_kept(*lists[1:], counts)
    np.cumsum(counts, out=places[1:])
    new_in, new_out = np.empty(places[-1], np.int32), np.empty(places[-1], np.int32)
    _keep(*lists, places, new_in, new_out)
    return torch.from_numpy(new_in), torch.from_numpy(new_out), torch.from_numpy(places)


@jit_serial
def _tile_spans(rows_out, starts, tile, spans):
    for k in range(starts.size - 1):
        low = starts[k]
        for t in range(spans.shape[0]):
            edge, high = t * tile, starts[k + 1]
            while low < high:
                middle = (low + high) >> 1
                if rows_out[middle] < edge:
                    low = middle + 1
                else:
                    high = middle
            spans[t, k] = low


def tile_spans(rows_out: Tensor, starts: Tensor, n_out: int, tile: int) -> Tensor:
    spans = np.empty((-(-n_out // tile) + 1, starts.numel() - 1), np.int64)
    _tile_spans(rows_out.numpy(), starts.numpy(), tile, spans)
    return torch.from_numpy(spans)


@jit_parallel()
def _row_masks(table, chunk, masks):
    blocks = (table.shape[1] + 1023) // 1024
    for block in prange(blocks):
        begin, end = block * 1024, min(table.shape[1], (block + 1) * 1024)
        masks[:, begin:end] = 0
        for k in range(table.shape[0]):
            bit = np.int64(1) << (k % chunk)
            for row in range(begin, end):
                if table[k, row] >= 0:
                    masks[k // chunk, row] |= bit


def row_masks(table: Tensor, splits: int) -> Tensor:
    masks = np.empty((splits, table.shape[1]), np.int64)
    _row_masks(table.numpy(), -(-table.shape[0] // splits), masks)
    return torch.from_numpy(masks)


@jit_parallel()
def _gray_rank(masks, rank):
    for i in prange(masks.size):
        value = masks[i]
        # six doublings cover 64 bits: the prefix xor of all higher bits
        for shift in (1, 2, 4, 8, 16, 32):
            value ^= value >> shift
        rank[i] = value


def gray_rank(masks: Tensor) -> Tensor:
    rank = torch.empty_like(masks)
    _gray_rank(masks.view(-1).numpy(), rank.view(-1).numpy())
    return rank
