"""How a Numba kernel is compiled, cached and started.

Every parallel kernel has a serial copy. The serial one runs in a process that was forked from one that used
the kernels, because GNU OpenMP aborts a parallel region there (DataLoader workers). Both give the same bits.
"""

import hashlib
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
import torch

_IMPORTED_IN = os.getpid()
# numba sets these names at run time, out of the type checker's sight
_CONFIG: Any = numba.config
if not os.environ.get("NUMBA_THREADING_LAYER_PRIORITY"):
    # GNU OpenMP first: torch uses it too, and two pools of threads would fight for the cores
    _CONFIG.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]


def _cache_dir() -> Path:
    """A folder named by everything that shapes the machine code: Numba looks at one source file only."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    for version in (
        sys.version,
        numba.__version__,
        llvmlite.__version__,
        os.environ.get("NUMBA_CPU_NAME", ""),
    ):
        digest.update(version.encode())
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "pcsparse" / "numba" / digest.hexdigest()[:16]


_CACHE_DIR = str(_cache_dir())


def _compile(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    # numba reads the folder when the cache is made, that is in njit; other users of numba keep theirs
    before = _CONFIG.CACHE_DIR
    _CONFIG.CACHE_DIR = before or _CACHE_DIR
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy", **options)(function)
    finally:
        _CONFIG.CACHE_DIR = before


def jit_serial(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile for one thread."""
    return _compile(function)


def jit_parallel(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile twice, with prange as threads and as a plain loop; a call picks one."""

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        # numba's cache files are named by the qualified name, and both versions must have their own
        copy = types.FunctionType(function.__code__, function.__globals__, function.__name__ + "_serial")
        copy.__qualname__ = function.__qualname__ + "_serial"
        copy.__module__ = function.__module__
        parallel, serial = _compile(function, parallel=True, **options), _compile(copy, **options)

        def call(*args: Any) -> Any:
            if os.getpid() != _IMPORTED_IN:
                return serial(*args)
            threads = torch.get_num_threads()
            numba.set_num_threads(min(threads, _CONFIG.NUMBA_NUM_THREADS))
            # at its first use numba sets the threads of OpenMP, and they are torch's too
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            return parallel(*args)

        return call

    return wrap
