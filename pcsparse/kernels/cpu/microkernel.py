"""Register-blocked inner loops, written in LLVM IR through Numba intrinsics.

LLVM's auto-vectoriser leaves loops with gathered rows at a third of the FMA rate, and BLAS inside a parallel
loop at less. So the loops are emitted as vectors: MR x NV accumulators of 64 bytes stay in registers, one
scalar a row is broadcast against NV vectors. Where the CPU has narrower registers LLVM splits the vectors.

Sizes and formats reach an intrinsic as types, so that the functions that call them stand at module level and
Numba can cache them: MR and NV are the lengths of tag tuples, and the format of an operand is the type of a
scalar, see `emitter.KINDS`.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from pcsparse.kernels.cpu.emitter import I16, I64, STEPS_UNROLLED, VECTOR_BYTES, Emitter, loop


@intrinsic
def next_item(typing_context, counter):
    """Take a number: the value of the int64 at address `counter`, which grows by one. Threads share it."""

    def codegen(context, builder, signature, args):
        place = builder.inttoptr(args[0], I64.as_pointer())
        return builder.atomic_rmw("add", place, I64(1), "monotonic")

    return types.int64(types.int64), codegen


@intrinsic
def pairs_times_panel(
    typing_context, kind, mr, nv, feats, feat_step, rows_in, rows_out, n, acc, acc_step, spare, panel, steps
):
    """acc[rows_out[p]][:] += feats[rows_in[p]] @ panel for p < n, in groups of MR pairs.

    Output rows are distinct. The last group is filled up with its last input row and the spare output row.

    Args (all i64; addresses and byte steps):
        feats, feat_step: row r at feats + r * feat_step, `steps` words long.
        rows_in, rows_out: n int32 each.
        acc, acc_step: rows of NV vectors of float32 (float64), aligned to 64 bytes.
        spare: a row that is written and never read.
        panel: (steps, NV) vectors, aligned to 64 bytes.
    """
    n_rows, n_vectors = len(mr), len(nv)

    def codegen(context, builder, signature, args):
        emit = Emitter(builder, kind)
        feats, feat_step, rows_in, rows_out, n, acc, acc_step, spare, panel, steps = args[3:]
        step_bytes = VECTOR_BYTES * n_vectors
        cells = [(r, v) for r in range(n_rows) for v in range(n_vectors)]
        last = builder.sub(n, I64(1))
        in_lines = builder.and_(steps, I64(-STEPS_UNROLLED))

        def row_of(rows, p):
            return emit.load_row(builder.add(rows, builder.shl(p, I64(2))))

        def clamped(p):
            inside = builder.icmp_signed("<", p, n)
            return inside, builder.select(inside, p, last)

        def group(p, _):
            feat, out, coming = [], [], []
            for r in range(n_rows):
                inside, pair = clamped(builder.add(p, I64(r)))
                feat.append(builder.add(feats, builder.mul(row_of(rows_in, pair), feat_step)))
                place = builder.add(acc, builder.mul(row_of(rows_out, pair), acc_step))
                out.append(builder.select(inside, place, spare))
                if n_vectors > 1:
                    _, pair = clamped(builder.add(p, I64(n_rows + r)))
                    coming.append(builder.add(feats, builder.mul(row_of(rows_in, pair), feat_step)))

            def step(at, unrolled, totals):
                weights_at = builder.add(panel, builder.mul(at, I64(step_bytes)))
                bytes_in = builder.mul(at, I64(emit.itemsize))
                for row in coming if unrolled > 1 else ():
                    # the rows of the next group arrive while this one is multiplied
                    emit.prefetch(builder.add(row, bytes_in))
                for u in range(unrolled):
                    weights = [
                        emit.load_vector(emit.offset(weights_at, u * step_bytes + VECTOR_BYTES * v))
                        for v in range(n_vectors)
                    ]
                    for r in range(n_rows):
                        address = emit.offset(builder.add(feat[r], bytes_in), u * emit.itemsize)
                        factor = emit.load_broadcast(address)
                        for v in range(n_vectors):
                            i = r * n_vectors + v
                            totals[i] = emit.multiply_add(factor, weights[v], totals[i])
                return totals

            start = [emit.load_vector(emit.offset(out[r], VECTOR_BYTES * v)) for r, v in cells]
            totals = loop(
                builder, I64(0), in_lines, STEPS_UNROLLED, start,
                lambda at, values: step(at, STEPS_UNROLLED, list(values)),
            )  # fmt: skip
            totals = loop(builder, in_lines, steps, 1, totals, lambda at, values: step(at, 1, list(values)))
            for (r, v), value in zip(cells, totals, strict=True):
                emit.store_vector(value, emit.offset(out[r], VECTOR_BYTES * v))
            return []

        loop(builder, I64(0), n, n_rows, [], group)
        return context.get_dummy_value()

    return types.void(kind, mr, nv, *[types.int64] * 10), codegen


@intrinsic
def outer_products(
    typing_context, kind, mr, nv, grad, grad_step, c_in, left, left_step, right, right_step, n
):
    """grad[c][:] += sum over s < n of left[s][c] * right[s][:], MR channels c at a time and NV vectors.

    Rows of `grad` and words of `left` are padded to a multiple of MR.

    Args (all i64; addresses and byte steps):
        grad, grad_step: c_in rows of NV vectors of float32 (float64), aligned to 64 bytes.
        left, left_step: n rows of c_in words.
        right, right_step: n rows of NV vectors, aligned to 64 bytes; of pairs as the kind says.
    """
    n_rows, n_vectors = len(mr), len(nv)

    def codegen(context, builder, signature, args):
        emit = Emitter(builder, kind)
        grad, grad_step, c_in, left, left_step, right, right_step, n = args[3:]
        cells = [(r, v) for r in range(n_rows) for v in range(n_vectors)]

        def block(c, _):
            first = builder.add(grad, builder.mul(c, grad_step))
            rows = [builder.add(first, builder.mul(grad_step, I64(r))) for r in range(n_rows)]
            words = builder.add(left, builder.mul(c, I64(emit.itemsize)))

            def step(s, totals):
                totals = list(totals)
                row = builder.add(right, builder.mul(s, right_step))
                vectors = [emit.load_vector(emit.offset(row, VECTOR_BYTES * v)) for v in range(n_vectors)]
                at = builder.add(words, builder.mul(s, left_step))
                for r in range(n_rows):
                    factor = emit.load_broadcast(emit.offset(at, emit.itemsize * r))
                    for v in range(n_vectors):
                        i = r * n_vectors + v
                        totals[i] = emit.multiply_add(factor, vectors[v], totals[i])
                return totals

            start = [emit.load_vector(emit.offset(rows[r], VECTOR_BYTES * v)) for r, v in cells]
            totals = loop(builder, I64(0), n, 1, start, step)
            for (r, v), value in zip(cells, totals, strict=True):
                emit.store_vector(value, emit.offset(rows[r], VECTOR_BYTES * v))
            return []

        loop(builder, I64(0), c_in, n_rows, [], block)
        return context.get_dummy_value()

    return types.void(kind, mr, nv, *[types.int64] * 8), codegen


@intrinsic
def pack_row(typing_context, kind, even, odd, packed, count):
    """packed[c] = even[c] for c < count; for pairs of bfloat16 the word (even[c], odd[c]).

    `even` and `odd` are rows of count elements of the features' dtype.
    """

    def codegen(context, builder, signature, args):
        emit = Emitter(builder, kind)
        even, odd, packed, count = args[1:]
        size = 2 if emit.is_pair else emit.itemsize
        element = ir.VectorType(I16, emit.lanes) if emit.is_pair else emit.vector
        whole = builder.and_(count, I64(-emit.lanes))

        def word(low, high):
            if not emit.is_pair:
                return low
            high = builder.shl(builder.zext(high, emit.words), emit.constant_words(16))
            return builder.bitcast(builder.or_(builder.zext(low, emit.words), high), emit.vector)

        def vector(c, _):
            at = builder.mul(c, I64(size))
            rows = [even, odd] if emit.is_pair else [even, even]
            parts = [builder.load(emit.pointer(builder.add(row, at), element), align=size) for row in rows]
            place = builder.add(packed, builder.mul(c, I64(emit.itemsize)))
            emit.store_vector(word(*parts), place, align=emit.itemsize)
            return []

        def remainder(c, _):
            at = builder.mul(c, I64(size))
            mask = emit.mask_of(builder.sub(count, c))
            rows = [even, odd] if emit.is_pair else [even, even]
            parts = [emit.load_masked(builder.add(row, at), element, mask, size) for row in rows]
            place = builder.add(packed, builder.mul(c, I64(emit.itemsize)))
            emit.store_masked(word(*parts), place, mask, emit.itemsize)
            return []

        loop(builder, I64(0), whole, emit.lanes, [], vector)
        loop(builder, whole, count, emit.lanes, [], remainder)
        return context.get_dummy_value()

    return types.void(kind, *[types.int64] * 4), codegen
