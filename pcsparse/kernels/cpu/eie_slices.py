"""Layers in EIE's format by slices of 16 rows, for CPUs with wide registers and codes of half a byte."""

import numpy as np
import torch
from numba import prange
from torch import Tensor

from pcsparse.kernels.cpu.eie_chunks import finish_rows, read_int32
from pcsparse.kernels.cpu.eie_slice_chunks import (
    CHUNK_BYTES,
    CODE_BITS,
    FAR_BIT,
    LANES,
    NEAR,
    SLOT_BITS,
    SLOTS,
    WIDE,
    checked_slice_sums,
    slice_sums,
)
from pcsparse.kernels.cpu.launch import jit_parallel, jit_serial
from pcsparse.kernels.cpu.memory import aligned

SLICE_CYCLES = {NEAR: 15.0, WIDE: 23.0}
"""Of a chunk on a Zen 4 core, by the columns of its window."""
SLICE_BYTES = CHUNK_BYTES + 1
"""Of a chunk and its step."""
# columns from one window's start to the next fit in a byte; chunks without weights bridge more
_MOST_STEP = 255
_NEAR, _WIDE = (0,), (0,) * 2
_EXPONENT = 0x7F800000


@jit_serial
def _least_column(columns, places, ends):
    """Of those that any lane has to come, -1 if none has."""
    least = -1
    for lane in range(LANES):
        if places[lane] < ends[lane]:
            column = columns[places[lane]]
            if least < 0 or column < least:
                least = column
    return least


@jit_serial
def _fill_lane(columns, codes, place, end, start, window):
    """A lane's word of a chunk, and the weight that comes after."""
    word = 0
    for slot in range(SLOTS):
        # the first slot reaches 64 columns only
        reach = window if slot > 0 else NEAR
        if place < end and columns[place] < start + reach:
            ahead = columns[place] - start
            word |= (codes[place] | (ahead & (NEAR - 1)) << CODE_BITS) << SLOT_BITS * slot
            if ahead >= NEAR:
                word |= 1 << (FAR_BIT + slot)
            place += 1
    return word, place


@jit_serial
def _slice_rows(starts, columns, codes, n_in, window, pointers, chunks, steps):
    """Write the chunks of all slices, or count them alone where `chunks` is empty; their number."""
    n_chunks, n_rows = 0, len(starts) - 1
    # a whole window is read, so the last ones end with the row
    last = max(n_in - window, 0)
    places, ends = np.zeros(LANES, np.int64), np.zeros(LANES, np.int64)
    for group in range(len(pointers) - 1):
        pointers[group] = n_chunks
        for lane in range(LANES):
            row = min(group * LANES + lane, n_rows)
            places[lane], ends[lane] = starts[row], starts[min(row + 1, n_rows)]
        before = 0
        least = _least_column(columns, places, ends)
        while least >= 0:
            start = min(least, last, before + _MOST_STEP)
            for lane in range(LANES):
                word, places[lane] = _fill_lane(columns, codes, places[lane], ends[lane], start, window)
                if len(chunks):
                    chunks[n_chunks, lane] = word
            if len(chunks):
                steps[n_chunks] = start - before
            n_chunks += 1
            before = start
            least = _least_column(columns, places, ends)
    pointers[-1] = n_chunks
    return n_chunks


def n_slice_chunks(starts: Tensor, columns: Tensor, codes: Tensor, n_in: int, window: int) -> int:
    """Chunks of a matrix (see `Backend.eie_row_layout`) in windows of 64 or 128 columns; each has a step."""
    pointers = np.zeros(-(-(len(starts) - 1) // LANES) + 1, np.int32)
    nothing, none = np.zeros((0, LANES), np.uint32), np.zeros(0, np.uint8)
    return _slice_rows(starts.numpy(), columns.numpy(), codes.numpy(), n_in, window, pointers, nothing, none)


def slice_layout(
    starts: Tensor, columns: Tensor, codes: Tensor, codebook: Tensor, n_in: int, window: int
) -> list[Tensor]:
    """`Backend.eie_row_layout` for at most 16 codes: chunks, steps, pointers, codebook."""
    n_chunks = n_slice_chunks(starts, columns, codes, n_in, window)
    chunks = aligned((n_chunks * CHUNK_BYTES,), torch.uint8)
    steps = torch.empty(n_chunks, dtype=torch.uint8, device="cpu")
    pointers = torch.zeros(-(-(len(starts) - 1) // LANES) + 1, dtype=torch.int32, device="cpu")
    if n_chunks:
        _slice_rows(
            starts.numpy(), columns.numpy(), codes.numpy(), n_in, window, pointers.numpy(),
            chunks.numpy().view(np.uint32).reshape(n_chunks, LANES), steps.numpy(),
        )  # fmt: skip
    table = torch.zeros(1 << CODE_BITS, dtype=torch.float32, device="cpu")
    table[: len(codebook)] = codebook
    # a length is read sooner than a value
    mode = torch.empty(window, dtype=torch.uint8, device="cpu")
    return [chunks, steps, pointers, table, mode]


@jit_parallel()
def _eie_slice_linear(window, n_items, n_in, n_out, chunks, steps, pointers, table, x, bias, relu, out):
    """All but the first four and `relu` are addresses (bias 0 for none)."""
    finite = np.zeros(n_items, np.bool_)
    for sample in range(n_items):
        largest = 0
        for column in range(n_in):
            largest = max(largest, read_int32(x, sample * n_in + column) & _EXPONENT)
        finite[sample] = largest < _EXPONENT
    n_groups = (n_out + LANES - 1) // LANES
    # slices outside, items inside: a slice's weights are in the cache for the items that follow
    for group in prange(n_groups):
        begin, end = read_int32(pointers, group), read_int32(pointers, group + 1)
        low = group * LANES
        n = min(LANES, n_out - low)
        for sample in range(n_items):
            given, to = x + 4 * sample * n_in, out + 4 * (sample * n_out + low)
            if finite[sample]:
                slice_sums(window, begin, end, chunks, steps, table, given, to, n)
            else:
                checked_slice_sums(window, begin, end, chunks, steps, table, given, to, n)
            finish_rows(to, bias, low, n, relu)


def slice_linear(x: Tensor, layout: list[Tensor], bias: Tensor | None, n_out: int, relu: bool) -> Tensor:
    """`Backend.eie_row_linear` for a layout of slices."""
    chunks, steps, pointers, table, mode = layout
    # addresses are handed on, so all must be as the kernel reads it
    x, bias = x.contiguous(), None if bias is None else bias.contiguous()
    (n_items, n_in), window = x.shape, mode.shape[0]
    out = x.new_empty((n_items, n_out))
    if n_in < window:
        x, n_in = torch.nn.functional.pad(x, (0, window - n_in)), window
    _eie_slice_linear(
        _WIDE if window == WIDE else _NEAR,
        n_items, n_in, n_out,
        chunks.data_ptr(), steps.data_ptr(), pointers.data_ptr(), table.data_ptr(),
        x.data_ptr(), 0 if bias is None else bias.data_ptr(), relu, out.data_ptr(),
    )  # fmt: skip
    return out
