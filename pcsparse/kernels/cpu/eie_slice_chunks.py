"""The inner loop of an EIE layer by rows for wide registers, in LLVM IR: three weights of 16 rows at a time.

A lane is a row, so sums stay in registers to the end and nothing is scattered, gathered or added across. A
chunk has three slots a lane and one window of columns that all of them lie in: the window's activations are
in registers, and each slot takes its own by a permutation, as it takes its value from the codebook. The
window slides: it starts at the least column that any of the 16 rows still has to come, and rows run ahead
within it. That fills 56 % of the slots at a density of 4 %, three quarters at 10 %, nine tenths at 25 %, in
windows of 64; a window of 128 fills more (69 % at 4 %), at up to twice as many permutations. On a Zen 4 core
a chunk takes some 15 cycles: 0.4 a weight at 10 %, where `eie_row_chunks` takes 1.0 and adding to rows
(`eie_chunks`) 1.2.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from pcsparse.kernels.cpu.emitter import I8, I64, Emitter, loop

LANES = 16
"""Rows of a slice."""
SLOTS = 3
"""Weights of a row in a chunk: each takes 4 bits of code and 6 of column in the lane's 32 bits."""
CODE_BITS, SLOT_BITS = 4, 10
FAR_BIT = 29
"""Plus the slot: whether 64 is to be added to its column. The first slot has no such bit."""
CHUNK_BYTES = 4 * LANES
NEAR, WIDE = 64, 128
"""Columns of a window."""
# bytes: some 30 chunks, 130 ns
_FETCH_AHEAD = 2048


def _lookup(emitter, windows, columns, word, slot):
    """The activations of a slot: columns below 32 within pairs of registers, then the halves."""
    builder = emitter.builder
    arguments = [emitter.vector, emitter.words, emitter.vector]
    permute = emitter.function("llvm.x86.avx512.vpermi2var.ps.512", emitter.vector, arguments)
    found = [
        builder.call(permute, [windows[pair], columns, windows[pair + 1]])
        for pair in range(0, len(windows) if slot else NEAR // LANES, 2)
    ]
    for bit in (SLOT_BITS * slot + SLOT_BITS - 1, FAR_BIT + slot):
        if len(found) == 1:
            break
        told = builder.and_(word, emitter.constant_words(1 << bit))
        is_upper = builder.icmp_unsigned("!=", told, emitter.constant_words(0))
        found = [builder.select(is_upper, found[i + 1], found[i]) for i in range(0, len(found), 2)]
    return found[0]


def _slice_sums(drops_pads):
    @intrinsic
    def slice_sums(typing_context, window, begin, end, chunks, steps, codebook, x, out, left):
        """out[lane] = sum of codebook[code] * x[column] over a lane's slots in chunks number begin to end.

        Each of the three slots has its own sum; they are added at the end.

        Args (i64; all but `begin`, `end` and `left` are addresses):
            window: a tuple of 2 items for windows of 128 columns, of 1 for 64.
            chunks: of the first chunk of all, of 64 bytes each.
            steps: uint8, columns from the start of the window before (0 before the first) to a chunk's.
            codebook: 16 float32; the first is 0.
            x: float32; a whole window is read from each start on.
            out: float32; that of the first lane.
            left: lanes that are written.
        """
        n_registers = (WIDE if len(window) == 2 else NEAR) // LANES

        def codegen(context, builder, signature, args):
            emitter = Emitter(builder, types.float32)
            _, begin, end, chunks, steps, codebook, x, out, left = args
            table, nothing = (
                emitter.load_vector(codebook, align=4),
                ir.Constant(emitter.vector, [0.0] * LANES),
            )
            arguments = [emitter.vector, emitter.words]
            permute = emitter.function("llvm.x86.avx512.permvar.sf.512", emitter.vector, arguments)

            def body(number, carried):
                chunk = builder.add(chunks, builder.mul(number, I64(CHUNK_BYTES)))
                emitter.prefetch(emitter.offset(chunk, _FETCH_AHEAD))
                word = builder.load(emitter.pointer(chunk, emitter.words), align=CHUNK_BYTES)
                step = emitter.pointer(builder.add(steps, number), I8)
                # in bytes
                step = builder.shl(builder.zext(builder.load(step, align=1), I64), I64(2))
                given = builder.add(carried[0], step)
                windows = [
                    emitter.load_vector(emitter.offset(given, 4 * LANES * i), align=4)
                    for i in range(n_registers)
                ]
                sums = []
                for slot in range(SLOTS):
                    # the permutations read the lowest four and five bits alone
                    first = SLOT_BITS * slot
                    codes = builder.lshr(word, emitter.constant_words(first)) if slot else word
                    columns = builder.lshr(word, emitter.constant_words(first + CODE_BITS))
                    inputs = _lookup(emitter, windows, columns, word, slot)
                    if drops_pads:
                        code = builder.and_(word, emitter.constant_words(15 << first))
                        is_pad = builder.icmp_unsigned("==", code, emitter.constant_words(0))
                        inputs = builder.select(is_pad, nothing, inputs)
                    weights = builder.call(permute, [table, codes])
                    sums.append(emitter.multiply_add(inputs, weights, carried[1 + slot]))
                return [given, *sums]

            _, *sums = loop(builder, begin, end, 1, [x, *[nothing] * SLOTS], body)
            total = builder.fadd(builder.fadd(sums[0], sums[1]), sums[2])
            emitter.store_masked(total, out, emitter.mask_of(left), 4)
            return context.get_dummy_value()

        return types.void(window, *(types.int64,) * 8), codegen

    return slice_sums


slice_sums = _slice_sums(False)
"""For finite activations: a pad adds 0 times one of them."""
checked_slice_sums = _slice_sums(True)
"""For any: a pad adds 0, whatever the activation that it stands for."""
