"""Register-blocked inner loops, written in LLVM IR through Numba intrinsics.

LLVM's auto-vectoriser leaves loops with gathered rows at a third of the FMA rate, and BLAS inside a parallel
loop at less. So the loop body is emitted as vectors: MR x NV accumulators of 64 bytes stay in registers, one
scalar a row is broadcast against NV vectors. Where the CPU has narrower registers LLVM splits the vectors.

Sizes reach an intrinsic as types: MR is the length of a tuple of addresses, NV the length of a tag tuple, the
element type is that of a scalar. So the functions that call them stand at module level and Numba can cache
them.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

VECTOR_BYTES = 64
_I32, _I64 = ir.IntType(32), ir.IntType(64)


class _Emitter:
    """Shorthands to emit loads, broadcasts and FMAs of one element type."""

    def __init__(self, builder, element):
        self.builder = builder
        self.scalar = ir.FloatType() if element == types.float32 else ir.DoubleType()
        self.itemsize = 4 if element == types.float32 else 8
        lanes = VECTOR_BYTES // self.itemsize
        self.vector = ir.VectorType(self.scalar, lanes)
        self._undefined = ir.Constant(self.vector, ir.Undefined)
        self._zeros = ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes)
        name = f"llvm.fma.v{lanes}f{8 * self.itemsize}"
        declared = builder.module.globals.get(name)
        self._fma = declared or ir.Function(
            builder.module, ir.FunctionType(self.vector, [self.vector] * 3), name
        )

    def _pointer(self, address, kind):
        return self.builder.inttoptr(address, kind.as_pointer())

    def offset(self, address, number):
        return self.builder.add(address, _I64(number)) if number else address

    def load_vector(self, address):
        # rows are as aligned as the caller's tensors, so no alignment beyond the element's is promised
        return self.builder.load(self._pointer(address, self.vector), align=self.itemsize)

    def store_vector(self, value, address):
        self.builder.store(value, self._pointer(address, self.vector), align=self.itemsize)

    def load_row(self, address):
        return self.builder.sext(self.builder.load(self._pointer(address, _I32), align=4), _I64)

    def load_broadcast(self, address):
        value = self.builder.load(self._pointer(address, self.scalar), align=self.itemsize)
        lane = self.builder.insert_element(self._undefined, value, _I32(0))
        return self.builder.shuffle_vector(lane, self._undefined, self._zeros)

    def fma(self, a, b, c):
        return self.builder.call(self._fma, [a, b, c])


def _loop(builder, count, start, body):
    """Run `body(index, accumulators) -> accumulators` for index in [0, count), with count >= 1."""
    entry, loop, done = builder.block, builder.append_basic_block("loop"), builder.append_basic_block("done")
    builder.branch(loop)
    builder.position_at_end(loop)
    index = builder.phi(_I64)
    index.add_incoming(_I64(0), entry)
    carried = []
    for value in start:
        phi = builder.phi(value.type)
        phi.add_incoming(value, entry)
        carried.append(phi)
    result = body(index, carried)
    after = builder.add(index, _I64(1))
    latch = builder.block
    index.add_incoming(after, latch)
    for phi, value in zip(carried, result, strict=True):
        phi.add_incoming(value, latch)
    builder.cbranch(builder.icmp_signed("<", after, count), loop, done)
    builder.position_at_end(done)
    return result


@intrinsic
def rows_times_panel(typing_context, element, tag, feat_rows, out_rows, panel, c_in):
    """out_rows[r][:] += sum over c < c_in of feat_rows[r][c] * panel[c][:], for MR rows and NV vectors.

    `feat_rows` and `out_rows` are tuples of MR addresses, `panel` the address of (c_in, NV vectors),
    contiguous.
    """
    mr, nv = len(feat_rows), len(tag)

    def codegen(context, builder, signature, args):
        emit = _Emitter(builder, element)
        feats = [builder.extract_value(args[2], r) for r in range(mr)]
        outs = [builder.extract_value(args[3], r) for r in range(mr)]
        cells = [(r, v) for r in range(mr) for v in range(nv)]
        start = [emit.load_vector(emit.offset(outs[r], VECTOR_BYTES * v)) for r, v in cells]

        def body(c, accumulators):
            row = builder.add(args[4], builder.mul(c, _I64(VECTOR_BYTES * nv)))
            weights = [emit.load_vector(emit.offset(row, VECTOR_BYTES * v)) for v in range(nv)]
            step = builder.mul(c, _I64(emit.itemsize))
            result = []
            for r in range(mr):
                feat = emit.load_broadcast(builder.add(feats[r], step))
                result += [emit.fma(feat, weights[v], accumulators[r * nv + v]) for v in range(nv)]
            return result

        result = _loop(builder, args[5], start, body)
        for (r, v), value in zip(cells, result, strict=True):
            emit.store_vector(value, emit.offset(outs[r], VECTOR_BYTES * v))
        return context.get_dummy_value()

    return types.void(element, tag, feat_rows, out_rows, types.int64, types.int64), codegen


@intrinsic
def outer_products(
    typing_context, element, tag, grad_rows, feats, feat_step, outs, out_step, rows_in, rows_out, n
):
    """grad_rows[r][:] += sum over p < n of feats[rows_in[p]][r] * outs[rows_out[p]][:].

    MR channels r of the input, NV vectors of the output. `grad_rows` is a tuple of MR addresses; `rows_in`
    and `rows_out` are addresses of int32.
    """
    mr, nv = len(grad_rows), len(tag)

    def codegen(context, builder, signature, args):
        emit = _Emitter(builder, element)
        grads = [builder.extract_value(args[2], r) for r in range(mr)]
        cells = [(r, v) for r in range(mr) for v in range(nv)]
        start = [emit.load_vector(emit.offset(grads[r], VECTOR_BYTES * v)) for r, v in cells]

        def body(p, accumulators):
            at = builder.mul(p, _I64(4))
            feat = builder.add(args[3], builder.mul(emit.load_row(builder.add(args[7], at)), args[4]))
            out = builder.add(args[5], builder.mul(emit.load_row(builder.add(args[8], at)), args[6]))
            vectors = [emit.load_vector(emit.offset(out, VECTOR_BYTES * v)) for v in range(nv)]
            result = []
            for r in range(mr):
                scalar = emit.load_broadcast(emit.offset(feat, emit.itemsize * r))
                result += [emit.fma(scalar, vectors[v], accumulators[r * nv + v]) for v in range(nv)]
            return result

        result = _loop(builder, args[9], start, body)
        for (r, v), value in zip(cells, result, strict=True):
            emit.store_vector(value, emit.offset(grads[r], VECTOR_BYTES * v))
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(element, tag, grad_rows, i64, i64, i64, i64, i64, i64, i64), codegen
