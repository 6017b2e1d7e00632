"""The benchmark of neighbours: what it checks, and that nothing wrong gets a time."""

import pytest
import torch

from pcsparse.bench import neighbours as module
from pcsparse.bench.clouds import small_cloud
from pcsparse.bench.neighbours import CASES, OURS, neighbour_table, run_neighbours
from pcsparse.bench.scene import Scene


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene.of(small_cloud(), 0.2)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_case_is_right_and_timed_beside_another(case, scene):
    result = run_neighbours(case, scene, 1)
    assert result.check.passed
    assert len(result.times) == 2
    assert f"{1e3 * result.times[OURS].median:.1f}" in neighbour_table((result,))


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_wrong_result_has_no_time(case, scene, monkeypatch):
    right = module._search

    def wrong(case, points, asking):
        return right(case, points, asking) * (1 + 1e-9)

    monkeypatch.setattr(module, "_search", wrong)
    monkeypatch.setattr(module, "farthest_points", lambda points, k: torch.arange(k))
    result = run_neighbours(case, scene, 1)
    assert not result.check.passed
    assert not result.times
    assert "WRONG" in neighbour_table((result,))
