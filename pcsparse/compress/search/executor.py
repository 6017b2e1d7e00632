"""Where evaluations run: in this process, or in processes beside it.

Which executor is used changes no result: methods choose how many assignments they ask for at once, and what
comes back is put in the order of asking. A sensitivity scan runs its cuts the same way.
"""

import os
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from threading import Thread
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

import torch

from pcsparse.compress.search.space import Assignment
from pcsparse.errors import PcsparseError, RangeError, UnsupportedError

Evaluate = Callable[[Assignment], float]
"""The score of a network with these widths, 0 to 1, higher is better; NaN where it has none."""
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Finished(Generic[Result]):
    """An evaluation that is done.

    Attributes:
        position: in the sequence that was handed over.
        score: as returned.
        seconds: on the clock of the process that ran it.
    """

    position: int
    score: Result
    seconds: float


class Executor(Protocol[Item, Result]):
    """Runs evaluations; each is yielded as soon as it is there, in any order."""

    def run(self, evaluate: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Finished[Result]]:
        """Evaluate all of them."""


def timed(evaluate: Callable[[Item], Result], position: int, item: Item) -> Finished[Result]:
    """Call `evaluate` with a clock beside it; at module level so that other processes find it."""
    start = time.perf_counter()
    score = evaluate(item)
    return Finished(position, score, time.perf_counter() - start)


class InProcess:
    """One after the other, here."""

    def run(self, evaluate: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Finished[Result]]:
        """Evaluate all of them, in order."""
        for position, item in enumerate(items):
            yield timed(evaluate, position, item)


class SpawnedProcesses:
    """Fresh processes on this machine; to be closed, best by `with`.

    `evaluate` is sent to each process once. A kill of the search loses what is running: as many evaluations
    as there are workers; they end with it. Milliseconds measured in workers that share the cores are
    worthless: take them from a table that was measured alone.

    Args:
        workers: processes.
        threads: torch threads of each; by default the cores are shared out.

    Raises:
        RangeError: workers or threads below 1.
    """

    def __init__(self, workers: int, *, threads: int | None = None) -> None:
        if workers < 1 or (threads is not None and threads < 1):
            raise RangeError(f"workers and threads must be at least 1, got {workers} and {threads}")
        self._workers = workers
        self._threads = threads or max(1, (os.cpu_count() or 1) // workers)
        self._pool: ProcessPoolExecutor | None = None
        self._sent: Callable[[Any], Any] | None = None

    def run(self, evaluate: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Finished[Result]]:
        """Evaluate all of them, yielding each when it is done; no process is started where there are none.

        Raises:
            UnsupportedError: `evaluate` cannot be sent to another process, or not be found there.
            PcsparseError: a worker died.
        """
        if not items:
            return
        pool = self._pool_for(evaluate)
        waiting = [pool.submit(_evaluate, i, item) for i, item in enumerate(items)]
        try:
            for future in as_completed(waiting):
                yield future.result()
        except BrokenProcessPool as error:
            self.close()
            raise PcsparseError(
                "a worker process died, for lack of memory perhaps; what it had finished is in the log: run "
                "again, with fewer workers"
            ) from error
        finally:
            for future in waiting:
                future.cancel()

    def _pool_for(self, evaluate: Callable[[Any], Any]) -> ProcessPoolExecutor:
        if self._pool is not None and self._sent is evaluate:
            return self._pool
        try:
            packed = pickle.dumps(evaluate)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UnsupportedError(
                f"evaluate cannot be sent to another process ({error}); make it a function or a class at the "
                "top of a module, or evaluate in this process"
            ) from error
        self.close()
        self._pool = ProcessPoolExecutor(
            self._workers, get_context("spawn"), initializer=_receive, initargs=(packed, self._threads)
        )
        self._sent = evaluate
        return self._pool

    def close(self) -> None:
        """End the processes; what is running is waited for."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._pool, self._sent = None, None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Worker:
    """What a worker process holds: what it runs, or why it could not read that."""

    evaluate: Callable[[Any], Any]
    unread: str | None = None


def _receive(packed: bytes, threads: int) -> None:
    Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        _Worker.evaluate = pickle.loads(packed)
    except (AttributeError, ImportError) as error:
        # raised here it would end the process, and nobody would see why; all else says enough on stderr
        _Worker.unread = f"{type(error).__name__}: {error}"


def end_with_parent() -> None:
    """Without it a worker whose search was killed would wait for work for ever, and hold its memory."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _evaluate(position: int, item: Any) -> Finished[Any]:
    if _Worker.unread is not None:
        raise UnsupportedError(
            f"evaluate is not found in another process ({_Worker.unread}); define it, and all that it holds, "
            "in a module that can be imported, not in a script or a notebook (__main__), or evaluate in this "
            "process"
        )
    return timed(_Worker.evaluate, position, item)
