"""Convolution over tiles of output rows: no gather buffer, no scatter, no atomics on sums.

Within a tile and an offset the pairs are one contiguous range, because an offset's pairs ascend in the output
row. The sums of a tile and one panel of weights stay in the L2 cache while the pairs stream past; then the
tile is finished (bias, residual, ReLU, rounding) and written once. Rows that are not computed are written
there too, between those that are: a loop of their own, before or after, took 1.6 ms more (90,000 rows of 64
float32).
"""

from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from numba import prange
from torch import Tensor

from pcsparse.kernels.cpu.channelwise import finish_row, scale_row
from pcsparse.kernels.cpu.emitter import KINDS, VECTOR_BYTES, kind_of
from pcsparse.kernels.cpu.launch import jit_parallel
from pcsparse.kernels.cpu.memory import aligned
from pcsparse.kernels.cpu.microkernel import next_item, pairs_times_panel
from pcsparse.kernels.cpu.panels import Columns, lanes_of, must_widen, pack_panels, split_columns
from pcsparse.kernels.cpu.rows import tile_spans
from pcsparse.kernels.lasting import made_of


@jit_parallel()
def _tiles(
    kind,
    mr,
    nv,
    least,
    feats,
    feat_step,
    steps,
    panels,
    panel_bytes,
    blocks,
    sources,
    targets,
    n_pairs,
    spans,
    tile,
    n_out,
    sums,
    taken,
    bias,
    residual,
    residual_step,
    out,
    out_step,
    c_out,
    mask,
    through,
    scale,
    shift,
):
    n_tiles, k = spans.shape[0] - 1, spans.shape[1]
    row_bytes = blocks * len(nv) * 64
    for worker in prange(sums.shape[0]):
        acc = sums.ctypes.data + worker * sums.shape[1] * sums.itemsize
        spare = acc + min(tile, n_out) * row_bytes
        # a thread takes the next tile when it is done with one: crowded tiles and slow cores even out
        t = next_item(taken.ctypes.data)
        while t < n_tiles:
            begin, end = t * tile, min(n_out, (t + 1) * tile)
            sums[worker, : (end - begin) * (row_bytes // sums.itemsize)] = 0
            for offset in range(k):
                first = spans[t, offset]
                n = spans[t + 1, offset] - first
                for block in range(blocks if n > 0 else 0):
                    column = block * len(nv) * 64
                    pairs_times_panel(
                        kind,
                        mr,
                        nv,
                        feats,
                        feat_step,
                        sources + 4 * first,
                        targets + 4 * first,
                        n,
                        n_pairs - first,
                        acc + column - begin * row_bytes,
                        row_bytes,
                        spare + column,
                        panels + (offset * blocks + block) * panel_bytes,
                        steps,
                    )
            for row in range(begin, end):
                extra, target = residual + row * residual_step, out + row * out_step
                if mask.size == 0 or mask[row]:
                    finish_row(kind, acc + (row - begin) * row_bytes, bias, extra, least, target, c_out)
                else:
                    scale_row(kind, through + row * out_step, scale, shift, extra, least, target, c_out)
            t = next_item(taken.ctypes.data)


def output_stationary(
    feats: Tensor,
    weight: Tensor,
    rows_in: Tensor,
    rows_out: Tensor,
    starts: Tensor,
    n_out: int,
    tile: int,
    panel: int = 0,
    *,
    spans: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
    mask: Tensor | None = None,
    through: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    if must_widen(feats.dtype):
        bias, residual, through = (
            None if part is None else part.float() for part in (bias, residual, through)
        )
        return output_stationary(
            feats.float(), weight.float(), rows_in, rows_out, starts, n_out, tile, panel, spans=spans,
            bias=bias, residual=residual, relu=relu, mask=mask, through=through, scale=scale, shift=shift,
        ).to(feats.dtype)  # fmt: skip
    if spans is None:
        spans = tile_spans(rows_out, starts, n_out, tile)
    kind = kind_of(feats.dtype)
    feats = even_channels(feats.detach()) if kind == "bfloat16" else feats.detach().contiguous()
    itemsize = feats.element_size()
    steps = feats.shape[1] // 2 if kind == "bfloat16" else feats.shape[1]
    c_out = weight.shape[2]
    out = aligned((n_out, c_out), feats.dtype)
    extra = _no_extra(c_out, feats.dtype) if residual is None else residual.detach().contiguous()
    passing = _passing(mask, through, scale, shift, out)
    for columns in split_columns(c_out, lanes_of(feats.dtype), panel):
        panels = made_of(weight, (columns, kind), partial(pack_panels, weight, columns, kind))
        _run(
            kind, feats, steps, panels, columns, rows_in, rows_out, spans, n_out, tile,
            _padded_bias(bias, columns, feats.dtype),
            extra.data_ptr() + columns.first * itemsize, 0 if residual is None else c_out * itemsize, relu,
            out.data_ptr() + columns.first * itemsize, c_out * itemsize, passing,
        )  # fmt: skip
    return out


@cache
def _no_extra(c_out: int, dtype: torch.dtype) -> Tensor:
    """What is added where nothing is; never written."""
    # not where the caller makes tensors by default: this one stays
    return torch.zeros(c_out, dtype=dtype, device="cpu")


@dataclass(frozen=True, eq=False)
class _Passing:
    """The rows that are not computed.

    Attributes:
        mask: False where one is; empty if there are none.
        rows: (n_out, c_out), as the result.
        factors: scale and shift, wide, padded to whole vectors.
    """

    mask: Tensor
    rows: Tensor
    factors: Tensor


# its addresses are not read
_ALL_COMPUTED = _Passing(
    torch.empty(0, dtype=torch.bool, device="cpu"),
    torch.empty(0, device="cpu"),
    torch.empty(2, 0, device="cpu"),
)


def _passing(
    mask: Tensor | None, through: Tensor | None, scale: Tensor | None, shift: Tensor | None, out: Tensor
) -> _Passing:
    if mask is None or through is None:
        return _ALL_COMPUTED
    c_out = out.shape[1]
    wide = torch.float64 if out.dtype == torch.float64 else torch.float32
    # padding for the last vector of any panel
    factors = torch.zeros(2, c_out + 16, dtype=wide, device="cpu")
    factors[0, :c_out] = 1 if scale is None else scale.detach()
    factors[1, :c_out] = 0 if shift is None else shift.detach()
    return _Passing(mask.contiguous(), through.detach().contiguous(), factors)


def _run(
    kind: str,
    feats: Tensor,
    steps: int,
    panels: Tensor,
    columns: Columns,
    rows_in: Tensor,
    rows_out: Tensor,
    spans: Tensor,
    n_out: int,
    tile: int,
    bias: Tensor,
    residual: int,
    residual_step: int,
    relu: bool,
    out: int,
    out_step: int,
    passing: _Passing,
) -> None:
    scalar = bias.numpy().dtype.type
    threads = max(1, min(torch.get_num_threads(), spans.shape[0] - 1))
    elements = (min(tile, n_out) + 1) * columns.width
    factors = passing.factors
    scales = factors.data_ptr() + columns.first * factors.element_size()
    # workers' sums must not share a cache line
    sums = aligned((threads, -(-elements // 64) * 64), bias.dtype)
    _tiles(
        KINDS[kind], _tag(columns.mr), _tag(columns.nv), scalar(0 if relu else -float("inf")),
        feats.data_ptr(), feats.shape[1] * feats.element_size(), steps,
        panels.data_ptr(), panels.shape[2] * panels.element_size(), columns.blocks,
        rows_in.data_ptr(), rows_out.data_ptr(), rows_in.numel(), spans.numpy(), tile, n_out, sums.numpy(),
        np.zeros(1, np.int64),
        bias.data_ptr(), residual, residual_step, out, out_step, columns.count, passing.mask.numpy(),
        passing.rows.data_ptr() + columns.first * passing.rows.element_size(),
        scales, scales + factors.shape[1] * factors.element_size(),
    )  # fmt: skip


def even_channels(feats: Tensor) -> Tensor:
    """bfloat16 features whose rows are whole pairs, padded with a zero where needed."""
    if feats.shape[1] % 2:
        feats = torch.nn.functional.pad(feats, (0, 1))
    return feats.contiguous()


def _padded_bias(bias: Tensor | None, columns: Columns, dtype: torch.dtype) -> Tensor:
    """Wide, as many as the panels have columns."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    if bias is None:
        return _no_extra(columns.width, wide)

    def pad() -> Tensor:
        padded = aligned((columns.width,), wide).zero_()
        padded[: columns.count] = bias.detach()[columns.first : columns.first + columns.count]
        return padded

    return made_of(bias, (columns, wide), pad)


def _tag(length: int) -> tuple[int, ...]:
    return (0,) * length


assert VECTOR_BYTES == 64  # the number that `_tiles` has to spell out
