"""The inner loop of an EIE layer on a CPU, in LLVM IR: 16 weights of one column at a time.

A chunk is 16 slots of one column: a first row, the column, 16 row offsets of a byte each, 16 codes. The
products of all 16 are made in one register (codes are looked up by a permutation of the codebook) and then
added to their rows one by one. On a Zen 4 core an addition to a row in the L1 cache takes 1.05 cycles, the
processor's one store a cycle, and a chunk 1.17 cycles a slot. Slower, in cycles a slot: scatter instructions
(1.5 for the store and 1.3 for the gather), products by way of a buffer (2.2: a wide store is not forwarded to
narrow loads), products by look-ups in memory (1.9), rows as running sums of steps (1.5).
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, register_jitable

from pcsparse.kernels.cpu.emitter import F32, HAS_WIDE_REGISTERS, I8, I16, I32, I64, Emitter, loop

SLOTS = 16
"""Weights a chunk."""
FIRST_ROW, COLUMN, OFFSETS, CODES = 0, 2, 4, 4 + SLOTS
"""Where a chunk has what: two uint16, 16 bytes, and 16 codes of half a byte or a byte."""
CHUNK_BYTES = {4: CODES + SLOTS // 2, 8: CODES + SLOTS}
"""Of a chunk, by the bits of a code."""
MOST_OFFSET = 255
# bytes: some 40 chunks, 200 ns
_FETCH_AHEAD = 1152
SLACK = MOST_OFFSET + SLOTS
"""Rows behind the last that empty slots may add zeros to."""


@register_jitable
def code_shift(slot):
    """Bit of a slot's code among the 64 of 16 codes: even slots in the low half, odd ones in the high."""
    return 32 * (slot % 2) + 4 * (slot // 2)


@intrinsic
def add_chunks(typing_context, code_bits, chained, streamed, begin, end, sums, codebook, x):
    """sums[row] += codebook[code] * x[column] for all slots of the chunks from address `begin` to `end`.

    Args (addresses are i64):
        code_bits: a tuple of 4 or 8 items.
        chained: a tuple of 2 items if offsets are steps from slot to slot, of 1 if from the first row.
        streamed: a tuple of 2 items if chunks to come are to be fetched early, of 1 if somebody else does.
        begin, end: addresses of chunks.
        sums, codebook, x: addresses of float32.
    """
    n_bits, is_chain, fetch = len(code_bits), len(chained) == 2, len(streamed) == 2

    def codegen(context, builder, signature, args):
        emitter = Emitter(builder, types.float32)
        _, _, _, begin, end, sums, codebook, x = args
        sums, codebook, x = (emitter.pointer(address, F32) for address in (sums, codebook, x))
        in_register = HAS_WIDE_REGISTERS and n_bits == 4
        table = None
        if in_register:
            table = builder.load(builder.bitcast(codebook, emitter.vector.as_pointer()), align=4)

        def body(chunk, carried):
            def load(place, kind):
                return builder.load(emitter.pointer(emitter.offset(chunk, place), kind), align=1)

            if fetch:
                emitter.prefetch(emitter.offset(chunk, _FETCH_AHEAD))
            column = builder.zext(load(COLUMN, I16), I64)
            factor = builder.load(builder.gep(x, [column]), align=4)
            if in_register:
                values = _products(emitter, table, load(CODES, I64), factor)
            row = builder.zext(load(FIRST_ROW, I16), I64)
            codes = None if in_register or n_bits == 8 else load(CODES, I64)
            for slot in range(SLOTS):
                step = builder.zext(load(OFFSETS + slot, I8), I64)
                place = builder.add(row, step)
                if is_chain:
                    row = place
                if in_register:
                    value = builder.extract_element(values, I32(slot))
                else:
                    if n_bits == 8:
                        code = builder.zext(load(CODES + slot, I8), I64)
                    else:
                        code = builder.and_(builder.lshr(codes, I64(code_shift(slot))), I64(15))
                    weight = builder.load(builder.gep(codebook, [code]), align=4)
                    is_pad = builder.icmp_unsigned("==", code, I64(0))
                    value = builder.select(is_pad, F32(0), builder.fmul(weight, factor))
                target = builder.gep(sums, [place])
                builder.store(builder.fadd(builder.load(target, align=4), value), target, align=4)
            return carried

        loop(builder, begin, end, CHUNK_BYTES[n_bits], [], body)
        return context.get_dummy_value()

    return types.void(code_bits, chained, streamed, *(types.int64,) * 5), codegen


def looked_up(emitter, table, codes):
    """16 codes of half a byte (i64) as values of a codebook in a register, and as numbers; wide registers."""
    builder = emitter.builder
    halves = ir.VectorType(I64, 8)
    undefined = ir.Constant(halves, ir.Undefined)
    lane = builder.insert_element(undefined, codes, I32(0))
    spread = builder.shuffle_vector(lane, undefined, ir.Constant(ir.VectorType(I32, 8), [0] * 8))
    words = builder.bitcast(spread, emitter.words)
    # dwords alternate between the low and the high half; the permutation reads the lowest four bits alone
    shifts = ir.Constant(emitter.words, [code_shift(slot) % 32 for slot in range(SLOTS)])
    index = builder.lshr(words, shifts)
    arguments = [emitter.vector, emitter.words]
    permute = emitter.function("llvm.x86.avx512.permvar.sf.512", emitter.vector, arguments)
    return builder.call(permute, [table, index]), builder.and_(index, emitter.constant_words(15))


def _products(emitter, table, codes, factor):
    """The same values times `factor`; 0 where the code is, whatever the factor."""
    builder = emitter.builder
    values, numbers = looked_up(emitter, table, codes)
    products = builder.fmul(values, emitter.splat(factor))
    is_pad = builder.icmp_unsigned("==", numbers, emitter.constant_words(0))
    return builder.select(is_pad, ir.Constant(emitter.vector, [0.0] * SLOTS), products)


@intrinsic
def fetch_lines(typing_context, begin, end):
    """Ask for the cache lines from address `begin` to `end`."""

    def codegen(context, builder, signature, args):
        emitter = Emitter(builder, types.float32)

        def body(address, carried):
            emitter.prefetch(address)
            return carried

        loop(builder, args[0], args[1], 64, [], body)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


def _reader(kind, number):
    @intrinsic
    def read(typing_context, address, index):
        """Item `index` of an array at an i64 address: arrays as arguments cost more than a small layer."""

        def codegen(context, builder, signature, args):
            place = builder.gep(builder.inttoptr(args[0], kind.as_pointer()), [args[1]])
            value = builder.load(place)
            return builder.sext(value, I64) if kind == I32 else value

        return number(types.int64, types.int64), codegen

    return read


read_int32, read_int64, read_float32 = (
    _reader(I32, types.int64), _reader(I64, types.int64), _reader(F32, types.float32)
)  # fmt: skip


def _writer(kind, number):
    @intrinsic
    def write(typing_context, address, index, value):
        """Set item `index` of an array at an i64 address."""

        def codegen(context, builder, signature, args):
            value = builder.trunc(args[2], I32) if kind == I32 else args[2]
            builder.store(value, builder.gep(builder.inttoptr(args[0], kind.as_pointer()), [args[1]]))
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, number), codegen

    return write


write_int32, write_float32 = _writer(I32, types.int64), _writer(F32, types.float32)


@register_jitable
def finish_rows(to, bias, low, n, relu):
    """Add the bias of rows low, low + 1, ... to n sums at an i64 address, unless it is 0; then their ReLU."""
    if bias != 0:
        for row in range(n):
            write_float32(to, row, read_float32(to, row) + read_float32(bias, low + row))
    if relu:
        for row in range(n):
            value = read_float32(to, row)
            # a NaN stays one, as in torch
            write_float32(to, row, np.float32(0) if value < 0 else value)
