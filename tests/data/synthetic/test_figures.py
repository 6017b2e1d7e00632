"""The figures of a sweep against loops over its points, and sweeps that are refused."""

from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest

from pcsparse.data.synthetic.band import judge
from pcsparse.data.synthetic.figures import (
    HEIGHTS,
    LEVELS,
    REACHES,
    RINGS,
    Turn,
    angles_aside,
    heights,
    make_turn,
    measure,
    ring_angles,
)  # fmt: skip
from pcsparse.data.synthetic.sensor import Sensor
from pcsparse.data.synthetic.stats import pairs_a_voxel, voxels
from pcsparse.errors import FormatError

ANGLES = (6.0, 2.0, -1.0, -3.0, -6.0, -10.0, -14.0, -18.0)
SENSOR = Sensor("test", ANGLES, 400, 0.0, 0.1, 1.7)


def sweep(seed: int = 3, *, keep: float = 0.8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points of `SENSOR` ring by ring with rising azimuth, their intensity and rings, some pulses lost."""
    rng = np.random.default_rng(seed)
    azimuth = np.tile((np.arange(400) + 0.5) * (2 * np.pi / 400), 8)
    ring = np.repeat(np.arange(8), 400)
    tilt = np.radians(ANGLES)[ring]
    flat = np.where(tilt < -0.03, 1.7 / np.tan(np.maximum(-tilt, 1e-3)), 75.0)
    far = np.minimum(flat / np.cos(tilt), rng.uniform(2.0, 70.0, len(ring)))
    rows = rng.random(len(ring)) < keep
    points = np.stack([np.cos(tilt) * np.cos(azimuth), np.cos(tilt) * np.sin(azimuth), np.sin(tilt)], 1)
    light = rng.integers(0, 100, len(ring)) / 100
    return (points * far[:, None])[rows].astype(np.float32), light[rows].astype(np.float32), ring[rows]


@pytest.fixture(scope="module")
def turn() -> Turn:
    points, light, _ = sweep()
    return make_turn(points, light, None, SENSOR, "a sweep")


@pytest.fixture(scope="module")
def found(turn: Turn) -> dict[str, float]:
    return {figure.name: value for figure, value in measure(turn, SENSOR)}


@pytest.mark.parametrize(
    ("aside", "failing"),
    [
        ([0.003] * 8, []),
        ([0.006] * 8, ["rms"]),
        ([0.0] * 7 + [0.0105], ["at most"]),
        ([0.02] * 8, ["rms", "at most"]),
    ],
)
def test_all_beams_a_little_aside_and_one_beam_far_aside_are_told_apart(
    turn: Turn, aside: list[float], failing: list[str]
) -> None:
    tilted = replace(SENSOR, elevations=tuple(np.array(ANGLES) + aside))
    figures, values = zip(*measure(turn, tilted), strict=True)
    verdicts = judge(figures, np.array([values]), np.array([values]))
    beams = [verdict for verdict in verdicts if verdict.figure.group == "beams"]
    assert len(beams) == 3
    assert [v.figure.name.partition(", ")[2] for v in beams if not v.holds] == failing


def test_beams_are_found_by_the_turns_of_the_azimuth(turn: Turn, found: dict[str, float]) -> None:
    points, _, ring = sweep()
    np.testing.assert_array_equal(turn.ring, ring)
    np.testing.assert_allclose(ring_angles(turn, SENSOR), ANGLES, atol=1e-4)
    assert found["rings"] == 8
    assert found["ring angles off the preset, rms"] == pytest.approx(0.0, abs=1e-4)
    assert found["ring angles off the preset, at most"] == pytest.approx(0.0, abs=2e-4)
    assert found["azimuth step, median"] == pytest.approx(0.9, abs=1e-3)
    assert found["points"] == len(points)
    assert found["missing share"] == pytest.approx(100 * (1 - len(points) / 3200))
    assert found["returns of the fullest ring"] == max(np.sum(ring == k) for k in range(8))
    counts = [np.sum(ring == k) for k in range(8)]
    missing = [value for name, value in found.items() if name.startswith("missing from")]
    np.testing.assert_allclose(missing, [100 * (1 - count / 400) for count in counts])


def test_angles_are_taken_from_where_each_beam_leaves(turn: Turn) -> None:
    lifts = np.linspace(0.3, 0.1, 8)
    raised = turn.points + np.array([0, 0, 1]) * lifts[turn.ring][:, None].astype(np.float32)
    sensor = replace(SENSOR, lifts=tuple(lifts.tolist()))
    np.testing.assert_allclose(ring_angles(replace(turn, points=raised), sensor), ANGLES, atol=1e-3)
    # a preset that turns its beams up by a tenth of a degree is found out
    other = replace(sensor, elevations=tuple(angle + 0.1 for angle in ANGLES))
    np.testing.assert_allclose(angles_aside(replace(turn, points=raised), other), -0.1, atol=1e-3)


def test_what_the_cars_motion_tilts_is_no_angle_of_a_beam(turn: Turn) -> None:
    since = SENSOR.phases(np.arctan2(turn.points[:, 1], turn.points[:, 0]))
    # 2 m a turn along x, and something hides one side: the median alone would be off
    seen = (np.abs(since) > 0.02) | (since > 0)
    moved = turn.points + (2.0 * since)[:, None].astype(np.float32) * np.array([1, 0, 0], np.float32)
    one_sided = Turn(moved[seen], turn.intensity[seen], turn.ring[seen])
    found = ring_angles(one_sided, SENSOR)
    # of the lowest too few points are left
    np.testing.assert_allclose(found[:7], ANGLES[:7], atol=1e-3)


def test_a_ring_column_may_count_from_below_and_firing_by_firing(turn: Turn) -> None:
    points, light, ring = sweep()
    order = np.random.default_rng(1).permutation(len(points))
    other = make_turn(points[order], light[order], 7 - ring[order], SENSOR, "a sweep")
    np.testing.assert_array_equal(other.ring, ring[order])
    for (figure, ours), (_, theirs) in zip(measure(other, SENSOR), measure(turn, SENSOR), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5), figure.name


def test_ranges_light_and_density_are_those_of_plain_loops(turn: Turn, found: dict[str, float]) -> None:
    points, light = turn.points.astype(float), turn.intensity.astype(float)
    far = np.sqrt((points**2).sum(1))
    flat = np.sqrt((points[:, :2] ** 2).sum(1))
    for p in (1, 5, 25, 50, 75, 95, 99):
        # linear between the two points in question
        at = p / 100 * (len(far) - 1)
        low, high = np.sort(far)[[int(at), min(int(at) + 1, len(far) - 1)]]
        assert found[f"range, {p} %"] == pytest.approx(low + (at - int(at)) * (high - low), rel=1e-4)
    assert found["intensity, mean"] == pytest.approx(sum(light) / len(light), rel=1e-5)
    spread = (sum((value - sum(light) / len(light)) ** 2 for value in light) / len(light)) ** 0.5
    assert found["intensity, standard deviation"] == pytest.approx(spread, rel=1e-5)
    assert found["intensity, share of zeros"] == pytest.approx(100 * sum(light == 0) / len(light))
    for low, high in pairwise(REACHES):
        here = [value for value, d in zip(light, far, strict=True) if low <= d < high]
        assert found[f"intensity from {low:g} to {high:g} m"] == pytest.approx(
            sum(here) / len(here), rel=1e-4
        )
    for low, high in pairwise(RINGS):
        count = sum(low <= d < high for d in flat)
        density = count / (np.pi * high**2 - np.pi * low**2)
        assert found[f"density from {low:g} to {high:g} m"] == pytest.approx(density)


def test_heights_are_those_over_the_lowest_cell_around(turn: Turn, found: dict[str, float]) -> None:
    points = np.random.default_rng(2).uniform([-6, -6, -2], [6, 6, 3], (1500, 3)).astype(np.float32)
    cells: dict[tuple[int, int], list[float]] = {}
    for x, y, z in points.tolist():
        cells.setdefault((int(x // 2), int(y // 2)), []).append(z)
    ground = {cell: sorted(zs)[int(0.05 * len(zs))] for cell, zs in cells.items()}
    for above, (x, y, z) in zip(heights(points), points.tolist(), strict=True):
        around = [(int(x // 2) + i, int(y // 2) + j) for i, j in product((-1, 0, 1), repeat=2)]
        assert above == pytest.approx(z - min(ground[cell] for cell in around if cell in ground), abs=1e-6)
    shares = [value for name, value in found.items() if name.endswith("over ground")]
    assert sum(shares) == pytest.approx(100.0)
    inside = np.mean([HEIGHTS[4] <= value < HEIGHTS[5] for value in heights(turn.points)])
    assert found["points 1 to 2 m over ground"] == pytest.approx(100 * inside)


def test_pairs_are_counted_at_five_levels(turn: Turn, found: dict[str, float]) -> None:
    for size in LEVELS:
        cells = {tuple(int(np.floor(float(v) / size)) for v in point) for point in turn.points}
        pairs = sum(
            (x + i, y + j, z + k) in cells for x, y, z in cells for i, j, k in product((-1, 0, 1), repeat=3)
        )
        assert pairs_a_voxel(turn.points, size) == (len(cells), pytest.approx(pairs / len(cells)))
        assert found[f"pairs a voxel at {100 * size:g} cm"] == pytest.approx(pairs / len(cells))
        assert voxels(turn.points, size) == len(cells)
    assert found["voxels of 20 cm"] == voxels(turn.points, 0.2)


def test_points_nearer_than_the_sensor_measures_are_left_out(turn: Turn) -> None:
    points, light, ring = sweep()
    # nuScenes writes a pulse that never came back as a point beside the sensor
    points = np.concatenate([points, np.full((50, 3), 0.2, np.float32)])
    light, ring = np.append(light, np.ones(50, np.float32)), np.append(ring, np.zeros(50, int))
    assert len(make_turn(points, light, ring, SENSOR, "a sweep")) == len(turn)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda p, i, r: (p * 0.001, i, r), "none of them 1 m away"),
        (lambda p, i, r: (p[:0], i[:0], r[:0]), "0 points"),
        (lambda p, i, r: (p[r < 5], i[r < 5], None), r"5 beams, test has 8: another sensor \(--sensor\)"),
        (lambda p, i, r: (p[p[:, 0] > 0], i[p[:, 0] > 0], r[p[:, 0] > 0]), "179 degrees, no whole turn"),
    ],
    ids=["near", "empty", "beams", "crop"],
)
def test_what_is_no_sweep_of_the_sensor_is_refused(change, told: str) -> None:
    with pytest.raises(FormatError, match=told) as caught:
        make_turn(*change(*sweep()), SENSOR, "street.bin")
    assert "street.bin" in str(caught.value)
