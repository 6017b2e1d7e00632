"""Products of bfloat16 in Triton's interpreter, which keeps them as their bits and would multiply those."""

import numpy as np
import pytest


def multiply_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `tl.dot` widen bfloat16 operands, as hardware does, until the test ends."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    narrow_dot = InterpreterBuilder.create_dot

    def widened(handle):
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def wide_dot(self, a, b, *args):
        return narrow_dot(self, widened(a), widened(b), *args)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", wide_dot)
