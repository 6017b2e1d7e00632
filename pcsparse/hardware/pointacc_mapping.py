"""PointAcc's mapping unit: each mapping operation's result, and the cycles and bytes that it takes.

The results are computed by the unit that is modelled, from keys and points alone, so that they can be held
against those of the engine. Keys or points that fit into the unit's buffer are read from the DRAM once,
before the work; others at every use. What a clock goes through and what is counted stands in
`pointacc_cycles`. Of the counted operations the longer of work and traffic is taken, pass by pass.

Source: Lin et al., PointAcc (MICRO 2021, arXiv 2110.07600), section 4. Depths of pipelines follow from the
networks: log2(2 n) stages of a merger, log2(n) (log2(n) + 1) / 2 of a sorter, log2(n) of a prefix sum or of a
tree that finds a maximum; four of a distance, which is ours.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pcsparse.checks import check_dtype, check_shape
from pcsparse.coords.kernel_map import NO_NEIGHBOUR, Pairs
from pcsparse.errors import RangeError
from pcsparse.hardware.pointacc_chip import PointAccChip
from pcsparse.hardware.pointacc_cycles import (
    CYCLES,
    N_COUNTERS,
    STALLED,
    STEPS,
    Merger,
    run_kernel_map,
    run_nearest,
    run_sample,
    run_sort,
)
from pcsparse.kernels.key_layout import MOST_PAIRS, SHIFTS
from pcsparse.types import Triple

_DISTANCE_STAGES = 4
_POINT_BYTES = 12
# of a running distance, beside a point
_RUNNING_BYTES = 4
_MOST_PASSES = 64


@dataclass(frozen=True)
class MappingCost:
    """What an operation of the mapping unit takes.

    Attributes:
        cycles: all.
        steps: in which the merger handed out keys.
        stalled: cycles in which the merger waited for a FIFO.
        comparisons: of the merger's network.
        memory_bytes: to and from the DRAM, what is written included.
    """

    cycles: int
    steps: int
    stalled: int
    comparisons: int
    memory_bytes: int


def kernel_map(
    inputs: Tensor, queries: Tensor, deltas: Tensor, chip: PointAccChip
) -> tuple[Pairs, MappingCost]:
    """All (i, j, k) with inputs[i] - deltas[k] = queries[j], by one merge an offset.

    Args:
        inputs: (n,) int64, ascending unique keys.
        queries: (m,) int64, ascending unique keys: of stride * coarse where there is a stride.
        deltas: (k,) int64, `Relation.key_deltas()`.
        chip: that does it.

    Returns:
        The pairs in the order in which they are found, grouped by offset and ascending, and the cost.

    Raises:
        ShapeError, DtypeError: see above.
        RangeError: keys do not ascend, or there may be more pairs than 32 bits count.
    """
    check_ascending("inputs", inputs)
    check_ascending("queries", queries)
    check_shape("deltas", deltas, (None,))
    n, m, k = len(inputs), len(queries), len(deltas)
    most = k * min(n, m)
    if most > MOST_PAIRS:
        raise RangeError(
            f"{k} offsets of {min(n, m)} keys may have more than {MOST_PAIRS} pairs; use fewer keys"
        )
    stored = (n if inputs is queries else n + m) * chip.key_bytes
    on_chip = stored <= chip.mapping_bytes
    rows_in, rows_out = np.empty(most, np.int32), np.empty(most, np.int32)
    starts, counts = np.empty(k + 1, np.int64), np.zeros(N_COUNTERS, np.int64)
    run_kernel_map(
        merger(chip, on_chip=on_chip), inputs.numpy(), queries.numpy(), deltas.numpy(), rows_in, rows_out,
        starts, counts,
    )  # fmt: skip
    hits, steps = int(starts[k]), int(counts[STEPS])
    read = stored if on_chip else k * (n + m) * chip.key_bytes
    load = _whole(chip.memory_cycles(stored)) if on_chip else 0
    fill = _levels(2 * chip.merger_width) + 1 + _levels(chip.merger_width)
    cost = MappingCost(
        cycles=load + int(counts[CYCLES]) + (fill if steps else 0),
        steps=steps,
        stalled=int(counts[STALLED]),
        comparisons=_comparisons(steps, chip),
        memory_bytes=read + hits * chip.pair_bytes,
    )
    # copies: most of what was set aside stays empty
    pairs = Pairs(
        torch.from_numpy(rows_in[:hits].copy()),
        torch.from_numpy(rows_out[:hits].copy()),
        torch.from_numpy(starts),
    )
    return pairs, cost


def coarsen(keys: Tensor, stride: Triple, chip: PointAccChip) -> tuple[Tensor, MappingCost]:
    """Output coordinates of a strided convolution: low bits cleared, sorted, made unique.

    Args:
        keys: (n,) int64 of the finer level, ascending.
        stride: cells of the finer level, powers of two.
        chip: that does it.

    Returns:
        Ascending keys of stride * floor(fine / stride), and the cost.

    Raises:
        RangeError: a stride is no power of two, or keys do not ascend.
    """
    check_ascending("keys", keys)
    if any(step < 1 or step & (step - 1) or step > 256 for step in stride):
        raise RangeError(f"strides must be powers of two from 1 to 256 to be cleared as bits, got {stride}")
    low = sum((step - 1) << shift for step, shift in zip(stride, SHIFTS, strict=True))
    by_pass = np.zeros(_MOST_PASSES, np.int64)
    unique, passes = run_sort((keys & ~low).numpy(), chip.merger_width, by_pass)
    n_bytes = len(keys) * chip.key_bytes
    on_chip = n_bytes <= chip.mapping_bytes
    # the sorter of blocks stands before the first pass; without one, blocks go through it alone
    work = by_pass[:passes].tolist() if passes else [_blocks(len(keys), chip)]
    traffic = len(work) * 2 * n_bytes if not on_chip else n_bytes + len(unique) * chip.key_bytes
    width = _levels(chip.merger_width)
    cycles = sum(steps if on_chip else max(steps, _whole(chip.memory_cycles(2 * n_bytes))) for steps in work)
    cycles += _whole(chip.memory_cycles(traffic)) if on_chip else 0
    fill = width * (width + 1) // 2 + len(work) * (width + 1) + 1 + width
    steps = int(by_pass.sum())
    cost = MappingCost(cycles + (fill if len(keys) else 0), steps, 0, _comparisons(steps, chip), traffic)
    return torch.from_numpy(unique), cost


def nearest(
    points: Tensor, queries: Tensor, k: int, chip: PointAccChip, *, radius: float | None = None
) -> tuple[Tensor, MappingCost]:
    """The k nearest points of each query: kNN, or with a radius a ball query.

    Square distances are dx² + dy² + dz² in float64, as the engine's; of equally near points the lower row
    comes first.

    Args:
        points: (n, 3) float32, metres.
        queries: (m, 3) float32, metres.
        k: how many, at least 1.
        chip: that does it.
        radius: metres; only points nearer than that count.

    Returns:
        (m, k) int32, nearest first, -1 where there are fewer; and the cost.

    Raises:
        ShapeError, DtypeError: see above.
        RangeError: a coordinate is not finite, `k` is below 1, or `radius` is not above 0.
    """
    _check_points("points", points)
    _check_points("queries", queries)
    if k < 1:
        raise RangeError(f"k must be at least 1, got {k}")
    if radius is not None and not radius > 0:
        raise RangeError(f"radius must be above 0 metres, got {radius}")
    most = float("inf") if radius is None else radius * radius
    rows = np.full((len(queries), k), NO_NEIGHBOUR, np.int32)
    work, steps = run_nearest(points.numpy(), queries.numpy(), most, chip.merger_width, rows)
    stored = len(points) * _POINT_BYTES
    on_chip = stored <= chip.mapping_bytes
    read = (stored if on_chip else stored * len(queries)) + len(queries) * _POINT_BYTES
    traffic = read + int((rows != NO_NEIGHBOUR).sum()) * chip.pair_bytes
    moving = _whole(chip.memory_cycles(traffic))
    width = _levels(chip.merger_width)
    fill = _DISTANCE_STAGES + width * (width + 1) // 2 + width + 1 if work else 0
    # points on the chip are there before the first query; what is found is written meanwhile
    cycles = work + _whole(chip.memory_cycles(read)) if on_chip else max(work, moving)
    cost = MappingCost(cycles + fill, int(steps), 0, _comparisons(int(steps), chip), traffic)
    return torch.from_numpy(rows), cost


def sample(
    points: Tensor, n_samples: int, chip: PointAccChip, *, first: int = 0
) -> tuple[Tensor, MappingCost]:
    """Farthest-point sampling: each sample is the point farthest from those before it, and none comes twice.

    Args:
        points: (n, 3) float32, metres.
        n_samples: at least 1, at most n.
        chip: that does it.
        first: number of the first sample.

    Returns:
        (n_samples,) int32 in the order of their choice, and the cost.

    Raises:
        ShapeError, DtypeError: see above.
        RangeError: a coordinate is not finite, or there are not so many points.
    """
    _check_points("points", points)
    n = len(points)
    if not 1 <= n_samples <= n:
        raise RangeError(f"n_samples must be 1 to the number of points, {n}, got {n_samples}")
    if not 0 <= first < n:
        raise RangeError(f"first must be 0 to {n - 1}, got {first}")
    chosen = np.empty(n_samples, np.int32)
    run_sample(points.numpy(), first, chosen)
    steps, blocks = n_samples - 1, _blocks(n, chip)
    # a step reads points and running distances and writes the distances, all on the chip or none
    stored = n * (_POINT_BYTES + _RUNNING_BYTES)
    on_chip = stored <= chip.mapping_bytes
    a_step = 0 if on_chip else stored + n * _RUNNING_BYTES
    read = n * _POINT_BYTES if on_chip else steps * a_step
    traffic = read + n_samples * chip.index_bytes
    # the next step needs the sample of this one, so that nothing hides the pipeline
    depth = _DISTANCE_STAGES + _levels(chip.merger_width)
    cycles = steps * (max(blocks, _whole(chip.memory_cycles(a_step))) + depth)
    cycles += _whole(chip.memory_cycles(read)) if on_chip else 0
    return torch.from_numpy(chosen), MappingCost(cycles, 0, 0, steps * n, traffic)


def merger(chip: PointAccChip, *, on_chip: bool) -> Merger:
    """What of the chip its clock needs."""
    return Merger(
        chip.merger_width,
        chip.fifo_blocks * chip.merger_width,
        chip.loop_cycles,
        chip.key_bytes,
        chip.pair_bytes,
        chip.memory_bytes_a_cycle,
        on_chip,
    )


def merger_bytes(chip: PointAccChip) -> int:
    """Storage of the merger and of what looks at its output: FIFOs, and a register a key after each stage.

    A place holds a key and a row number. Windows and stages of the network are 2 n wide, those of the prefix
    sum n.
    """
    place = chip.key_bytes + chip.index_bytes
    width, levels = chip.merger_width, _levels(chip.merger_width)
    fifos = 2 * chip.fifo_blocks * width
    return place * (fifos + (levels + 1) * 2 * width + (levels + 1) * width)


def check_ascending(name: str, keys: Tensor) -> None:
    """Refuse what a merge would go through wrongly.

    Raises:
        ShapeError: not (n,).
        DtypeError: not int64.
        RangeError: a key is not above the one before.
    """
    check_shape(name, keys, (None,))
    check_dtype(name, keys, torch.int64)
    wrong = keys[1:] <= keys[:-1]
    if bool(wrong.any()):
        at = int(wrong.nonzero()[0])
        raise RangeError(
            f"{name} must ascend without repeats, but key {at + 1} is {int(keys[at + 1])} after "
            f"{int(keys[at])}; sort the coordinates, as voxelize does"
        )


def _check_points(name: str, points: Tensor) -> None:
    check_shape(name, points, (None, 3))
    check_dtype(name, points, torch.float32)
    if not bool(points.isfinite().all()):
        row = int((~points.isfinite().all(dim=1)).nonzero()[0])
        raise RangeError(f"{name} must be finite, row {row} is {points[row].tolist()}; drop it first")


def _levels(width: int) -> int:
    return width.bit_length() - 1


def _blocks(n: int, chip: PointAccChip) -> int:
    return -(-n // chip.merger_width)


def _comparisons(steps: int, chip: PointAccChip) -> int:
    return steps * chip.merger_width * _levels(2 * chip.merger_width)


def _whole(cycles: float) -> int:
    return int(np.ceil(cycles))
