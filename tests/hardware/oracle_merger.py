"""PointAcc's merger by plain Python: lists that are sorted, FIFOs that are popped, one cycle after the other.

Imports nothing of ours. Where the model has a bitonic network, bits and counters, this has sorted tuples.
"""

import math
from collections import deque


def merge_map(
    inputs: list[int], queries: list[int], deltas: list[int], *, width: int, fifo: int, loop: int,
    key_bytes: int, pair_bytes: int, rate: float, on_chip: bool,
) -> tuple[int, int, int, list[tuple[int, int, int]]]:  # fmt: skip
    """Cycles, steps, stalled cycles, and pairs (offset, row in, row out) in the order of their finding."""
    # everything that will ever arrive, tagged with its offset so that a window cannot reach beyond it
    coming = [
        deque((d, key - delta, 0, row) for d, delta in enumerate(deltas) for row, key in enumerate(inputs)),
        deque((d, key, 1, row) for d in range(len(deltas)) for row, key in enumerate(queries)),
    ]
    waiting: list[deque] = [deque(), deque()]
    cycle = steps = stalled = 0
    budget = unwritten = 0.0
    earliest = 0
    pairs = []
    for d in range(len(deltas)):
        left = [len(inputs), len(queries)]
        kept: list[tuple] = []
        last: list[tuple | None] = [None, None]
        started, before, out = False, None, 0
        while out < len(inputs) + len(queries):
            # which windows must be filled: both at first, then the one that ended lower and is not used up
            if not started:
                wanted = [s for s in (0, 1) if left[s]]
            else:
                open_ends = [s for s in (0, 1) if left[s]]
                wanted = [min(open_ends, key=lambda s: last[s])] if open_ends else []
            need = {s: min(width, left[s]) for s in wanted}
            found = 0
            if any(len([e for e in waiting[s] if e[0] == d]) < n for s, n in need.items()):
                stalled += 1
            elif cycle >= earliest:
                earliest = cycle + loop
                steps += 1
                started = True
                for s, n in need.items():
                    window = [waiting[s].popleft() for _ in range(n)]
                    left[s] -= n
                    last[s] = window[-1][1:3]
                    kept += window
                kept.sort(key=lambda e: e[1:3])
                for entry in kept[:width]:
                    if before is not None and before[2] == 0 and entry[2] == 1 and before[1] == entry[1]:
                        pairs.append((d, before[3], entry[3]))
                        found += 1
                    before = entry
                out += min(width, len(kept))
                kept = kept[width:]
            written = min(unwritten, rate)
            unwritten += found * pair_bytes - written
            budget += 2 * width * key_bytes if on_chip else rate - written
            while budget >= key_bytes:
                open_fifos = [s for s in (0, 1) if coming[s] and len(waiting[s]) < fifo]
                if not open_fifos:
                    budget = 0.0
                    break
                s = min(open_fifos, key=lambda s: len(waiting[s]))
                waiting[s].append(coming[s].popleft())
                budget -= key_bytes
            cycle += 1
    return cycle + math.ceil(unwritten / rate), steps, stalled, pairs
