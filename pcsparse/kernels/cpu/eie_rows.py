"""Layers in EIE's format by rows, for activations that are seldom 0: row by row where slices of rows lose."""

import numpy as np
import torch
from numba import prange
from torch import Tensor

from pcsparse.kernels.cpu.eie_chunks import (
    SLOTS,
    code_shift,
    read_float32,
    read_int32,
    write_float32,
)
from pcsparse.kernels.cpu.eie_row_chunks import CHUNK_BYTES, CODES, MOST_GAP, OFFSETS, row_sum
from pcsparse.kernels.cpu.eie_slice_chunks import NEAR, WIDE
from pcsparse.kernels.cpu.eie_slices import (
    SLICE_BYTES,
    SLICE_CYCLES,
    n_slice_chunks,
    slice_layout,
    slice_linear,
)
from pcsparse.kernels.cpu.emitter import HAS_WIDE_REGISTERS
from pcsparse.kernels.cpu.launch import jit_parallel, jit_serial
from pcsparse.kernels.cpu.memory import aligned

# a chunk numbers its first column in 16 bits
_MOST_COLUMNS = 1 << 16
# rows a task: enough to be worth a turn of a thread, few enough to share evenly
_TASK_ROWS = 64
_NARROW, _WIDE = (0,) * 4, (0,) * 8
# of a table of half-byte codes
_TABLE = range(16)
# cycles of a chunk of one row on a Zen 4 core
_CYCLES = 16.0
# bytes a weight: a quarter of compressed rows of float32 with columns of 32 bits
_MOST_BYTES = 2
# tensors of a layout by single rows
_ROW_PARTS = 3


@jit_serial
def _count_chunks(starts, columns, part_columns, pointers):
    """Chunks before each row of each part of the columns, as `_fill_chunks` will make them."""
    n_chunks = 0
    for part in range(pointers.shape[0]):
        low, high = part * part_columns, (part + 1) * part_columns
        for row in range(len(starts) - 1):
            pointers[part, row] = n_chunks
            slot, first = SLOTS, 0
            for entry in range(starts[row], starts[row + 1]):
                column = columns[entry]
                if column < low or column >= high:
                    continue
                if slot == SLOTS or column - first > MOST_GAP:
                    n_chunks += 1
                    slot, first = 0, column
                slot += 1
        pointers[part, len(starts) - 1] = n_chunks


@jit_serial
def _fill_chunks(starts, columns, codes, part_columns, n_parts, code_bits, chunks):
    """Write the chunks that `_count_chunks` counted; `chunks` (n_chunks, bytes) is zero, as empty slots."""
    n_chunks = 0
    for part in range(n_parts):
        low, high = part * part_columns, (part + 1) * part_columns
        for row in range(len(starts) - 1):
            slot, first = SLOTS, 0
            for entry in range(starts[row], starts[row + 1]):
                column = columns[entry]
                if column < low or column >= high:
                    continue
                if slot == SLOTS or column - first > MOST_GAP:
                    n_chunks += 1
                    slot, first = 0, column
                    chunks[n_chunks - 1, 0] = (column - low) & 255
                    chunks[n_chunks - 1, 1] = (column - low) >> 8
                chunk = chunks[n_chunks - 1]
                chunk[OFFSETS + slot] = column - first
                if code_bits == 8:
                    chunk[CODES + slot] = codes[entry]
                else:
                    bit = code_shift(slot)
                    chunk[CODES + bit // 8] |= codes[entry] << (bit % 8)
                slot += 1


def _window(starts: Tensor, columns: Tensor, codes: Tensor, n_in: int, n_chunks: int) -> int | None:
    """Columns of the windows of a layout of slices; None where single rows, of so many chunks, are better.

    The fewest cycles of those that take at most two bytes a weight; the fewest of all where all take more.
    """
    if not HAS_WIDE_REGISTERS:
        return None
    cycles: dict[int | None, float] = {None: _CYCLES * n_chunks}
    sizes: dict[int | None, int] = {None: CHUNK_BYTES[4] * n_chunks}
    for window in (NEAR, WIDE):
        n_slice = n_slice_chunks(starts, columns, codes, n_in, window)
        cycles[window], sizes[window] = SLICE_CYCLES[window] * n_slice, SLICE_BYTES * n_slice
    small = [window for window in sizes if sizes[window] <= _MOST_BYTES * len(columns)]
    return min(small or sizes, key=lambda window: cycles[window])


def eie_row_layout(
    starts: Tensor, columns: Tensor, codes: Tensor, codebook: Tensor, n_in: int
) -> list[Tensor]:
    n_out, n_parts = len(starts) - 1, max(1, -(-n_in // _MOST_COLUMNS))
    pointers = torch.zeros(n_parts, n_out + 1, dtype=torch.int32, device="cpu")
    _count_chunks(starts.numpy(), columns.numpy(), _MOST_COLUMNS, pointers.numpy())
    code_bits, n_chunks = 4 if len(codebook) <= len(_TABLE) else 8, int(pointers[-1, -1])
    window = _window(starts, columns, codes, n_in, n_chunks) if code_bits == 4 else None
    if window is not None:
        return slice_layout(starts, columns, codes, codebook, n_in, window)
    chunks = aligned((n_chunks * CHUNK_BYTES[code_bits],), torch.uint8).zero_()
    if n_chunks:
        _fill_chunks(
            starts.numpy(), columns.numpy(), codes.numpy(), _MOST_COLUMNS, n_parts, code_bits,
            chunks.numpy().reshape(n_chunks, -1),
        )  # fmt: skip
    table = torch.zeros(1 << code_bits, dtype=torch.float32, device="cpu")
    table[: len(codebook)] = codebook
    return [chunks, pointers, table]


@jit_parallel()
def _eie_row_linear(code_bits, shape, layout, x, bias, relu, out):
    """All but the first two are addresses (bias 0 for none); `shape` is n_items, n_in, n_out."""
    n_items, n_in, n_out = shape
    chunks, pointers, table, n_parts = layout
    size = CODES + SLOTS * len(code_bits) // 8
    n_blocks = (n_out + _TASK_ROWS - 1) // _TASK_ROWS
    # blocks outside, items inside: a block's weights are in the cache for the items that follow
    for task in prange(n_blocks):
        for sample in range(n_items):
            for row in range(task * _TASK_ROWS, min((task + 1) * _TASK_ROWS, n_out)):
                total = np.float32(0)
                for part in range(n_parts):
                    mapped = pointers + 4 * part * (n_out + 1)
                    begin, end = read_int32(mapped, row), read_int32(mapped, row + 1)
                    given = x + 4 * (sample * n_in + part * _MOST_COLUMNS)
                    total += row_sum(code_bits, chunks + size * begin, chunks + size * end, table, given)
                if bias != 0:
                    total += read_float32(bias, row)
                # a NaN stays one, as in torch
                write_float32(out, sample * n_out + row, np.float32(0) if relu and total < 0 else total)


def eie_row_linear(
    x: Tensor, layout: list[Tensor], bias: Tensor | None, n_out: int, relu: bool = False
) -> Tensor:
    if len(layout) > _ROW_PARTS:
        return slice_linear(x, layout, bias, n_out, relu)
    chunks, pointers, table = layout
    # addresses are handed on, so all must be as the kernel reads it
    x, bias = x.detach().contiguous(), None if bias is None else bias.detach().contiguous()
    out = torch.empty(len(x), n_out, dtype=torch.float32, device="cpu")
    _eie_row_linear(
        _NARROW if table.shape[0] == len(_TABLE) else _WIDE,
        (*x.shape, n_out),
        (chunks.data_ptr(), pointers.data_ptr(), table.data_ptr(), pointers.shape[0]),
        x.data_ptr(), 0 if bias is None else bias.data_ptr(), relu, out.data_ptr(),
    )  # fmt: skip
    return out
