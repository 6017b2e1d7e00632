"""Loader processes: how they are started, shielded from signals, and ended."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from pcsparse.data.collate import VoxelBatch, collate
from pcsparse.train.order import BatchesFrom


def _leave_signals_to_parent(worker: int) -> None:
    """A signal to the whole process group must not kill the batch that the parent waits for."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


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
        An iterator; its processes end when the context is left, by an error too.
    """
    iterator: Any = iter(
        DataLoader(
            samples,
            batch_sampler=batches if batches is not None else [[i] for i in range(len(samples))],  # type: ignore[arg-type]
            collate_fn=collate,
            num_workers=workers,
            prefetch_factor=prefetch if workers else None,
            worker_init_fn=_leave_signals_to_parent,
            # a generator of its own: the loader must not draw from the one that dropout uses
            generator=torch.Generator(),
        )
    )
    try:
        yield iterator
    finally:
        # not left to the garbage collector: a traceback keeps the iterator alive, and at exit Python would
        # wait for workers that ignore its SIGTERM
        if workers:
            iterator._shutdown_workers()
