"""Products with 2:4 matrices against torch's dense ones: checked against the twin, then timed, cold and warm.

A layer of a head is run once a frame, and between two runs everything else passes through the caches. So the
cold figure counts: every run takes the next of as many copies of the weight as fill four last-level caches.
Warm runs take one copy again and again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle

import torch
from torch import Tensor
from torch.nn.functional import linear

from pcsparse.bench.limits import Limits
from pcsparse.kernels import reference
from pcsparse.ops.two_four_linear import two_four_linear
from pcsparse.packed.two_four import TwoFourMatrix, pack_two_four
from pcsparse.timing import Timing, time_in_turns

SHAPES = ((4096, 4096), (4096, 1000), (9216, 4096), (1024, 1024), (256, 256), (2304, 256))
"""Columns and rows (n_in, n_out): the layers of AlexNet's head, and what heads on point clouds have."""
ITEMS = (1, 4, 16, 64)
CACHE_BYTES = 32 << 20
"""Of the last-level cache, where nobody says otherwise."""
GOAL_SHAPE, GOAL = (4096, 4096), 1.5
"""At batch 1: the dense time over the sparse one."""
_CACHES = 4
# items at each end of a batch; the twin takes a tenth of a second for one
_CHECKED = 4
# of a sum of 4096 products of order-one results, in float32 against float64
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class TwoFourResult:
    """One shape and batch.

    Attributes:
        n_in: columns of the weight.
        n_out: rows.
        n_items: rows of the input.
        error: largest difference from the twin in float64, of results of order one.
        dense_bytes: of the dense weight.
        sparse_bytes: of values and positions.
        cold: timings of "dense" and "sparse"; empty where the check failed.
        warm: the same.
    """

    n_in: int
    n_out: int
    n_items: int
    error: float
    dense_bytes: int
    sparse_bytes: int
    cold: dict[str, Timing]
    warm: dict[str, Timing]

    @property
    def passed(self) -> bool:
        """Whether the kernel agreed with the twin."""
        return self.error <= _TOLERANCE

    def ratio(self, *, is_cold: bool = True) -> float:
        """Dense over sparse median."""
        timings = self.cold if is_cold else self.warm
        return timings["dense"].median / timings["sparse"].median


def run_two_four(
    shapes: Sequence[tuple[int, int]] = SHAPES,
    items: Sequence[int] = ITEMS,
    *,
    runs: int = 30,
    cache_bytes: int = CACHE_BYTES,
    report: Callable[[TwoFourResult], object] = lambda _: None,
) -> tuple[TwoFourResult, ...]:
    """Check and time every shape at every batch.

    Args:
        shapes: (n_in, n_out), n_in a multiple of 4.
        items: batches; at 1 the dense product is `torch.mv`, else `linear`.
        runs: of each product, cold and warm.
        cache_bytes: of the last-level cache.
        report: called with each result as it comes.
    """
    found = []
    for n_in, n_out in shapes:
        rng = torch.Generator().manual_seed(n_in + n_out)
        weight = torch.randn(n_out, n_in, generator=rng) / n_in**0.5
        # the larger two of each four, as pruning takes them
        largest = weight.view(n_out, -1, 4).abs().topk(2, dim=2).indices
        mask = torch.zeros(n_out, n_in // 4, 4, dtype=torch.bool).scatter_(2, largest, True)
        matrix = pack_two_four(weight, mask.view(n_out, n_in))
        for n_items in items:
            x = torch.randn(n_items, n_in, generator=rng)
            found.append(_result(x, weight, matrix, runs, cache_bytes))
            report(found[-1])
    return tuple(found)


def _result(x: Tensor, weight: Tensor, matrix: TwoFourMatrix, runs: int, cache_bytes: int) -> TwoFourResult:
    error = _error(x, matrix)
    dense_bytes = weight.numel() * weight.element_size()
    cold: dict[str, Timing] = {}
    warm: dict[str, Timing] = {}
    if error <= _TOLERANCE:
        copies = -(-_CACHES * cache_bytes // matrix.stored_bytes)
        cold, warm = (_timings(x, weight, matrix, runs, n) for n in (copies, 1))
    return TwoFourResult(
        matrix.n_in, matrix.n_out, len(x), error, dense_bytes, matrix.stored_bytes, cold, warm
    )


def _error(x: Tensor, matrix: TwoFourMatrix) -> float:
    """The largest difference from the twin, of the first and last items: the twin is slow."""
    out = two_four_linear(x, matrix)
    values = matrix.values.double()
    worst = 0.0
    for i in sorted({*range(len(x))[:_CHECKED], *range(len(x))[-_CHECKED:]}):
        theirs = reference.two_four_matvec(x[i : i + 1].double(), values, matrix.positions, None, False)[0]
        worst = max(worst, float((out[i] - theirs).abs().max()))
    return worst


def _timings(x: Tensor, weight: Tensor, matrix: TwoFourMatrix, runs: int, copies: int) -> dict[str, Timing]:
    dense = cycle([weight, *(weight.clone() for _ in range(copies - 1))])
    sparse = cycle([matrix, *(_copy(matrix) for _ in range(copies - 1))])
    candidates: dict[str, Callable[[], object]] = {
        "dense": (lambda: torch.mv(next(dense), x[0])) if len(x) == 1 else (lambda: linear(x, next(dense))),
        "sparse": lambda: two_four_linear(x, next(sparse)),
    }
    # warm: each product finds its own weight in the caches, as far as it fits
    return time_in_turns(candidates, runs=runs, settle=1 if copies == 1 else 0)


def _copy(matrix: TwoFourMatrix) -> TwoFourMatrix:
    return TwoFourMatrix(matrix.values.clone(), matrix.positions.clone(), matrix.n_out, matrix.n_in)


def two_four_table(results: Sequence[TwoFourResult], limits: Limits) -> str:
    """Lines with medians, quartiles, ratios and floors, in milliseconds.

    The floor is the bytes of the weight over the bandwidth of a copy; a product only reads and may be faster.
    """
    lines = [
        "n_in x n_out  batch  caches  dense (quartiles)         sparse (quartiles)        dense/sparse  "
        "floors dense, sparse"
    ]
    for result in results:
        name = f"{f'{result.n_in} x {result.n_out}':13s} {result.n_items:5d}"
        if not result.passed:
            lines.append(f"{name}  WRONG by {result.error:.2g}: no times")
            continue
        floors = [1e3 * size / limits.bandwidth for size in (result.dense_bytes, result.sparse_bytes)]
        for caches, timings in (("cold", result.cold), ("warm", result.warm)):
            cells = [_cell(timings[product]) for product in ("dense", "sparse")]
            ratio = result.ratio(is_cold=caches == "cold")
            line = f"{name}  {caches:6s}  {cells[0]}  {cells[1]}  {ratio:12.2f}"
            lines.append(f"{line}  {floors[0]:.3f}, {floors[1]:.3f}{_verdict(result, caches, ratio)}")
    return "\n".join(lines)


def _cell(timing: Timing) -> str:
    median, q1, q3 = (1e3 * seconds for seconds in (timing.median, timing.q1, timing.q3))
    return f"{median:8.3f} ({q1:6.3f} {q3:6.3f})"


def _verdict(result: TwoFourResult, caches: str, ratio: float) -> str:
    if (result.n_in, result.n_out) != GOAL_SHAPE or result.n_items != 1 or caches != "cold":
        return ""
    return f"  goal {GOAL}x {'reached' if ratio >= GOAL else 'MISSED'}"
