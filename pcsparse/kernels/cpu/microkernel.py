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

from pcsparse.kernels.cpu.emitter import I16, I64, VECTOR_BYTES, WORDS_A_LINE, Emitter, loop

# steps of the channel loop in one basic block: with 16 LLVM gathers the broadcasts of many steps first, and
# spills them all (C = 32 at 64 % of the multiply-add peak instead of 75)
_STEPS_TOGETHER = 4
# pairs between a row's arrival in the L2 cache and its use: enough for the memory, few enough to stay there
PAIRS_AHEAD = 32
# how near `prefetch` brings a line: the L2 cache
_TO_L2 = 2


@intrinsic
def next_item(typing_context, counter):
    """Take a number: the value of the int64 at address `counter`, which grows by one. Threads share it."""

    def codegen(context, builder, signature, args):
        place = builder.inttoptr(args[0], I64.as_pointer())
        return builder.atomic_rmw("add", place, I64(1), "monotonic")

    return types.int64(types.int64), codegen


@intrinsic
def pairs_times_panel(
    typing_context,
    kind,
    mr,
    nv,
    feats,
    feat_step,
    rows_in,
    rows_out,
    n,
    left,
    acc,
    acc_step,
    spare,
    panel,
    steps,
):
    """acc[rows_out[p]][:] += feats[rows_in[p]] @ panel for p < n, in groups of MR pairs.

    Output rows are distinct. The last group is filled up with its last input row and the spare output row.

    Args (all i64; addresses and byte steps):
        feats, feat_step: row r at feats + r * feat_step, `steps` words long.
        rows_in, rows_out: n int32 each.
        left: int32 that may be read at rows_in, at least n: the rows of pairs to come are fetched early.
        acc, acc_step: rows of NV vectors of float32 (float64), aligned to 64 bytes.
        spare: a row that is written and never read.
        panel: (steps, NV) vectors, aligned to 64 bytes.
    """
    n_rows, n_vectors = len(mr), len(nv)

    def codegen(context, builder, signature, args):
        emit = Emitter(builder, kind)
        feats, feat_step, rows_in, rows_out, n, left, acc, acc_step, spare, panel, steps = args[3:]
        step_bytes = VECTOR_BYTES * n_vectors
        cells = [(r, v) for r in range(n_rows) for v in range(n_vectors)]
        in_lines = builder.and_(steps, I64(-WORDS_A_LINE))
        in_fours = builder.and_(steps, I64(-_STEPS_TOGETHER))

        def row_of(rows, p):
            return emit.load_row(builder.add(rows, builder.shl(p, I64(2))))

        def input_row(p):
            return builder.add(feats, builder.mul(row_of(rows_in, p), feat_step))

        def output_row(p):
            return builder.add(acc, builder.mul(row_of(rows_out, p), acc_step))

        def multiply(feat, out, coming):
            def step(at, together, totals):
                totals = list(totals)
                weights_at = builder.add(panel, builder.mul(at, I64(step_bytes)))
                bytes_in = builder.mul(at, I64(emit.itemsize))
                for u in range(together):
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

            def line(at, totals):
                for row in coming:
                    emit.prefetch(builder.add(row, builder.mul(at, I64(emit.itemsize))), _TO_L2)
                stop = builder.add(at, I64(WORDS_A_LINE))
                return loop(
                    builder, at, stop, _STEPS_TOGETHER, totals,
                    lambda i, values: step(i, _STEPS_TOGETHER, values),
                )  # fmt: skip

            totals = [emit.load_vector(emit.offset(out[r], VECTOR_BYTES * v)) for r, v in cells]
            done = I64(0)
            if coming:
                totals, done = loop(builder, done, in_lines, WORDS_A_LINE, totals, line), in_lines
            totals = loop(
                builder, done, in_fours, _STEPS_TOGETHER, totals,
                lambda i, values: step(i, _STEPS_TOGETHER, values),
            )  # fmt: skip
            totals = loop(builder, in_fours, steps, 1, totals, lambda i, values: step(i, 1, values))
            for (r, v), value in zip(cells, totals, strict=True):
                emit.store_vector(value, emit.offset(out[r], VECTOR_BYTES * v))
            return []

        def group(p, _):
            """MR pairs, and MR more of the list that lie ahead."""
            pairs = [builder.add(p, I64(r)) for r in range(n_rows)]
            ahead = [builder.add(p, I64(PAIRS_AHEAD + r)) for r in range(n_rows)]
            return multiply(
                [input_row(pair) for pair in pairs],
                [output_row(pair) for pair in pairs],
                [input_row(pair) for pair in ahead],
            )

        def rest(p, _):
            """The same where there may be fewer."""
            feat, out = [], []
            for r in range(n_rows):
                pair = builder.add(p, I64(r))
                inside = builder.icmp_signed("<", pair, n)
                pair = builder.select(inside, pair, builder.sub(n, I64(1)))
                feat.append(input_row(pair))
                out.append(builder.select(inside, output_row(pair), spare))
            return multiply(feat, out, [])

        # whole groups, as far as rows to come are listed
        listed = builder.sub(left, I64(PAIRS_AHEAD))
        whole = builder.select(builder.icmp_signed("<", listed, n), listed, n)
        whole = builder.sdiv(whole, I64(n_rows))
        whole = builder.select(builder.icmp_signed("<", whole, I64(0)), I64(0), whole)
        whole = builder.mul(whole, I64(n_rows))
        loop(builder, I64(0), whole, n_rows, [], group)
        loop(builder, whole, n, n_rows, [], rest)
        return context.get_dummy_value()

    return types.void(kind, mr, nv, *[types.int64] * 11), codegen


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
def outer_products_in_place(
    typing_context,
    kind,
    mr,
    nv,
    grad,
    grad_step,
    c_in,
    feats,
    feat_step,
    grads,
    out_step,
    rows_in,
    rows_out,
    n,
    left,
):
    """grad[c][:] += sum over p < n of feats[rows_in[p]][c] * grads[rows_out[p]][:], rows read where they lie.

    MR channels c at a time and NV vectors. The last MR rows of `grad` take the last MR channels, so where
    c_in is no multiple of MR they begin at channel c_in - MR; there are ceil(c_in / MR) * MR rows.

    Args (all i64; addresses and byte steps):
        grad, grad_step: rows of NV vectors of float32 (float64), aligned to 64 bytes.
        c_in: channels, at least MR.
        feats, feat_step: rows of c_in elements.
        grads, out_step: rows of NV vectors.
        rows_in, rows_out: n int32 each.
        left: int32 that may be read at both, at least n: the rows of pairs to come are fetched early.
    """
    n_rows, n_vectors = len(mr), len(nv)

    def codegen(context, builder, signature, args):
        emit = Emitter(builder, kind)
        grad, grad_step, c_in, feats, feat_step, grads, out_step, rows_in, rows_out, n, left = args[3:]
        cells = [(r, v) for r in range(n_rows) for v in range(n_vectors)]
        last_block, last_pair = builder.sub(c_in, I64(n_rows)), builder.sub(left, I64(1))

        def least(a, b):
            return builder.select(builder.icmp_signed("<", a, b), a, b)

        def row_at(rows, p, base, row_step):
            row = emit.load_row(builder.add(rows, builder.shl(p, I64(2))))
            return builder.add(base, builder.mul(row, row_step))

        def block(c, _):
            first = builder.add(grad, builder.mul(c, grad_step))
            rows = [builder.add(first, builder.mul(grad_step, I64(r))) for r in range(n_rows)]
            words = builder.add(feats, builder.mul(least(c, last_block), I64(emit.itemsize)))

            def step(p, totals):
                totals = list(totals)
                row = row_at(rows_out, p, grads, out_step)
                # a row starts at any multiple of its elements
                vectors = [
                    emit.load_vector(emit.offset(row, VECTOR_BYTES * v), align=emit.itemsize)
                    for v in range(n_vectors)
                ]
                ahead = least(builder.add(p, I64(PAIRS_AHEAD)), last_pair)
                emit.prefetch(row_at(rows_in, ahead, words, feat_step), _TO_L2)
                emit.prefetch(row_at(rows_out, ahead, grads, out_step), _TO_L2)
                at = row_at(rows_in, p, words, feat_step)
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

    return types.void(kind, mr, nv, *[types.int64] * 11), codegen


@intrinsic
def interleave_rows(typing_context, even, odd, even_ahead, odd_ahead, packed, count):
    """packed[c] = the word (even[c], odd[c]) for c < count; rows of bfloat16.

    `even_ahead` and `odd_ahead` are rows that will be wanted soon.
    """

    def codegen(context, builder, signature, args):
        emit = Emitter(builder, types.int32)
        even, odd, even_ahead, odd_ahead, packed, count = args
        element, size = ir.VectorType(I16, emit.lanes), 2
        whole = builder.and_(count, I64(-emit.lanes))

        def word(low, high):
            high = builder.shl(builder.zext(high, emit.words), emit.constant_words(16))
            return builder.bitcast(builder.or_(builder.zext(low, emit.words), high), emit.vector)

        def vector(c, _):
            at = builder.mul(c, I64(size))
            for row in (even_ahead, odd_ahead):
                emit.prefetch(builder.add(row, at), _TO_L2)
            parts = [
                builder.load(emit.pointer(builder.add(row, at), element), align=size) for row in (even, odd)
            ]
            place = builder.add(packed, builder.mul(c, I64(emit.itemsize)))
            emit.store_vector(word(*parts), place, align=emit.itemsize)
            return []

        def remainder(c, _):
            at = builder.mul(c, I64(size))
            mask = emit.mask_of(builder.sub(count, c))
            parts = [emit.load_masked(builder.add(row, at), element, mask, size) for row in (even, odd)]
            place = builder.add(packed, builder.mul(c, I64(emit.itemsize)))
            emit.store_masked(word(*parts), place, mask, emit.itemsize)
            return []

        loop(builder, I64(0), whole, emit.lanes, [], vector)
        loop(builder, whole, count, emit.lanes, [], remainder)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), codegen
