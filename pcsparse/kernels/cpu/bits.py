"""Machine instructions on the bits of an int64 that Numba has no name for.

Masks of 64 cells live in int64: Numba turns a sum of int64 and uint64 into float64.
"""

from numba import types
from numba.extending import intrinsic


@intrinsic
def count_ones(typingctx, mask):
    """How many bits are set."""

    def codegen(context, builder, signature, args):
        return builder.ctpop(args[0])

    return types.int64(types.int64), codegen


@intrinsic
def lowest_one(typingctx, mask):
    """Position of the lowest set bit; `mask` is not 0."""

    def codegen(context, builder, signature, args):
        # the second operand: zero is undefined
        return builder.cttz(args[0], context.get_constant(types.boolean, True))

    return types.int64(types.int64), codegen


@intrinsic
def shifted_right(typingctx, mask, n):
    """`mask` moved down by n < 64 bits, zeros moving in from above."""

    def codegen(context, builder, signature, args):
        return builder.lshr(args[0], args[1])

    return types.int64(types.int64, types.int64), codegen
