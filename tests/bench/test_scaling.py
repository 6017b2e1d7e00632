"""Growth of the cost with size."""

from dataclasses import replace

import pytest
import torch

from pcsparse.bench.scaling import MAP, ScalingPoint, growth, run_scaling, sized_coords
from pcsparse.bench.scene import build_map
from pcsparse.coords.keys import pack
from pcsparse.coords.relation import Relation
from pcsparse.kernels import cpu
from pcsparse.timing import Timing
from tests.bench.scenes import small_scene


@pytest.mark.parametrize("share", [0.2, 0.9, 1.0, 2.3, 7.0])
def test_sized_clouds_have_the_size_and_are_sorted_and_distinct(share):
    coords = small_scene().coords
    n = round(share * len(coords))
    cloud = sized_coords(coords, n)
    assert cloud.shape == (n, 4)
    assert cloud.dtype == torch.int32
    assert bool((pack(cloud).diff() > 0).all())


def test_copies_keep_the_neighbours_a_voxel_has():
    coords = small_scene().coords
    one = build_map(coords, Relation.of(3))[1].n_pairs
    assert build_map(sized_coords(coords, 4 * len(coords)), Relation.of(3))[1].n_pairs == 4 * one


def test_a_sector_keeps_the_density():
    coords = small_scene().coords
    whole = build_map(coords, Relation.of(3))[1].n_pairs / len(coords)
    half = sized_coords(coords, len(coords) // 2)
    assert build_map(half, Relation.of(3))[1].n_pairs / len(half) == pytest.approx(whole, rel=0.2)


def test_every_size_and_width_is_measured_and_checked():
    points = list(run_scaling(small_scene().coords, (500, 2000), (4, 16), 2))
    assert [(p.n_voxels, p.channels) for p in points] == [
        *((500, MAP), (500, 4), (500, 16)),
        *((2000, MAP), (2000, 4), (2000, 16)),
    ]
    for point in points:
        assert point.check is None if point.channels == MAP else point.check.passed
        width = max(point.channels, 1)
        assert point.cost == pytest.approx(point.time.median / (point.n_pairs * width**2))


def test_a_wrong_sampled_row_has_no_time(monkeypatch):
    kernel = cpu.output_stationary
    monkeypatch.setattr(cpu, "output_stationary", lambda *given, **options: kernel(*given, **options).flip(0))
    _, point = run_scaling(small_scene().coords, (500,), (16,), 1)
    assert not point.check.passed
    assert point.time is None
    assert point.cost is None


def test_what_does_not_fit_into_memory_is_named_and_left_out():
    _, fits, too_large = run_scaling(
        small_scene().coords, (1000,), (16, 64), 1, free=lambda: 4 * 1000 * 100.0
    )
    assert fits.time is not None
    assert too_large.time is None
    assert "needs 0.0 GB" in too_large.skipped


def point(n, seconds, channels=16):
    return ScalingPoint(n, 3 * n, channels, None, Timing(seconds, seconds, seconds, 1))


def test_growth_compares_the_largest_with_the_first_steady_one():
    # 1,000 voxels: mostly the start of the kernel
    points = [point(100_000, 0.30), point(1_000, 0.1), point(10_000, 0.01), point(10_000, 9.0, channels=32)]
    found = growth(points, 16, above=5_000, bandwidth=1e9)
    assert found.factor == pytest.approx(3.0)
    assert (found.channels, found.smallest, found.largest) == (16, 10_000, 100_000)
    assert growth(points, 16, above=50_000, bandwidth=1e9) is None
    assert growth(points, 64, above=0, bandwidth=1e9) is None


def test_the_memory_floor_counted_by_hand():
    # 2 * 10,000 rows of 16 floats, 27 * 16 * 16 weights, 30,000 pairs of two int32
    seconds = (4 * (320_000 + 6_912) + 8 * 30_000) / 1e9
    assert point(10_000, 0.01).memory_share(1e9) == pytest.approx(seconds / 0.01)
    # four int32 a voxel and the pairs
    assert point(10_000, 0.01, MAP).memory_share(1e9) == pytest.approx((160_000 + 240_000) / 1e9 / 0.01)
    points = [point(10_000, 0.01), point(20_000, 0.04)]
    found = growth(points, 16, above=0, bandwidth=1e9)
    assert found.memory_shares == tuple(each.memory_share(1e9) for each in points)
    assert replace(points[0], time=None).memory_share(1e9) is None
