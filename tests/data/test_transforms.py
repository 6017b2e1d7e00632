"""Augmentation: what each step changes, and above all what it leaves alone."""

import math
from dataclasses import replace

import numpy as np
import pytest

from pcsparse.data.transforms import (
    Augmentation,
    ConcatMix,
    HeightShift,
    IntensityJitter,
    Jitter,
    RandomDrop,
    RandomFlip,
    RandomScale,
    RandomYaw,
    SectorMix,
)
from pcsparse.errors import RangeError
from tests.streets import tiny_street

STEPS = {
    "yaw": RandomYaw(),
    "flip": RandomFlip(),
    "scale": RandomScale(),
    "height": HeightShift(),
    "jitter": Jitter(),
    "drop": RandomDrop(),
    "intensity": IntensityJitter(drop=0.0),
}


@pytest.fixture
def sweep():
    return tiny_street(3)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
def test_every_step_keeps_shapes_dtypes_and_its_input(sweep, step):
    before = replace(
        sweep, points=sweep.points.copy(), intensity=sweep.intensity.copy(), targets=sweep.targets.copy()
    )
    after = step(sweep, rng())
    assert after.points.dtype == after.intensity.dtype == np.float32
    assert after.targets.dtype == np.int64
    assert len(after.points) == len(after.intensity) == len(after.targets)
    for name in ("points", "intensity", "targets"):
        np.testing.assert_array_equal(getattr(sweep, name), getattr(before, name))
    changed = any(
        not np.array_equal(getattr(after, name), getattr(sweep, name)) for name in ("points", "intensity")
    )
    assert changed


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
def test_every_step_depends_on_its_generator_alone(sweep, step):
    first, again, other = (step(sweep, rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.points, again.points)
    np.testing.assert_array_equal(first.intensity, again.intensity)
    same = np.array_equal(first.points, other.points) and np.array_equal(first.intensity, other.intensity)
    # a flip has four outcomes only
    assert not same or isinstance(step, RandomFlip)


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
def test_every_step_takes_the_empty_cloud(sweep, step):
    empty = replace(sweep, points=sweep.points[:0], intensity=sweep.intensity[:0], targets=sweep.targets[:0])
    after = step(empty, rng())
    assert after.points.shape == (0, 3)
    assert len(after.intensity) == len(after.targets) == 0


def test_yaw_turns_left_and_keeps_height_and_distance(sweep):
    after = RandomYaw()(sweep, rng())
    np.testing.assert_array_equal(after.points[:, 2], sweep.points[:, 2])
    np.testing.assert_allclose(
        np.hypot(*after.points[:, :2].T), np.hypot(*sweep.points[:, :2].T), rtol=1e-5, atol=1e-5
    )
    angle = rng().uniform(-math.pi, math.pi)
    azimuth = np.arctan2(*sweep.points[:, 1::-1].T)
    turned = np.arctan2(*after.points[:, 1::-1].T)
    difference = (turned - azimuth - angle + math.pi) % (2 * math.pi) - math.pi
    np.testing.assert_allclose(difference, 0, atol=1e-4)


def test_flip_mirrors_what_it_is_told_to(sweep):
    after = RandomFlip(x=1.0, y=0.0)(sweep, rng())
    np.testing.assert_array_equal(after.points, sweep.points * np.array([-1, 1, 1], np.float32))
    np.testing.assert_array_equal(RandomFlip(x=0.0, y=0.0)(sweep, rng()).points, sweep.points)


def test_scale_is_one_factor_within_its_limits(sweep):
    factors = {
        round(float(np.median(RandomScale()(sweep, rng(i)).points / sweep.points)), 4) for i in range(40)
    }
    assert 0.95 <= min(factors) < 0.965
    assert 1.035 < max(factors) <= 1.05
    ratio = RandomScale()(sweep, rng()).points / sweep.points
    np.testing.assert_allclose(ratio, ratio.flat[0], rtol=1e-5)


def test_height_shift_moves_z_alone_by_one_value(sweep):
    shift = HeightShift(0.2)(sweep, rng()).points - sweep.points
    np.testing.assert_array_equal(shift[:, :2], 0)
    np.testing.assert_allclose(shift[:, 2], shift[0, 2], atol=1e-5)
    assert 0 < abs(shift[0, 2]) <= 0.2


def test_jitter_stays_within_its_clip(sweep):
    moved = Jitter(sigma=0.05, clip=0.06)(sweep, rng()).points - sweep.points
    assert np.abs(moved).max() <= 0.06 + 1e-6
    assert 0.03 < moved.std() < 0.05
    # noise is per point and axis
    assert len(np.unique(np.round(moved, 5))) > len(moved)


def test_drop_keeps_rows_whole_and_the_share_below_the_limit():
    big = tiny_street(1, n=20_000)
    kept = [RandomDrop(0.5)(big, rng(i)) for i in range(12)]
    shares = [1 - len(one.points) / len(big.points) for one in kept]
    assert max(shares) < 0.52
    assert np.std(shares) > 0.05
    rows = {tuple(row): (i, t) for row, i, t in zip(big.points, big.intensity, big.targets, strict=True)}
    one = kept[0]
    assert all(
        rows[tuple(row)] == (i, t) for row, i, t in zip(one.points, one.intensity, one.targets, strict=True)
    )


def test_intensity_stays_within_0_and_1_and_drops_out_whole(sweep):
    after = IntensityJitter(scale=0.9, shift=0.5, sigma=0.5, drop=0.0)(sweep, rng())
    assert after.intensity.min() == 0.0
    assert after.intensity.max() == 1.0
    np.testing.assert_array_equal(IntensityJitter(drop=1.0)(sweep, rng()).intensity, 0)
    np.testing.assert_array_equal(after.points, sweep.points)


def test_concat_mix_holds_both_with_their_labels(sweep):
    other = tiny_street(9, n=50)
    mixed = ConcatMix(1.0)(sweep, other, rng())
    np.testing.assert_array_equal(mixed.points, np.concatenate([sweep.points, other.points]))
    np.testing.assert_array_equal(mixed.targets, np.concatenate([sweep.targets, other.targets]))
    assert ConcatMix(0.0)(sweep, other, rng()) is sweep


def test_sector_mix_swaps_one_sector():
    first, second = tiny_street(1, n=4000), tiny_street(2, n=3000)
    # intensity tells where a point comes from
    first = replace(first, intensity=np.full_like(first.intensity, 0.25))
    second = replace(second, intensity=np.full_like(second.intensity, 0.75))
    mixed = SectorMix(1.0, width=math.pi)(first, second, rng(4))
    foreign = mixed.intensity == 0.75
    assert 0 < foreign.sum() < len(foreign)
    generator = rng(4)
    generator.random()
    start, width = generator.uniform(0, 2 * math.pi), generator.uniform(0, math.pi)

    def inside(points):
        return (np.arctan2(points[:, 1], points[:, 0]) - start) % (2 * math.pi) < width

    np.testing.assert_array_equal(inside(mixed.points), foreign)
    assert len(mixed.points) == int((~inside(first.points)).sum() + inside(second.points).sum())


def test_mix_without_labels_is_an_error(sweep):
    with pytest.raises(RangeError, match="street/000009 has none"):
        ConcatMix(1.0)(sweep, replace(tiny_street(9), targets=None), rng())


def test_augmentation_runs_its_steps_in_order_and_asks_for_a_partner_only_to_mix(sweep):
    def never():
        raise AssertionError("no partner was needed")

    steps = (HeightShift(0.2), RandomScale())
    generator = rng(5)
    expected = steps[1](steps[0](sweep, generator), generator)
    np.testing.assert_array_equal(Augmentation(steps)(sweep, rng(5), never).points, expected.points)
    mixed = Augmentation(steps, ConcatMix(1.0))(sweep, rng(5), lambda: tiny_street(8, n=40))
    np.testing.assert_array_equal(mixed.points[: len(sweep.points)], expected.points)
    # the partner is augmented too
    assert not np.isin(mixed.points[-40:], tiny_street(8, n=40).points).all(axis=1).any()


@pytest.mark.parametrize(
    "make",
    [
        lambda: RandomScale(0.0, 1.0),
        lambda: RandomScale(1.1, 1.0),
        lambda: RandomDrop(1.5),
        lambda: RandomFlip(x=-0.1),
        lambda: IntensityJitter(drop=2.0),
        lambda: SectorMix(probability=2.0),
        lambda: ConcatMix(-1.0),
    ],
    ids=["scale-zero", "scale-order", "drop", "flip", "intensity", "sector", "concat"],
)
def test_senseless_settings_are_refused(make):
    with pytest.raises(RangeError):
        make()
