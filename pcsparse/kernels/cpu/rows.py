"""Regrouping of row numbers: counting sort, tables, bit masks."""

import numpy as np
import torch
from numba import prange
from torch import Tensor

from pcsparse.kernels.cpu.launch import jit_parallel, jit_serial


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
