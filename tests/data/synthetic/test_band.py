"""When simulated sweeps lie among real ones."""

import numpy as np
import pytest

from pcsparse.data.synthetic.band import band, judge
from pcsparse.data.synthetic.figures import ANGLE_TOLERANCE, RMS_TOLERANCE, Figure
from pcsparse.errors import RangeError

FIGURE = Figure("points", "", 0)


def verdict(real: list[float], simulated: list[float], figure: Figure = FIGURE):
    return judge([figure], np.array(real)[:, None], np.array(simulated)[:, None])[0]


def test_a_band_is_widened_outwards_by_a_tenth() -> None:
    assert band([10.0, 20.0, 15.0]) == pytest.approx((9.0, 22.0))
    assert band([-10.0, 20.0]) == pytest.approx((-11.0, 22.0))
    assert band([-4.0, -2.0]) == pytest.approx((-4.4, -1.8))
    assert band([3.0, float("nan")]) == pytest.approx((2.7, 3.3))


@pytest.mark.parametrize(
    ("simulated", "share", "reason"),
    [
        ([10.0, 12.0, 21.9, 9.1, 22.1], 0.8, ""),
        ([9.0, 22.0], 1.0, ""),
        ([15.0, 15.0, 15.0, 8.0, 8.0], 0.6, ""),
        ([15.0, 15.0, 8.0, 8.0, 22.5], 0.4, "too few sweeps"),
        ([8.0, 8.9, 9.1, 9.2], 0.5, "mean too low"),
        ([20.0, 21.0, 60.0], 2 / 3, "mean too high"),
        ([15.0, float("nan"), float("nan")], 1 / 3, "too few sweeps"),
        ([float("nan")], 0.0, "not measured"),
    ],
)  # fmt: skip
def test_the_mean_and_three_fifths_of_the_sweeps_must_lie_inside(
    simulated: list[float], share: float, reason: str
) -> None:
    found = verdict([10.0, 20.0], simulated)
    assert found.share == pytest.approx(share)
    assert found.reason == reason
    assert found.holds == (reason == "")


def test_what_no_real_sweep_has_no_simulated_one_should_have() -> None:
    nan = float("nan")
    assert verdict([nan, nan], [nan, nan]).holds
    there = verdict([nan, nan], [3.0, nan, 4.0])
    assert not there.holds
    assert there.reason == "not measured"
    assert there.share == pytest.approx(1 / 3)


@pytest.mark.parametrize("tolerance", [ANGLE_TOLERANCE, RMS_TOLERANCE])
def test_beams_must_be_exact_in_real_sweeps_and_in_simulated_ones(tolerance: float) -> None:
    angles = Figure("ring angles off the preset", "deg", 4, "beams", tolerance)
    assert verdict([0.003, 0.001], [0.001, 0.002], angles).holds
    off = verdict([0.003, 0.001], [0.001, tolerance + 0.001], angles)
    assert not off.holds
    assert off.reason == "too few sweeps"
    other = verdict([0.003, tolerance + 0.001], [0.001, 0.002], angles)
    assert not other.holds
    assert other.reason == "real ones differ"
    assert verdict([64.0], [64.0, 64.0], Figure("rings", "", 0, "beams")).holds


def test_figures_and_values_must_fit() -> None:
    with pytest.raises(RangeError, match=r"of 1 figures.*\(2, 2\) and \(1, 1\)"):
        judge([FIGURE], np.zeros((2, 2)), np.zeros((1, 1)))
    with pytest.raises(RangeError, match="at least one real"):
        judge([FIGURE], np.zeros((0, 1)), np.zeros((1, 1)))
