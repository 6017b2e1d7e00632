"""How fast this CPU can multiply and add at all: the floor that benchmarks compare kernels with.

Everything stays in registers. The loops are emitted here and not by the kernels' own emitter, so that a slow
kernel and a slow peak cannot have one cause.
"""

import llvmlite.binding
import numpy as np
import torch
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic

from pcsparse.kernels.cpu.launch import jit_parallel

_VECTOR_BYTES = 64
_I32, _I64 = ir.IntType(32), ir.IntType(64)
_FEATURES = llvmlite.binding.get_host_cpu_features()
# independent chains of 64 bytes: two units with a latency of four cycles need eight vectors in flight, and
# more than the registers hold would spill (AVX-512: 32 of 64 bytes; AVX2: 16 of 32 bytes, six chains fill 12)
_CHAINS = 12 if _FEATURES.get("avx512f", False) else 6
# the dot product has a latency of up to six cycles
_DOT_CHAINS = 16
_DOT_LANES = _VECTOR_BYTES // 4

HAS_DOT = _FEATURES.get("avx512bf16", False)
"""Whether the CPU multiplies pairs of bfloat16 and adds them to float32 in one instruction."""


class _BFloat(ir.Type):  # type: ignore[misc]
    """llvmlite has no bfloat; its printer needs the name only."""

    def __str__(self):
        return "bfloat"

    _to_string = __str__

    def __eq__(self, other):
        return isinstance(other, _BFloat)

    def __hash__(self):
        return hash("bfloat")


def _function(builder, name, result, arguments):
    found = builder.module.globals.get(name)
    return found or ir.Function(builder.module, ir.FunctionType(result, arguments), name)


def _splat(builder, value, lanes):
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    zeros = ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes)
    return builder.shuffle_vector(builder.insert_element(undefined, value, _I32(0)), undefined, zeros)


def _chained(builder, steps, start, step):
    """Apply `step` to every value of `start`, `steps` times (at least once); the sum of the results."""
    entry, loop, done = builder.block, builder.append_basic_block("loop"), builder.append_basic_block("done")
    builder.branch(loop)
    builder.position_at_end(loop)
    index, carried = builder.phi(_I64), [builder.phi(value.type) for value in start]
    after = builder.add(index, _I64(1))
    result = [step(value) for value in carried]
    for phi, first, last in zip([index, *carried], [_I64(0), *start], [after, *result], strict=True):
        phi.add_incoming(first, entry)
        phi.add_incoming(last, loop)
    builder.cbranch(builder.icmp_signed("<", after, steps), loop, done)
    builder.position_at_end(done)
    total = result[0]
    for value in result[1:]:
        total = builder.fadd(total, value)
    return builder.extract_element(total, _I32(0))


def _starts(vector, chains):
    # chains that start alike would be merged into one
    return [ir.Constant(vector, [float(chain)] * vector.count) for chain in range(chains)]


@intrinsic
def _fma_chains(typing_context, element, tag, factor, steps):
    """Sum of len(tag) vectors after `steps` rounds of x = x * factor + factor on each, in registers."""
    chains = len(tag)

    def codegen(context, builder, signature, args):
        bits = 32 if element == types.float32 else 64
        vector = ir.VectorType(args[2].type, 8 * _VECTOR_BYTES // bits)
        fma = _function(builder, f"llvm.fma.v{vector.count}f{bits}", vector, [vector] * 3)
        factors = _splat(builder, args[2], vector.count)
        return _chained(
            builder,
            args[3],
            _starts(vector, chains),
            lambda value: builder.call(fma, [value, factors, factors]),
        )

    return element(element, tag, element, types.int64), codegen


@intrinsic
def _dot_chains(typing_context, tag, pair, steps):
    """The same with x = x + a dot a, where both bfloat16 of each pair in a have the bits of `pair`."""
    chains = len(tag)

    def codegen(context, builder, signature, args):
        vector, pairs = ir.VectorType(ir.FloatType(), _DOT_LANES), ir.VectorType(_BFloat(), 2 * _DOT_LANES)
        dot = _function(builder, "llvm.x86.avx512bf16.dpbf16ps.512", vector, [vector, pairs, pairs])
        factors = builder.bitcast(_splat(builder, args[1], _DOT_LANES), pairs)
        return _chained(
            builder,
            args[2],
            _starts(vector, chains),
            lambda value: builder.call(dot, [value, factors, factors]),
        )

    return types.float32(tag, types.int32, types.int64), codegen


@jit_parallel()
def _fma_rounds(element, tag, factor, steps, sums):
    for i in prange(sums.size):
        sums[i] = _fma_chains(element, tag, factor, steps)


@jit_parallel()
def _dot_rounds(tag, pair, steps, sums):
    for i in prange(sums.size):
        sums[i] = _dot_chains(tag, pair, steps)


def fma_rounds(steps: int, dtype: torch.dtype = torch.float32) -> int:
    """Run `steps` rounds of independent multiply-adds in the registers of every thread.

    Args:
        steps: rounds, at least 1.
        dtype: float32 or float64.

    Returns:
        Floating-point operations done, a multiply-add counted as two. Time the call to get the peak.
    """
    threads = torch.get_num_threads()
    sums = np.zeros(threads, np.float64 if dtype == torch.float64 else np.float32)
    scalar = sums.dtype.type
    _fma_rounds(scalar(0), (0,) * _CHAINS, scalar(0.5), steps, sums)
    return 2 * (_VECTOR_BYTES // sums.itemsize) * _CHAINS * steps * threads


def dot_rounds(steps: int) -> int:
    """The same with dot products of bfloat16 pairs, added in float32; needs `HAS_DOT`.

    Args:
        steps: rounds, at least 1.

    Returns:
        Floating-point operations done: two multiplications and two additions a pair.
    """
    threads = torch.get_num_threads()
    sums = np.zeros(threads, np.float32)
    # two halves of 0.5: each dot product adds 0.5
    _dot_rounds((0,) * _DOT_CHAINS, np.int32(0x3F003F00), steps, sums)
    return 4 * _DOT_LANES * _DOT_CHAINS * steps * threads
