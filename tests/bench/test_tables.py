"""Tables."""

import re
from dataclasses import replace

from pcsparse.bench.ablation_tables import grouping_table, redundancy_table
from pcsparse.bench.groupings import GroupingResult
from pcsparse.bench.limits import Limits, Work
from pcsparse.bench.outcome import Outcome, Result
from pcsparse.bench.redundancy import RedundancyResult
from pcsparse.bench.tables import peer_table, result_table, table
from pcsparse.bench.verify import Check
from pcsparse.timing import Timing

LIMITS = Limits(bandwidth=1e9, fma=1e11)
# two pieces one after the other: 1 ms of arithmetic, then 3 ms of movement
WORKS = (Work(1e8, 0.0), Work(0.0, 3e6))
GOOD, BAD = Check("out", 1e-7, 1e-6), Check("out", 0.25, 1e-6)
TIME, SLOW = Timing(0.010, 0.009, 0.012, 20), Timing(0.030, 0.029, 0.031, 20)
PEERS = (
    Outcome("torch", (GOOD,), SLOW),
    Outcome("racy", (BAD,), None),
    Outcome("half", (), None, "no backward pass on a CPU"),
)
RIGHT = Result("right", Outcome("pcsparse", (GOOD,), TIME), PEERS, WORKS, 0.008, 0.0125)
WRONG = Result("wrong", Outcome("pcsparse", (GOOD, BAD), None), PEERS, WORKS)
GROUPED = GroupingResult(
    "one padded group", 32, None, None, 1, 1, 0.5, GOOD, Timing(0.2, 0.1, 0.3, 9), WORKS[0]
)


def test_columns_align():
    assert table(("a", "bb"), [("long", "1"), ("x", "222")]).splitlines() == [
        "a      bb",
        "----  ---",
        "long    1",
        "x     222",
    ]


def test_a_right_case_shows_goal_floor_and_share_of_the_peak():
    line = result_table([RIGHT], LIMITS).splitlines()[2].split()
    # the floor is 4 ms here; where goals were set 1e8 operations take 0.213 ms and 3e6 bytes 0.077, so the
    # goal grows by 13.81. 1e8 operations in 10 ms are a tenth of the peak
    assert line == [
        *("right", "10.00", "9.00-12.00", "8.00", "12.50", "0.80", "173", "0.06"),
        *("4.00", "2.5", "10%", "0.100", "20"),
    ]


def test_where_there_is_a_goal_a_line_says_how_it_moves_with_the_machine():
    (note,) = [line for line in result_table([RIGHT], LIMITS).splitlines() if "here = " in line]
    assert "470 GFLOP/s" in note
    assert "harsher on a faster one, milder on a slower one" in note
    assert "harsher" not in result_table([WRONG], LIMITS)


def test_a_wrong_case_shows_its_error_and_no_time():
    text = result_table([RIGHT, WRONG], LIMITS)
    (line,) = [line for line in text.splitlines() if "wrong" in line]
    assert line == "FAILED  wrong: out is off by 0.25, allowed is 1e-06; not timed"


def test_a_skipped_case_says_why():
    skipped = Result("fused", Outcome("pcsparse", (), None, "no fuse()"), (), WORKS)
    header, _, line = result_table([skipped], LIMITS).splitlines()
    assert "skipped: no fuse()" in line
    # every column is there
    assert len(line.replace("skipped: no fuse()", "skipped").split()) == 13
    assert len(re.split("  +", header)) == 13


def test_peers_stand_beside_the_package_and_a_wrong_one_has_no_number():
    lines = peer_table([RIGHT, WRONG]).splitlines()
    assert lines[0].split() == ["case", "pcsparse", "torch", "racy", "half"]
    assert lines[2].split() == ["right", "10.00", "30.00", "(3.00)", "WRONG", "impossible"]
    assert "WRONG  racy, out is off by 0.25, allowed is 1e-06; not timed: right, wrong" in lines
    assert "impossible  half, no backward pass on a CPU: right, wrong" in lines
    # the package itself failed, so nothing of that case has a time
    assert not any(line.startswith("wrong") for line in lines)


def test_a_wrong_grouping_and_a_wrong_share_show_no_number():
    adaptive = replace(GROUPED, name="adaptive", epsilon=0.1, batch_below=0)
    text = grouping_table([GROUPED, replace(adaptive, check=BAD, time=None), adaptive], LIMITS)
    assert "200 " in text
    assert text.count("FAILED") == 2
    assert "FAILED  adaptive: out is off by 0.25" in text
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
