"""The inner loop of an EIE layer by rows on a CPU, in LLVM IR: 16 weights of one row at a time.

A chunk is 16 slots of one row: a first column, 16 column offsets of a byte each, 16 codes. Where no
activation is 0, columns have nothing to skip, and adding to rows is bound by the processor's one store a
cycle; a row stores nothing until it ends, and its bound is two loads of floats a cycle.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from pcsparse.kernels.cpu.eie_chunks import MOST_OFFSET, SLOTS, code_shift, looked_up
from pcsparse.kernels.cpu.emitter import F32, HAS_WIDE_REGISTERS, I8, I16, I32, I64, Emitter, loop

OFFSETS, CODES = 2, 2 + SLOTS
"""Where a chunk has what: a first column of 16 bits, 16 bytes, and 16 codes of half a byte or a byte."""
CHUNK_BYTES = {4: CODES + SLOTS // 2, 8: CODES + SLOTS}
"""Of a chunk, by the bits of a code."""
MOST_GAP = MOST_OFFSET
"""Columns from the first of a chunk to its last."""
# bytes: some 40 chunks, 200 ns
_FETCH_AHEAD = 1152


@intrinsic
def row_sum(typing_context, code_bits, begin, end, codebook, x):
    """Sum of codebook[code] * x[column] over all slots of the chunks from address `begin` to `end`.

    Sixteen sums, one a slot, are added up at the end, halves upon halves. A code of 0 adds nothing, whatever
    the activation.

    Args (addresses are i64):
        code_bits: a tuple of 4 or 8 items.
        begin, end: addresses of chunks.
        codebook, x: addresses of float32.
    """
    n_bits = len(code_bits)

    def codegen(context, builder, signature, args):
        emitter = Emitter(builder, types.float32)
        _, begin, end, codebook, x = args
        table = None
        if HAS_WIDE_REGISTERS and n_bits == 4:
            table = emitter.load_vector(codebook, align=4)
        entries, nothing = emitter.pointer(codebook, F32), ir.Constant(emitter.vector, [0.0] * SLOTS)

        def body(chunk, carried):
            def load(place, kind):
                return builder.load(emitter.pointer(emitter.offset(chunk, place), kind), align=1)

            emitter.prefetch(emitter.offset(chunk, _FETCH_AHEAD))
            first = builder.zext(load(0, I16), I64)
            given = emitter.pointer(builder.add(x, builder.shl(first, I64(2))), F32)
            codes = load(CODES, I64) if n_bits == 4 else None
            inputs = weights = ir.Constant(emitter.vector, ir.Undefined)
            numbers = ir.Constant(emitter.words, ir.Undefined)
            for slot in range(SLOTS):
                step = builder.zext(load(OFFSETS + slot, I8), I64)
                value = builder.load(builder.gep(given, [step]), align=4)
                inputs = builder.insert_element(inputs, value, I32(slot))
                if table is not None:
                    continue
                if codes is None:
                    code = builder.zext(load(CODES + slot, I8), I64)
                else:
                    code = builder.and_(builder.lshr(codes, I64(code_shift(slot))), I64(15))
                weight = builder.load(builder.gep(entries, [code]), align=4)
                weights = builder.insert_element(weights, weight, I32(slot))
                numbers = builder.insert_element(numbers, builder.trunc(code, I32), I32(slot))
            if table is not None:
                weights, numbers = looked_up(emitter, table, codes)
            is_pad = builder.icmp_unsigned("==", numbers, emitter.constant_words(0))
            inputs = builder.select(is_pad, nothing, inputs)
            return [emitter.multiply_add(inputs, weights, carried[0])]

        (total,) = loop(builder, begin, end, CHUNK_BYTES[n_bits], [nothing], body)
        lanes = SLOTS // 2
        while lanes:
            halves = [
                builder.shuffle_vector(
                    total,
                    ir.Constant(total.type, ir.Undefined),
                    ir.Constant(ir.VectorType(I32, lanes), list(range(lane, lane + lanes))),
                )
                for lane in (0, lanes)
            ]
            total = builder.fadd(*halves)
            lanes //= 2
        return builder.extract_element(total, I32(0))

    return types.float32(code_bits, *(types.int64,) * 4), codegen
