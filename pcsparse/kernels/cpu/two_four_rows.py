"""Rows of a 2:4 matrix times rows of inputs, in LLVM IR.

A block is 16 stored values of a row: a vector of them, 32 bits of positions, and the 32 inputs that they are
chosen from. Each value is multiplied by one input of its group of four, and the CPU can permute within four
lanes by two bits of a lane's own (vpermilps). So of the 32 inputs the even groups form one vector and the odd
groups another; both are permuted by the positions, and a lane takes the result that holds its group.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from pcsparse.kernels.cpu.emitter import F32, HAS_WIDE_REGISTERS, I1, I8, I32, I64, Emitter, loop

_BLOCK = 16
_BLOCK_BYTES = 4 * _BLOCK
_INPUT_BYTES = 2 * _BLOCK_BYTES
_POSITION_BYTES = 4
_LANES = 16 if HAS_WIDE_REGISTERS else 8
_PARTS = _BLOCK // _LANES
_PERMUTE = "llvm.x86.avx512.vpermilvar.ps.512" if HAS_WIDE_REGISTERS else "llvm.x86.avx.vpermilvar.ps.256"


class _Blocks:
    """Vectors of values, positions and inputs of a block."""

    def __init__(self, builder):
        self.builder, self.emit = builder, Emitter(builder, types.float32)
        self.vector, self.words = ir.VectorType(F32, _LANES), ir.VectorType(I32, _LANES)
        self.zero = ir.Constant(self.vector, [0.0] * _LANES)

    def _words(self, values):
        return ir.Constant(self.words, list(values))

    def _load(self, address, left, first):
        """A vector; of `left` lanes (i64, None for all) counted from `first`, the others are 0."""
        pointer = self.emit.pointer(address, self.vector)
        if left is None:
            return self.builder.load(pointer, align=4)
        lanes = self._words(range(first, first + _LANES))
        wanted = self.builder.trunc(left, I32)
        undefined = ir.Constant(self.words, ir.Undefined)
        splat = self.builder.shuffle_vector(
            self.builder.insert_element(undefined, wanted, I32(0)), undefined, self._words([0] * _LANES)
        )
        mask = self.builder.icmp_signed("<", lanes, splat)
        arguments = [self.vector.as_pointer(), I32, ir.VectorType(I1, _LANES), self.vector]
        load = self.emit.function(f"llvm.masked.load.v{_LANES}f32.p0", self.vector, arguments)
        return self.builder.call(load, [pointer, I32(4), mask, self.zero])

    def values(self, address, left):
        """`_PARTS` vectors of stored values."""
        return [
            self._load(self.emit.offset(address, 4 * _LANES * p), left, _LANES * p) for p in range(_PARTS)
        ]

    def positions(self, word):
        """Two bits a lane, and rubbish above them, of an i32: `_PARTS` vectors."""
        undefined = ir.Constant(self.words, ir.Undefined)
        splat = self.builder.shuffle_vector(
            self.builder.insert_element(undefined, word, I32(0)), undefined, self._words([0] * _LANES)
        )
        return [
            self.builder.lshr(splat, self._words(2 * (_LANES * p + lane) for lane in range(_LANES)))
            for p in range(_PARTS)
        ]

    def inputs(self, address, left):
        """The even and the odd groups of 32 inputs: `_PARTS` pairs of vectors."""
        pairs = []
        for p in range(_PARTS):
            at = self.emit.offset(address, 8 * _LANES * p)
            low = self._load(at, left, 2 * _LANES * p)
            high = self._load(self.emit.offset(at, 4 * _LANES), left, 2 * _LANES * p + _LANES)
            pairs.append([
                self.builder.shuffle_vector(
                    low, high, self._words(8 * (lane // 4) + lane % 4 + odd for lane in range(_LANES))
                )
                for odd in (0, 4)
            ])  # fmt: skip
        return pairs

    def chosen(self, pair, position):
        """Each lane's input."""
        permute = self.emit.function(_PERMUTE, self.vector, [self.vector, self.words])
        even, odd = (self.builder.call(permute, [groups, position]) for groups in pair)
        is_even = ir.Constant(ir.VectorType(I1, _LANES), [lane % 4 < 2 for lane in range(_LANES)])
        return self.builder.select(is_even, even, odd)

    def add_product(self, value, chosen, total):
        # fused where the CPU can
        name = f"llvm.fmuladd.v{_LANES}f32"
        fma = self.emit.function(name, self.vector, [self.vector] * 3)
        return self.builder.call(fma, [value, chosen, total])

    def sum(self, parts):
        """All lanes of `_PARTS` vectors, halves upon halves."""
        b, total = self.builder, parts[0]
        for part in parts[1:]:
            total = b.fadd(total, part)
        lanes = _LANES // 2
        while lanes:
            halves = [
                b.shuffle_vector(
                    total,
                    ir.Constant(total.type, ir.Undefined),
                    ir.Constant(ir.VectorType(I32, lanes), list(range(first, first + lanes))),
                )
                for first in (0, lanes)
            ]
            total = b.fadd(*halves)
            lanes //= 2
        return b.extract_element(total, I32(0))

    def last_word(self, address, n_bytes):
        """The 1 to 4 bytes of positions that are left, as an i32: nothing is read beyond them."""
        b = self.builder

        def byte(i, word):
            found = b.zext(b.load(self.emit.pointer(b.add(address, i), I8), align=1), I32)
            return [b.or_(word[0], b.shl(found, b.trunc(b.shl(i, I64(3)), I32)))]

        return loop(b, I64(0), n_bytes, 1, [I32(0)], byte)[0]


@intrinsic
def two_four_rows(
    typing_context, mr, mb, values, value_step, positions, position_step, x, x_step, n_kept, row, n_out, item,
    n_items, bias, bias_step, least, out, out_step,
):  # fmt: skip
    """out[b][r] = max(least, bias[r] + sum over j of values[r][j] * the input of x[b] at positions[r][j]).

    MR rows r from `row` on and MB items b of the batch from `item` on; beyond the last row or item the last
    one is done again. Each sum is added in an order that depends on n_kept alone.

    Args (i64 but `least`, float32; addresses and byte steps):
        values, value_step: n_out rows of n_kept float32.
        positions, position_step: n_out rows of ceil(n_kept / 4) bytes.
        x, x_step: n_items rows of 2 n_kept float32.
        n_kept: even.
        row, n_out: first row, rows in all.
        item, n_items: first item, items in all.
        bias, bias_step: n_out float32, or one for all rows with a step of 0.
        least: 0 for a ReLU, else -inf; a NaN stays.
        out, out_step: n_items rows of n_out float32.
    """
    n_rows, n_batch = len(mr), len(mb)

    def codegen(context, builder, signature, args):
        values, value_step, positions, position_step, x, x_step = args[2:8]
        n_kept, row, n_out, item, n_items, bias, bias_step, least, out, out_step = args[8:]
        blocks, b = _Blocks(builder), builder
        emit = blocks.emit

        def clamped(first, count, step):
            """The sum, but at most count - 1."""
            wanted, last = b.add(first, I64(step)), b.sub(count, I64(1))
            return b.select(b.icmp_signed("<", wanted, last), wanted, last)

        rows = [clamped(row, n_out, r) for r in range(n_rows)]
        items = [clamped(item, n_items, i) for i in range(n_batch)]
        value_rows = [b.add(values, b.mul(r, value_step)) for r in rows]
        position_rows = [b.add(positions, b.mul(r, position_step)) for r in rows]
        inputs = [b.add(x, b.mul(i, x_step)) for i in items]

        def block(j, totals, left=None):
            """One block from value j on, of `left` values if not all."""
            totals = list(totals)
            # of j values: 4 j bytes, j / 4 bytes of positions, 8 j bytes of inputs
            at = b.shl(j, I64(2))
            left_inputs = None if left is None else b.shl(left, I64(1))
            decoded = []
            for r in range(n_rows):
                place = b.add(position_rows[r], b.lshr(j, I64(2)))
                if left is None:
                    word = b.load(emit.pointer(place, I32), align=1)
                else:
                    word = blocks.last_word(place, b.lshr(b.add(left, I64(3)), I64(2)))
                decoded.append((blocks.values(b.add(value_rows[r], at), left), blocks.positions(word)))
            for i in range(n_batch):
                pairs = blocks.inputs(b.add(inputs[i], b.shl(j, I64(3))), left_inputs)
                for r, (stored, position) in enumerate(decoded):
                    for p in range(_PARTS):
                        t = (i * n_rows + r) * _PARTS + p
                        chosen = blocks.chosen(pairs[p], position[p])
                        totals[t] = blocks.add_product(stored[p], chosen, totals[t])
            return totals

        start = [blocks.zero] * (n_batch * n_rows * _PARTS)
        whole = b.and_(n_kept, I64(-_BLOCK))
        totals = loop(b, I64(0), whole, _BLOCK, start, block)
        # at most one, of the values that are left
        totals = loop(b, whole, n_kept, _BLOCK, totals, lambda j, t: block(j, t, b.sub(n_kept, whole)))
        for i in range(n_batch):
            for r in range(n_rows):
                t = (i * n_rows + r) * _PARTS
                place = b.add(b.add(out, b.mul(items[i], out_step)), b.shl(rows[r], I64(2)))
                shift = b.load(emit.pointer(b.add(bias, b.mul(rows[r], bias_step)), F32), align=4)
                total = b.fadd(blocks.sum(totals[t : t + _PARTS]), shift)
                total = b.select(b.fcmp_ordered("<", total, least), least, total)
                b.store(total, emit.pointer(place, F32), align=4)
        return context.get_dummy_value()

    return types.void(mr, mb, *[types.int64] * 13, types.float32, *[types.int64] * 2), codegen
