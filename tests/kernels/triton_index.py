"""Loop bounds in Triton 3.6's interpreter: its numbers are arrays of one, which numpy 2.4 makes no int of."""

import pytest


def index_by_arrays_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `range` take what is counted in a kernel, as from Triton 3.7 on, until the test ends."""
    from triton.runtime import interpreter

    patch_tensor = interpreter._patch_lang_tensor

    def patched(tensor, scope):
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda number: number.handle.data.item())

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patched)
