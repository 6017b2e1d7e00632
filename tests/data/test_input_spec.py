"""What is measured of a cloud, and what is kept of a training set."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from pcsparse.data.input_spec import CloudFacts, InputSpec
from pcsparse.errors import RangeError


def scene(height=-1.7, n=40_000, seed=0):
    """Flat ground at `height` under walls that rise from it."""
    rng = np.random.default_rng(seed)
    points = rng.uniform([-15, -15, 0], [15, 15, 0.02], (n, 3)).astype(np.float32)
    walls = rng.random(n) < 0.3
    points[walls, 2] += rng.uniform(0, 4, int(walls.sum()))
    points[:, 2] += height
    return points, rng.random(n, dtype=np.float32)


SPEC = InputSpec.of([CloudFacts.of(*scene(seed=seed)) for seed in range(3)])


def test_ground_is_found_under_walls():
    assert CloudFacts.of(*scene(-1.7)).ground_height == pytest.approx(-1.7, abs=0.05)
    assert CloudFacts.of(*scene(40.0)).ground_height == pytest.approx(40.0, abs=0.05)


def test_invalid_points_do_not_count():
    points, intensity = scene()
    broken = np.concatenate([points, np.full((100, 3), np.nan, np.float32)])
    facts = CloudFacts.of(broken, np.concatenate([intensity, np.full(100, 5.0, np.float32)]))
    assert facts == CloudFacts.of(points, intensity)


def test_the_spec_survives_json():
    assert InputSpec(**json.loads(json.dumps(asdict(SPEC)))) == SPEC
    with pytest.raises(RangeError):
        InputSpec.of([])


def test_the_empty_cloud_has_facts():
    facts = CloudFacts.of(np.zeros((0, 3), np.float32), np.zeros(0, np.float32))
    assert (facts.n_points, facts.ground_height, facts.reach) == (0, None, 0.0)
