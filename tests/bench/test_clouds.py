"""Clouds of the benchmarks."""

import pytest
import torch

from pcsparse.bench.clouds import REAL_SWEEPS, real_cloud, simulated_cloud, small_cloud
from pcsparse.bench.scene import Scene
from pcsparse.errors import FormatError


def test_the_miniature_street_is_the_same_every_time():
    one, two = small_cloud(), small_cloud()
    assert torch.equal(one.points, two.points)
    assert one.feats.shape == (6000, 4)
    assert torch.equal(one.feats[:, :3], one.points)
    assert 0 <= one.feats[:, 3].min() <= one.feats[:, 3].max() <= 1


def _write(path, n):
    path.parent.mkdir(parents=True)
    small_cloud(n).feats.numpy().tofile(path)


def test_the_first_real_sweep_that_is_there_is_taken(tmp_path):
    _write(tmp_path / REAL_SWEEPS[2][0], 300)
    assert real_cloud(tmp_path).name == f"{REAL_SWEEPS[2][1]} (real HDL-64E sweep)"
    _write(tmp_path / REAL_SWEEPS[0][0], 200)
    found = real_cloud(tmp_path)
    assert found.name.startswith(REAL_SWEEPS[0][1])
    assert len(found.points) == 200


def test_a_folder_without_any_sweep_names_all_it_looked_for(tmp_path):
    with pytest.raises(FormatError, match="name a sweep with --cloud") as error:
        real_cloud(tmp_path)
    assert all(str(path) in str(error.value) for path, _ in REAL_SWEEPS)


@pytest.mark.slow
def test_the_simulated_sweep_is_as_large_as_a_real_one():
    cloud = simulated_cloud()
    assert len(cloud.points) > 80_000
    assert 40_000 < len(Scene.of(cloud).coords) < 150_000
