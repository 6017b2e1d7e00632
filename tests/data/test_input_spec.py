"""What is measured of a cloud, and when it counts as different from the training set."""

import json
from dataclasses import asdict, replace

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


def test_a_cloud_of_the_same_kind_differs_in_nothing():
    assert SPEC.differences(CloudFacts.of(*scene(-1.8, seed=9))) == []


def test_each_difference_is_named():
    points, intensity = scene()
    higher = SPEC.differences(CloudFacts.of(points + np.float32([0, 0, 3.0]), intensity))
    assert len(higher) == 1
    assert "z = 1.3" in higher[0]
    assert "--z-offset -3.0" in higher[0]
    sparse = SPEC.differences(CloudFacts.of(points[::20], intensity[::20]))
    assert any("points in a ground cell" in text for text in sparse)
    assert SPEC.differences(CloudFacts.of(points, None)) == [
        "the file has no intensity: 0 is used for every point"
    ]
    assert "0 throughout" in SPEC.differences(CloudFacts.of(points, 0 * intensity))[0]
    far = SPEC.differences(CloudFacts.of(points + np.float32([500, 0, 0]), intensity))
    assert any("origin" in text for text in far)


def test_an_empty_cloud_differs_in_nothing_worth_saying():
    facts = CloudFacts.of(np.zeros((0, 3), np.float32), np.zeros(0, np.float32))
    assert facts.n_points == 0
    assert SPEC.differences(facts) == []


def test_unknown_facts_of_the_spec_are_not_compared():
    spec = replace(SPEC, ground_height=None, near_density=None)
    assert spec.differences(CloudFacts.of(*scene(30.0))) == []
