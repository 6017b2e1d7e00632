"""Where compiled kernels are kept between processes.

Numba's own cache looks at the one source file of a function, so it would go on with machine code made from an
older microkernel, and where two processes store different signatures at once it can swap their files. Here
the folder is named by everything that shapes the code, and only one process at a time writes to it.
"""

import functools
import hashlib
import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator


@functools.cache
def code_folder() -> Path:
    """The folder of compiled kernels: under `NUMBA_CACHE_DIR`, `XDG_CACHE_HOME` or `~/.cache`.

    Its name is a hash of the sources of `kernels.cpu` and of the files of `kernels`, of the versions of
    Python, Numba and LLVM, and of the CPU that the environment names, if it does; Numba itself looks at the
    CPU. The folder need not exist, or be writable.
    """
    digest = hashlib.sha256()
    here = Path(__file__).parent
    # the files beside the folder hold constants that compiled code has built in
    for source in (*sorted(here.glob("*.py")), *sorted(here.parent.glob("*.py"))):
        digest.update(source.read_bytes())
    for version in (
        sys.version,
        numba.__version__,
        llvmlite.__version__,
        os.environ.get("NUMBA_CPU_NAME", ""),
        os.environ.get("NUMBA_CPU_FEATURES", ""),
    ):
        digest.update(version.encode())
    given = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    return (Path(given) if given else _home_cache()) / "pcsparse" / "numba" / digest.hexdigest()[:16]


def _home_cache() -> Path:
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        # a user without a home; nothing can be kept below this one, and `_say_lost` tells
        return Path(os.devnull)


class _Locator(_CacheLocator):
    """The folder, and names in it that follow from the file that a function comes from.

    So code from outside `kernels`, which the folder's name does not cover, is compiled again after an edit.
    """

    def __init__(self, line: int, file: str) -> None:
        self._line, self._file = line, file

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> "_Locator":
        return cls(py_func.__code__.co_firstlineno, py_file)

    def get_cache_path(self) -> str:
        return str(code_folder())

    def get_source_stamp(self) -> str:
        return code_folder().name

    def get_disambiguator(self) -> str:
        return f"{self._line}-{_digest(self._file)}"


@functools.cache
def _digest(file: str) -> str:
    # numba knows a function by its own bytecode, not by that of the functions it calls
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
    except OSError:
        return ""


class _Impl(CompileResultCacheImpl):
    _locator_classes: Any = (_Locator,)


class CodeCache(FunctionCache):
    """The compiled signatures of one function. A cache that cannot be used costs time, never a result."""

    _impl_class = _Impl

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Stored code, or None: then Numba compiles, and the user is told why it takes seconds."""
        try:
            found = super().load_overload(sig, target_context)
        except OSError:
            # no such folder, or none that may be read: storing will tell
            found = None
        except Exception as error:
            # a file that was cut short is a broken pickle, and that raises anything
            _say_broken(f"{type(error).__name__}: {error}")
            found = None
            # numba would read the broken index again before it stores
            with suppress(OSError), _sole_writer():
                self.flush()
        if found is None:
            _say_compiling()
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        """Store, or warn that it cannot be stored."""
        try:
            with _sole_writer():
                super().save_overload(sig, data)
        except OSError as error:
            _say_lost(str(error))


@contextmanager
def _sole_writer() -> Iterator[None]:
    """One process at a time: Numba numbers files by an index that it reads before and writes after."""
    folder = code_folder()
    folder.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@functools.cache
def _say_compiling() -> None:
    # a loader's worker has nothing to add to what its parent said
    if multiprocessing.parent_process() is None and sys.stderr is not None:
        sys.stderr.write(
            f"pcsparse: compiling CPU kernels for their first use, some seconds; kept in {code_folder()}\n"
        )
        sys.stderr.flush()


@functools.cache
def _say_lost(reason: str) -> None:
    warnings.warn(
        f"compiled kernels cannot be kept in {code_folder()} ({reason}), so every process compiles them "
        "again; set XDG_CACHE_HOME to a folder that can be written",
        RuntimeWarning,
        stacklevel=2,
    )


@functools.cache
def _say_broken(reason: str) -> None:
    warnings.warn(
        f"compiled kernels in {code_folder()} cannot be read ({reason}) and are made again; if this comes "
        "back, delete the folder",
        RuntimeWarning,
        stacklevel=2,
    )
