"""Sorting and matching of packed coordinate keys."""

import numpy as np
import torch
from numba import prange
from torch import Tensor

from pcsparse.kernels.cpu.launch import jit_parallel, jit_serial

# a binary search starts a block, so blocks must be long; threads share them, so there must be many
_BLOCK = 2048


@jit_serial
def _unique_sorted(keys, order, unique, inverse, first):
    m = 0
    for i in range(order.size):
        position = order[i]
        key = keys[position]
        if m == 0 or unique[m - 1] != key:
            unique[m] = key
            first[m] = position
            m += 1
        inverse[position] = m - 1
    return m


def unique_keys(keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    array = keys.numpy()
    order = np.argsort(array, kind="stable")
    unique, inverse, first = np.empty_like(array), np.empty_like(array), np.empty_like(array)
    m = _unique_sorted(array, order, unique, inverse, first)
    return torch.from_numpy(unique[:m].copy()), torch.from_numpy(inverse), torch.from_numpy(first[:m].copy())


@jit_serial
def _columns(deltas, column_starts):
    """Split deltas into runs that ascend within one z column; a run shares one pointer into the keys."""
    n = 0
    for k in range(deltas.size):
        if k == 0 or deltas[k] <= deltas[k - 1] or deltas[k] - deltas[column_starts[n - 1]] >= 1 << 15:
            column_starts[n] = k
            n += 1
    column_starts[n] = deltas.size
    return n


@jit_parallel()
def _match(keys, queries, deltas, column_starts, n_columns, counts, rows_in, rows_out, fill):
    """Count (fill = False) or write (fill = True) the hits of each (block, offset).

    `counts` (blocks, k) holds the number of hits after the first pass and the place to write before the
    second.
    """
    n_in = keys.size
    for block in prange(counts.shape[0]):
        begin, end = block * _BLOCK, min(queries.size, (block + 1) * _BLOCK)
        for column in range(n_columns):
            k0, k1 = column_starts[column], column_starts[column + 1]
            pointer = np.searchsorted(keys, queries[begin] + deltas[k0])
            for j in range(begin, end):
                query = queries[j]
                wanted = query + deltas[k0]
                while pointer < n_in and keys[pointer] < wanted:
                    pointer += 1
                step = pointer
                for k in range(k0, k1):
                    wanted = query + deltas[k]
                    while step < n_in and keys[step] < wanted:
                        step += 1
                    if step == n_in:
                        break
                    if keys[step] == wanted:
                        place = counts[block, k]
                        if fill:
                            rows_in[place] = step
                            rows_out[place] = j
                        counts[block, k] = place + 1


def match_keys(keys: Tensor, queries: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    k, n_out = deltas.numel(), queries.numel()
    starts = np.zeros(k + 1, np.int64)
    if n_out == 0 or keys.numel() == 0 or k == 0:
        empty = torch.zeros(0, dtype=torch.int32)
        return empty, empty.clone(), torch.from_numpy(starts)
    arrays = (keys.numpy(), queries.numpy(), deltas.numpy())
    column_starts = np.empty(k + 1, np.int64)
    n_columns = _columns(arrays[2], column_starts)
    counts = np.zeros((-(-n_out // _BLOCK), k), np.int64)
    nothing = np.empty(0, np.int32)
    _match(*arrays, column_starts, n_columns, counts, nothing, nothing, False)
    np.cumsum(counts.sum(0), out=starts[1:])
    # exclusive running sum down the blocks, offset by the start of each list
    places = np.cumsum(counts, axis=0) - counts + starts[:-1]
    rows_in, rows_out = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.int32)
    _match(*arrays, column_starts, n_columns, places, rows_in, rows_out, True)
    return torch.from_numpy(rows_in), torch.from_numpy(rows_out), torch.from_numpy(starts)
