"""Numba kernels of the cycle models, kept between processes.

The cache of `kernels.cpu` is named by the sources of that folder and knows nothing of this one, so machine
code of a cycle model would outlive an edit of a module that it has built in. Here the file of a kernel
carries a hash of the source in which it and all that it calls are written: one cycle model, one file.
"""

import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba.core.caching import CompileResultCacheImpl, _CacheLocator

from pcsparse.kernels.cpu.code_cache import CodeCache, code_folder
from pcsparse.kernels.cpu.launch import jit_serial


class _Locator(_CacheLocator):
    """The folder of all compiled kernels; the file's name says of which source."""

    def __init__(self, name: str) -> None:
        self._name = name

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> "_Locator":
        source = Path(inspect.getfile(py_func)).read_bytes()
        return cls(f"{py_func.__code__.co_firstlineno}-{hashlib.sha256(source).hexdigest()[:16]}")

    def get_cache_path(self) -> str:
        return str(code_folder())

    def get_source_stamp(self) -> str:
        return self._name

    def get_disambiguator(self) -> str:
        return self._name


class _Impl(CompileResultCacheImpl):
    _locator_classes: Any = (_Locator,)


class _ModelCache(CodeCache):
    _impl_class: Any = _Impl


def jit_model(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile for one thread; whatever `function` calls must stand in its own file."""
    dispatcher: Any = jit_serial(function)
    dispatcher._cache = _ModelCache(function)
    return dispatcher
