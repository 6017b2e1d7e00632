"""PointAcc's input buffer as a cache, in Numba: every fetch of a row in the order of the loops, one by one.

A block is some consecutive rows of one tile of channels, or of all of them, side by side in the DRAM. Its
number's low bits are its set; a set holds `ways` blocks and gives up the one not used for longest.

Loops, outermost first: output channels, a tile of the array at a time; groups of weight tiles; tiles of
output rows; the weight tiles of the group, by offset and then by tile of input channels or the other way
round; pairs. All tiles of output channels make the same fetches, and after a pass the cache holds what the
order of fetches alone says, so that the second pass and all later ones are the same: two are run.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pcsparse.hardware.compiled import jit_model
from pcsparse.hardware.pointacc_cycles import Ints, Rows

# counters of `run_cache`, a pass
MISSES, BYTES, N_COUNTERS = range(3)


class Cache(NamedTuple):
    """An input buffer with its blocks.

    Attributes:
        sets: a power of two.
        ways: of a set.
        shift: log2 of the rows of a block.
        whole: whether a block has all channels.
        channels_outer: whether weight tiles are numbered by input channels first.
        burst_bytes: the least that the DRAM moves.
    """

    sets: int
    ways: int
    shift: int
    whole: bool
    channels_outer: bool
    burst_bytes: int


@jit_model
def run_cache(
    cache: Cache, rows: Rows, spans: Ints, groups: Ints, point_bytes: Ints, n_rows: int, counts: Ints
) -> None:
    """Count fetches that miss, of a first and of a later pass over the pairs.

    Args:
        cache: that it runs through.
        rows: (n_pairs,) input rows.
        spans: (tiles + 1, k) where the pairs of each tile of output rows begin.
        groups: (n_groups + 1,) where each group begins among the weight tiles.
        point_bytes: (n_tiles,) of a row in each tile of input channels.
        n_rows: of the input.
        counts: (2, N_COUNTERS) that receives the counters of both passes.
    """
    n_tiles, k = len(point_bytes), spans.shape[1]
    tags = np.full((cache.sets, cache.ways), -1, np.int64)
    # features lie in the DRAM tile by tile of channels, so that a block is one piece
    n_blocks = (n_rows >> cache.shift) + 1
    all_bytes = 0
    for tile in range(n_tiles):
        all_bytes += point_bytes[tile]
    for turn in range(2):
        for group in range(len(groups) - 1):
            for rows_tile in range(len(spans) - 1):
                for weights in range(groups[group], groups[group + 1]):
                    if cache.channels_outer:
                        tile, offset = weights // k, weights % k
                    else:
                        offset, tile = weights // n_tiles, weights % n_tiles
                    size = all_bytes if cache.whole else point_bytes[tile]
                    for i in range(spans[rows_tile, offset], spans[rows_tile + 1, offset]):
                        points = rows[i] >> cache.shift
                        block = points if cache.whole else tile * n_blocks + points
                        ways = tags[block & (cache.sets - 1)]
                        at = 0
                        while at < cache.ways - 1 and ways[at] != block:
                            at += 1
                        if ways[at] != block:
                            held = min(1 << cache.shift, n_rows - (points << cache.shift))
                            bursts = (held * size + cache.burst_bytes - 1) // cache.burst_bytes
                            counts[turn, MISSES] += 1
                            counts[turn, BYTES] += bursts * cache.burst_bytes
                        # the block used last comes first
                        while at > 0:
                            ways[at] = ways[at - 1]
                            at -= 1
                        ways[0] = block


def fresh_counts() -> NDArray[np.int64]:
    """(2, N_COUNTERS) zeros."""
    return np.zeros((2, N_COUNTERS), np.int64)
