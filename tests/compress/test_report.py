"""What a compression's report shows of facts that are made up, and that the facts survive a file."""

import json
import re
from dataclasses import replace

import pytest

from pcsparse.compress.chosen import Choice, ChosenStep, choice_of
from pcsparse.compress.measured import LayerPair, LayerSide, SweepPair
from pcsparse.compress.report import write_report
from pcsparse.compress.report_facts import Measured, NetworkFacts, ReportFacts, Score
from pcsparse.compress.report_page import report_html
from pcsparse.compress.search.interface import search
from pcsparse.compress.search.random_search import RandomSearch
from pcsparse.compress.sensitivity_table import Evaluation, Point, SensitivityTable
from pcsparse.errors import FormatError
from pcsparse.timing import Timing
from tests.compress.search.spaces import additive, chain


def time(ms):
    return Timing(ms / 1e3, 0.99 * ms / 1e3, 1.01 * ms / 1e3, 20)


def side(c_in, c_out, macs, ms, k=27, rows=1000):
    return LayerSide(c_in, c_out, k, macs, time(ms), rows)


LAYERS = (
    LayerPair("stem<0>", "conv", side(4, 16, 2_000_000, 1.0), side(4, 8, 1_000_000, 0.6)),
    LayerPair("deep", "conv", side(16, 16, 4_000_000, 2.0), side(8, 8, 1_000_000, 2.0, 13, 250)),
    LayerPair("gone", "conv", side(16, 16, 1_000_000, 0.5), None),
)
NETWORKS = (
    NetworkFacts("dense", False, 1_000, 4_400, "float32", 7e6, Score(0.6, 0.5, 0.7), None),
    NetworkFacts(
        "tuned",
        True,
        500,
        1_200,
        "float16",
        2e6,
        Score(0.58, 0.48, 0.69),
        Score(-0.02, -0.05, 0.01),
        Score(-0.03, -0.06, 0.0),
    ),
)
MEASURED = Measured(
    environment="a machine & its versions",
    busy=False,
    metric="mean IoU",
    networks=NETWORKS,
    sweeps=tuple(
        SweepPair(n, time(1.5), time(1.0), time(4.0), time(3.0), time(5.0), time(4.0))
        for n in (100, 250, 400)
    ),
    layers=LAYERS,
    predicted=(0.7, 1.1, None),
)
CHOICE = Choice(
    method="amc", seed=3, note="a note", unit="ms", budget=4.0, full_cost=5.0, cost=3.9, score=0.5,
    dense_score=0.61, evaluations=12, scanned=7,
    steps=(
        ChosenStep("stem<0>", "stem<0> → deep", 16, 8, 0.4, 1.25, 0.034),
        ChosenStep("deep", "deep → head", 16, 16, 0.6, 0.0, None),
    ),
)  # fmt: skip
FACTS = ReportFacts("small: faster", "pcsparse compress x=<y>", ("a <note>",), CHOICE, MEASURED)


def rows(page, number):
    """Cells of a table's rows, without markup."""
    table = re.findall(r"<table>.*?</table>", page, re.DOTALL)[number]
    found = re.findall(r"<tr[^>]*>(.*?)</tr>", table, re.DOTALL)[1:]
    return [[re.sub(r"<[^>]+>", "", c) for c in re.findall(r"<td[^>]*>(.*?)</td>", row)] for row in found]


def test_the_page_says_what_was_measured_and_marks_idle_layers():
    page = report_html(FACTS, {"report.png": b"png", "search.png": b"search"})
    dense, tuned = rows(page, 0)
    assert dense[:4] == ["dense", "60.00 (50.00 to 70.00)", "", ""]
    assert tuned[2:4] == ["-2.00 (-5.00 to +1.00)", "-3.00 (-6.00 to +0.00)"]
    # of the sweep in the middle; the smaller network has its own times
    assert dense[-2:] == ["4.00 (3.96-4.04)", "5.00 (4.95-5.05)"]
    assert tuned[-2:] == ["3.00 (2.97-3.03)", "4.00 (3.96-4.04)"]
    assert [row[0] for row in rows(page, 1)] == ["100", "250", "400"]
    assert rows(page, 1)[0][1:3] == ["1.50 (1.48-1.52)", "1.00 (0.99-1.01)"]
    assert rows(page, 1)[0][-2:] == ["1.25", "25%"]
    first, idle, gone, total = rows(page, 2)
    assert first[0] == "stem&lt;0&gt;"
    assert first[3:8] == ["16 → 8", "27", "1,000", "2.0 → 1.0", "50%"]
    assert (first[-2], first[-1]) == ("0.700", "")
    assert idle[4:6] == ["27 → 13", "1,000 → 250"]
    assert idle[-1] == "fewer multiply-adds, no less time"
    assert page.count("<tr class='idle'>") == 1
    assert "gone" in gone
    assert total[6:12] == ["7.0 → 2.0", "29%", "3.50", "2.60", "74%", "1.80"]
    steps = rows(page, 3)
    assert steps[0] == ["stem&lt;0&gt;", "stem&lt;0&gt; → deep", "16 → 8", "50%", "40.0%", "1.25", "+3.40"]
    assert steps[1][-1] == ""
    for said in ("x=&lt;y&gt;", "a &lt;note&gt;", "a machine &amp; its versions", "a note", "61.00 whole"):
        assert said in page
    assert "the best of 12 evaluations within the budget, after a scan of 7." in page
    one = report_html(replace(FACTS, choice=replace(CHOICE, evaluations=1)), {"report.png": b""})
    assert "the best of 1 evaluation within the budget" in one
    assert "BUSY" not in page
    assert "http" not in page
    assert page.count("<img") == 2


def test_a_sum_of_some_layers_is_no_prediction_of_all():
    some = replace(FACTS, measured=replace(MEASURED, predicted=(0.7, None, None)))
    assert rows(report_html(some, {"report.png": b""}), 2)[-1][10:12] == ["74%", ""]


def test_a_file_of_a_version_that_counted_no_rows_is_shown_without_them(tmp_path):
    path = tmp_path / "measured.json"
    MEASURED.save(path)
    content = json.loads(path.read_text())
    for layer in content["layers"]:
        for one in (layer["before"], layer["after"]):
            if one is not None:
                del one["rows"]
    path.write_text(json.dumps(content))
    page = report_html(replace(FACTS, measured=Measured.load(path)), {"report.png": b""})
    assert [row[5] for row in rows(page, 2)] == [""] * 4


def test_only_channels_are_written_by_some_layers_and_read_by_others():
    def heading(choice):
        page = report_html(replace(FACTS, choice=choice), {"report.png": b""})
        return re.findall(r"<th>step</th><th>(.*?)</th>", page)

    shared = replace(CHOICE, steps=tuple(replace(step, places="stem, head") for step in CHOICE.steps))
    assert (heading(CHOICE), heading(shared)) == (["written by → read by"], ["layers"])


def test_a_busy_machine_is_said_first(tmp_path):
    busy = replace(FACTS, measured=replace(MEASURED, busy=True))
    page = report_html(busy, {"report.png": b""})
    assert page.index("BUSY") < page.index("<table>")
    (tmp_path / "search.png").write_bytes(b"search")
    write_report(busy, tmp_path / "run")
    assert (tmp_path / "run/report.png").read_bytes().startswith(b"\x89PNG")
    # a scan and a search that are not there leave no holes
    assert (tmp_path / "run/report.html").read_text().count("<img") == 1
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["report.html", "report.png"]


def test_facts_survive_a_file(tmp_path):
    MEASURED.save(tmp_path / "measured.json")
    assert Measured.load(tmp_path / "measured.json") == MEASURED
    CHOICE.save(tmp_path / "chosen.json")
    assert Choice.load(tmp_path / "chosen.json") == CHOICE
    assert CHOICE.assignment == (8, 16)


@pytest.mark.parametrize("of", [Measured, Choice])
@pytest.mark.parametrize(
    "content", ["", "[]", '{"format": 1}', '{"format": 2}', '{"format": 1, "steps": [1]}']
)
def test_other_files_are_named(tmp_path, of, content):
    (tmp_path / "facts.json").write_text(content)
    with pytest.raises(FormatError, match=r"facts\.json"):
        of.load(tmp_path / "facts.json")
    with pytest.raises(FormatError, match=r"none\.json"):
        of.load(tmp_path / "none.json")


def test_a_choice_says_what_each_step_saves_and_loses_alone():
    space = chain(3, (8, 16, 24, 32))
    result = search(space, additive(space, [0.3, 0.1, 0.2]), 0.5 * space.cost(space.largest), 6, 1,
                    method=RandomSearch())  # fmt: skip
    first = space.steps[0].name
    points = [Point.of(first, 8, 32, None, None, Evaluation(0.4), 0.0),
              Point.of(first, 24, 32, None, None, Evaluation(0.8), 0.0)]  # fmt: skip
    points += [Point.of(step.name, 16, 32, None, None, Evaluation(0.7), 0.0) for step in space.steps[1:]]
    scanned = SensitivityTable("channels", Evaluation(0.9), tuple(points))
    for kept, loss in ((8, 0.5), (16, 0.3), (24, 0.1), (32, 0.0)):
        best = replace(result.trials[0], widths=(kept, 16, 8), score=1.0, reward=9.0)
        choice = choice_of(replace(result, trials=(best,)), space, scanned, str.upper)
        assert choice.steps[0].loses == pytest.approx(loss)
        alone = space.cost(space.largest) - space.cost((kept, 32, 32))
        assert choice.steps[0].saves == pytest.approx(alone)
        assert choice.steps[0].places == first.upper()
    assert choice.steps[1].loses == pytest.approx(0.2)
    # nobody looked below the narrowest width of the scan
    assert choice.steps[2].loses is None
    assert (choice.scanned, choice.dense_score, choice.score) == (5, 0.9, 1.0)
    assert sum(step.share for step in choice.steps) <= 1.0
    json.dumps([step.loses for step in choice.steps])
