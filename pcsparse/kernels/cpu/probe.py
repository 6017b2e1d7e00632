"""How fast this CPU can multiply and add at all: the floor that benchmarks compare kernels with."""

import llvmlite.binding
import numpy as np
import torch
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic

from pcsparse.kernels.cpu.launch import jit_parallel
from pcsparse.kernels.cpu.microkernel import VECTOR_BYTES, _Emitter, _loop

# independent chains of 64 bytes: two units with a latency of four cycles need eight vectors in flight, and
# more than the registers hold would spill (AVX-512: 32 of 64 bytes; AVX2: 16 of 32 bytes, six chains fill 12)
_WIDE = llvmlite.binding.get_host_cpu_features().get("avx512f", False)
_CHAINS = 12 if _WIDE else 6


@intrinsic
def _fma_chains(typing_context, element, tag, factor, steps):
    """Sum of len(tag) vectors after `steps` rounds of x = x * factor + factor on each, in registers."""
    chains = len(tag)

    def codegen(context, builder, signature, args):
        emit = _Emitter(builder, element)
        lanes = VECTOR_BYTES // emit.itemsize
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
        undefined = ir.Constant(emit.vector, ir.Undefined)
        lane = builder.insert_element(undefined, args[2], ir.IntType(32)(0))
        factor = builder.shuffle_vector(lane, undefined, zeros)
        # chains that start alike would be merged into one
        start = [ir.Constant(emit.vector, [float(chain)] * lanes) for chain in range(chains)]

        def body(step, carried):
            return [emit.fma(value, factor, factor) for value in carried]

        result = _loop(builder, args[3], start, body)
        total = result[0]
        for value in result[1:]:
            total = builder.fadd(total, value)
        return builder.extract_element(total, ir.IntType(32)(0))

    return element(element, tag, element, types.int64), codegen


@jit_parallel()
def _fma_rounds(element, tag, factor, steps, sums):
    for i in prange(sums.size):
        sums[i] = _fma_chains(element, tag, factor, steps)


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
    return 2 * (VECTOR_BYTES // sums.itemsize) * _CHAINS * steps * threads
