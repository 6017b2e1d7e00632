"""Every launch of a block done twice from the same memory: by the driver's entry, and through Triton."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pcsparse.kernels.gpu import launch


@dataclass(frozen=True)
class Compared:
    """What was started.

    Attributes:
        direct: kernels that the driver was called for -> launches compared.
        by_triton: those that were left to Triton -> launches.
        differing: (kernel, bytes) of the launches that left other memory.
    """

    direct: Counter[str] = field(default_factory=Counter)
    by_triton: Counter[str] = field(default_factory=Counter)
    differing: list[tuple[str, int]] = field(default_factory=list)


@contextmanager
def compared_launches() -> Iterator[Compared]:
    """Compare the launches of the block; each is done once before, which compiles it."""
    found, started = Compared(), Counter()
    called, start = launch.Launcher.__call__, launch.start

    def counted(*given):
        started["driver"] += 1
        return start(*given)

    def twice(launcher, grid, tensors, numbers, constants, warps=4, stages=3, absent=0):
        if 0 in grid:
            return
        memory = _memory(tensors)
        before = [part.clone() for part in memory]

        def again() -> list[Tensor]:
            _restore(memory, before)
            called(launcher, grid, tensors, numbers, constants, warps, stages, absent)
            return [part.clone() for part in memory]

        name = launcher._kernel.__name__
        # the first call of a form goes through Triton's binder, which compiles it
        again()
        started.clear()
        ours = again()
        if not started:
            found.by_triton[name] += 1
            return
        _restore(memory, before)
        with torch.cuda.device(tensors[0].device) if tensors[0].is_cuda else torch.device("cpu"):
            launcher._start(grid, (*tensors, *(None,) * absent, *numbers, *constants), warps, stages)
        found.direct[name] += 1
        off = sum(int((a != b).sum()) for a, b in zip(ours, memory, strict=True))
        if off:
            found.differing.append((name, off))

    launch.Launcher.__call__, launch.start = twice, counted
    try:
        yield found
    finally:
        launch.Launcher.__call__, launch.start = called, start


def _memory(tensors: tuple[Tensor | None, ...]) -> list[Tensor]:
    """The bytes of all storages that the tensors lie in, each one once."""
    storages = {t.untyped_storage().data_ptr(): t for t in tensors if t is not None}
    return [
        torch.empty(0, dtype=torch.uint8, device=t.device).set_(t.untyped_storage())
        for t in storages.values()
    ]


def _restore(memory: list[Tensor], before: list[Tensor]) -> None:
    for part, was in zip(memory, before, strict=True):
        part.copy_(was)
