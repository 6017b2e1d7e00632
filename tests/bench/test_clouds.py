"""Clouds of the benchmarks."""

import pytest
import torch

from pcsparse.bench.clouds import simulated_cloud, small_cloud
from pcsparse.bench.scene import Scene


def test_the_miniature_street_is_the_same_every_time():
    one, two = small_cloud(), small_cloud()
    assert torch.equal(one.points, two.points)
    assert one.feats.shape == (6000, 4)
    assert torch.equal(one.feats[:, :3], one.points)
    assert 0 <= one.feats[:, 3].min() <= one.feats[:, 3].max() <= 1


@pytest.mark.slow
def test_the_simulated_sweep_is_as_large_as_a_real_one():
    cloud = simulated_cloud()
    assert len(cloud.points) > 80_000
    assert 40_000 < len(Scene.of(cloud).coords) < 150_000
