"""The model whose sweeps are most like a cloud."""

import numpy as np
import pytest

from pcsparse.data.input_spec import CloudFacts, InputSpec
from pcsparse.data.placement import Placement
from pcsparse.data.point_cloud import PointCloud
from pcsparse.errors import RangeError
from pcsparse.infer.choice import choose
from pcsparse.infer.inspect import CloudReport
from tests.infer.sweeps import walled_street


def _every(n):
    # laser by laser, as a sensor with fewer would see it
    return walled_street().reshape(64, 300, 4)[::n].reshape(-1, 4)


def _spec(rows):
    return InputSpec.of([CloudFacts.of(rows[:, :3], rows[:, 3])])


SPECS = {"sixty-four": _spec(walled_street()), "thirty-two": _spec(_every(2))}


def _report(tmp_path, rows):
    n = len(rows)
    cloud = PointCloud(rows[:, :3], np.zeros(3), rows[:, 3], None, np.arange(n), n, tmp_path / "c.npy")
    return CloudReport.of(cloud, Placement(), 0.1)


@pytest.mark.parametrize(
    ("rows", "name"),
    [
        (walled_street(seed=1), "sixty-four"),
        (_every(2), "thirty-two"),
        (_every(4), "thirty-two"),
        (walled_street(columns=600), "sixty-four"),
    ],
)
def test_the_nearer_one_is_chosen_in_any_order(tmp_path, rows, name):
    report = _report(tmp_path, rows)
    assert choose(report, SPECS).name == name
    assert choose(report, dict(reversed(SPECS.items()))).name == name


def test_a_view_to_the_front_is_no_sparser_sensor(tmp_path):
    rows = walled_street()
    rows = rows[np.abs(np.degrees(np.arctan2(rows[:, 1], rows[:, 0]))) < 40]
    choice = choose(_report(tmp_path, rows), SPECS)
    assert choice.name == "sixty-four"
    assert "in 80 degrees of 64 lasers" in choice.reason


def test_the_reason_holds_the_values(tmp_path):
    reason = choose(_report(tmp_path, _every(2)), SPECS).reason
    density = SPECS["thirty-two"].near_density
    seen, own, other = reason.split("; ")
    assert seen == f"9600 points of 32 lasers, {density:.1f} a ground cell"
    assert own == f"its own sweeps: 9600, {density:.1f} a cell"
    assert other.startswith("sixty-four: 19200, ")


def test_points_alone_decide_where_there_is_no_density(tmp_path):
    rows = walled_street()
    far = rows[np.hypot(rows[:, 0], rows[:, 1]) > 20]
    assert len(far) > 300
    sparse = InputSpec(-1.7, 9.0, 60.0, 0.7, len(far))
    choice = choose(_report(tmp_path, far), {"dense": SPECS["sixty-four"], "sparse": sparse})
    assert choice.name == "sparse"


@pytest.mark.parametrize("n", [0, 100])
def test_few_points_tell_nothing_and_get_the_first(tmp_path, n):
    report = _report(tmp_path, _every(2)[:n])
    choice = choose(report, SPECS)
    assert (choice.name, choice.reason) == ("sixty-four", f"{n} points do not tell which sensor it was")


def test_one_is_chosen_and_none_is_an_error(tmp_path):
    report = _report(tmp_path, _every(2))
    assert choose(report, {"sixty-four": SPECS["sixty-four"]}).name == "sixty-four"
    with pytest.raises(RangeError, match="no models"):
        choose(report, {})
