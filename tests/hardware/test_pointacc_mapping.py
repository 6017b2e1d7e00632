"""PointAcc's mapping unit: results against the engine and brute force, cycles against plain Python."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from pcsparse.coords.build import SortedKeys, build_kernel_map, strided_level
from pcsparse.coords.keys import pack
from pcsparse.coords.relation import Relation
from pcsparse.errors import DtypeError, RangeError, ShapeError
from pcsparse.hardware.pointacc import same_pairs
from pcsparse.hardware.pointacc_chip import PointAccChip
from pcsparse.hardware.pointacc_mapping import coarsen, kernel_map, merger_bytes, nearest, sample
from tests.clouds import CLOUDS, lidar_like
from tests.hardware.oracle_merger import merge_map

FULL = PointAccChip.full()
# keys never fit, memory brings 2.5 of them a cycle
SLOW = replace(FULL, merger_width=4, mapping_bytes=1, memory_rate=20e9, fifo_blocks=2)


def keys_of(coords: torch.Tensor) -> torch.Tensor:
    return pack(torch.unique(coords, dim=0))


@pytest.mark.parametrize("width", [2, 8, 64])
@pytest.mark.parametrize("cloud", CLOUDS.values(), ids=CLOUDS.keys())
def test_maps_are_the_engines(cloud, width):
    keys = keys_of(cloud.coords)
    for relation in (Relation.of(3), Relation.of((1, 3, 5), dilation=2)):
        pairs, _ = kernel_map(keys, keys, relation.key_deltas(), replace(FULL, merger_width=width))
        fine = SortedKeys.of(torch.unique(cloud.coords, dim=0))
        assert same_pairs(pairs, build_kernel_map(fine, fine, relation, same_coords=True).pairs)


@pytest.mark.parametrize("stride", [2, 4])
def test_maps_between_levels_are_the_engines(stride):
    fine, relation = SortedKeys.of(lidar_like(900, batch_size=2)), Relation.of(stride, stride)
    level = strided_level(fine, relation, "touched")
    queries = pack(level.coords * torch.tensor([1, stride, stride, stride], dtype=torch.int32))
    pairs, _ = kernel_map(fine.keys, queries, relation.key_deltas(), SLOW)
    assert same_pairs(pairs, level.kmap.pairs)
    assert len(pairs.rows_in) == len(fine.keys)


@pytest.mark.parametrize("loop", [1, 3])
@pytest.mark.parametrize("width", [2, 4, 16])
@pytest.mark.parametrize("rate", [20.0, 37.0, 1000.0])
@pytest.mark.parametrize("on_chip", [False, True])
def test_cycles_are_those_of_plain_python(width, rate, on_chip, loop):
    chip = replace(
        FULL, merger_width=width, fifo_blocks=2, loop_cycles=loop, memory_rate=1e9 * rate,
        mapping_bytes=1 << 20 if on_chip else 1,
    )  # fmt: skip
    cells = lidar_like(70, seed=1)
    inputs, queries = keys_of(cells), keys_of(torch.cat([cells[::2], lidar_like(20, seed=2)]))
    deltas = Relation.of((3, 1, 3)).key_deltas()
    pairs, cost = kernel_map(inputs, queries, deltas, chip)
    cycles, steps, stalled, expected = merge_map(
        inputs.tolist(), queries.tolist(), deltas.tolist(), width=width, fifo=2 * width, loop=loop,
        key_bytes=8, pair_bytes=8, rate=rate, on_chip=on_chip,
    )  # fmt: skip

    assert len(expected) > 20
    assert list(zip(pairs.rows_in.tolist(), pairs.rows_out.tolist(), strict=True)) == [
        p[1:] for p in expected
    ]
    stored = 8 * (len(inputs) + len(queries))
    load = math.ceil(stored / rate) if on_chip else 0
    # stages of merger, detector and prefix sum
    assert cost.cycles == load + cycles + int(math.log2(width)) * 2 + 2
    assert (cost.steps, cost.stalled) == (steps, stalled)
    assert cost.steps == 9 * math.ceil((len(inputs) + len(queries)) / width)
    assert cost.memory_bytes == (stored if on_chip else 9 * stored) + 8 * len(expected)
    assert cost.comparisons == steps * width * (int(math.log2(width)) + 1)


def test_a_key_set_against_itself_is_stored_once():
    keys = keys_of(lidar_like(70))
    fits = replace(FULL, mapping_bytes=8 * len(keys))
    deltas = Relation.of(3).key_deltas()
    same, other = (kernel_map(keys, them, deltas, fits)[1] for them in (keys, keys.clone()))
    assert same.stalled == 1
    assert other.stalled > 1
    assert other.memory_bytes - same.memory_bytes == 8 * len(keys) * (2 * 27 - 1)


def test_slow_memory_is_what_it_takes():
    keys = keys_of(lidar_like(500))
    deltas = Relation.of(3).key_deltas()
    pairs, cost = kernel_map(keys, keys, deltas, SLOW)
    assert cost.memory_bytes == 8 * (27 * 2 * len(keys) + len(pairs.rows_in))
    assert cost.cycles == pytest.approx(cost.memory_bytes / 20, rel=0.01)


@pytest.mark.parametrize("width", [2, 8, 64])
@pytest.mark.parametrize("cloud", CLOUDS.values(), ids=CLOUDS.keys())
def test_coarser_levels_are_the_engines(cloud, width):
    coords = torch.unique(cloud.coords, dim=0)
    for stride in ((2, 2, 2), (4, 1, 2)):
        found, cost = coarsen(pack(coords), stride, replace(FULL, merger_width=width))
        cells = torch.div(coords, torch.tensor([1, *stride]), rounding_mode="floor")
        expected = torch.unique(cells, dim=0) * torch.tensor([1, *stride])
        assert torch.equal(found, pack(expected.int()))
        passes = math.ceil(math.log2(max(1, math.ceil(len(coords) / width))))
        # a pass hands out every key, in runs whose last block may be short
        assert passes * len(coords) <= cost.steps * width < passes * (len(coords) + width) + 1


def test_sorting_beyond_the_buffer_goes_through_the_memory_at_every_pass():
    keys = keys_of(lidar_like(300))
    inside, outside = (
        coarsen(keys, (2, 2, 2), replace(SLOW, mapping_bytes=size))[1] for size in (1 << 20, 1)
    )
    passes = math.ceil(math.log2(math.ceil(len(keys) / 4)))
    assert outside.memory_bytes == passes * 2 * 8 * len(keys)
    assert outside.cycles >= outside.memory_bytes / 20
    assert inside.steps == outside.steps
    assert inside.cycles < outside.cycles


def brute_nearest(points: np.ndarray, queries: np.ndarray, k: int, most: float) -> list[list[int]]:
    found = []
    for query in queries:
        step = points - query
        square = step[:, 0] * step[:, 0] + step[:, 1] * step[:, 1] + step[:, 2] * step[:, 2]
        order = sorted((d, i) for i, d in enumerate(square.tolist()) if d < most)[:k]
        found.append([i for _, i in order] + [-1] * (k - len(order)))
    return found


@pytest.mark.parametrize("radius", [None, 2.0])
@pytest.mark.parametrize(("n", "k", "width"), [(50, 3, 4), (50, 9, 4), (64, 64, 8), (7, 9, 4), (33, 32, 64)])
def test_nearest_with_ties(rng, n, k, width, radius):
    # a lattice, so that many are equally near
    points = torch.randint(-2, 3, (n, 3), generator=rng).float()
    queries = torch.randint(-2, 3, (11, 3), generator=rng).float()
    found, cost = nearest(points, queries, k, replace(FULL, merger_width=width), radius=radius)
    most = math.inf if radius is None else radius**2
    assert found.tolist() == brute_nearest(points.double().numpy(), queries.double().numpy(), k, most)
    blocks = math.ceil(n / width)
    if k <= width:
        # two runs of a block make one
        assert cost.steps == 11 * (blocks - 1)
    else:
        assert cost.steps >= 11 * (blocks - 1)


def test_nearest_is_scipys(rng):
    points, queries = torch.randn(400, 3, generator=rng), torch.randn(60, 3, generator=rng)
    found, _ = nearest(points, queries, 16, PointAccChip.edge())
    _, expected = cKDTree(points.double().numpy()).query(queries.double().numpy(), 16)
    assert found.tolist() == expected.tolist()
    inside, _ = nearest(points, queries, 400, FULL, radius=0.7)
    balls = cKDTree(points.double().numpy()).query_ball_point(queries.double().numpy(), 0.7)
    assert [sorted(set(row) - {-1}) for row in inside.tolist()] == [sorted(ball) for ball in balls]


def test_ranking_counts_the_longer_of_distances_and_merges(rng):
    points = torch.randn(64, 3, generator=rng)
    narrow = replace(FULL, merger_width=8)
    fill = 4 + 6 + 3 + 1
    load = math.ceil((64 + 10) * 12 / 256)
    assert nearest(points, points[:10], 8, narrow)[1].cycles == 10 * 8 + load + fill
    # all 64 of 64: three passes of eight blocks
    assert nearest(points, points[:10], 64, narrow)[1].cycles == 10 * 3 * 8 + load + fill
    outside = nearest(points, points[:10], 8, replace(narrow, mapping_bytes=64 * 12 - 1, memory_rate=1e9))[1]
    assert outside.memory_bytes == 10 * 64 * 12 + 10 * 12 + 10 * 8 * 8
    assert outside.cycles == outside.memory_bytes + fill


def test_farthest_points(rng):
    points = torch.randint(-3, 4, (90, 3), generator=rng).float()
    chosen, cost = sample(points, 20, replace(FULL, merger_width=8), first=5)
    expected, nearest_of = [5], [math.inf] * 90
    for _ in range(19):
        last = points[expected[-1]]
        nearest_of = [min(d, float(((p - last) ** 2).sum())) for d, p in zip(nearest_of, points, strict=True)]
        expected.append(max(range(90), key=lambda i: (nearest_of[i], -i)))
    assert chosen.tolist() == expected
    # twelve blocks, four stages of a distance, three levels of the tree; points read once
    assert cost.cycles == 19 * (12 + 4 + 3) + math.ceil(90 * 12 / 256)
    outside = sample(points, 20, replace(FULL, merger_width=8, mapping_bytes=90 * 16 - 1, memory_rate=1e9))[1]
    assert outside.cycles == 19 * (90 * 20 + 7)


def test_no_point_is_sampled_twice():
    points = torch.arange(5.0)[:, None].expand(5, 3).repeat(4, 1).contiguous()
    chosen, _ = sample(points, 20, FULL)
    assert chosen.tolist()[:2] == [0, 4]
    # of equally far ones the lowest row
    assert chosen.tolist()[5:] == list(range(5, 20))
    assert sorted(chosen.tolist()) == list(range(20))


def test_storage_of_the_merger():
    # two FIFOs of 4 x 8 places, four ranks of 16, four of 8, of 12 bytes
    assert merger_bytes(replace(FULL, merger_width=8)) == 12 * (64 + (3 + 1) * 16 + (3 + 1) * 8)


def test_what_is_refused(rng):
    keys = keys_of(lidar_like(30))
    deltas = Relation.of(1).key_deltas()
    with pytest.raises(RangeError, match="inputs must ascend without repeats, but key 1 is"):
        kernel_map(keys.flip(0), keys, deltas, FULL)
    with pytest.raises(RangeError, match="queries must ascend"):
        kernel_map(keys, keys[[0, 0]], deltas, FULL)
    with pytest.raises(DtypeError, match="int64"):
        kernel_map(keys.int(), keys, deltas, FULL)
    with pytest.raises(RangeError, match=r"powers of two.*\(3, 2, 2\)"):
        coarsen(keys, (3, 2, 2), FULL)
    points = torch.randn(5, 3, generator=rng)
    with pytest.raises(RangeError, match="row 2 is"):
        nearest(points.index_fill(0, torch.tensor([2]), math.nan), points, 1, FULL)
    with pytest.raises(RangeError, match="k must be at least 1, got 0"):
        nearest(points, points, 0, FULL)
    with pytest.raises(RangeError, match="radius must be above 0"):
        nearest(points, points, 1, FULL, radius=0.0)
    with pytest.raises(RangeError, match="n_samples must be 1 to the number of points, 5, got 6"):
        sample(points, 6, FULL)
    with pytest.raises(RangeError, match="first must be 0 to 4"):
        sample(points, 2, FULL, first=5)
    with pytest.raises(ShapeError):
        sample(points[:, :2], 2, FULL)
