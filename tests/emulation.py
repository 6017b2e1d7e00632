"""GPU kernels on CPU tensors: Triton's interpreter, and CUDA text compiled for the host."""

import importlib
import inspect
import os
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

import pytest

from pcsparse.kernels import select


def stand_in_for_cupy() -> None:
    """Let the GPU backend be imported where cupy is not installed; only where nothing of it is called."""
    if find_spec("cupy") is None:
        stub = ModuleType("cupy")
        stub.__spec__ = ModuleSpec("cupy", None)
        sys.modules["cupy"] = stub


def gpu_kernels() -> ModuleType:
    """The GPU backend; without cupy only where it is emulated, of which `tests/conftest.py` decides."""
    if os.environ.get("TRITON_INTERPRET"):
        stand_in_for_cupy()
    if find_spec("triton") is None:
        pytest.skip("triton is not installed here, and interprets the GPU kernels", allow_module_level=True)
    return importlib.import_module("pcsparse.kernels.gpu")


def emulate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let CPU tensors meet the GPU kernels until the test ends."""
    gpu, load = gpu_kernels(), select._load
    from pcsparse.kernels.gpu import cuda_text
    from tests.kernels import cuda_shim
    from tests.kernels.triton_bfloat16 import multiply_bfloat16
    from tests.kernels.triton_index import index_by_arrays_of_one

    assert inspect.signature(cuda_text.launch) == inspect.signature(cuda_shim.launch)
    monkeypatch.setattr(cuda_text, "launch", cuda_shim.launch)
    monkeypatch.setattr(select, "_load", lambda kind: gpu if kind == "cpu" else load(kind))
    multiply_bfloat16(monkeypatch)
    index_by_arrays_of_one(monkeypatch)
