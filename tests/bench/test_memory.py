"""Peak memory of a fresh process."""

from dataclasses import replace

import pytest
import torch

from pcsparse.bench import memory
from pcsparse.bench.cases import MEMORY_GOAL, NetCase
from pcsparse.bench.memory import peak_bytes, run_memory_case
from pcsparse.errors import UnsupportedError
from pcsparse.models import MinkUNetSpec
from tests.bench.scenes import small_scene

CASE = NetCase("tiny", MinkUNetSpec.minkunet14(width=0.125), True, ("ci",))
MEBIBYTE = 1 << 20


def test_a_large_tensor_raises_the_peak_of_its_own_process():
    # more than any test before it has touched
    block = torch.ones(300 * MEBIBYTE)
    assert peak_bytes() > block.numel() * block.element_size()


@pytest.mark.slow
def test_the_fresh_process_does_not_inherit_this_ones_peak():
    # larger than the tiny network and torch together
    block = torch.ones(300 * MEBIBYTE)
    result = run_memory_case(CASE, small_scene(400))
    assert 100e6 < result.before <= result.peak < block.numel() * block.element_size()
    assert result.goal == result.scaled_goal == MEMORY_GOAL
    assert "GB" in str(result)


def test_the_fresh_process_keeps_freed_memory_as_the_timed_one_does(tmp_path, monkeypatch):
    done = []
    step = memory.training_step
    monkeypatch.setattr(memory, "keep_freed_memory", lambda: done.append("keep"))
    monkeypatch.setattr(memory, "training_step", lambda *given: done.append("step") or step(*given))
    scene, path = small_scene(100), tmp_path / "scene.pt"
    torch.save((scene.tensor.feats, scene.coords), path)
    memory._train([str(path), CASE.spec.to_json(), str(torch.get_num_threads()), "0"])
    assert done == ["keep", "step"]


@pytest.mark.slow
def test_a_process_that_dies_is_an_error():
    # the scene has four features a voxel
    seven = MinkUNetSpec.minkunet14(in_channels=7, width=0.125)
    with pytest.raises(UnsupportedError, match="fresh process failed"):
        run_memory_case(replace(CASE, spec=seven), small_scene(100))
