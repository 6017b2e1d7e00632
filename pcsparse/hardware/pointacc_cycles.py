"""The clock of PointAcc's mapping unit, in Numba: two FIFOs, a bitonic merger, what looks at its output.

*Merger.* Two streams of ascending keys; a window of n keys of each. One step merges 2 n keys in a bitonic
network of log2(2 n) stages, hands out the n smallest and keeps the n largest. The next step takes the next n
keys of one stream: of the one whose window ended with the smaller key, because all that the other still has
is larger than everything that was kept. So what leaves is sorted, and a merge of N and M keys takes ceil((N +
M) / n) steps.

*FIFOs.* Each holds some blocks of n keys. In every cycle first the merger takes what it needs, or stands
still if that is not there; then keys arrive, one after the other, at the FIFO that holds fewer of them
(inputs first), as many as the port brings. A step needs n keys, or all that are left of its stream. The
streams of the next offset follow at once. Keys that do not fit on the chip come from the DRAM, to which the
map is written through the same port, and writes go first.

*Intersection.* The lowest bit of a key says which stream it is of, inputs before outputs. Neighbours that
differ in that bit alone, also across steps, are a pair of the map. Pairs are packed together by prefix sums.

*Sorting* (`run_sort`). Blocks of n go through a bitonic sorter, then through the merger, two runs at a time,
pass by pass. *Ranking* (`run_nearest`): distances of n points a cycle, sorted in blocks; runs are merged two
and two, and of each no more is handed out than can be among the k nearest. *Sampling* (`run_sample`): n
points a cycle, each with its distance to the nearest sample so far; the largest is the next sample.

Stated cycle by cycle: merging, FIFOs, port and pairs of kernel maps. Counted by steps: the merges of sorting
and ranking, whose traffic is set against them as a whole, see `pointacc_mapping`.

Source: Lin et al., PointAcc (MICRO 2021, arXiv 2110.07600), section 4; the outline of the merger is that of
the MIT 6.5940 notes. Order of events within a cycle, and sharing of the port, are ours.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pcsparse.hardware.compiled import jit_model

Ints = NDArray[np.int64]
Rows = NDArray[np.int32]
Singles = NDArray[np.float32]

_END = np.iinfo(np.int64).max
# beside an end
_NO_ROW = np.iinfo(np.int32).max
# keys have 63 bits; less this they still fit when the source's bit is put below them
_BIAS = 1 << 62

# counters of `run_kernel_map`
CYCLES, STEPS, STALLED, WRITTEN_LATE, N_COUNTERS = range(5)


class Merger(NamedTuple):
    """What of the chip the merger needs; see `PointAccChip`.

    Attributes:
        width: n.
        fifo_keys: that a FIFO holds.
        loop_cycles: from one step to the next.
        key_bytes: of a key.
        pair_bytes: of a pair.
        memory_rate: bytes a cycle.
        on_chip: whether the keys come from the chip, which brings 2 n a cycle.
    """

    width: int
    fifo_keys: int
    loop_cycles: int
    key_bytes: int
    pair_bytes: int
    memory_rate: float
    on_chip: bool


@jit_model
def _network(keys: Ints, rows: Rows, width: int) -> None:
    """Sort a bitonic sequence of 2 `width` keys; of equal ones the lower row is first."""
    stride = width
    while stride:
        for base in range(0, 2 * width, 2 * stride):
            for i in range(base, base + stride):
                j = i + stride
                if keys[i] > keys[j] or (keys[i] == keys[j] and rows[i] > rows[j]):
                    keys[i], keys[j] = keys[j], keys[i]
                    rows[i], rows[j] = rows[j], rows[i]
        stride >>= 1


@jit_model
def _keep(keys: Ints, rows: Rows, width: int) -> None:
    """The larger half goes back to where the smaller one was."""
    for i in range(width):
        keys[i], rows[i] = keys[width + i], rows[width + i]


@jit_model
def _arrive(chip: Merger, budget: float, lengths: Ints, arrived: Ints, taken: Ints) -> Any:
    """Keys into FIFOs, one by one; what is left of the port's bytes."""
    while budget >= chip.key_bytes:
        least = -1
        for s in range(2):
            room = arrived[s] - taken[s] < chip.fifo_keys and arrived[s] < lengths[s]
            if room and (least < 0 or arrived[s] - taken[s] < arrived[least] - taken[least]):
                least = s
        if least < 0:
            return 0.0
        arrived[least] += 1
        budget -= chip.key_bytes
    return budget


@jit_model
def _load(s: int, inputs: Ints, queries: Ints, delta: int, at: int, count: int, half: int, chip: Merger,
          keys: Ints, rows: Rows) -> None:  # fmt: skip
    """`count` keys of stream `s` into the first half, ascending, or the second, descending; then ends."""
    for i in range(chip.width):
        place = i if half == 0 else 2 * chip.width - 1 - i
        keys[place] = _END
        rows[place] = _NO_ROW
        if i < count:
            key = inputs[at + i] - delta if s == 0 else queries[at + i]
            keys[place] = ((key - _BIAS) << 1) | s
            rows[place] = at + i


@jit_model
def run_kernel_map(
    chip: Merger, inputs: Ints, queries: Ints, deltas: Ints, rows_in: Rows, rows_out: Rows, starts: Ints,
    counts: Ints,
) -> None:  # fmt: skip
    """Merge inputs with queries at each offset, cycle by cycle.

    Args:
        chip: widths and rates.
        inputs: (n,) ascending keys.
        queries: (m,) ascending keys.
        deltas: (k,) that are taken from the keys of the inputs.
        rows_in: (k min(n, m),) that receives the pairs.
        rows_out: the same.
        starts: (k + 1,) that receives where the pairs of each offset begin.
        counts: (N_COUNTERS,) that receives the counters.
    """
    width, k = chip.width, len(deltas)
    size = np.array([len(inputs), len(queries)])
    keys, rows = np.empty(2 * width, np.int64), np.empty(2 * width, np.int32)
    # of all offsets together: the FIFOs do not wait for the end of a merge
    arrived, taken = np.zeros(2, np.int64), np.zeros(2, np.int64)
    at, last, need = np.zeros(2, np.int64), np.zeros(2, np.int64), np.zeros(2, np.int64)
    feed = 2.0 * width * chip.key_bytes if chip.on_chip else chip.memory_rate
    budget, unwritten, hits = 0.0, 0.0, 0
    cycle, next_step = 0, 0
    for offset in range(k):
        starts[offset] = hits
        at[:] = 0
        out, before, before_row, begun = 0, _END, -1, False
        while out < size[0] + size[1]:
            need[:] = 0
            refill = 0 if begun and last[0] <= last[1] else 1
            for s in range(2):
                if not begun or (s == refill and last[s] != _END):
                    need[s] = min(width, size[s] - at[s])
            found = 0
            if arrived[0] - taken[0] < need[0] or arrived[1] - taken[1] < need[1]:
                counts[STALLED] += 1
            elif cycle >= next_step:
                next_step = cycle + chip.loop_cycles
                counts[STEPS] += 1
                for s in range(2):
                    if not begun or s == refill:
                        half = s if not begun else 1
                        _load(s, inputs, queries, deltas[offset], at[s], need[s], half, chip, keys, rows)
                        at[s] += need[s]
                        taken[s] += need[s]
                        last[s] = _END
                        if at[s] < size[s]:
                            key = inputs[at[s] - 1] - deltas[offset] if s == 0 else queries[at[s] - 1]
                            last[s] = ((key - _BIAS) << 1) | s
                begun = True
                _network(keys, rows, width)
                for i in range(min(width, size[0] + size[1] - out)):
                    if keys[i] & 1 and keys[i] - 1 == before:
                        rows_in[hits + found] = before_row
                        rows_out[hits + found] = rows[i]
                        found += 1
                    before, before_row = keys[i], rows[i]
                out += width
                hits += found
                _keep(keys, rows, width)
            # the edge of the clock: what was found is written from the next cycle on
            written = min(unwritten, chip.memory_rate)
            unwritten += found * chip.pair_bytes - written
            budget += feed if chip.on_chip else feed - written
            budget = _arrive(chip, budget, k * size, arrived, taken)
            cycle += 1
    starts[k] = hits
    counts[WRITTEN_LATE] = np.int64(np.ceil(unwritten / chip.memory_rate))
    counts[CYCLES] = cycle + counts[WRITTEN_LATE]


@jit_model
def _sort_block(
    source: Ints, numbers: Rows, begin: int, end: int, width: int, keys: Ints, rows: Rows
) -> None:
    """A bitonic sorter of `width` keys: `source[begin:end]` in place, and the rows with them."""
    for i in range(width):
        inside = begin + i < end
        keys[i] = source[begin + i] if inside else _END
        rows[i] = numbers[begin + i] if inside else _NO_ROW
    size = 2
    while size <= width:
        stride = size >> 1
        while stride:
            for i in range(width):
                j = i ^ stride
                larger = keys[i] > keys[j] or (keys[i] == keys[j] and rows[i] > rows[j])
                if j > i and larger == (i & size == 0):
                    keys[i], keys[j] = keys[j], keys[i]
                    rows[i], rows[j] = rows[j], rows[i]
            stride >>= 1
        size <<= 1
    for i in range(begin, end):
        source[i], numbers[i] = keys[i - begin], rows[i - begin]


@jit_model
def _merge(
    source: Ints, numbers: Rows, a: int, a_end: int, b: int, b_end: int, width: int, limit: int, target: Ints,
    renumbered: Rows, to: int, keys: Ints, rows: Rows,
) -> Any:  # fmt: skip
    """Merge two runs of `source`, hand out no more than `limit` keys from `target[to]` on; steps."""
    total, out, steps = min(limit, a_end - a + b_end - b), 0, 0
    last_a = last_b = _END
    row_a = row_b = _NO_ROW
    while out < total:
        first_step = steps == 0
        take_a = not first_step and (last_a < last_b or (last_a == last_b and row_a <= row_b))
        if first_step:
            for i in range(width):
                inside = a + i < a_end
                keys[i] = source[a + i] if inside else _END
                rows[i] = numbers[a + i] if inside else _NO_ROW
            a = min(a + width, a_end)
        at, end = (a, a_end) if take_a else (b, b_end)
        for i in range(width):
            inside = at + i < end
            keys[2 * width - 1 - i] = source[at + i] if inside else _END
            rows[2 * width - 1 - i] = numbers[at + i] if inside else _NO_ROW
        at = min(at + width, end)
        if take_a:
            a = at
        else:
            b = at
        last_a, row_a = (source[a - 1], numbers[a - 1]) if a < a_end else (_END, _NO_ROW)
        last_b, row_b = (source[b - 1], numbers[b - 1]) if b < b_end else (_END, _NO_ROW)
        _network(keys, rows, width)
        for i in range(min(width, total - out)):
            target[to + out + i], renumbered[to + out + i] = keys[i], rows[i]
        out += width
        steps += 1
        _keep(keys, rows, width)
    return steps


@jit_model
def run_sort(keys: Ints, width: int, steps: Ints) -> Any:
    """Sort `keys`, and drop repeated ones.

    Args:
        keys: (n,) of any order; overwritten.
        width: n of the merger.
        steps: that receives the steps of each pass.

    Returns:
        Ascending unique keys, and the number of passes through the merger.
    """
    n = len(keys)
    window, rows = np.empty(2 * width, np.int64), np.empty(2 * width, np.int32)
    # a level has no use for rows, but the merger moves them
    numbers, renumbered = np.zeros(n, np.int32), np.zeros(n, np.int32)
    for begin in range(0, n, width):
        _sort_block(keys, numbers, begin, min(begin + width, n), width, window, rows)
    source, target = keys, np.empty_like(keys)
    passes, run = 0, width
    while run < n:
        for begin in range(0, n, 2 * run):
            middle, end = min(begin + run, n), min(begin + 2 * run, n)
            steps[passes] += _merge(
                source, numbers, begin, middle, middle, end, width, end - begin, target, renumbered, begin,
                window, rows,
            )  # fmt: skip
        source, target = target, source
        passes, run = passes + 1, 2 * run
    kept = 0
    for i in range(n):
        if kept == 0 or source[i] != source[kept - 1]:
            source[kept] = source[i]
            kept += 1
    return source[:kept].copy(), passes


@jit_model
def run_nearest(points: Singles, queries: Singles, most: float, width: int, found: Rows) -> Any:
    """The nearest points of each query that are nearer than `most`.

    A key is the bits of a square distance, which order as the distance does; of equal ones the lower row is
    first.

    Args:
        points: (n, 3).
        queries: (m, 3).
        most: square distance.
        width: n of the merger.
        found: (m, k) that receives rows; what is beyond the last is left as it is.

    Returns:
        Cycles of distances and merges, whichever of the two is longer for each query, and steps of merges.
    """
    n, k = len(points), found.shape[1]
    window, rows = np.empty(2 * width, np.int64), np.empty(2 * width, np.int32)
    blocks = (n + width - 1) // width
    distances = np.empty(n, np.float64)
    bits, spare = distances.view(np.int64), np.empty(n, np.int64)
    numbers, renumbered = np.empty(n, np.int32), np.empty(n, np.int32)
    begins, ends = np.empty(blocks, np.int64), np.empty(blocks, np.int64)
    cycles, all_steps = 0, 0
    for q in range(len(queries)):
        x, y, z = np.float64(queries[q, 0]), np.float64(queries[q, 1]), np.float64(queries[q, 2])
        source, target = bits, spare
        for i in range(n):
            dx, dy, dz = points[i, 0] - x, points[i, 1] - y, points[i, 2] - z
            distances[i], numbers[i] = dx * dx + dy * dy + dz * dz, i
            if distances[i] >= most:
                source[i], numbers[i] = _END, _NO_ROW
        for block in range(blocks):
            begin, end = block * width, min((block + 1) * width, n)
            _sort_block(source, numbers, begin, end, width, window, rows)
            begins[block], ends[block] = begin, end
        runs, steps = blocks, 0
        while runs > 1:
            for r in range(runs // 2):
                a, b = 2 * r, 2 * r + 1
                limit = min(k, ends[a] - begins[a] + ends[b] - begins[b])
                steps += _merge(
                    source, numbers, begins[a], ends[a], begins[b], ends[b], width, limit, target, renumbered,
                    begins[a], window, rows,
                )  # fmt: skip
                begins[r], ends[r] = begins[a], begins[a] + limit
            if runs % 2:
                begin, end = begins[runs - 1], ends[runs - 1]
                begins[runs // 2], ends[runs // 2] = begin, end
                target[begin:end], renumbered[begin:end] = source[begin:end], numbers[begin:end]
            runs = (runs + 1) // 2
            source, target = target, source
            numbers, renumbered = renumbered, numbers
        for i in range(min(k, n)):
            if numbers[i] != _NO_ROW:
                found[q, i] = numbers[i]
        cycles += max(blocks, steps)
        all_steps += steps
    return cycles, all_steps


@jit_model
def run_sample(points: Singles, first: int, chosen: Rows) -> None:
    """Farthest points: each the one that is farthest from all before it, the lowest row of several."""
    nearest = np.full(len(points), np.inf)
    at = first
    for s in range(len(chosen)):
        chosen[s] = at
        # below every distance, so that nothing is chosen twice
        nearest[at] = -1.0
        farthest = -1.0
        x, y, z = np.float64(points[at, 0]), np.float64(points[at, 1]), np.float64(points[at, 2])
        for i in range(len(points)):
            dx, dy, dz = points[i, 0] - x, points[i, 1] - y, points[i, 2] - z
            nearest[i] = min(nearest[i], dx * dx + dy * dy + dz * dz)
            if nearest[i] > farthest:
                farthest, at = nearest[i], i
