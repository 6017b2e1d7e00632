"""Loops over the channels of feature rows, in LLVM IR: sums down a column, scale and shift along a row.

Rows hold float32, float64, or bfloat16 where the kind says pairs (`emitter.KINDS`); arithmetic is float32, or
float64 for float64. Channels that do not fill a vector are loaded and stored under a mask. All arguments but
the kind are i64: addresses, byte steps, counts; a step of 0 reads one row again and again.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from pcsparse.kernels.cpu.emitter import I16, I32, I64, Emitter, loop

_ROWS_UNROLLED = 4


class _Channels:
    """Vectors of channels: whole ones, and the last one under a mask."""

    def __init__(self, builder, kind):
        self.builder, self.emit = builder, Emitter(builder, kind)
        self.size = 2 if self.emit.is_pair else self.emit.itemsize
        self.element = ir.VectorType(I16, self.emit.lanes) if self.emit.is_pair else self.emit.vector

    def each(self, count, body):
        """Run `body(c, mask)` for every vector; `mask` is None for a whole one."""
        builder, lanes = self.builder, self.emit.lanes
        whole = builder.and_(count, I64(-lanes))

        def inside(c, _):
            body(c, None)
            return []

        def last(c, _):
            body(c, self.emit.mask_of(builder.sub(count, c)))
            return []

        loop(builder, I64(0), whole, lanes, [], inside)
        loop(builder, whole, count, lanes, [], last)

    def load(self, row, c, mask):
        """Features, widened."""
        b, emit = self.builder, self.emit
        address = b.add(row, b.mul(c, I64(self.size)))
        if mask is None:
            value = b.load(emit.pointer(address, self.element), align=self.size)
        else:
            value = emit.load_masked(address, self.element, mask, self.size)
        if not emit.is_pair:
            return value
        words = b.shl(b.zext(value, emit.words), emit.constant_words(16))
        return b.bitcast(words, emit.vector)

    def store(self, value, row, c, mask):
        """Features, rounded to the nearest, ties to even; a NaN stays a NaN."""
        b, emit = self.builder, self.emit
        if emit.is_pair:
            words = b.bitcast(value, emit.words)
            odd = b.and_(b.lshr(words, emit.constant_words(16)), emit.constant_words(1))
            rounded = b.add(words, b.add(odd, emit.constant_words(0x7FFF)))
            is_nan = b.fcmp_unordered("uno", value, value)
            rounded = b.select(is_nan, emit.constant_words(0x7FC00000), rounded)
            value = b.trunc(b.lshr(rounded, emit.constant_words(16)), self.element)
        address = b.add(row, b.mul(c, I64(self.size)))
        if mask is None:
            b.store(value, emit.pointer(address, self.element), align=self.size)
        else:
            emit.store_masked(value, address, mask, self.size)

    def load_wide(self, row, c):
        """A row of sums or factors, padded to whole vectors, at any address of its element."""
        b, emit = self.builder, self.emit
        return emit.load_vector(b.add(row, b.mul(c, I64(emit.itemsize))), align=emit.itemsize)

    def store_wide(self, value, row, c):
        b, emit = self.builder, self.emit
        emit.store_vector(value, b.add(row, b.mul(c, I64(emit.itemsize))), align=emit.itemsize)

    def at_least(self, value, least):
        """The larger of the two; a NaN stays."""
        return self.builder.select(self.builder.fcmp_ordered("<", value, least), least, value)

    def where_positive(self, value, gate):
        """`value` where `gate` > 0, else zero."""
        nothing = ir.Constant(self.emit.vector, [0.0] * self.emit.lanes)
        return self.builder.select(self.builder.fcmp_ordered(">", gate, nothing), value, nothing)


def _scalar_of(kind):
    return types.float64 if kind == types.float64 else types.float32


@intrinsic
def finish_row(typing_context, kind, acc, bias, residual, least, out, count):
    """out[c] = max(acc[c] + bias[c] + residual[c], least); `acc` and `bias` are wide rows."""

    def codegen(context, builder, signature, args):
        channels = _Channels(builder, kind)
        acc, bias, residual, least, out, count = args[1:]
        floor = channels.emit.splat(least)

        def body(c, mask):
            value = builder.fadd(channels.load_wide(acc, c), channels.load_wide(bias, c))
            value = builder.fadd(value, channels.load(residual, c, mask))
            channels.store(channels.at_least(value, floor), out, c, mask)

        channels.each(count, body)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(kind, i64, i64, i64, _scalar_of(kind), i64, i64), codegen


@intrinsic
def scale_row(typing_context, kind, row, scale, shift, residual, least, out, count):
    """out[c] = max(row[c] * scale[c] + shift[c] + residual[c], least); `scale`, `shift` are wide rows."""

    def codegen(context, builder, signature, args):
        channels = _Channels(builder, kind)
        row, scale, shift, residual, least, out, count = args[1:]
        floor = channels.emit.splat(least)

        def body(c, mask):
            value = builder.fmul(channels.load(row, c, mask), channels.load_wide(scale, c))
            value = builder.fadd(value, channels.load_wide(shift, c))
            value = builder.fadd(value, channels.load(residual, c, mask))
            channels.store(channels.at_least(value, floor), out, c, mask)

        channels.each(count, body)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(kind, i64, i64, i64, i64, _scalar_of(kind), i64, i64), codegen


@intrinsic
def combine_rows(typing_context, kind, grad, row, gate, scale_grad, scale_row, shift, out, gated, count):
    """out[c] = g * scale_grad[c] + row[c] * scale_row[c] + shift[c], and gated[c] = g.

    g is grad[c] where gate[c] > 0, else 0. `scale_grad`, `scale_row` and `shift` are wide rows. At address 0
    `gated` is not written.
    """

    def codegen(context, builder, signature, args):
        channels = _Channels(builder, kind)
        grad, row, gate, scale_grad, scale_row, shift, out, gated, count = args[1:]

        def body(c, mask):
            g = channels.where_positive(channels.load(grad, c, mask), channels.load(gate, c, mask))
            value = builder.fmul(g, channels.load_wide(scale_grad, c))
            part = builder.fmul(channels.load(row, c, mask), channels.load_wide(scale_row, c))
            value = builder.fadd(builder.fadd(value, part), channels.load_wide(shift, c))
            channels.store(value, out, c, mask)
            with builder.if_then(builder.icmp_unsigned("!=", gated, I64(0)), likely=False):
                channels.store(g, gated, c, mask)

        channels.each(count, body)
        return context.get_dummy_value()

    return types.void(kind, *[types.int64] * 9), codegen


@intrinsic
def row_magnitude(typing_context, kind, row, count):
    """Sum of |row[c]|: lane by lane, then halves of the lanes onto each other, always in this order."""

    def codegen(context, builder, signature, args):
        channels = _Channels(builder, kind)
        emit, (row, count) = channels.emit, args[1:]
        bits = 64 if emit.itemsize == 8 else 32
        absolute = emit.function(f"llvm.fabs.v{emit.lanes}f{bits}", emit.vector, [emit.vector])
        nothing = ir.Constant(emit.vector, [0.0] * emit.lanes)
        whole = builder.and_(count, I64(-emit.lanes))

        def add(c, totals, mask=None):
            value = builder.call(absolute, [channels.load(row, c, mask)])
            return [builder.fadd(totals[0], value)]

        totals = loop(builder, I64(0), whole, emit.lanes, [nothing], add)
        (total,) = loop(
            builder, whole, count, emit.lanes, totals,
            lambda c, totals: add(c, totals, emit.mask_of(builder.sub(count, c))),
        )  # fmt: skip
        half = emit.lanes
        while half > 1:
            half //= 2
            places = ir.Constant(
                ir.VectorType(I32, emit.lanes), [(i + half) % emit.lanes for i in range(emit.lanes)]
            )
            total = builder.fadd(total, builder.shuffle_vector(total, total, places))
        return builder.extract_element(total, I32(0))

    return _scalar_of(kind)(kind, types.int64, types.int64), codegen


@intrinsic
def column_moments(typing_context, kind, first, step, n, shift, sums, squares, count):
    """Down n rows: sums[c] of row[c] - shift[c], and squares[c] of its square; all three are wide rows."""

    def codegen(context, builder, signature, args):
        channels = _Channels(builder, kind)
        first, step, n, shift, sums, squares, count = args[1:]

        def add(r, c, mask, centre):
            value = channels.load(builder.add(first, builder.mul(r, step)), c, mask)
            value = builder.fsub(value, centre)
            return value, builder.fmul(value, value)

        _down(channels, n, count, shift, sums, squares, add)
        return context.get_dummy_value()

    return types.void(kind, *[types.int64] * 7), codegen


@intrinsic
def column_products(typing_context, kind, grad, gate, gate_step, row, step, n, shift, sums, products, count):
    """Down n rows: sums[c] of g and products[c] of g * (row[c] - shift[c]).

    g is grad[c] where gate[c] > 0, else 0; rows of `grad` and `row` are `step` apart. `shift`, `sums` and
    `products` are wide rows.
    """

    def codegen(context, builder, signature, args):
        channels = _Channels(builder, kind)
        grad, gate, gate_step, row, step, n, shift, sums, products, count = args[1:]

        def add(r, c, mask, centre):
            at = builder.mul(r, step)
            g = channels.load(builder.add(grad, at), c, mask)
            g = channels.where_positive(
                g, channels.load(builder.add(gate, builder.mul(r, gate_step)), c, mask)
            )
            value = builder.fsub(channels.load(builder.add(row, at), c, mask), centre)
            return g, builder.fmul(g, value)

        _down(channels, n, count, shift, sums, products, add)
        return context.get_dummy_value()

    return types.void(kind, *[types.int64] * 10), codegen


def _down(channels, n, count, shift, sums, others, terms):
    """Add both terms of every row, in as many chains as are unrolled, and store the two sums."""
    builder = channels.builder
    nothing = ir.Constant(channels.emit.vector, [0.0] * channels.emit.lanes)
    unrolled = builder.and_(n, I64(-_ROWS_UNROLLED))

    def body(c, mask):
        centre = channels.load_wide(shift, c)

        def several(rows):
            def run(r, carried):
                result = []
                for u in range(rows):
                    pair = terms(builder.add(r, I64(u)), c, mask, centre)
                    result += [builder.fadd(a, b) for a, b in zip(carried[2 * u :], pair, strict=False)]
                return result

            return run

        chains = loop(
            builder, I64(0), unrolled, _ROWS_UNROLLED, [nothing] * 2 * _ROWS_UNROLLED, several(_ROWS_UNROLLED)
        )
        totals = chains[:2]
        for u in range(1, _ROWS_UNROLLED):
            totals = [builder.fadd(a, b) for a, b in zip(totals, chains[2 * u :], strict=False)]
        totals = loop(builder, unrolled, n, 1, totals, several(1))
        for total, place in zip(totals, (sums, others), strict=True):
            channels.store_wide(total, place, c)

    channels.each(count, body)
