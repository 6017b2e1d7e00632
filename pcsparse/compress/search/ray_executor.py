"""Evaluations on a Ray cluster, for searches that outgrow one machine. Needs the extra `ray`."""

import os
import pickle
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import torch

from pcsparse.checks import require_extra
from pcsparse.compress.search.executor import Finished, Item, Result, timed
from pcsparse.errors import PcsparseError, RangeError, UnsupportedError

_PATIENCE_S = 10.0


class RayCluster:
    """The workers of a Ray cluster; to be closed, best by `with`.

    The cluster is the one that this process is connected to; else the one at `address`, or at `RAY_ADDRESS`
    in the environment; else a local one that is started at the first evaluation and ended by `close`. Each
    evaluation takes one of its CPUs; `pcsparse` and the module of `evaluate` must be importable there.

    Args:
        workers: CPUs of a local cluster; a cluster that exists has its own.
        address: "ray://host:port" or "host:port".
        threads: torch threads of an evaluation.

    Raises:
        RangeError: workers or threads below 1.
    """

    def __init__(self, workers: int = 2, *, address: str | None = None, threads: int = 1) -> None:
        if workers < 1 or threads < 1:
            raise RangeError(f"workers and threads must be at least 1, got {workers} and {threads}")
        self._workers, self._address, self._threads = workers, address, threads
        self._ray: Any = None
        self._connected_here = False
        self._sent: tuple[Callable[[Any], Any], Any] | None = None

    def run(self, evaluate: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Finished[Result]]:
        """Evaluate all of them, yielding each when it is done; no cluster is asked where there are none.

        Raises:
            UnsupportedError: Ray is not installed, or `evaluate` cannot be sent.
            PcsparseError: a worker died, or the cluster cannot be reached, or fails.

        What `evaluate` raises there is raised here, of its own type and with its own text.
        """
        if not items:
            return
        ray = self._connect()
        if self._sent is None or self._sent[0] is not evaluate:
            try:
                self._sent = (evaluate, ray.put(evaluate))
            except (TypeError, pickle.PicklingError) as error:
                raise UnsupportedError(
                    f"evaluate cannot be sent to a cluster ({error}); leave open files, locks and the like "
                    "out of it, or evaluate in this process"
                ) from error
        # a task that fails is not tried again: an evaluation that kills its worker would kill the next
        task = ray.remote(num_cpus=1, max_retries=0)(_evaluate)
        waiting = [task.remote(self._sent[1], i, item, self._threads) for i, item in enumerate(items)]
        try:
            while waiting:
                (done,), waiting = ray.wait(waiting, num_returns=1)
                yield ray.get(done)
        except ray.exceptions.RayTaskError as error:
            # without Ray's frames and colours, which hide what there is to do; where they came from stays
            raise error.cause from error
        except _deaths(ray) as error:
            raise PcsparseError(
                "a worker of the cluster died, for lack of memory perhaps; what was finished is in the log: "
                "run again"
            ) from error
        except ray.exceptions.RayError as error:
            raise PcsparseError(
                f"the cluster failed ({type(error).__name__}: {error}); what was finished is in the log: run "
                "again, or with executor=processes"
            ) from error
        finally:
            for task_left in waiting:
                ray.cancel(task_left)

    def _connect(self) -> Any:
        if self._ray is None:
            self._ray = require_extra("ray", "ray")
        if not self._ray.is_initialized():
            address = self._address or os.environ.get("RAY_ADDRESS")
            quiet = {"log_to_driver": False, "configure_logging": False}
            if address:
                self._reach(address, quiet)
            else:
                self._ray.init(address="local", num_cpus=self._workers, include_dashboard=False, **quiet)
            self._connected_here = True
        return self._ray

    def _reach(self, address: str, quiet: Mapping[str, bool]) -> None:
        place = urlsplit(address if "://" in address else f"ray://{address}")
        try:
            if place.hostname and place.port:
                # Ray itself tries for many minutes, and says nothing
                socket.create_connection((place.hostname, place.port), timeout=_PATIENCE_S).close()
            self._ray.init(address=address, **quiet)
        except (OSError, RuntimeError, ValueError) as error:
            raise PcsparseError(
                f"there is no Ray cluster at {address} ({error}); start one, or give neither address nor "
                "RAY_ADDRESS for workers on this machine"
            ) from error

    def close(self) -> None:
        """Leave the cluster if this executor connected to it; a local one ends."""
        if self._connected_here:
            self._ray.shutdown()
        self._connected_here, self._sent = False, None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _deaths(ray: Any) -> tuple[type[Exception], ...]:
    errors = ray.exceptions
    return errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError


def _evaluate(
    evaluate: Callable[[Item], Result], position: int, item: Item, threads: int
) -> Finished[Result]:
    torch.set_num_threads(threads)
    return timed(evaluate, position, item)
