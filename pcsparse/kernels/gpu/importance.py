"""Which rows are important: one pass over the features, then sorts of scores by their bits."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from pcsparse.kernels.gpu.launch import Launcher
from pcsparse.kernels.gpu.row_tiles import alignment, channel_block, wide

_TILE = 2048


@triton.jit(do_not_specialize=["n", "c"])
def _mean_magnitude(feats, scores, n, c, ALIGN: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr):
    c *= ALIGN
    wide_type: tl.constexpr = scores.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros((ROWS, BLOCK_C), wide_type)
    for begin in range(0, c, BLOCK_C):
        cols = begin + tl.arange(0, BLOCK_C)
        inside = (row < n)[:, None] & (cols < c)[None, :]
        value = tl.load(feats + row[:, None] * c + cols[None, :], mask=inside, other=0)
        total += tl.abs(value.to(wide_type))
    tl.store(scores + row, tl.sum(total, 1) / c, mask=row < n)


_MEAN_MAGNITUDE = Launcher(_mean_magnitude)


def mean_magnitude(feats: Tensor) -> Tensor:
    feats = feats.contiguous()
    n, c = feats.shape
    if c == 0:
        # as the mean of nothing is
        return torch.full((n,), torch.nan, dtype=wide(feats.dtype), device=feats.device)
    align, block_c = alignment(c), channel_block(c)
    rows = _TILE // block_c
    scores = torch.empty(n, dtype=wide(feats.dtype), device=feats.device)
    if n:
        grid = (-(-n // rows), 1, 1)
        _MEAN_MAGNITUDE(grid, (feats, scores), (n, c // align), (align, rows, block_c), 4, 1)
    return scores


def top_rows(scores: Tensor, order: Tensor, starts: Tensor, counts: Tensor) -> Tensor:
    words = torch.int64 if scores.dtype == torch.float64 else torch.int32
    most = torch.iinfo(words).max
    # bits ascend as the numbers do, but for a sign, and all that are no numbers are one
    ranks = torch.where(scores.isnan(), most, scores.view(words) & most).index_select(0, order)
    place = torch.arange(order.numel(), device=order.device)
    group = torch.searchsorted(starts[1:], place, right=True)
    if words == torch.int32:
        ranked = torch.sort((group << 32) + (most - ranks), stable=True).indices
    else:
        ranked = torch.sort(most - ranks, stable=True).indices
        ranked = ranked[torch.sort(group.index_select(0, ranked), stable=True).indices]
    # sorted by group first, each group is still where it was
    taken = place - starts.index_select(0, group) < counts.index_select(0, group)
    mask = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    return mask.scatter_(0, order.index_select(0, ranked).long(), taken)
