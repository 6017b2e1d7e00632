"""Loader processes: how they are started, shielded from signals, and ended."""

import os
import pickle
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pcsparse.data.collate import VoxelBatch, collate
from pcsparse.errors import PcsparseError
from pcsparse.train.order import BatchesFrom

_SHARED = Path("/dev/shm")
# bytes: some loaders' batches in flight
_ENOUGH = 2 << 30


def _leave_signals_to_parent(worker: int) -> None:
    """A signal to the whole process group must not kill the batch that the parent waits for."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _shared_memory_is_small() -> bool:
    """Whether batches could not be handed on in shared memory: containers have 64 MiB of it by default."""
    if not _SHARED.is_dir():
        return False
    space = os.statvfs(_SHARED)
    return space.f_bavail * space.f_frsize < _ENOUGH


class _Told(Dataset[VoxelBatch | PcsparseError]):
    """Errors of ours in place of samples: torch would make the traceback of the process their text."""

    def __init__(self, samples: Dataset[VoxelBatch]) -> None:
        self._samples = samples

    def __getitem__(self, index: Any) -> VoxelBatch | PcsparseError:
        try:
            return self._samples[index]
        except PcsparseError as error:
            return error


def _joined(batches: Sequence[VoxelBatch | PcsparseError]) -> VoxelBatch | PcsparseError:
    """One batch, or the first error."""
    whole = []
    for batch in batches:
        if isinstance(batch, PcsparseError):
            return batch
        whole.append(batch)
    return collate(whole)


def _raised(batches: Iterator[VoxelBatch | PcsparseError]) -> Iterator[VoxelBatch]:
    for batch in batches:
        if isinstance(batch, PcsparseError):
            raise batch
        yield batch


def _piped(batches: Sequence[VoxelBatch | PcsparseError]) -> bytes:
    """One batch as bytes, which travel through a pipe instead."""
    joined = _joined(batches)
    if isinstance(joined, PcsparseError):
        return pickle.dumps(joined, protocol=5)
    batch = vars(joined)
    content = {name: part.numpy() if isinstance(part, Tensor) else part for name, part in batch.items()}
    return pickle.dumps(content, protocol=5)


def _unpiped(content: bytes) -> VoxelBatch | PcsparseError:
    # written by a process of our own
    parts: dict[str, Any] | PcsparseError = pickle.loads(content)
    if isinstance(parts, PcsparseError):
        return parts
    for name, part in parts.items():
        if isinstance(part, np.ndarray):
            parts[name] = torch.from_numpy(part)
    return VoxelBatch(**parts)


@contextmanager
def open_loader(
    samples: Dataset[VoxelBatch], batches: BatchesFrom | None, workers: int, prefetch: int = 2
) -> Iterator[Iterator[VoxelBatch]]:
    """Batches of voxels, read and voxelised in other processes.

    Args:
        samples: addressed by what `batches` yields, or by 0 ... n - 1.
        batches: the samples of each batch; None for one sample a batch, in order.
        workers: processes; 0 reads in this one.
        prefetch: batches each process holds ready.

    Yields:
        An iterator; its processes end when the context is left, by an error too. What they raise on purpose
        is raised here as it was there.
    """
    piped = workers > 0 and _shared_memory_is_small()
    iterator: Any = iter(
        DataLoader(
            _Told(samples) if workers else samples,
            batch_sampler=batches if batches is not None else [[i] for i in range(len(samples))],  # type: ignore[arg-type]
            collate_fn=_piped if piped else _joined,
            num_workers=workers,
            prefetch_factor=prefetch if workers else None,
            worker_init_fn=_leave_signals_to_parent,
            # a generator of its own: the loader must not draw from the one that dropout uses
            generator=torch.Generator(),
        )
    )
    try:
        yield _raised(map(_unpiped, iterator) if piped else iterator)
    finally:
        # not left to the garbage collector: a traceback keeps the iterator alive, and at exit Python would
        # wait for workers that ignore its SIGTERM
        if workers:
            iterator._shutdown_workers()
