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
    fetch_lines,
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
_NARROW, _WIDE = (0,) * 4, (0,) * 8
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
        # see eie_chunks.code_shift
        bit = 32 * (slot % 2) + 4 * (slot // 2)
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
    group_rows = max(1, -(-n_out // n_groups))
    n_parts = max(_PARTS, -(-n_in // _MOST_PART))
    # columns of equal numbers of weights a part, but never more than a chunk can number
    wanted = torch.arange(n_parts + 1) * int(starts[-1]) // n_parts
    bounds = torch.searchsorted(starts, wanted)
    bounds[0], bounds[-1] = 0, n_in
    if int(bounds.diff().max()) > _MOST_PART:
        bounds = torch.arange(n_parts + 1) * n_in // n_parts
    columns, entries = starts.numpy(), rows.numpy()
    pointers = np.zeros((n_groups, n_in + 1), np.int32)
    absolute = _count_chunks(columns, entries, group_rows, False, pointers)
    chained = _count_chunks(columns, entries, group_rows, True, pointers)
    is_chain = chained * _CHAIN_COST < absolute
    n_chunks = chained if is_chain else _count_chunks(columns, entries, group_rows, False, pointers)
    code_bits = 4 if len(codebook) <= 16 else 8
    size = CHUNK_BYTES[code_bits]
    chunks = aligned((n_chunks * size,), torch.uint8).zero_()
    in_part = torch.arange(n_in) - bounds[:-1].repeat_interleave(bounds.diff())
    if n_chunks:
        _fill_chunks(
            columns, entries, codes.numpy(), group_rows, n_groups, is_chain, code_bits, in_part.numpy(),
            chunks.numpy().reshape(n_chunks, size),
        )  # fmt: skip
    table = torch.zeros(1 << code_bits)
    table[: len(codebook)] = codebook
    header = torch.tensor([code_bits, int(is_chain), group_rows])
    return [chunks, torch.from_numpy(pointers), bounds, table, header]


@jit_parallel()
def _eie_linear(code_bits, chained, x, chunks, pointers, bounds, table, group_rows, size, active, sums):
    n_groups, n_parts = pointers.shape[0], len(bounds) - 1
    base, table_at = chunks.ctypes.data, table.ctypes.data
    for task in prange(sums.shape[0]):
        sample, part = task // (n_groups * n_parts), task // n_groups % n_parts
        group = task % n_groups
        mine, listed = sums[task], active[task]
        for row in range(group_rows):
            mine[row] = 0
        first, last = bounds[part], bounds[part + 1]
        n = 0
        for j in range(first, last):
            listed[n] = j
            n += x[sample, j] != 0
        x_at = x.ctypes.data + 4 * (sample * x.shape[1] + first)
        sums_at = sums.ctypes.data + 4 * task * sums.shape[1]
        if n >= _DENSE * (last - first):
            begin, end = base + size * pointers[group, first], base + size * pointers[group, last]
            add_chunks(code_bits, chained, begin, end, sums_at, table_at, x_at)
        else:
            for i in range(n):
                if i + _AHEAD < n:
                    ahead = listed[i + _AHEAD]
                    fetch_lines(
                        base + size * pointers[group, ahead], base + size * pointers[group, ahead + 1]
                    )
                j = listed[i]
                begin, end = base + size * pointers[group, j], base + size * pointers[group, j + 1]
                add_chunks(code_bits, chained, begin, end, sums_at, table_at, x_at)


@jit_serial
def _add_parts(sums, n_groups, group_rows, bias, relu, out):
    n_parts = sums.shape[0] // (out.shape[0] * n_groups)
    for sample in range(out.shape[0]):
        for group in range(n_groups):
            low = group * group_rows
            n = min(group_rows, out.shape[1] - low)
            mine = out[sample, low : low + n]
            for row in range(n):
                mine[row] = 0
            for part in range(n_parts):
                added = sums[(sample * n_parts + part) * n_groups + group]
                for row in range(n):
                    mine[row] += added[row]
        if len(bias):
            for row in range(out.shape[1]):
                out[sample, row] += bias[row]
        if relu:
            for row in range(out.shape[1]):
                value = out[sample, row]
                # a NaN stays one, as in torch
                out[sample, row] = 0 if value < 0 else value


def eie_linear(
    x: Tensor, layout: list[Tensor], bias: Tensor | None, n_out: int, relu: bool = False
) -> Tensor:
    chunks, pointers, bounds, table, header = layout
    code_bits, is_chain, group_rows = header.tolist()
    n_groups, n_parts = pointers.shape[0], len(bounds) - 1
    n_tasks = len(x) * n_groups * n_parts
    sums = aligned((n_tasks, -(-(group_rows + SLACK) // SLOTS) * SLOTS), torch.float32)
    # the list of active columns is written before it is known whether there is one more
    active = torch.empty(n_tasks, x.shape[1] + 1, dtype=torch.int32)
    out = torch.empty(len(x), n_out)
    _eie_linear(
        _NARROW if code_bits == 4 else _WIDE, _CHAINED if is_chain else _ABSOLUTE, x.numpy(), chunks.numpy(),
        pointers.numpy(), bounds.numpy(), table.numpy(), group_rows, CHUNK_BYTES[code_bits], active.numpy(),
        sums.numpy(),
    )  # fmt: skip
    none = torch.empty(0) if bias is None else bias
    _add_parts(sums.numpy(), n_groups, group_rows, none.numpy(), relu, out.numpy())
    return out


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
    ends = batch_starts[1:] + torch.arange(len(batch_starts) - 1)
    counts = pointers[:, ends].long().T.reshape(-1)
    bases = (counts.cumsum(0) - counts).view(-1, len(pointers))
    out = torch.empty(len(x), n_out)
    none = torch.empty(0) if bias is None else bias
    _eie_chip_linear(
        x.numpy(), codes.numpy(), skips.numpy(), pointers.numpy(), batch_starts.numpy(), bases.numpy(),
        codebook.numpy(), none.numpy(), relu, out.numpy(),
    )  # fmt: skip
    return out
