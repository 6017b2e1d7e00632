"""The mend of Triton 3.6's interpreter, with whichever Triton is here."""

import pytest
import torch

tl = pytest.importorskip("triton.language")
import triton  # noqa: E402
from triton.runtime import interpreter  # noqa: E402

from tests.kernels.triton_index import index_by_arrays_of_one  # noqa: E402


@triton.jit
def _count(ends, out):
    n = 0
    for _ in range(tl.load(ends), tl.load(ends + 1)):
        n += 1
    tl.store(out, n)


def test_a_kernel_counts_between_numbers_that_it_has_read(monkeypatch):
    patch = interpreter._patch_lang_tensor

    def patch_as_3_6_does(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data))

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch_as_3_6_does)
    index_by_arrays_of_one(monkeypatch)
    ends, out = torch.tensor([3, 10], dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    _count[(1,)](ends, out)
    assert out.item() == 7
