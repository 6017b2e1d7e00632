"""GPU kernels on CPU tensors: Triton's interpreter, and CUDA text compiled for the host."""

import importlib
import inspect
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

import pytest

from pcsparse.kernels import select

# kernels of the contract that kernels.gpu has not yet, by whoever brings them: one name a line
NOT_YET: set[str] = set()
"""A test that needs one of them is skipped on the GPU backend; `test_contract.py` holds the list exact."""


def gpu_kernels() -> ModuleType:
    """The GPU backend, also where cupy is not installed: emulated, nothing of it is called."""
    if find_spec("cupy") is None:
        stub = ModuleType("cupy")
        stub.__spec__ = ModuleSpec("cupy", None)
        sys.modules["cupy"] = stub
    if find_spec("triton") is None:
        pytest.skip("triton is not installed here, and interprets the GPU kernels")
    return importlib.import_module("pcsparse.kernels.gpu")


class _SoFar(ModuleType):
    """The GPU backend as far as it is there."""

    def __init__(self, gpu: ModuleType) -> None:
        super().__init__(gpu.__name__)
        self._gpu = gpu

    def __getattr__(self, name: str):
        if name in NOT_YET:
            pytest.skip(f"kernels.gpu has no {name} yet")
        return getattr(self._gpu, name)


def skip_what_is_not_there(monkeypatch: pytest.MonkeyPatch, device_type: str) -> None:
    """Let tensors of `device_type` meet the GPU kernels, and skip a test that asks for one of `NOT_YET`."""
    gpu, load = _SoFar(gpu_kernels()), select._load
    monkeypatch.setattr(select, "_load", lambda kind: gpu if kind == device_type else load(kind))


def emulate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let CPU tensors meet the GPU kernels until the test ends."""
    skip_what_is_not_there(monkeypatch, "cpu")
    from pcsparse.kernels.gpu import cuda_text
    from tests.kernels import cuda_shim
    from tests.kernels.triton_bfloat16 import multiply_bfloat16

    assert inspect.signature(cuda_text.launch) == inspect.signature(cuda_shim.launch)
    monkeypatch.setattr(cuda_text, "launch", cuda_shim.launch)
    multiply_bfloat16(monkeypatch)
