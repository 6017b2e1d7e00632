"""Tables and the JSON file."""

import json
from dataclasses import replace
from math import inf, nan

from pcsparse.bench.groupings import GroupingResult
from pcsparse.bench.layers import Result
from pcsparse.bench.limits import Limits, Work
from pcsparse.bench.redundancy import RedundancyResult
from pcsparse.bench.report import Report, grouping_table, redundancy_table, result_table, table
from pcsparse.bench.verify import Check
from pcsparse.timing import Timing, environment

LIMITS = Limits(bandwidth=1e9, fma=1e11)
# two pieces one after the other: 1 ms of arithmetic, then 3 ms of movement
WORKS = (Work(1e8, 0.0), Work(0.0, 3e6))
GOOD, BAD = Check("pcsparse: out", 1e-7, 1e-6), Check("pcsparse: out", 0.25, 1e-6)
RIGHT = Result("right", (GOOD,), Timing(0.010, 0.009, 0.012, 20), Timing(0.030, 0.029, 0.031, 20), WORKS)
WRONG = Result("wrong", (GOOD, BAD), None, None, WORKS)
GROUPED = GroupingResult(
    "one padded group", 32, None, None, 1, 1, 0.5, GOOD, Timing(0.2, 0.1, 0.3, 9), WORKS[0]
)
REPORT = Report(environment(), "a cloud", 10, 9, 30, 0.05, LIMITS)


def test_columns_align():
    assert table(("a", "bb"), [("long", "1"), ("x", "222")]).splitlines() == [
        "a      bb",
        "----  ---",
        "long    1",
        "x     222",
    ]


def test_a_right_case_shows_ratio_and_floor():
    line = result_table([RIGHT], LIMITS).splitlines()[2].split()
    assert line == [
        "right",
        "10.00",
        "9.00-12.00",
        "30.00",
        "29.00-31.00",
        "3.00",
        "4.00",
        "2.5",
        "0.100",
        "20",
    ]


def test_a_wrong_case_shows_its_error_and_no_time():
    text = result_table([RIGHT, WRONG], LIMITS)
    (line,) = [line for line in text.splitlines() if "wrong" in line]
    assert line == "FAILED  wrong: pcsparse: out is off by 0.25, allowed is 1e-06; not timed"


def test_a_wrong_grouping_and_a_wrong_share_show_no_number():
    adaptive = replace(GROUPED, name="adaptive", epsilon=0.1, batch_below=0)
    text = grouping_table([GROUPED, replace(adaptive, check=BAD, time=None), adaptive], LIMITS)
    assert "200 " in text
    assert text.count("FAILED") == 2
    assert "FAILED  adaptive: pcsparse: out is off by 0.25" in text
    shown = redundancy_table(
        [RedundancyResult("none", 1, 64, GOOD, 0.5, 2.0), RedundancyResult("none", 1, 128, BAD, None, None)]
    )
    assert "50.0% (2.00x)" in shown
    assert "FAILED" in shown.splitlines()[2]


def test_the_best_of_the_grid_is_the_fastest_that_passed():
    def cell(epsilon, median, check=GOOD):
        timing = None if check is BAD else Timing(median, median, median, 3)
        name = f"adaptive epsilon={epsilon}"
        return replace(GROUPED, name=name, epsilon=epsilon, batch_below=0, check=check, time=timing)

    text = grouping_table([cell(0.0, 3.0), cell(0.1, 1.0), cell(0.2, 0.5, BAD), cell(0.3, 2.0)], LIMITS)
    assert "best: adaptive epsilon=0.1 " in text
    assert "default: adaptive epsilon=0.3 " in text


def test_json_holds_times_and_nulls_and_is_strict(tmp_path):
    path = tmp_path / "new" / "bench.json"
    lost = replace(WRONG, checks=(Check("x", inf, 0.0), Check("y", nan, 0.0)))

    replace(REPORT, layers=(RIGHT, lost)).write(path)

    def no_constant(name):
        raise AssertionError(f"{name} is not JSON")

    read = json.loads(path.read_text(), parse_constant=no_constant)
    assert read["format"] == 1
    assert read["environment"]["commit"] == REPORT.environment.commit
    right, wrong = read["layers"]
    assert right["ours"] == {"median": 0.010, "q1": 0.009, "q3": 0.012, "runs": 20}
    assert (wrong["ours"], wrong["peer"]) == (None, None)
    assert [check["error"] for check in wrong["checks"]] == ["inf", "nan"]
    assert [child.name for child in path.parent.iterdir()] == ["bench.json"]


def test_failures_are_found_in_every_section():
    empty = RedundancyResult("none", 1, 64, BAD, None, None)
    sections = {
        "maps": (WRONG,),
        "layers": (WRONG,),
        "nets": (WRONG,),
        "groupings": (replace(GROUPED, check=BAD, time=None),),
        "redundancy": (empty,),
    }
    assert replace(REPORT, layers=(RIGHT,), groupings=(GROUPED,)).failures() == ()
    for name, results in sections.items():
        assert replace(REPORT, **{name: results}).failures() == (BAD,), name
