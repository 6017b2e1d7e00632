"""Layers in EIE's format on a CPU: a layout for its caches, and the chip's own."""

import numpy as np
import torch
from numba import prange
from torch import Tensor

from pcsparse.kernels.cpu.eie_chunks import (
    CHUNK_BYTES,
    CODES,
    COLUMN,
    FIRST_ROW,
    MOST_OFFSET,
    OFFSETS,
    SLACK,
    SLOTS,
    add_chunks,
    code_shift,
    fetch_lines,
    finish_rows,
    read_float32,
    read_int32,
    read_int64,
    write_float32,
    write_int32,
)
from pcsparse.kernels.cpu.launch import jit_parallel, jit_serial
from pcsparse.kernels.cpu.memory import aligned

# sums of this many rows stay in half of an L1 cache of 32 KB
_GROUP_ROWS = 4096
# column ranges summed apart: it sets the order of additions, so it is the same for any number of threads
_PARTS = 4
# a column is numbered from the first of its part, in 16 bits
_MOST_PART = 1 << 16
# cycles of a slot whose offset is a step from the slot before, over one counted from the first row
_CHAIN_COST = 1.3
# active columns ahead whose chunks are fetched
_AHEAD = 3
# from this share of active columns on, zeros cost less than finding them
_DENSE = 0.75
# items a call, each with its own sums
_MOST_ITEMS = 32
_NARROW, _WIDE = (0,) * 4, (0,) * 8
# of a table of half-byte codes
_TABLE = range(16)
_ABSOLUTE, _CHAINED = (0,), (0,) * 2


@jit_serial
def _count_chunks(starts, rows, group_rows, chained, pointers):
    """Chunks before each column of each group, as `_fill_chunks` will make them; their number in all."""
    n_chunks = 0
    for group in range(pointers.shape[0]):
        low, high = group * group_rows, (group + 1) * group_rows
        for j in range(len(starts) - 1):
            pointers[group, j] = n_chunks
            slot, first, before = SLOTS, 0, 0
            for entry in range(starts[j], starts[j + 1]):
                row = rows[entry]
                if row < low or row >= high:
                    continue
                if chained:
                    gap = row - before
                    while slot < SLOTS and gap > MOST_OFFSET:
                        gap -= MOST_OFFSET
                        slot += 1
                elif slot < SLOTS and row - first > MOST_OFFSET:
                    slot = SLOTS
                if slot == SLOTS:
                    n_chunks += 1
                    slot, first = 0, row
                slot += 1
                before = row
        pointers[group, len(starts) - 1] = n_chunks
    return n_chunks


@jit_serial
def _leave_empty(chunk, slot, chained):
    """Let the slots from `slot` on add zeros to the rows that follow, each to another one if it can."""
    for empty in range(slot, SLOTS):
        chunk[OFFSETS + empty] = 1 if chained else min(chunk[OFFSETS + empty - 1] + 1, MOST_OFFSET)


@jit_serial
def _write_code(chunk, slot, code, code_bits):
    if code_bits == 8:
        chunk[CODES + slot] = code
    else:
        bit = code_shift(slot)
        chunk[CODES + bit // 8] |= code << (bit % 8)


@jit_serial
def _fill_chunks(starts, rows, codes, group_rows, n_groups, chained, code_bits, locals_of, chunks):
    """Write the chunks that `_count_chunks` counted; `chunks` (n_chunks, bytes) is zero."""
    n_chunks = 0
    for group in range(n_groups):
        low, high = group * group_rows, (group + 1) * group_rows
        for j in range(len(starts) - 1):
            slot, first, before = SLOTS, 0, 0
            chunk = chunks[0]
            for entry in range(starts[j], starts[j + 1]):
                row = rows[entry]
                if row < low or row >= high:
                    continue
                gap = row - before
                while chained and slot < SLOTS and gap > MOST_OFFSET:
                    chunk[OFFSETS + slot] = MOST_OFFSET
                    gap -= MOST_OFFSET
                    slot += 1
                if not chained and slot < SLOTS and row - first > MOST_OFFSET:
                    _leave_empty(chunk, slot, chained)
                    slot = SLOTS
                if slot == SLOTS:
                    chunk = chunks[n_chunks]
                    n_chunks += 1
                    slot, first, gap = 0, row, 0
                    local = row - low
                    chunk[FIRST_ROW] = local & 255
                    chunk[FIRST_ROW + 1] = local >> 8
                    chunk[COLUMN] = locals_of[j] & 255
                    chunk[COLUMN + 1] = locals_of[j] >> 8
                chunk[OFFSETS + slot] = gap if chained else row - first
                _write_code(chunk, slot, codes[entry], code_bits)
                slot += 1
                before = row
            _leave_empty(chunk, slot, chained)


def eie_layout(starts: Tensor, rows: Tensor, codes: Tensor, codebook: Tensor, n_out: int) -> list[Tensor]:
    n_in = len(starts) - 1
    n_groups = max(1, -(-n_out // _GROUP_ROWS))
    group_rows = -(-n_out // n_groups)
    n_parts = max(_PARTS, -(-n_in // _MOST_PART))
    # columns of equal numbers of weights a part, but never more than a chunk can number
    wanted = torch.arange(n_parts + 1, device="cpu") * int(starts[-1]) // n_parts
    bounds = torch.searchsorted(starts, wanted)
    bounds[0], bounds[-1] = 0, n_in
    if int(bounds.diff().max()) > _MOST_PART:
        bounds = torch.arange(n_parts + 1, device="cpu") * n_in // n_parts
    columns, entries = starts.numpy(), rows.numpy()
    pointers = np.zeros((n_groups, n_in + 1), np.int32)
    absolute = _count_chunks(columns, entries, group_rows, False, pointers)
    chained = _count_chunks(columns, entries, group_rows, True, pointers)
    is_chain = chained * _CHAIN_COST < absolute
    n_chunks = chained if is_chain else _count_chunks(columns, entries, group_rows, False, pointers)
    code_bits = 4 if len(codebook) <= 16 else 8
    size = CHUNK_BYTES[code_bits]
    chunks = aligned((n_chunks * size,), torch.uint8).zero_()
    in_part = torch.arange(n_in, device="cpu") - bounds[:-1].repeat_interleave(bounds.diff())
    if n_chunks:
        _fill_chunks(
            columns, entries, codes.numpy(), group_rows, n_groups, is_chain, code_bits, in_part.numpy(),
            chunks.numpy().reshape(n_chunks, size),
        )  # fmt: skip
    table = torch.zeros(1 << code_bits, dtype=torch.float32, device="cpu")
    table[: len(codebook)] = codebook
    # a length is read sooner than a value
    mode = torch.empty(int(is_chain), dtype=torch.float32, device="cpu")
    return [chunks, torch.from_numpy(pointers), bounds, table, mode]


@jit_parallel()
def _eie_linear(
    code_bits, chained, n_items, n_in, n_out, n_groups, n_parts, group_rows, chunks, pointers, bounds, table,
    x, bias, relu, sums, active, out,
):  # fmt: skip
    """From `chunks` on, and but for `relu`, all are addresses (bias 0 for none)."""
    size = len(code_bits) * SLOTS // 8 + CODES
    stride = _padded_rows(group_rows)
    for task in prange(n_items * n_parts * n_groups):
        sample, part = task // (n_groups * n_parts), task // n_groups % n_parts
        mine, listed = sums + 4 * task * stride, active + 4 * task * (n_in + 1)
        mapped = pointers + 4 * (task % n_groups) * (n_in + 1)
        for row in range(group_rows):
            write_float32(mine, row, np.float32(0))
        first, last = read_int64(bounds, part), read_int64(bounds, part + 1)
        n = 0
        for j in range(first, last):
            # written before it is known whether the column counts
            write_int32(listed, n, j)
            n += read_float32(x, sample * n_in + j) != 0
        given = x + 4 * (sample * n_in + first)
        if n >= _DENSE * (last - first):
            begin, end = chunks + size * read_int32(mapped, first), chunks + size * read_int32(mapped, last)
            add_chunks(code_bits, chained, (0, 0), begin, end, mine, table, given)
        else:
            for i in range(n):
                if i + _AHEAD < n:
                    j = read_int32(listed, i + _AHEAD)
                    begin, end = read_int32(mapped, j), read_int32(mapped, j + 1)
                    fetch_lines(chunks + size * begin, chunks + size * end)
                j = read_int32(listed, i)
                begin, end = read_int32(mapped, j), read_int32(mapped, j + 1)
                begin, end = chunks + size * begin, chunks + size * end
                add_chunks(code_bits, chained, (0,), begin, end, mine, table, given)
    for i in range(n_items * n_groups):
        sample, low = i // n_groups, i % n_groups * group_rows
        n = min(group_rows, n_out - low)
        to = out + 4 * (sample * n_out + low)
        # one loop a part, which is a loop of vectors
        for part in range(n_parts):
            mine = sums + 4 * ((sample * n_parts + part) * n_groups + i % n_groups) * stride
            if part == 0:
                for row in range(n):
                    write_float32(to, row, read_float32(mine, row))
            else:
                for row in range(n):
                    write_float32(to, row, read_float32(to, row) + read_float32(mine, row))
        finish_rows(to, bias, low, n, relu)


@jit_serial
def _padded_rows(group_rows):
    """Rows of a block of sums, with those that empty slots add to."""
    return (group_rows + SLACK + SLOTS - 1) // SLOTS * SLOTS


def eie_linear(
    x: Tensor, layout: list[Tensor], bias: Tensor | None, n_out: int, relu: bool = False
) -> Tensor:
    chunks, pointers, bounds, table, mode = layout
    # addresses are handed on, so all must be as the kernel reads it
    x, bias = x.detach().contiguous(), None if bias is None else bias.detach().contiguous()
    out = torch.empty(len(x), n_out, dtype=torch.float32, device="cpu")
    if len(x) <= _MOST_ITEMS:
        _multiply(x, chunks, pointers, bounds, table, mode, bias, relu, out)
        return out
    for first in range(0, len(x), _MOST_ITEMS):
        some = slice(first, first + _MOST_ITEMS)
        _multiply(x[some], chunks, pointers, bounds, table, mode, bias, relu, out[some])
    return out


def _multiply(
    x: Tensor,
    chunks: Tensor,
    pointers: Tensor,
    bounds: Tensor,
    table: Tensor,
    mode: Tensor,
    bias: Tensor | None,
    relu: bool,
    out: Tensor,
) -> None:
    """A few items: each needs rows of sums and a list of columns for every part."""
    (n_items, n_in), n_out = x.shape, out.shape[1]
    n_groups, n_parts = pointers.shape[0], bounds.shape[0] - 1
    group_rows = -(-n_out // n_groups)
    n_tasks = n_items * n_groups * n_parts
    sums = torch.empty(n_tasks * (group_rows + SLACK + SLOTS), dtype=torch.float32, device="cpu")
    active = torch.empty(n_tasks * (n_in + 1), dtype=torch.int32, device="cpu")
    _eie_linear(
        _NARROW if table.shape[0] == len(_TABLE) else _WIDE,
        _CHAINED if mode.shape[0] else _ABSOLUTE,
        n_items, n_in, n_out, n_groups, n_parts, group_rows,
        chunks.data_ptr(), pointers.data_ptr(), bounds.data_ptr(), table.data_ptr(),
        x.data_ptr(), 0 if bias is None else bias.data_ptr(), relu, sums.data_ptr(), active.data_ptr(),
        out.data_ptr(),
    )  # fmt: skip


@jit_parallel()
def _eie_chip_linear(x, codes, skips, pointers, batch_starts, bases, codebook, bias, relu, out):
    n_pe = pointers.shape[0]
    for pe in prange(n_pe):
        for sample in range(x.shape[0]):
            for row in range(pe, out.shape[1], n_pe):
                out[sample, row] = 0
            for batch in range(len(batch_starts) - 1):
                for j in range(batch_starts[batch], batch_starts[batch + 1]):
                    factor = x[sample, j]
                    if factor == 0:
                        continue
                    row = pe - n_pe
                    base = bases[batch, pe]
                    for entry in range(base + pointers[pe, j + batch], base + pointers[pe, j + batch + 1]):
                        row += n_pe * (skips[entry] + 1)
                        # a pad only moves on
                        if codes[entry] != 0:
                            out[sample, row] += codebook[codes[entry]] * factor
            for row in range(pe, out.shape[1], n_pe):
                value = out[sample, row]
                if len(bias):
                    value += bias[row]
                out[sample, row] = 0 if relu and value < 0 else value


def eie_chip_linear(
    x: Tensor,
    codes: Tensor,
    skips: Tensor,
    pointers: Tensor,
    batch_starts: Tensor,
    codebook: Tensor,
    bias: Tensor | None,
    n_out: int,
    relu: bool = False,
) -> Tensor:
    # where each PE's entries begin in each batch: batches follow each other, in them PEs
    ends = batch_starts[1:] + torch.arange(len(batch_starts) - 1, device="cpu")
    counts = pointers[:, ends].long().T.reshape(-1)
    bases = (counts.cumsum(0) - counts).view(-1, len(pointers))
    out = torch.empty(len(x), n_out, dtype=torch.float32, device="cpu")
    none = torch.empty(0, dtype=torch.float32, device="cpu") if bias is None else bias.detach()
    _eie_chip_linear(
        x.detach().numpy(), codes.numpy(), skips.numpy(), pointers.numpy(), batch_starts.numpy(),
        bases.numpy(),
        codebook.numpy(), none.numpy(), relu, out.numpy(),
    )  # fmt: skip
    return out
