"""Convolution over tiles of output rows: no gather buffer, no scatter, no atomics.

Within a tile and an offset the pairs are one contiguous range, because an offset's pairs ascend in the output
row. A tile of the output and one panel of weights stay in the L2 cache while the pairs stream past.
"""

import llvmlite.binding
import numba
import numpy as np
import torch
from numba import prange
from torch import Tensor

from pcsparse.kernels.cpu.launch import jit_parallel, jit_serial
from pcsparse.kernels.cpu.microkernel import VECTOR_BYTES, outer_products, rows_times_panel

# vectors of 64 bytes a panel of output channels, widest first; the accumulators of MR rows x NV vectors fill
# the 32 registers of AVX-512 without spilling (measured for AVX-512: 6x4, 8x3, 12x2, 12x1; for AVX2: 6x1)
_WIDE = llvmlite.binding.get_host_cpu_features().get("avx512f", False)
_PANELS = (4, 3, 2, 1) if _WIDE else (1,)


def _panel_vectors(c_out: int, lanes: int) -> int:
    """NV: the widest panel that divides the channels, padded to whole vectors."""
    vectors = -(-c_out // lanes)
    return next(nv for nv in _PANELS if vectors % nv == 0)


def _widened(tensor: Tensor) -> Tensor:
    half = tensor.dtype in (torch.float16, torch.bfloat16)
    return (tensor.float() if half else tensor).detach()


def _lanes(dtype: torch.dtype) -> int:
    return VECTOR_BYTES // dtype.itemsize


@numba.njit(inline="always")
def _addresses_1(base, step, rows, p):
    return (base + rows[p] * step,)


@numba.njit(inline="always")
def _addresses_2(base, step, rows, p):
    return (base + rows[p] * step, base + rows[p + 1] * step)


@numba.njit(inline="always")
def _addresses_6(base, step, rows, p):
    return (
        base + rows[p] * step,
        base + rows[p + 1] * step,
        base + rows[p + 2] * step,
        base + rows[p + 3] * step,
        base + rows[p + 4] * step,
        base + rows[p + 5] * step,
    )


@numba.njit(inline="always")
def _addresses_12(base, step, rows, p):
    return _addresses_6(base, step, rows, p) + _addresses_6(base, step, rows, p + 6)


@jit_parallel()
def _tiles(
    element,
    tag,
    tall,
    feats,
    feat_step,
    panels,
    panel_bytes,
    blocks,
    c_in,
    out,
    rows_in,
    rows_out,
    starts,
    tile,
    threads,
):
    n_out, n_tiles = out.shape[0], -(-out.shape[0] // tile)
    out_address, out_step = out.ctypes.data, out.shape[1] * out.itemsize
    each = -(-n_tiles // threads)
    for i in prange(each * threads):
        # neighbouring tiles go to different threads: dense and sparse regions are shared out evenly
        t = (i % each) * threads + i // each
        begin, end = t * tile, min(n_out, (t + 1) * tile)
        if begin >= end:
            continue
        out[begin:end, :] = 0
        for k in range(starts.size - 1):
            rows = rows_out[starts[k] : starts[k + 1]]
            first = starts[k] + np.searchsorted(rows, begin)
            last = starts[k] + np.searchsorted(rows, end)
            if first == last:
                continue
            for block in range(blocks):
                panel = panels + (k * blocks + block) * panel_bytes
                base = out_address + block * len(tag) * 64
                p = first
                if tall:
                    while p + 12 <= last:
                        feat_rows = _addresses_12(feats, feat_step, rows_in, p)
                        out_rows = _addresses_12(base, out_step, rows_out, p)
                        rows_times_panel(element, tag, feat_rows, out_rows, panel, c_in)
                        p += 12
                while p + 6 <= last:
                    feat_rows = _addresses_6(feats, feat_step, rows_in, p)
                    out_rows = _addresses_6(base, out_step, rows_out, p)
                    rows_times_panel(element, tag, feat_rows, out_rows, panel, c_in)
                    p += 6
                while p + 2 <= last:
                    feat_rows = _addresses_2(feats, feat_step, rows_in, p)
                    out_rows = _addresses_2(base, out_step, rows_out, p)
                    rows_times_panel(element, tag, feat_rows, out_rows, panel, c_in)
                    p += 2
                if p < last:
                    feat_rows = _addresses_1(feats, feat_step, rows_in, p)
                    out_rows = _addresses_1(base, out_step, rows_out, p)
                    rows_times_panel(element, tag, feat_rows, out_rows, panel, c_in)


def _tag(nv: int) -> tuple[int, ...]:
    return (0,) * nv


def _packed(weight: Tensor, nv: int, lanes: int) -> Tensor:
    """(k, c_in, c_out) -> (k, blocks, c_in, nv * lanes), channels padded with zeros to whole panels."""
    k, c_in, c_out = weight.shape
    width = nv * lanes
    blocks = -(-c_out // width)
    if blocks * width != c_out:
        weight = torch.nn.functional.pad(weight, (0, blocks * width - c_out))
    return weight.reshape(k, c_in, blocks, width).transpose(1, 2).contiguous()


def output_stationary(
    feats: Tensor, weight: Tensor, rows_in: Tensor, rows_out: Tensor, starts: Tensor, n_out: int, tile: int
) -> Tensor:
    wide = _widened(feats).contiguous()
    c_in, c_out = weight.shape[1:]
    lanes = _lanes(wide.dtype)
    nv = _panel_vectors(c_out, lanes)
    panels = _packed(_widened(weight), nv, lanes)
    blocks, width = panels.shape[1], nv * lanes
    out = torch.empty(n_out, blocks * width, dtype=wide.dtype)
    if c_in == 0 or rows_in.numel() == 0:
        return out.zero_()[:, :c_out].to(feats.dtype).contiguous()
    array = out.numpy()
    _tiles(
        array.dtype.type(0), _tag(nv), nv <= 2 and _WIDE,
        wide.data_ptr(), c_in * wide.itemsize,
        panels.data_ptr(), c_in * width * wide.itemsize, blocks, c_in,
        array, rows_in.numpy(), rows_out.numpy(), starts.numpy(), tile,
        torch.get_num_threads(),
    )  # fmt: skip
    return out[:, :c_out].to(feats.dtype).contiguous()


@numba.njit(inline="always")
def _steps_1(base, step):
    return (base,)


@numba.njit(inline="always")
def _steps_4(base, step):
    return (base, base + step, base + 2 * step, base + 3 * step)


@numba.njit(inline="always")
def _steps_8(base, step):
    return _steps_4(base, step) + _steps_4(base + 4 * step, step)


# pairs whose rows are read again for every block of channels: both sides stay in the L2 cache
_PAIRS_IN_CACHE = 256


@jit_parallel()
def _partials(
    element, tag, tall, feats, feat_step, outs, out_step, blocks, c_in, partial, rows_in, rows_out, bounds
):
    grad_step = partial.shape[2] * partial.itemsize
    rows_in_address, rows_out_address = rows_in.ctypes.data, rows_out.ctypes.data
    itemsize = partial.itemsize
    for i in prange(partial.shape[0]):
        partial[i, :, :] = 0
        grad = partial.ctypes.data + i * c_in * grad_step
        for begin in range(bounds[i, 0], bounds[i, 1], _PAIRS_IN_CACHE):
            n = min(_PAIRS_IN_CACHE, bounds[i, 1] - begin)
            source, target = rows_in_address + 4 * begin, rows_out_address + 4 * begin
            for block in range(blocks):
                shift = block * len(tag) * 64
                out = outs + shift
                c = 0
                if tall:
                    while c + 8 <= c_in:
                        rows = _steps_8(grad + c * grad_step + shift, grad_step)
                        feat = feats + c * itemsize
                        outer_products(element, tag, rows, feat, feat_step, out, out_step, source, target, n)
                        c += 8
                while c + 4 <= c_in:
                    rows = _steps_4(grad + c * grad_step + shift, grad_step)
                    feat = feats + c * itemsize
                    outer_products(element, tag, rows, feat, feat_step, out, out_step, source, target, n)
                    c += 4
                while c < c_in:
                    rows = _steps_1(grad + c * grad_step + shift, grad_step)
                    feat = feats + c * itemsize
                    outer_products(element, tag, rows, feat, feat_step, out, out_step, source, target, n)
                    c += 1


@jit_serial
def _chunk_bounds(starts, chunk, bounds, offsets):
    n = 0
    for k in range(starts.size - 1):
        offsets[k] = n
        for begin in range(starts[k], starts[k + 1], chunk):
            bounds[n, 0], bounds[n, 1] = begin, min(starts[k + 1], begin + chunk)
            n += 1
    offsets[starts.size - 1] = n
    return n


@jit_parallel()
def _add_partials(partial, offsets, grad):
    for k in prange(grad.shape[0]):
        grad[k, :, :] = 0
        for i in range(offsets[k], offsets[k + 1]):
            for c in range(grad.shape[1]):
                for d in range(grad.shape[2]):
                    grad[k, c, d] += partial[i, c, d]


def output_stationary_grad_weight(
    feats: Tensor, grad_out: Tensor, rows_in: Tensor, rows_out: Tensor, starts: Tensor, chunk: int
) -> Tensor:
    wide, outs = _widened(feats).contiguous(), _widened(grad_out).contiguous()
    k, c_in, c_out = starts.numel() - 1, feats.shape[1], grad_out.shape[1]
    lanes = _lanes(wide.dtype)
    nv = _panel_vectors(c_out, lanes)
    width = -(-c_out // lanes) * lanes
    if width != c_out:
        outs = torch.nn.functional.pad(outs, (0, width - c_out))
    offsets = np.zeros(k + 1, np.int64)
    bounds = np.empty((rows_in.numel() // chunk + k, 2), np.int64)
    n_partials = _chunk_bounds(starts.numpy(), chunk, bounds, offsets)
    grad = torch.zeros(k, c_in, c_out, dtype=wide.dtype)
    if n_partials and c_in and c_out:
        partial = torch.empty(n_partials, c_in, width, dtype=wide.dtype).numpy()
        _partials(
            partial.dtype.type(0), _tag(nv), nv <= 3 and _WIDE,
            wide.data_ptr(), c_in * wide.itemsize, outs.data_ptr(), width * wide.itemsize,
            width // (nv * lanes), c_in, partial, rows_in.numpy(), rows_out.numpy(), bounds[:n_partials],
        )  # fmt: skip
        _add_partials(partial, offsets, grad.numpy())
    return grad.to(feats.dtype)
