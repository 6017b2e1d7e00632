"""Gradient of the weights: outer products of the rows of all pairs of an offset.

Rows are read where they lie, padded first where they are not whole vectors. Of bfloat16 the dot product wants
two rows interleaved, so they are copied side by side before.

The output rows are cut into groups of tiles, a number that comes from the problem; each group has a partial
sum of its own, and the partial sums are added in order. Within a tile all offsets are done before the next
tile, so that its rows stay in the L2 cache: offset after offset, every row would come from memory many times.
"""

import numpy as np
import torch
from numba import prange
from torch import Tensor

from pcsparse.kernels.cpu.emitter import HAS_WIDE_REGISTERS, KINDS, kind_of
from pcsparse.kernels.cpu.launch import jit_parallel
from pcsparse.kernels.cpu.memory import aligned
from pcsparse.kernels.cpu.microkernel import (
    PAIRS_AHEAD,
    interleave_rows,
    next_item,
    outer_products,
    outer_products_in_place,
)
from pcsparse.kernels.cpu.panels import lanes_of, must_widen, split_columns
from pcsparse.kernels.cpu.rows import tile_spans

# words whose rows are copied side by side before they are multiplied: both copies stay in the L1 cache or
# near it
_WORDS_TOGETHER = 64
# channels of a register block of rows read in place: with one vector a block, broadcasts need no register of
# their own and sixteen channels are a cache line, each fetched early once
_ROWS_IN_PLACE = {1: 16, 2: 8, 3: 8, 4: 6} if HAS_WIDE_REGISTERS else {1: 6}
# vectors of output channels up to which panels of one vector win: beyond, a row's lines are read too often
_MOST_BY_ONE = 6
# pairs whose rows pass through the L1 cache together, by the vectors of a panel
_PAIRS_TOGETHER = {1: 32, 2: 64, 3: 64, 4: 64}
# a partial sum is written, read and added once, which should be little beside this many pairs an offset
_PAIRS_A_PARTIAL, _MOST_PARTIALS = 1500, 16
# pieces of work wanted: they are taken by threads one by one, and the last one must be short
_ITEMS = 16


@jit_parallel()
def _partials_of_pairs(
    kind,
    mr,
    nv,
    blocks,
    feats,
    feat_step,
    c_in,
    grads,
    grad_step,
    rows_in,
    rows_out,
    spans,
    columns,
    nothing,
    parts,
    partial,
    packs,
    taken,
):
    groups, k, c_rows, width = partial.shape
    partial_step, left_step = width * 4, c_rows * 4
    n_tiles, last_pair = spans.shape[0] - 1, rows_in.size - 1
    for worker in prange(packs.shape[0]):
        # the padding of both sides stays zero
        packs[worker, :] = 0
        left = packs.ctypes.data + worker * packs.shape[1] * 4
        right = left + packs.shape[1] // 2 * 4
        item = next_item(taken.ctypes.data)
        while item < groups * parts:
            group, part = item // parts, item % parts
            first, last = part * k // parts, (part + 1) * k // parts
            partial[group, first:last, :, :] = 0
            for t in range(group * n_tiles // groups, (group + 1) * n_tiles // groups):
                for offset in range(first, last):
                    total = partial.ctypes.data + (group * k + offset) * c_rows * partial_step
                    stop = spans[t + 1, offset]
                    for begin in range(spans[t, offset], stop, 2 * _WORDS_TOGETHER):
                        end = min(begin + 2 * _WORDS_TOGETHER, stop)
                        words = (end - begin + 1) // 2
                        for s in range(words):
                            p = begin + s * 2
                            q, r = min(p + PAIRS_AHEAD, last_pair), min(p + 1 + PAIRS_AHEAD, last_pair)
                            even, odd = feats + rows_in[p] * feat_step, nothing
                            even_grad, odd_grad = grads + rows_out[p] * grad_step, nothing
                            if p + 1 < end:
                                odd = feats + rows_in[p + 1] * feat_step
                                odd_grad = grads + rows_out[p + 1] * grad_step
                            interleave_rows(
                                even,
                                odd,
                                feats + rows_in[q] * feat_step,
                                feats + rows_in[r] * feat_step,
                                left + s * left_step,
                                c_in,
                            )
                            interleave_rows(
                                even_grad,
                                odd_grad,
                                grads + rows_out[q] * grad_step,
                                grads + rows_out[r] * grad_step,
                                right + s * partial_step,
                                columns,
                            )
                        for block in range(blocks):
                            shift = block * len(nv) * 64
                            outer_products(
                                kind,
                                mr,
                                nv,
                                total + shift,
                                partial_step,
                                c_rows,
                                left,
                                left_step,
                                right + shift,
                                partial_step,
                                words,
                            )
            item = next_item(taken.ctypes.data)


@jit_parallel()
def _partials_in_place(
    kind,
    mr,
    nv,
    blocks,
    feats,
    feat_step,
    c_in,
    grads,
    grad_step,
    rows_in,
    rows_out,
    spans,
    together,
    parts,
    partial,
    workers,
    taken,
):
    groups, k, c_rows, width = partial.shape
    partial_step = width * partial.itemsize
    n_tiles = spans.shape[0] - 1
    for _ in prange(workers):
        item = next_item(taken.ctypes.data)
        while item < groups * parts:
            group, part = item // parts, item % parts
            first, last = part * k // parts, (part + 1) * k // parts
            partial[group, first:last, :, :] = 0
            for t in range(group * n_tiles // groups, (group + 1) * n_tiles // groups):
                for offset in range(first, last):
                    total = partial.ctypes.data + (group * k + offset) * c_rows * partial_step
                    stop = spans[t + 1, offset]
                    for begin in range(spans[t, offset], stop, together):
                        for block in range(blocks):
                            shift = block * len(nv) * 64
                            outer_products_in_place(
                                kind,
                                mr,
                                nv,
                                total + shift,
                                partial_step,
                                c_in,
                                feats,
                                feat_step,
                                grads + shift,
                                grad_step,
                                rows_in.ctypes.data + 4 * begin,
                                rows_out.ctypes.data + 4 * begin,
                                min(together, stop - begin),
                                rows_in.size - begin,
                            )
            item = next_item(taken.ctypes.data)


@jit_parallel()
def _add_partials(partial, grad, first, columns, block, shift):
    k, c_in, _ = grad.shape
    for item in prange(k * c_in):
        offset, c = item // c_in, item % c_in
        row = c + shift if c >= block else c
        for d in range(columns):
            grad[offset, c, first + d] = partial[0, offset, row, d]
        for group in range(1, partial.shape[0]):
            for d in range(columns):
                grad[offset, c, first + d] += partial[group, offset, row, d]


def output_stationary_grad_weight(
    feats: Tensor,
    grad_out: Tensor,
    rows_in: Tensor,
    rows_out: Tensor,
    starts: Tensor,
    tile: int,
    panel: int = 0,
    partials: int = 0,
    *,
    spans: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    dtype = dtype or feats.dtype
    if must_widen(feats.dtype):
        feats, grad_out = feats.float(), grad_out.float()
    kind = kind_of(feats.dtype)
    is_pair = kind == "bfloat16"
    k, c_in, c_out = starts.numel() - 1, feats.shape[1], grad_out.shape[1]
    wide = torch.float64 if feats.dtype == torch.float64 else torch.float32
    grad = aligned((k, c_in, c_out), wide)
    if rows_in.numel() == 0 or grad.numel() == 0:
        return grad.zero_().to(dtype)
    if spans is None:
        spans = tile_spans(rows_out, starts, grad_out.shape[0], tile)
    n_tiles = spans.shape[0] - 1
    wanted = partials or min(_MOST_PARTIALS, rows_in.numel() // (k * _PAIRS_A_PARTIAL))
    groups = max(1, min(wanted, n_tiles))
    parts = min(k, -(-_ITEMS // groups))
    lanes = lanes_of(wide)
    feats, grad_out = feats.detach().contiguous(), grad_out.detach().contiguous()
    if not is_pair and not panel and c_out <= _MOST_BY_ONE * lanes:
        panel = 1
    split = split_columns(c_out, lanes, panel)
    if not is_pair:
        # whole vectors, and as many channels as a register block has rows
        grad_out = _padded(grad_out, -(-c_out // lanes) * lanes)
        feats = _padded(feats, max(c_in, *(_ROWS_IN_PLACE[part.nv] for part in split)))
    itemsize = feats.element_size()
    # what an odd pair is completed with
    nothing = torch.zeros(max(c_in, c_out), dtype=feats.dtype, device="cpu")
    threads = min(torch.get_num_threads(), groups * parts)
    for columns in split:
        mr = columns.mr if is_pair else _ROWS_IN_PLACE[columns.nv]
        c_rows = -(-feats.shape[1] // mr) * mr
        partial = aligned((groups, k, c_rows, columns.width), wide)
        shared = (
            KINDS[kind], (0,) * mr, (0,) * columns.nv, columns.blocks,
            feats.data_ptr(), feats.shape[1] * itemsize, feats.shape[1],
            grad_out.data_ptr() + columns.first * itemsize, grad_out.shape[1] * itemsize,
            rows_in.numpy(), rows_out.numpy(), spans.numpy(),
        )  # fmt: skip
        taken = np.zeros(1, np.int64)
        if is_pair:
            room = -(-_WORDS_TOGETHER * max(c_rows, columns.width) // 16) * 16
            packs = aligned((threads, 2 * room), wide).numpy()
            _partials_of_pairs(
                *shared, columns.count, nothing.data_ptr(), parts, partial.numpy(), packs, taken
            )
        else:
            _partials_in_place(*shared, _PAIRS_TOGETHER[columns.nv], parts, partial.numpy(), threads, taken)
        # rows read in place: the last ones of a register block hold the last channels
        shift = 0 if is_pair else c_rows - feats.shape[1]
        _add_partials(partial.numpy(), grad.numpy(), columns.first, columns.count, c_rows - mr, shift)
    return grad.to(dtype)


def _padded(rows: Tensor, channels: int) -> Tensor:
    """With zeros up to `channels`; the same tensor if there are as many."""
    missing = channels - rows.shape[1]
    return torch.nn.functional.pad(rows, (0, missing)) if missing else rows
