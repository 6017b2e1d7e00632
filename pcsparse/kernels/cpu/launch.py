"""How a Numba kernel is compiled and started.

Every parallel kernel has a serial copy, compiled only where it is called: in a process that was forked from
one that had imported pcsparse, because GNU OpenMP aborts a parallel region there (DataLoader workers).
Both give the same bits.
"""

import contextlib
import os
import threading
import types
from collections.abc import Callable
from typing import Any

import numba
import torch
from numba.np.ufunc.parallel import threading_layer

from pcsparse.kernels.cpu.code_cache import CodeCache
from pcsparse.kernels.process import was_forked

# numba sets these names at run time, out of the type checker's sight
_CONFIG: Any = numba.config
if not os.environ.get("NUMBA_THREADING_LAYER_PRIORITY"):
    # GNU OpenMP first: torch uses it too, and two pools of threads would fight for the cores
    _CONFIG.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]
_TURNS = threading.Lock()


def _compile(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    dispatcher = numba.njit(nogil=True, error_model="numpy", **options)(function)
    dispatcher._cache = CodeCache(function)
    return dispatcher


def jit_serial(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile for one thread."""
    return _compile(function)


def jit_parallel(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile twice, with prange as threads and as a plain loop; a call picks one.

    A call uses as many threads as torch would, but never more than Numba has: as many as the process had
    cores when it was loaded, or `NUMBA_NUM_THREADS`.
    """

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        # cache files are named by the qualified name, and both versions must have their own
        copy = types.FunctionType(function.__code__, function.__globals__, function.__name__ + "_serial")
        copy.__qualname__ = function.__qualname__ + "_serial"
        copy.__module__ = function.__module__
        parallel, serial = _compile(function, parallel=True, **options), _compile(copy, **options)

        def call(*args: Any) -> Any:
            if was_forked():
                return serial(*args)
            threads = torch.get_num_threads()
            numba.set_num_threads(min(threads, _CONFIG.NUMBA_NUM_THREADS))
            # at its first use numba sets the threads of OpenMP, and they are torch's too
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            with _turn():
                return parallel(*args)

        return call

    return wrap


def _turn() -> contextlib.AbstractContextManager[Any]:
    """Numba's own pool ends the process when two threads use it at once; there they queue."""
    return _TURNS if threading_layer() == "workqueue" else contextlib.nullcontext()
