"""Augmentation of the sensor: which points go, and that nothing else changes."""

import math
from dataclasses import replace

import numpy as np
import pytest

from pcsparse.data.transforms_sensor import (
    BeamDrop,
    IntensityResponse,
    Occlusion,
    RandomTilt,
    RangeDrop,
    Undulation,
    beams_of,
)
from pcsparse.errors import RangeError
from tests.streets import tiny_street

STEPS = {
    "beams": BeamDrop(probability=1.0),
    "lost-beams": BeamDrop(probability=0.0, limit=0.9),
    "range": RangeDrop(limit=1.0, reach=10.0),
    "occlusion": Occlusion(sectors=8, width=1.5, near=1.0, far=4.0),
    "intensity": IntensityResponse(constant=0.0),
    "tilt": RandomTilt(),
    "undulation": Undulation(),
}
DROPPING = ("beams", "lost-beams", "range", "occlusion")


def rng(seed=0):
    return np.random.default_rng(seed)


def street(seed=3, n=2000):
    """A tiny street with an instance, and with beams that its points do not betray."""
    sweep = tiny_street(seed, n)
    beams = rng(seed).integers(0, 64, n)
    return replace(sweep, instances=np.where(sweep.targets == 0, 5, 0), beams=beams)


COLUMNS = ("points", "intensity", "targets", "instances", "beams")


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
def test_every_step_depends_on_its_generator_alone_and_keeps_its_input(step):
    sweep, before = street(), street()
    first, again = step(sweep, rng(1)), step(sweep, rng(1))
    others = [step(sweep, rng(seed)) for seed in range(2, 6)]
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        np.testing.assert_array_equal(getattr(sweep, name), getattr(before, name))
        assert getattr(first, name).dtype == getattr(sweep, name).dtype
        assert len(getattr(first, name)) == len(first.points)
    assert any(
        not np.array_equal(first.points, other.points) or not np.array_equal(first.intensity, other.intensity)
        for other in others
    )


@pytest.mark.parametrize("name", DROPPING)
def test_what_is_kept_is_kept_whole(name):
    sweep = street()
    after = STEPS[name](sweep, rng(4))
    assert 0 < len(after.points) < len(sweep.points)
    rows = {tuple(p): i for i, p in enumerate(sweep.points)}
    kept = [rows[tuple(p)] for p in after.points]
    assert kept == sorted(kept)
    for column in COLUMNS:
        np.testing.assert_array_equal(getattr(after, column), getattr(sweep, column)[kept])


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
def test_every_step_takes_the_empty_cloud_and_one_without_labels(step):
    bare = replace(street(), targets=None, instances=None, beams=None)
    assert step(bare, rng()).targets is None
    empty = replace(bare, points=bare.points[:0], intensity=bare.intensity[:0])
    assert step(empty, rng()).points.shape == (0, 3)


def test_every_second_beam_is_left_and_either_half_can_be_it():
    sweep, halves = street(), set()
    for seed in range(6):
        left = BeamDrop(probability=1.0, every=(2,))(sweep, rng(seed))
        phases = set((left.beams % 2).tolist())
        assert len(phases) == 1
        halves |= phases
        assert len(left.points) == int((sweep.beams % 2 == phases.pop()).sum())
    assert halves == {0, 1}
    few = BeamDrop(probability=1.0, every=(2,), limit=0.0, fewest=65)(sweep, rng(1))
    assert len(few.points) == len(sweep.points)
    assert len(BeamDrop(probability=1.0, every=(2,), fewest=64)(sweep, rng(1)).points) < 1200


def test_lost_beams_are_lost_whole_and_stay_below_the_limit():
    sweep = street(n=6000)
    left = [BeamDrop(probability=0.0, limit=0.5)(sweep, rng(seed)) for seed in range(12)]
    lost = [64 - len(np.unique(one.beams)) for one in left]
    assert max(lost) < 40
    assert np.std(lost) > 2
    one = left[int(np.argmax(lost))]
    assert len(one.points) == int(np.isin(sweep.beams, one.beams).sum())


def test_beams_follow_from_the_elevation_where_they_are_not_known():
    elevation = np.radians([-20.0, -19.9, -10.0, 2.0])
    points = 10 * np.stack([np.cos(elevation), np.zeros(4), np.sin(elevation)], 1).astype(np.float32)
    sweep = replace(tiny_street(1, 4), points=points)
    beams = beams_of(sweep)
    assert beams.min() == 0
    assert beams[1] - beams[0] <= 1
    np.testing.assert_allclose(np.diff(beams)[1:], (9.9 / 0.42, 12 / 0.42), atol=1.01)


def test_far_returns_are_lost_in_proportion_to_their_distance():
    sweep = tiny_street(1, 40_000)
    distance = np.tile(np.array([5.0, 20.0, 40.0, 80.0], np.float32), 10_000)
    sweep = replace(sweep, points=np.stack([distance, 0 * distance, 0 * distance], 1))
    generator = rng(7)
    share = generator.uniform(0.0, 0.5)
    left = RangeDrop(limit=0.5, reach=40.0)(sweep, rng(7)).points[:, 0]
    for metres in (5.0, 20.0, 40.0, 80.0):
        lost = 1 - (left == metres).sum() / 10_000
        assert lost == pytest.approx(share * metres / 40.0, abs=0.02)


def test_what_is_nearer_than_the_cover_is_never_hidden():
    sweep = tiny_street(5, 4000)
    left = Occlusion(sectors=6, width=2.0, near=6.0, far=6.0)(sweep, rng(2))
    near = np.hypot(*sweep.points[:, :2].T) <= 6.0
    assert np.isin(sweep.points[near], left.points).all()
    gone = ~np.isin(sweep.points[:, 0], left.points[:, 0])
    assert gone.sum() > 100
    # whole sectors: what is hidden has no neighbour in azimuth that is left beyond the cover
    azimuth = np.arctan2(sweep.points[:, 1], sweep.points[:, 0])
    far_gone, far_left = azimuth[gone & ~near], azimuth[~gone & ~near]
    nearest = np.abs(far_left[None] - far_gone[:, None]).min(axis=1)
    assert np.median(nearest) > 0.01


def test_intensity_keeps_its_order_within_a_beam_or_is_one_value():
    sweep = street()
    after = IntensityResponse(gamma=1.0, beams=0.3, constant=0.0)(sweep, rng(3))
    assert after.intensity.min() >= 0.0
    assert after.intensity.max() <= 1.0
    rows = sweep.beams == 7
    order = np.argsort(sweep.intensity[rows], kind="stable")
    assert (np.diff(after.intensity[rows][order]) >= 0).all()
    everywhere = IntensityResponse(gamma=0.0, beams=0.3, constant=0.0)(sweep, rng(3))
    middle = (sweep.intensity > 0.05) & (sweep.intensity < 0.3)
    gain = everywhere.intensity[middle] / sweep.intensity[middle]
    per_beam = [gain[sweep.beams[middle] == beam] for beam in range(64)]
    assert max(np.ptp(one) for one in per_beam if len(one)) < 1e-4
    assert np.std([one[0] for one in per_beam if len(one)]) > 0.1
    flat = IntensityResponse(constant=1.0)(sweep, rng(3)).intensity
    assert np.ptp(flat) == 0


def test_tilt_is_a_small_rotation_about_a_horizontal_axis():
    points = np.eye(3, dtype=np.float32)
    sweep = replace(tiny_street(1, 3), points=points)
    turn = RandomTilt(0.1)(sweep, rng(5)).points
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-6)
    angle = math.acos(min(1.0, (np.trace(turn) - 1) / 2))
    assert 0.001 < angle <= 0.1 + 1e-6
    # the axis is horizontal: the turn about z is nothing to first order
    assert abs(turn[0, 1] - turn[1, 0]) < 1e-6


def test_undulation_moves_z_alone_smoothly():
    x = np.linspace(-40, 40, 4000, dtype=np.float32)
    sweep = replace(tiny_street(1, 4000), points=np.stack([x, 0.3 * x, 0 * x], 1))
    after = Undulation(cell=8.0, limit=0.5)(sweep, rng(2)).points
    np.testing.assert_array_equal(after[:, :2], sweep.points[:, :2])
    assert 0.02 < np.std(after[:, 2]) < 0.6
    # at most the difference of two nodes a cell
    assert np.abs(np.diff(after[:, 2])).max() < 4 * 0.5 * (x[1] - x[0]) * 1.05 / 8.0 * 2
    stray = replace(sweep, points=np.full((4000, 3), [1e7, np.nan, 0.0], np.float32))
    assert len(Undulation()(stray, rng()).points) == 4000


@pytest.mark.parametrize(
    "make",
    [
        lambda: BeamDrop(probability=2.0),
        lambda: BeamDrop(every=(0,)),
        lambda: BeamDrop(every=()),
        lambda: RangeDrop(reach=0.0),
        lambda: Occlusion(near=5.0, far=3.0),
        lambda: IntensityResponse(gamma=-1.0),
        lambda: Undulation(cell=0.0),
    ],
    ids=["probability", "every-zero", "every-none", "reach", "near-far", "gamma", "cell"],
)
def test_senseless_settings_are_refused(make):
    with pytest.raises(RangeError):
        make()
