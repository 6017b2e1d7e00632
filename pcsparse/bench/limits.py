"""What the machine allows: the floor under every timing.

A layer must do its multiply-adds and must move its inputs, outputs, weights and map once. The peak of each is
measured in the same run as the layers, so that a throttled or shared machine lowers both alike.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from pcsparse.kernels.cpu.probe import fma_rounds

_COPY_BYTES = 256 << 20
# 3 ms: a busy machine rarely gives longer stretches undisturbed
_FMA_STEPS = 2_000_000
_TRIES = 15


@dataclass(frozen=True)
class Limits:
    """Peaks of this machine at the current number of threads.

    Attributes:
        bandwidth: bytes / s read plus written by a copy larger than the caches.
        fma: float32 operations / s in registers, a multiply-add counted as two.
    """

    bandwidth: float
    fma: float

    def or_better(self, other: "Limits") -> "Limits":
        """The larger of both for each peak: a disturbed measurement can only be too low."""
        return Limits(max(self.bandwidth, other.bandwidth), max(self.fma, other.fma))


@dataclass(frozen=True)
class Work:
    """What a piece of work cannot do without.

    Attributes:
        operations: floating-point operations.
        bytes: read once or written once.
    """

    operations: float
    bytes: float

    def floor(self, limits: Limits) -> float:
        """Seconds below which the work cannot be done."""
        return max(self.operations / limits.fma, self.bytes / limits.bandwidth)


def floor_of(works: Iterable[Work], limits: Limits) -> float:
    """Seconds for pieces of work one after the other."""
    return sum(work.floor(limits) for work in works)


def conv_work(n_in: int, n_out: int, n_pairs: int, k: int, c_in: int, c_out: int, backward: bool) -> Work:
    """A float32 convolution; `backward` adds both gradients, each as large as the forward pass.

    The second pass reads grad_out and writes grad_feats, the third reads feats and grad_out; each reads or
    writes the weights and reads the pairs (two int32).
    """
    one_pass = Work(2.0 * n_pairs * c_in * c_out, 4.0 * (n_in * c_in + n_out * c_out + k * c_in * c_out))
    passes = 3 if backward else 1
    return Work(passes * one_pass.operations, passes * (one_pass.bytes + 8.0 * n_pairs))


def map_work(n_in: int, n_made: int, n_pairs: int) -> Work:
    """A kernel map: read four int32 a voxel, write `n_made` new ones, write two int32 a pair."""
    return Work(0.0, 16.0 * (n_in + n_made) + 8.0 * n_pairs)


def measure_limits() -> Limits:
    """Measure both peaks: the best of a few tries, because a peak is what cannot be exceeded."""
    source = torch.ones(_COPY_BYTES // 4)
    target = torch.zeros_like(source)
    copied = _best(lambda: target.copy_(source))
    fma_rounds(1)
    operations = fma_rounds(_FMA_STEPS)
    return Limits(2 * _COPY_BYTES / copied, operations / _best(lambda: fma_rounds(_FMA_STEPS)))


def _best(run: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(_TRIES):
        begin = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begin)
    return best
