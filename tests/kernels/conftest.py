"""Poison for the memory that kernels take from numpy."""

import numpy as np
import pytest

_EMPTY, _EMPTY_LIKE = np.empty, np.empty_like


def _poison(fresh: np.ndarray) -> np.ndarray:
    if fresh.dtype.kind == "f":
        fresh.fill(np.nan)
    elif fresh.dtype.kind == "i":
        fresh.fill(np.iinfo(fresh.dtype).max // 4 * 3)
    return fresh


@pytest.fixture(autouse=True)
def _poisoned_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in `tests/conftest.py`, for arrays: who forgets to write fresh memory is found out."""
    monkeypatch.setattr(np, "empty", lambda *args, **kwargs: _poison(_EMPTY(*args, **kwargs)))
    monkeypatch.setattr(np, "empty_like", lambda *args, **kwargs: _poison(_EMPTY_LIKE(*args, **kwargs)))
