"""The device that a kernel runs on, and poison for the memory that kernels take from numpy."""

# what numba knows of numpy is made known at this import, and must be so of numpy's own functions
import numba.np.arrayobj  # noqa: F401
import numpy as np
import pytest
import torch
from numba.core.dispatcher import _FunctionCompiler

from tests.emulation import emulate

EMULATED = "gpu-emulated"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "device" in metafunc.fixturenames:
        on_cuda = metafunc.config.getoption("--device") != "cpu"
        metafunc.parametrize("device", ["cuda"] if on_cuda else ["cpu", EMULATED], indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        mark = item.get_closest_marker("not_emulated")
        if mark and getattr(item, "callspec", None) and item.callspec.params.get("device") == EMULATED:
            item.add_marker(pytest.mark.skip(reason=f"not emulated: {mark.args[0]}"))


@pytest.fixture
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """The device under test: the CPU, the same with the GPU's kernels, or a GPU with --device cuda."""
    if request.param == EMULATED:
        emulate(monkeypatch)
        return torch.device("cpu")
    return torch.device(request.param)


_EMPTY, _EMPTY_LIKE = np.empty, np.empty_like


def _poison(fresh: np.ndarray) -> np.ndarray:
    if fresh.dtype.kind == "f":
        fresh.fill(np.nan)
    elif fresh.dtype.kind == "i":
        fresh.fill(np.iinfo(fresh.dtype).max // 4 * 3)
    return fresh


_COMPILE = _FunctionCompiler.compile


def _compile_with_numpy(self: _FunctionCompiler, *args):
    """Numba looks its own uses of these two up where it compiles, and knows numpy's only."""
    poisoned = np.empty, np.empty_like
    np.empty, np.empty_like = _EMPTY, _EMPTY_LIKE
    try:
        return _COMPILE(self, *args)
    finally:
        np.empty, np.empty_like = poisoned


@pytest.fixture(autouse=True)
def _poisoned_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in `tests/conftest.py`, for arrays: who forgets to write fresh memory is found out."""
    monkeypatch.setattr(_FunctionCompiler, "compile", _compile_with_numpy)
    monkeypatch.setattr(np, "empty", lambda *args, **kwargs: _poison(_EMPTY(*args, **kwargs)))
    monkeypatch.setattr(np, "empty_like", lambda *args, **kwargs: _poison(_EMPTY_LIKE(*args, **kwargs)))
