"""Gradient of the weights: outer products of the rows of all pairs of an offset.

The output rows are cut into groups of tiles, a number that comes from the problem; each group has a partial
sum of its own, and the partial sums are added in order. Within a tile all offsets are done before the next
tile, so that its rows stay in the L2 cache: offset after offset, every row would come from memory many times.
"""

import numpy as np
import torch
from numba import prange
from torch import Tensor

from pcsparse.kernels.cpu.emitter import KINDS, kind_of
from pcsparse.kernels.cpu.launch import jit_parallel
from pcsparse.kernels.cpu.memory import aligned
from pcsparse.kernels.cpu.microkernel import next_item, outer_products, pack_row
from pcsparse.kernels.cpu.panels import lanes_of, must_widen, split_columns
from pcsparse.kernels.cpu.rows import tile_spans

# pairs (of bfloat16: pairs of pairs) whose rows are copied side by side before they are multiplied: both
# copies stay in the L1 cache or near it
_WORDS_TOGETHER = 64
# a partial sum is written, read and added once, which should be little beside this many pairs an offset
_PAIRS_A_PARTIAL, _MOST_PARTIALS = 1500, 16
# pieces of work wanted: they are taken by threads one by one, and the last one must be short
_ITEMS = 16


@jit_parallel()
def _partials(
    kind,
    mr,
    nv,
    pair,
    blocks,
    feats,
    feat_step,
    c_in,
    grads,
    grad_step,
    columns,
    nothing,
    rows_in,
    rows_out,
    spans,
    parts,
    partial,
    packs,
    taken,
):
    groups, k, c_rows, width = partial.shape
    size = partial.itemsize
    partial_step, left_step = width * size, c_rows * size
    n_tiles = spans.shape[0] - 1
    for worker in prange(packs.shape[0]):
        # the padding of both sides stays zero
        packs[worker, :] = 0
        left = packs.ctypes.data + worker * packs.shape[1] * size
        right = left + packs.shape[1] // 2 * size
        item = next_item(taken.ctypes.data)
        while item < groups * parts:
            group, part = item // parts, item % parts
            first, last = part * k // parts, (part + 1) * k // parts
            partial[group, first:last, :, :] = 0
            for t in range(group * n_tiles // groups, (group + 1) * n_tiles // groups):
                for offset in range(first, last):
                    total = partial.ctypes.data + (group * k + offset) * c_rows * partial_step
                    stop = spans[t + 1, offset]
                    for begin in range(spans[t, offset], stop, pair * _WORDS_TOGETHER):
                        end = min(begin + pair * _WORDS_TOGETHER, stop)
                        words = (end - begin + pair - 1) // pair
                        for s in range(words):
                            p = begin + s * pair
                            even, odd = feats + rows_in[p] * feat_step, nothing
                            even_grad, odd_grad = grads + rows_out[p] * grad_step, nothing
                            if pair == 2 and p + 1 < end:
                                odd = feats + rows_in[p + 1] * feat_step
                                odd_grad = grads + rows_out[p + 1] * grad_step
                            pack_row(kind, even, odd, left + s * left_step, c_in)
                            pack_row(kind, even_grad, odd_grad, right + s * partial_step, columns)
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
def _add_partials(partial, grad, first, columns):
    k, c_in, _ = grad.shape
    for item in prange(k * c_in):
        offset, c = item // c_in, item % c_in
        for d in range(columns):
            grad[offset, c, first + d] = partial[0, offset, c, d]
        for group in range(1, partial.shape[0]):
            for d in range(columns):
                grad[offset, c, first + d] += partial[group, offset, c, d]


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
) -> Tensor:
    dtype = feats.dtype
    if must_widen(dtype):
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
    feats, grad_out = feats.detach().contiguous(), grad_out.detach().contiguous()
    itemsize = feats.element_size()
    # what an odd pair is completed with
    nothing = torch.zeros(max(c_in, c_out), dtype=feats.dtype)
    threads = min(torch.get_num_threads(), groups * parts)
    for columns in split_columns(c_out, lanes_of(wide), panel):
        c_rows = -(-c_in // columns.mr) * columns.mr
        partial = aligned((groups, k, c_rows, columns.width), wide)
        room = -(-_WORDS_TOGETHER * max(c_rows, columns.width) // 16) * 16
        packs = aligned((threads, 2 * room), wide)
        _partials(
            KINDS[kind], (0,) * columns.mr, (0,) * columns.nv, 2 if is_pair else 1, columns.blocks,
            feats.data_ptr(), c_in * itemsize, c_in,
            grad_out.data_ptr() + columns.first * itemsize, c_out * itemsize, columns.count,
            nothing.data_ptr(), rows_in.numpy(), rows_out.numpy(), spans.numpy(), parts,
            partial.numpy(), packs.numpy(), np.zeros(1, np.int64),
        )  # fmt: skip
        _add_partials(partial.numpy(), grad.numpy(), columns.first, columns.count)
    return grad.to(dtype)
