"""How vector code is emitted: LLVM IR for loads, broadcasts, multiply-adds and loops."""

from typing import Any

import llvmlite.binding
import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types

VECTOR_BYTES = 64
"""Bytes of an accumulator vector: 16 float32 or 8 float64."""
WORDS_A_LINE = 16
"""Words of a feature row in a cache line; of float64 in two."""


def _has(feature: str) -> bool:
    """Whether Numba compiles for it: for this CPU, or for what NUMBA_CPU_FEATURES names."""
    # numba sets this name at run time, out of the type checker's sight
    named: str | None = getattr(numba.config, "CPU_FEATURES", None)
    if named is not None:
        return f"+{feature}" in named.split(",")
    return bool(llvmlite.binding.get_host_cpu_features().get(feature, False))


HAS_WIDE_REGISTERS: bool = _has("avx512f")
"""32 registers of 64 bytes."""
HAS_LANE_PERMUTE: bool = _has("avx2")
"""vpermilps: each of four lanes takes any of the four, as its own two bits say."""
HAS_BF16_DOT: bool = _has("avx512bf16") and HAS_WIDE_REGISTERS
"""vdpbf16ps: two bfloat16 products added to a float32 in one lane."""

F32, F64 = ir.FloatType(), ir.DoubleType()
I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))

# how a word of a row is read: a float32, a float64, or two bfloat16
KINDS: dict[str, Any] = {"float32": np.float32(0), "float64": np.float64(0), "bfloat16": np.int32(0)}


def kind_of(dtype: torch.dtype) -> str:
    """Name in `KINDS` of rows of `dtype` (float32, float64 or bfloat16)."""
    return str(dtype).removeprefix("torch.")


class _BFloat(ir.Type):  # type: ignore[misc]
    """llvmlite has no bfloat; its printer needs only the name."""

    def __str__(self) -> str:
        return "bfloat"

    _to_string = __str__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash("bfloat")


class Emitter:
    """Shorthands to emit loads, broadcasts and multiply-adds of one kind of operand."""

    def __init__(self, builder, kind):
        self.builder = builder
        self.is_pair = kind == types.int32
        self.scalar = F64 if kind == types.float64 else F32
        self.itemsize = 8 if kind == types.float64 else 4
        self.lanes = VECTOR_BYTES // self.itemsize
        self.vector = ir.VectorType(self.scalar, self.lanes)
        self.words = ir.VectorType(I32, self.lanes)
        self._zeros = ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes)

    def function(self, name, result, arguments):
        """The declaration of an LLVM function, made once a module."""
        declared = self.builder.module.globals.get(name)
        return declared or ir.Function(self.builder.module, ir.FunctionType(result, arguments), name)

    def pointer(self, address, kind):
        """An i64 address as a pointer to `kind`."""
        return self.builder.inttoptr(address, kind.as_pointer())

    def offset(self, address, number):
        """`address` plus a constant."""
        return self.builder.add(address, I64(number)) if number else address

    def load_vector(self, address, align=VECTOR_BYTES):
        """A vector of the scalar type."""
        return self.builder.load(self.pointer(address, self.vector), align=align)

    def store_vector(self, value, address, align=VECTOR_BYTES):
        """Write a vector."""
        self.builder.store(value, self.pointer(address, self.vector), align=align)

    def load_row(self, address):
        """An int32 row number as i64."""
        return self.builder.sext(self.builder.load(self.pointer(address, I32), align=4), I64)

    def splat(self, value):
        """A scalar in every lane."""
        undefined = ir.Constant(ir.VectorType(value.type, self.lanes), ir.Undefined)
        lane = self.builder.insert_element(undefined, value, I32(0))
        return self.builder.shuffle_vector(lane, undefined, self._zeros)

    def constant_words(self, value):
        """An int32 constant in every lane."""
        return ir.Constant(self.words, [value] * self.lanes)

    def load_broadcast(self, address):
        """A word of a row in every lane."""
        if self.is_pair:
            # a row of bfloat16 starts at any even address
            return self.splat(self.builder.load(self.pointer(address, I32), align=2))
        return self.splat(self.builder.load(self.pointer(address, self.scalar), align=self.itemsize))

    def multiply_add(self, factor, weight, total):
        """`total` plus the product of what `load_broadcast` gave and a vector of weights."""
        if self.is_pair:
            pairs = ir.VectorType(_BFloat(), 2 * self.lanes)
            dot = self.function("llvm.x86.avx512bf16.dpbf16ps.512", self.vector, [self.vector, pairs, pairs])
            operands = [self.builder.bitcast(value, pairs) for value in (factor, weight)]
            return self.builder.call(dot, [total, *operands])
        # fused where the CPU can, a multiplication and an addition where it cannot: never a call of fmaf
        name = f"llvm.fmuladd.v{self.lanes}f{8 * self.itemsize}"
        return self.builder.call(self.function(name, self.vector, [self.vector] * 3), [factor, weight, total])

    def mask_of(self, left):
        """Lanes below `left`, an i64."""
        lanes = ir.Constant(self.words, list(range(self.lanes)))
        return self.builder.icmp_signed("<", lanes, self.splat(self.builder.trunc(left, I32)))

    def load_masked(self, address, kind, mask, align):
        """A vector of `kind`, zero where the mask is off; nothing is read there."""
        suffix = f"v{self.lanes}{_suffix(kind.element)}"
        arguments = [kind.as_pointer(), I32, ir.VectorType(I1, self.lanes), kind]
        load = self.function(f"llvm.masked.load.{suffix}.p0", kind, arguments)
        nothing = ir.Constant(kind, None)
        return self.builder.call(load, [self.pointer(address, kind), I32(align), mask, nothing])

    def store_masked(self, value, address, mask, align):
        """Write the lanes where the mask is on."""
        kind = value.type
        suffix = f"v{self.lanes}{_suffix(kind.element)}"
        arguments = [kind, kind.as_pointer(), I32, ir.VectorType(I1, self.lanes)]
        store = self.function(f"llvm.masked.store.{suffix}.p0", ir.VoidType(), arguments)
        self.builder.call(store, [value, self.pointer(address, kind), I32(align), mask])

    def prefetch(self, address, nearness=3):
        """Ask for the cache line at `address`; nearness 3 is L1, 2 is L2."""
        pointer = I8.as_pointer()
        function = self.function("llvm.prefetch.p0i8", ir.VoidType(), [pointer, I32, I32, I32])
        self.builder.call(function, [self.pointer(address, I8), I32(0), I32(nearness), I32(1)])


def _suffix(element):
    """How LLVM names an element type in an intrinsic."""
    if element == I16:
        return "i16"
    return "f64" if element == F64 else "f32"


def loop(builder, begin, end, step, carried, body):
    """Emit `for index in range(begin, end, step): carried = body(index, carried)`; return the last carried.

    `begin`, `end` are i64 values, `step` an int; the loop may run zero times.
    """
    entry = builder.block
    head, inside, done = (builder.append_basic_block(name) for name in ("head", "inside", "done"))
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(I64)
    index.add_incoming(begin, entry)
    values = []
    for value in carried:
        phi = builder.phi(value.type)
        phi.add_incoming(value, entry)
        values.append(phi)
    builder.cbranch(builder.icmp_signed("<", index, end), inside, done)
    builder.position_at_end(inside)
    result = body(index, values)
    index.add_incoming(builder.add(index, I64(step)), builder.block)
    for phi, value in zip(values, result, strict=True):
        phi.add_incoming(value, builder.block)
    builder.branch(head)
    builder.position_at_end(done)
    return values
