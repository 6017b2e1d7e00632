"""The JSON file."""

import json
from dataclasses import replace
from math import inf, nan

from pcsparse.bench.outcome import Outcome
from pcsparse.bench.redundancy import RedundancyResult
from pcsparse.bench.report import Report
from pcsparse.bench.verify import Check
from pcsparse.timing import environment
from tests.bench.test_tables import BAD, GROUPED, LIMITS, RIGHT, WRONG

REPORT = Report(environment(), "a cloud", 10, 9, 30, 0.05, LIMITS)


def test_json_holds_times_and_nulls_and_is_strict(tmp_path):
    path = tmp_path / "new" / "bench.json"
    lost = replace(WRONG, ours=Outcome("pcsparse", (Check("x", inf, 0.0), Check("y", nan, 0.0)), None))

    replace(REPORT, layers=(RIGHT, lost)).write(path)

    def no_constant(name):
        raise AssertionError(f"{name} is not JSON")

    read = json.loads(path.read_text(), parse_constant=no_constant)
    assert read["format"] == 3
    assert read["reference_limits"] == {"bandwidth": 39e9, "fma": 470e9, "dot": 880e9}
    assert read["settle"] == 0
    assert read["environment"]["commit"] == REPORT.environment.commit
    right, wrong = read["layers"]
    assert right["ours"]["time"] == {"median": 0.010, "q1": 0.009, "q3": 0.012, "runs": 20}
    assert (right["goal"], right["scaled_goal"]) == (0.008, 0.0125)
    assert right["peak_goal"] == RIGHT.goal_at(LIMITS) > 0.1
    assert wrong["peak_goal"] is None
    assert wrong["ours"]["time"] is None
    assert [check["error"] for check in wrong["ours"]["checks"]] == ["inf", "nan"]
    assert [child.name for child in path.parent.iterdir()] == ["bench.json"]


def test_failures_of_the_package_are_found_in_every_section():
    sections = {
        "maps": (WRONG,),
        "layers": (WRONG,),
        "nets": (WRONG,),
        "steps": (WRONG,),
        "dataflows": (replace(WRONG, peers=()),),
        "groupings": (replace(GROUPED, check=BAD, time=None),),
        "redundancy": (RedundancyResult("none", 1, 64, BAD, None, None),),
    }
    # a wrong peer is no failure of the package
    assert replace(REPORT, layers=(RIGHT,), groupings=(GROUPED,)).failures() == ()
    # but a dataflow in a peer's place is
    assert replace(REPORT, dataflows=(RIGHT,)).failures() == (BAD,)
    for name, results in sections.items():
        assert replace(REPORT, **{name: results}).failures() == (BAD,), name
