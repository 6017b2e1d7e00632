"""The search of a kernel map: one ascending pointer a slab of the kernel, no hash, no second search.

A *column* is a run of offsets that differ in z only, a *slab* a run of columns that lie side by side. For
each query the pointer moves to the first key that any offset of the slab could hit; from there on the keys
are read in order, and each says by subtraction which offset it is. So an offset costs where it hits, not
where it misses.
"""

import numpy as np
import numpy.typing as npt
import torch
from numba import prange
from torch import Tensor

from pcsparse.kernels.cpu.launch import jit_parallel, jit_serial
from pcsparse.kernels.key_layout import NO_KEY, SHIFTS, check_offset_count, check_pair_count

# queries a block: one search starts it, and its number in the block has 10 bits of a packed hit
_BLOCK = 1024
# hits a query that a block has room for at first; where they are more, the search runs again with that room
_ROOM = 32
# columns further apart than this get pointers of their own, as scanning what lies between would be dearer
_NEAR = 2 << SHIFTS[1]
_WIDEST_COLUMN = 1 << 15
_WIDEST_SLAB = 1 << 33


def _columns(deltas: list[int]) -> tuple[npt.NDArray[np.int64], list[int]]:
    """Split deltas into columns of equal steps, and columns into slabs.

    Plain Python: some tens of microseconds a kernel, where a jitted one takes a third of a second to compile.

    Returns:
        columns (4, columns + 1): lowest and highest delta, step, first offset; slabs: each one's first
        column, and the number of columns.
    """
    columns: list[tuple[int, int, int, int]] = []
    slabs: list[int] = []
    k = 0
    while k < len(deltas):
        begin, gap = k, 1
        if k + 1 < len(deltas) and 0 < deltas[k + 1] - deltas[k] < _WIDEST_COLUMN:
            gap = deltas[k + 1] - deltas[k]
        while (
            k + 1 < len(deltas)
            and deltas[k + 1] - deltas[k] == gap
            and deltas[k + 1] - deltas[begin] < _WIDEST_COLUMN
        ):
            k += 1
        low, high = deltas[begin], deltas[k]
        if (
            not columns
            or not 0 < low - columns[-1][1] <= _NEAR
            or high - columns[slabs[-1]][0] > _WIDEST_SLAB
        ):
            slabs.append(len(columns))
        columns.append((low, high, gap, begin))
        k += 1
    return np.array([*columns, (0, 0, 1, len(deltas))], np.int64).T.copy(), [*slabs, len(columns)]


@jit_serial
def _seek(keys, p, wanted):
    """The first position from p on whose key is at least `wanted`; the last keys are sentinels."""
    # most often the answer is one or two keys on, and a sum costs less than a wrong guess
    p += keys[p] < wanted
    p += keys[p] < wanted
    steps = 0
    while keys[p] < wanted:
        p += 1
        steps += 1
        if steps == 16:
            jump = 16
            while p + jump < keys.size and keys[p + jump] < wanted:
                p += jump
                jump *= 2
            end = min(keys.size - 1, p + jump)
            while p < end:
                middle = (p + end) >> 1
                if keys[middle] < wanted:
                    p = middle + 1
                else:
                    end = middle
    return p


@jit_parallel()
def _search(keys, queries, low, high, step, first, slabs, n_slabs, counts, totals, hits, room):
    """Count the hits of each (block, offset), and list those of a block as far as it has room."""
    for block in prange(counts.shape[0]):
        begin, end = block * _BLOCK, min(queries.size, (block + 1) * _BLOCK)
        n, full = block * room, (block + 1) * room
        for slab in range(n_slabs):
            column0, column1 = slabs[slab], slabs[slab + 1]
            nearest, farthest = low[column0], high[column1 - 1]
            p = 0
            for j in range(begin, end):
                query = queries[j]
                p = _seek(keys, p, query + nearest)
                here, column = p, column0
                gap = keys[here] - query
                while gap <= farthest:
                    while gap > high[column]:
                        column += 1
                    gap -= low[column]
                    if gap < 0:
                        here = _seek(keys, here, query + low[column])
                    else:
                        inside = True
                        if step[column] != 1:
                            inside = gap % step[column] == 0
                            gap //= step[column]
                        if inside:
                            k = first[column] + gap
                            counts[block, k] += 1
                            if n < full:
                                hits[n] = (k << 42) | ((j - begin) << 32) | here
                            n += 1
                        here += 1
                    gap = keys[here] - query
        totals[block] = n - block * room


@jit_parallel()
def _place(hits, totals, room, places, mirrors, rows_in, rows_out, mirrored):
    """Write listed hits where their offset's list has room for this block."""
    for block in prange(places.shape[0]):
        for n in range(block * room, block * room + totals[block]):
            hit = hits[n]
            k, i = hit >> 42, hit & 0xFFFFFFFF
            j = block * _BLOCK + ((hit >> 32) & 1023)
            place = places[block, k]
            places[block, k] = place + 1
            rows_in[place], rows_out[place] = i, j
            if mirrored:
                rows_in[place + mirrors[k]], rows_out[place + mirrors[k]] = j, i


def match_keys(
    keys: Tensor, queries: Tensor, deltas: Tensor, mirrored: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    k, n_in, n_out = deltas.numel(), keys.numel(), queries.numel()
    check_offset_count(k)
    # sentinels end the search without a check of the position
    padded = np.empty(n_in + 2, np.int64)
    padded[:n_in], padded[n_in:] = keys.numpy(), NO_KEY
    columns, slabs = _columns(deltas.tolist())
    geometry = (*columns, np.array(slabs, np.int64), len(slabs) - 1)
    blocks, room = -(-n_out // _BLOCK), _BLOCK * min(k, _ROOM)
    counts, totals = np.zeros((blocks, k), np.int64), np.zeros(blocks, np.int64)
    while True:
        # torch and not numpy: most of it stays untouched, and huge pages would be cleared in whole
        hits = torch.empty(blocks * room, dtype=torch.int64, device="cpu").numpy()
        _search(padded, queries.numpy(), *geometry, counts, totals, hits, room)
        needed = int(totals.max(initial=0))
        if needed <= room:
            break
        room = needed
        counts[:] = 0
    found = counts.sum(axis=0)
    lists = np.concatenate([found, [n_out], found[::-1]]) if mirrored else found
    starts = np.zeros(lists.size + 1, np.int64)
    np.cumsum(lists, out=starts[1:])
    check_pair_count(int(starts[-1]), n_in, n_out, lists.size)
    # where each block writes: the start of the list, and what earlier blocks found
    places = np.cumsum(counts, axis=0) - counts + starts[:k]
    mirrors = starts[:-1][::-1][:k] - starts[:k]
    rows_in, rows_out = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.int32)
    _place(hits, totals, room, places, mirrors, rows_in, rows_out, mirrored)
    if mirrored:
        rows_in[starts[k] : starts[k + 1]] = rows_out[starts[k] : starts[k + 1]] = np.arange(n_out)
    return torch.from_numpy(rows_in), torch.from_numpy(rows_out), torch.from_numpy(starts)
