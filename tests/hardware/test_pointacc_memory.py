"""PointAcc's memory and matrix units against plain Python, and what must hold whatever the map."""

import itertools
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from pcsparse.coords.build import SortedKeys, build_kernel_map, strided_level
from pcsparse.coords.relation import Relation
from pcsparse.errors import RangeError
from pcsparse.hardware.pointacc_chip import PointAccChip
from pcsparse.hardware.pointacc_matrix import matrix_cost
from pcsparse.hardware.pointacc_memory import (
    BLOCK_POINTS,
    CacheConfig,
    Traffic,
    best_cached,
    cached,
    gather_scatter,
    uncached,
)
from pcsparse.hardware.trace import LayerTrace
from tests.clouds import lidar_like
from tests.hardware.oracle_pointacc import fetches, missed, tiles

# sums of eight rows a half, 16 weight tiles, 96 rows of eight channels
SMALL = PointAccChip("small", 8, 4, 1536, 1024, 256, 1024, 17e9, 1e9, 4, burst_bytes=16)


@pytest.fixture(scope="module")
def kmap():
    # dense, so that every offset has pairs
    cells = torch.randint(0, 7, (200, 3), generator=torch.Generator().manual_seed(4))
    coords = torch.unique(torch.cat([torch.zeros(200, 1), cells], dim=1).int(), dim=0)
    keys = SortedKeys.of(coords)
    return build_kernel_map(keys, keys, Relation.of(3), same_coords=True)


def layer_of(kmap, c_in: int = 12, c_out: int = 10) -> LayerTrace:
    return LayerTrace("layer", kmap, c_in, c_out, itemsize=2)


def lists_of(layer: LayerTrace, rows: int) -> list[list[list[int]]]:
    """[tile of outputs][offset] -> input rows, from the pairs themselves."""
    pairs = layer.map.pairs
    bounds = pairs.starts.tolist()
    found = [[[] for _ in range(layer.volume)] for _ in range(-(-layer.n_rows // rows))]
    for k, (begin, end) in enumerate(pairwise(bounds)):
        listed = zip(pairs.rows_in[begin:end].tolist(), pairs.rows_out[begin:end].tolist(), strict=True)
        for row_in, row_out in listed:
            found[row_out // rows][k].append(row_in)
    return found


@pytest.mark.parametrize("stay", [False, True])
@pytest.mark.parametrize("outer", [False, True])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(("points", "ways"), [(1, 1), (4, 2), (2, 3)])
def test_fetches_are_those_of_plain_python(kmap, points, ways, wide, outer, stay):
    layer, chip = layer_of(kmap), replace(SMALL, ways=ways)
    run = cached(layer, chip, CacheConfig(points, wide, outer, stay))

    lists = lists_of(layer, 8)
    # 27 offsets of two tiles; the weight buffer holds 16 tiles of 64 bytes
    groups = [(0, 16), (16, 32), (32, 48), (48, 54)] if stay else [(0, 54)]
    once = fetches(lists, 2, channels_outer=outer, groups=groups)
    block = points * (12 if wide else 8) * 2
    sets = 1
    while 2 * sets * block * ways <= 1536:
        sets *= 2
    # three tiles of output channels, all gone through
    misses, n_bytes = missed(
        once * 3, n_rows=layer.n_in, points=points, tile_bytes=[16, 8], whole=wide, sets=sets, ways=ways,
        burst=16,
    )  # fmt: skip
    assert run.fetches == 3 * len(once) == 3 * 2 * kmap.n_pairs
    assert (run.misses, run.traffic.inputs) == (misses, n_bytes)
    assert 0 < misses < run.fetches

    used = [k for k in range(27) if any(tile[k] for tile in lists)]
    again = sum(bool(rows) for tile in lists for rows in tile)
    assert run.traffic.weights == 12 * 10 * 2 * (len(used) if stay else again)
    assert run.traffic.sums == (2 * 3 * layer.n_rows * 10 * 4 if stay else 0)
    assert run.traffic.outputs == layer.n_rows * 10 * 2
    # a list is read again when another one came in between
    order = (
        [(k, c) for c in range(2) for k in range(27)]
        if outer
        else [(k, c) for k in range(27) for c in (0, 1)]
    )
    read = 0
    for first, last in groups:
        ks = [k for k, _ in order[first:last]]
        read += sum(len(rows) for k, _ in itertools.groupby(ks) for rows in (tile[k] for tile in lists))
    assert run.traffic.maps == 3 * read * 8


def test_weights_that_fit_come_once(kmap):
    roomy = replace(SMALL, weight_bytes=54 * 64)
    tight = replace(SMALL, weight_bytes=54 * 64 - 1)
    assert cached(layer_of(kmap), roomy, CacheConfig()).traffic.weights == 27 * 12 * 10 * 2
    assert cached(layer_of(kmap), tight, CacheConfig()).traffic.weights > 27 * 12 * 10 * 2


@pytest.mark.parametrize("c_in", [4, 8, 12, 24])
@pytest.mark.parametrize(
    "config", [CacheConfig(), CacheConfig(4), CacheConfig(1, True), CacheConfig(2, False, True)]
)
@pytest.mark.parametrize("ways", [1, 2])
def test_a_larger_cache_never_moves_more(kmap, config, ways, c_in):
    layer = layer_of(kmap, c_in)
    sizes = [512 << i for i in range(6)]
    moved = [
        cached(layer, replace(SMALL, input_bytes=size, ways=ways), config).traffic.inputs for size in sizes
    ]
    assert all(before >= after for before, after in pairwise(moved))
    assert moved[0] > moved[-1]


@pytest.mark.parametrize("c_in", [3, 8, 20])
def test_the_best_moves_no_more_than_any_other_and_no_cache(kmap, c_in):
    layer = layer_of(kmap, c_in)
    best = best_cached(layer, SMALL)
    wide = (False, True) if c_in > 8 else (False,)
    tried = [
        CacheConfig(*each) for each in itertools.product(BLOCK_POINTS, wide, wide, (False, True))
        if each[0] * (c_in if each[1] else min(c_in, 8)) * 2 <= SMALL.input_bytes
    ]  # fmt: skip
    totals = [cached(layer, SMALL, config).traffic.total for config in tried]
    assert best.traffic.total == min(totals)
    plain = uncached(layer, SMALL, best.config)
    assert best.traffic.inputs < plain.inputs
    assert replace(plain, inputs=best.traffic.inputs) == best.traffic


def test_without_a_cache_every_pair_fetches(kmap):
    layer = layer_of(kmap)
    # tiles of 8 and 4 channels are two bursts of 16 bytes; three tiles of outputs
    assert uncached(layer, SMALL).inputs == 3 * (16 + 16) * kmap.n_pairs
    gathered = gather_scatter(layer, SMALL)
    n = kmap.n_pairs
    assert gathered == Traffic(
        inputs=n * 32, weights=27 * 12 * 10 * 2, outputs=n * 32, sums=n * (48 + 40 + 32), maps=2 * n * 8
    )
    assert gathered.features == n * (32 + 32 + 120)
    assert gathered.total == gathered.features + gathered.weights + gathered.maps


def test_gathered_rows_go_through_the_cache():
    rows = torch.tensor([0, 1, 0, 5, 5, 1], dtype=torch.int32)
    layer = LayerTrace("group", None, 8, 4, 2, 6, gather=rows, pooled=3)
    run = cached(layer, SMALL, CacheConfig())
    assert (run.fetches, run.misses) == (6, 3)
    assert run.traffic == Traffic(inputs=3 * 16, weights=64, outputs=2 * 4 * 2, maps=6 * 8)


def test_rows_added_up_are_fetched_each_and_multiplied_once():
    picked = torch.tensor([0, 1, 0, 5, 5, 1], dtype=torch.int32)
    # eight channels are fetched, five lie beside; two tiles of outputs
    layer = LayerTrace("up", None, 13, 6, 2, 6, gather=picked, summed=3, beside=5)
    assert (layer.n_rows, layer.n_pairs, layer.n_fetches, layer.macs) == (2, 2, 6, 2 * 13 * 6)
    run = cached(layer, SMALL, CacheConfig())
    beside = 2 * 2 * 5 * 2
    assert (run.fetches, run.misses) == (12, 3)
    assert run.traffic == Traffic(inputs=3 * 16 + beside, weights=156, outputs=2 * 6 * 2, maps=2 * 6 * 8)
    assert uncached(layer, SMALL).inputs == 2 * 6 * 16 + beside
    # gathered, and written side by side as two whole rows
    assert gather_scatter(layer, SMALL) == Traffic(
        inputs=6 * 16 + 2 * 5 * 2, weights=156, outputs=2 * 16, sums=2 * 2 * 26 + 2 * 2 * 12 + 2 * 16,
        maps=(6 + 2) * 8,
    )  # fmt: skip
    # two rows wait for weights of eight channels, and of five
    assert matrix_cost(layer, SMALL).cycles == 2 * (8 + 5) + 8 + 4
    # where weights beside do not fit, all come again for every tile of rows, and no sum leaves
    tight = replace(SMALL, weight_bytes=64, output_bytes=32)
    once, again = (cached(layer, tight, CacheConfig(weights_stay=stay)).traffic for stay in (False, True))
    assert once == again
    assert (once.weights, once.sums) == (2 * 156, 0)


def test_what_does_not_fit_is_refused(kmap):
    with pytest.raises(RangeError, match=r"2 blocks of 64 rows and 8 channels take 2048 bytes.* has 1536"):
        cached(layer_of(kmap), replace(SMALL, ways=2), CacheConfig(64))
    with pytest.raises(RangeError, match="block_points must be a power of two, got 3"):
        cached(layer_of(kmap), SMALL, CacheConfig(3))
    with pytest.raises(RangeError, match=r"hold no tile of 8 x 4 weights.*at least 64"):
        best_cached(layer_of(kmap), replace(SMALL, weight_bytes=63))
    with pytest.raises(RangeError, match="blocks of 1 rows"):
        best_cached(layer_of(kmap), replace(SMALL, input_bytes=15))


@pytest.mark.parametrize(("c_in", "c_out"), [(3, 4), (12, 10), (16, 1)])
def test_cycles_of_the_array(kmap, c_in, c_out):
    layer = layer_of(kmap, c_in, c_out)
    cycles = 0
    for _ in tiles(c_out, 4):
        for lists in lists_of(layer, 8):
            for rows in lists:
                cycles += sum(max(len(rows), ic) for ic in tiles(c_in, 8) if rows)
    cost = matrix_cost(layer, SMALL)
    assert cost.cycles == cycles + 8 + 4
    assert cost.macs == kmap.n_pairs * c_in * c_out
    assert 0 < cost.utilisation < 1
    assert cost.utilisation == cost.macs / (32 * cost.cycles)


def test_long_lists_keep_the_array_busy():
    rows = LayerTrace("rows", None, 8, 4, 2, 10_000)
    cost = matrix_cost(rows, replace(SMALL, output_bytes=1 << 20))
    assert cost.cycles == 10_000 + 12
    strided = SortedKeys.of(lidar_like(300))
    level = strided_level(strided, Relation.of(2, 2), "touched")
    short = LayerTrace("down", level.kmap, 8, 4, 2)
    # lists shorter than the array is high wait for its weights
    assert matrix_cost(short, SMALL).utilisation < 0.5
