"""Which rows are important: one pass over the features, then a radix selection by the bits of the scores.

A selection, no sort: 0.3 ms for 90,000 rows where a stable sort takes 8.
"""

import numpy as np
import torch
from numba import prange
from torch import Tensor

from pcsparse.kernels.cpu.channelwise import row_magnitude
from pcsparse.kernels.cpu.emitter import KINDS, kind_of
from pcsparse.kernels.cpu.launch import jit_parallel, jit_serial

# rows that a thread takes at once
_BLOCK = 1024
# a selection looks at 12 bits at a time: their counters stay in an L1 cache
_BINS = 1 << 12
_SHIFTS = {4: np.array([19, 7, 0]), 8: np.array([51, 39, 27, 15, 3, 0])}


@jit_parallel()
def _mean_magnitude(kind, feats, step, n, count, block, scores):
    for i in prange((n + block - 1) // block):
        for row in range(i * block, min(n, (i + 1) * block)):
            scores[row] = row_magnitude(kind, feats + row * step, count) / count


def mean_magnitude(feats: Tensor) -> Tensor:
    if feats.dtype == torch.float16:
        feats = feats.float()
    feats = feats.detach().contiguous()
    n, count = feats.shape
    wide = torch.float64 if feats.dtype == torch.float64 else torch.float32
    scores = torch.empty(n, dtype=wide, device="cpu")
    step = count * feats.element_size()
    _mean_magnitude(KINDS[kind_of(feats.dtype)], feats.data_ptr(), step, n, count, _BLOCK, scores.numpy())
    return scores


@jit_serial
def _top_rows(bits, shifts, order, starts, counts, mask, candidates, histogram):
    for g in range(counts.size):
        begin, n, left = starts[g], starts[g + 1] - starts[g], counts[g]
        rows = candidates[begin : begin + n]
        rows[:] = order[begin : begin + n]
        for level in range(shifts.size):
            # leading bits are those of the least score that is taken, as far as they were looked at
            shift = shifts[level]
            histogram[:] = 0
            for i in range(n):
                histogram[(bits[rows[i]] >> shift) & (_BINS - 1)] += 1
            edge = _BINS - 1
            while edge >= 0 and histogram[edge] <= left:
                left -= histogram[edge]
                edge -= 1
            same = 0
            for i in range(n):
                row = rows[i]
                digit = (bits[row] >> shift) & (_BINS - 1)
                mask[row] = digit > edge
                rows[same] = row
                same += digit == edge
            n = same
        # they are equal, and ascend
        for i in range(left):
            mask[rows[i]] = True


def top_rows(scores: Tensor, order: Tensor, starts: Tensor, counts: Tensor) -> Tensor:
    words = np.int64 if scores.dtype == torch.float64 else np.int32
    # bits ascend as the numbers do, and those of a NaN are above infinity's; the sign is in no digit
    bits = scores.numpy().view(words)
    mask, candidates = np.zeros(bits.size, np.bool_), np.empty(order.numel(), np.int32)
    groups = (order.numpy(), starts.numpy(), counts.numpy())
    histogram = np.empty(_BINS, np.int64)
    _top_rows(bits, _SHIFTS[bits.itemsize], *groups, mask, candidates, histogram)
    return torch.from_numpy(mask)
