"""PointAcc's cache, array, hash and fusion by plain Python: imports nothing of ours."""

from collections import OrderedDict
from itertools import combinations, pairwise


def tiles(channels: int, width: int) -> list[int]:
    return [min(width, channels - at) for at in range(0, channels, width)]


def fetches(
    by_tile: list[list[list[int]]], n_ic: int, *, channels_outer: bool, groups: list[tuple[int, int]]
) -> list[tuple[int, int]]:
    """(input row, tile of channels) in the order of the loops; `by_tile[t][k]` are the rows of a list."""
    n_offsets = len(by_tile[0])
    if channels_outer:
        weights = [(k, ic) for ic in range(n_ic) for k in range(n_offsets)]
    else:
        weights = [(k, ic) for k in range(n_offsets) for ic in range(n_ic)]
    return [
        (row, ic)
        for first, last in groups
        for lists in by_tile
        for k, ic in weights[first:last]
        for row in lists[k]
    ]


def missed(
    sequence: list[tuple[int, int]], *, n_rows: int, points: int, tile_bytes: list[int], whole: bool,
    sets: int, ways: int, burst: int,
) -> tuple[int, int]:  # fmt: skip
    """Misses and bytes of a sequence of fetches, least recently used first out."""
    held: list[OrderedDict] = [OrderedDict() for _ in range(sets)]
    misses = n_bytes = 0
    blocks = n_rows // points + 1
    for row, ic in sequence:
        block = row // points if whole else ic * blocks + row // points
        lines = held[block % sets]
        if block in lines:
            lines.move_to_end(block)
            continue
        misses += 1
        rows = min(points, n_rows - row // points * points)
        size = rows * (sum(tile_bytes) if whole else tile_bytes[ic])
        n_bytes += -(-size // burst) * burst
        lines[block] = None
        if len(lines) > ways:
            lines.popitem(last=False)
    return misses, n_bytes


def hash_cycles(
    inputs: list[int], queries: list[int], deltas: list[int], banks: int, slots: int
) -> tuple[int, int]:
    """Cycles to fill the table and to look up, where all inputs fit at a load of one half."""
    table: dict[int, int] = {}

    def home(key: int) -> int:
        bits = slots.bit_length() - 1
        return (key * 0x9E3779B97F4A7C15 % 2**64) >> (64 - bits)

    def drain(keys: list[int], insert: bool) -> int:
        lanes: list[list[int] | None] = [None] * banks
        coming, cycles = iter(keys), 0
        while True:
            for i, lane in enumerate(lanes):
                if lane is None and (key := next(coming, None)) is not None:
                    lanes[i] = [key, home(key), 0]
            busy = [i for i, lane in enumerate(lanes) if lane is not None]
            if not busy:
                return cycles
            served = {}
            for i in busy:
                served.setdefault(lanes[i][1] % banks, []).append(i)
            winners = {min(each, key=lambda i: (-lanes[i][2], i)) for each in served.values()}
            for i in busy:
                lane = lanes[i]
                if i not in winners:
                    lane[2] += 1
                    continue
                lane[2] = 0
                if table.get(lane[1], lane[0]) == lane[0]:
                    if insert:
                        table[lane[1]] = lane[0]
                    lanes[i] = None
                else:
                    lane[1] = (lane[1] + 1) % slots
            cycles += 1

    build = drain(inputs, True)
    return build, sum(drain([query + delta for query in queries], False) for delta in deltas)


def cuts(n: int) -> list[list[tuple[int, int]]]:
    """Every way to cut a chain of n into groups [begin, end)."""
    found = []
    for size in range(n):
        for inner in combinations(range(1, n), size):
            found.append(list(pairwise([0, *inner, n])))
    return found
