"""How a Numba kernel is compiled and started.

Every parallel kernel has a serial copy, compiled only where it is called: in a process that was forked from
one that had imported pcsparse, because GNU OpenMP aborts a parallel region there (DataLoader workers).
Both give the same bits.
"""

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


class _Cores:
    """Cores that kernels called from several Python threads share, in the order of the calls.

    OpenMP gives each calling thread a team of its own; together they would be more than there are cores, and
    teams on one core wait for each other at every barrier. So a call waits until its threads have cores, and
    until those that came before it have theirs.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._lock = threading.Lock()
        # by Python thread: what it was given; what it wants, and the gate that opens when it is given that
        self._running: dict[int, int] = {}
        self._waiting: dict[int, tuple[int, threading.Lock]] = {}

    def run(self, wanted: int, kernel: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Call `kernel` while `wanted` cores, or all if there are fewer, are taken for it."""
        me, gate = threading.get_ident(), None
        try:
            with self._lock:
                # a thread runs one kernel at a time; an interrupt at the wrong moment leaves an entry behind
                self._running.pop(me, None)
                wanted = min(wanted, self._count)
                if not self._waiting and not self._running:
                    # nobody to share with, as almost always: a gate takes a microsecond
                    self._running[me] = wanted
                else:
                    gate = threading.Lock()
                    gate.acquire()
                    self._waiting[me] = wanted, gate
                    self._admit()
            if gate is not None:
                gate.acquire()
            return kernel(*args)
        finally:
            with self._lock:
                self._waiting.pop(me, None)
                self._running.pop(me, None)
                if self._waiting:
                    self._admit()

    def _admit(self) -> None:
        free = self._count - sum(self._running.values())
        for thread, (wanted, gate) in list(self._waiting.items()):
            if wanted > free:
                return
            free -= wanted
            del self._waiting[thread]
            self._running[thread] = wanted
            gate.release()


_CORES = _Cores(_CONFIG.NUMBA_NUM_THREADS)


def _compile(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    # nobody calls a kernel by a C pointer, and numba's stubs do not know the option that leaves it out
    options = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True, **options}
    dispatcher = numba.njit(**options)(function)
    dispatcher._cache = CodeCache(function)
    return dispatcher


def jit_serial(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile for one thread."""
    return _compile(function)


def jit_parallel(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile twice, with prange as threads and as a plain loop; a call picks one.

    A call uses as many threads as torch would, but never more than Numba has: as many as the process had
    cores when it was loaded, or `NUMBA_NUM_THREADS`. Calls from several Python threads wait for each other
    rather than use more.
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
            used = min(threads, _CONFIG.NUMBA_NUM_THREADS)
            numba.set_num_threads(used)
            # at its first use numba sets the threads of OpenMP, and they are torch's too
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            # numba's own pool ends the process when two threads use it at once; there they queue
            alone = threading_layer() == "workqueue"
            return _CORES.run(_CONFIG.NUMBA_NUM_THREADS if alone else used, parallel, args)

        return call

    return wrap
