"""What the machine allows: the floor under every timing.

A layer must do its multiply-adds and must move its inputs, outputs, weights and map once. The peak of each is
measured in the same run as the layers, so that a throttled or shared machine lowers both alike.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from pcsparse.kernels.cpu import probe
from pcsparse.kernels.cpu.probe import dot_rounds, fma_rounds

_COPY_BYTES = 256 << 20
# 3 ms: a busy machine rarely gives longer stretches undisturbed
_FMA_STEPS = 2_000_000
_DOT_STEPS = 1_500_000
_TRIES = 15


@dataclass(frozen=True)
class Limits:
    """Peaks of this machine at the current number of threads.

    Attributes:
        bandwidth: bytes / s read plus written by a copy larger than the caches.
        fma: float32 operations / s in registers, a multiply-add counted as two.
        dot: the same of the bfloat16 dot product; None where the CPU has none.
    """

    bandwidth: float
    fma: float
    dot: float | None = None

    def peak(self, *, narrow: bool) -> float:
        """Operations / s: of the dot product for `narrow` (bfloat16) work where there is one, else `fma`."""
        return self.dot if narrow and self.dot is not None else self.fma

    def or_better(self, other: "Limits") -> "Limits":
        """The larger of both for each peak: a disturbed measurement can only be too low."""
        dots = [dot for dot in (self.dot, other.dot) if dot is not None]
        return Limits(
            max(self.bandwidth, other.bandwidth), max(self.fma, other.fma), max(dots) if dots else None
        )

    def __str__(self) -> str:
        """One line with units."""
        dot = "none" if self.dot is None else f"{self.dot / 1e9:.0f} GFLOP/s"
        return (
            f"{self.fma / 1e9:.0f} GFLOP/s float32 multiply-add, bfloat16 dot product {dot}, "
            f"{self.bandwidth / 1e9:.1f} GB/s copy"
        )


REFERENCE_LIMITS = Limits(bandwidth=39e9, fma=470e9, dot=880e9)
"""Of two threads of the machine on which the figures to reach were set.

Source: the project's notes for its CPU engine, November 2026, section "Limits" (2 virtual cores, AMD Zen 5).
"""


@dataclass(frozen=True)
class Work:
    """What a piece of work cannot do without.

    Attributes:
        operations: floating-point operations.
        bytes: read once or written once.
        narrow: products of bfloat16, so that the dot product may be used.
    """

    operations: float
    bytes: float
    narrow: bool = False

    def floor(self, limits: Limits) -> float:
        """Seconds below which the work cannot be done."""
        return max(self.operations / limits.peak(narrow=self.narrow), self.bytes / limits.bandwidth)


def floor_of(works: Iterable[Work], limits: Limits) -> float:
    """Seconds for pieces of work one after the other."""
    return sum(work.floor(limits) for work in works)


def peak_share(works: Iterable[Work], seconds: float, limits: Limits) -> float:
    """Operations done in `seconds` as a share of what the registers alone would have allowed."""
    return sum(work.operations / limits.peak(narrow=work.narrow) for work in works) / seconds


def conv_work(
    n_in: int,
    n_out: int,
    n_pairs: int,
    k: int,
    c_in: int,
    c_out: int,
    backward: bool,
    dtype: torch.dtype = torch.float32,
) -> Work:
    """A convolution; `backward` adds both gradients, each as large as the forward pass.

    The second pass reads grad_out and writes grad_feats, the third reads feats and grad_out; each reads or
    writes the weights and reads the pairs (two int32).
    """
    values = n_in * c_in + n_out * c_out + k * c_in * c_out
    passes = 3 if backward else 1
    return Work(
        passes * 2.0 * n_pairs * c_in * c_out,
        passes * (float(dtype.itemsize) * values + 8.0 * n_pairs),
        dtype == torch.bfloat16,
    )


def map_work(n_in: int, n_made: int, n_pairs: int) -> Work:
    """A kernel map: read four int32 a voxel, write `n_made` new ones, write two int32 a pair."""
    return Work(0.0, 16.0 * (n_in + n_made) + 8.0 * n_pairs)


def measure_limits() -> Limits:
    """Measure the peaks: the best of a few tries, because a peak is what cannot be exceeded."""
    source = torch.ones(_COPY_BYTES // 4)
    target = torch.zeros_like(source)
    copied = _best(lambda: target.copy_(source))
    fma = _rate(fma_rounds, _FMA_STEPS)
    return Limits(2 * _COPY_BYTES / copied, fma, _rate(dot_rounds, _DOT_STEPS) if probe.HAS_DOT else None)


def _rate(rounds: Callable[[int], int], steps: int) -> float:
    # the first call compiles
    rounds(1)
    operations = rounds(steps)
    return operations / _best(lambda: rounds(steps))


def _best(run: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(_TRIES):
        begin = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begin)
    return best
