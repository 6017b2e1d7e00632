"""Augmentation on the device that holds the sweeps: what the steps of `transforms` do, for many at once."""

import numpy as np
import pytest
import torch

from pcsparse.data.device_augmentation import (
    Clouds,
    Sector,
    augment,
    check_augmentation,
    drawn_sector,
    joined,
)
from pcsparse.data.transforms import (
    Augmentation,
    ConcatMix,
    HeightShift,
    IntensityJitter,
    Jitter,
    OneOf,
    RandomDrop,
    RandomFlip,
    RandomScale,
    RandomYaw,
    SectorMix,
)
from pcsparse.data.transforms_sensor import BeamDrop
from pcsparse.errors import UnsupportedError
from tests.streets import tiny_street


def _clouds(sweeps, device):
    parts = [np.concatenate([vars(s)[name] for s in sweeps]) for name in ("points", "intensity", "targets")]
    cloud = np.repeat(np.arange(len(sweeps)), [len(s.points) for s in sweeps])
    return Clouds(*(torch.from_numpy(part).to(device) for part in (*parts, cloud)))


def _noise(device):
    return torch.Generator(device).manual_seed(1)


def test_moves_are_those_of_the_steps_one_cloud_after_another(device):
    steps = (RandomYaw(), RandomFlip(), RandomScale(0.5, 2.0), HeightShift(1.0))
    sweeps = [tiny_street(seed, 200 + seed) for seed in range(3)]
    wanted = []
    for seed, sweep in enumerate(sweeps):
        rng, moved = np.random.default_rng(seed), sweep
        for step in steps:
            moved = step(moved, rng)
        wanted.append(moved.points)
    rngs = [np.random.default_rng(seed) for seed in range(3)]
    found = augment(_clouds(sweeps, device), steps, rngs, _noise(device))
    np.testing.assert_allclose(found.points.cpu(), np.concatenate(wanted), rtol=1e-5, atol=1e-4)
    assert found.targets.tolist() == np.concatenate([s.targets for s in sweeps]).tolist()


def test_noise_comes_after_the_moves_before_it_and_is_cut(device):
    sweeps = [tiny_street(0, 500)]
    scaled = _clouds(sweeps, device).points * 0.5
    steps = (RandomScale(0.5, 0.5), Jitter(0.1, 0.15), RandomScale(2.0, 2.0))
    found = augment(_clouds(sweeps, device), steps, [np.random.default_rng(0)], _noise(device))
    moved = found.points / 2 - scaled
    assert 0.05 < float(moved.std()) < 0.12
    assert float(moved.abs().max()) == pytest.approx(0.15, abs=1e-5)


def test_points_are_left_out_with_all_that_belongs_to_them(device):
    sweeps = [tiny_street(0, 4000), tiny_street(1, 4000)]
    clouds = _clouds(sweeps, device)
    clouds.targets = torch.arange(8000, device=device)
    found = augment(clouds, (RandomDrop(0.5),), [np.random.default_rng(s) for s in (3, 4)], _noise(device))
    rows = found.targets.cpu()
    np.testing.assert_array_equal(found.points.cpu(), np.concatenate([s.points for s in sweeps])[rows])
    for number, seed in enumerate((3, 4)):
        share = np.random.default_rng(seed).uniform(0.0, 0.5)
        assert int((found.cloud == number).sum()) == pytest.approx(4000 * (1 - share), rel=0.03)


def test_intensity_is_scaled_shifted_and_sometimes_gone(device):
    sweeps = [tiny_street(seed, 300) for seed in range(8)]
    step = IntensityJitter(scale=0.5, shift=0.2, sigma=0.0, drop=0.5)
    rngs = [np.random.default_rng(seed) for seed in range(8)]
    found = augment(_clouds(sweeps, device), (step,), rngs, _noise(device))
    wanted = [step(sweep, np.random.default_rng(seed)).intensity for seed, sweep in enumerate(sweeps)]
    np.testing.assert_allclose(found.intensity.cpu(), np.concatenate(wanted), atol=1e-6)
    assert 0 < sum(not values.any() for values in wanted) < 8


def test_a_sector_comes_from_the_partner_as_the_mixture_takes_it(device):
    sweeps = [tiny_street(seed, 400) for seed in range(4)]
    mix, rng = SectorMix(1.0), np.random.default_rng(7)
    wanted = mix(sweeps[1], sweeps[3], np.random.default_rng(7))
    sectors = [None, drawn_sector(mix, rng), drawn_sector(ConcatMix(1.0), rng)]
    clouds = _clouds([*sweeps[:3], sweeps[3], sweeps[0]], device)
    found = joined(clouds, [0, 1, 2, 1, 2], sectors)
    of = [found.points[found.cloud == number].cpu().numpy() for number in range(3)]
    np.testing.assert_array_equal(of[0], sweeps[0].points)
    np.testing.assert_array_equal(of[1], wanted.points)
    np.testing.assert_array_equal(of[2], np.concatenate([sweeps[2].points, sweeps[0].points]))
    assert len(wanted.points) not in (0, 400)


def test_a_mixture_is_drawn_with_its_probability():
    rng = np.random.default_rng(0)
    drawn = [drawn_sector(OneOf((SectorMix(0.5), ConcatMix(1.0)), (0.5, 0.2)), rng) for _ in range(2000)]
    whole = sum(sector is not None and sector.without == 0 for sector in drawn)
    assert whole == pytest.approx(400, abs=60)
    assert drawn.count(None) == pytest.approx(1100, abs=80)
    assert drawn_sector(None, rng) is None
    assert all(isinstance(sector, Sector | None) for sector in drawn)


def test_a_step_that_knows_no_device_is_named():
    with pytest.raises(UnsupportedError, match="BeamDrop is not made for sweeps in the memory of a device"):
        check_augmentation(Augmentation((RandomYaw(), BeamDrop(0.5, (2,), 0.1))))
