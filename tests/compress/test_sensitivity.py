"""Sensitivity scans: restored bit for bit, resumed after a kill, and what they suggest."""

import copy
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pcsparse import SparseTensor
from pcsparse.compress.cost_measure import measure_cost
from pcsparse.compress.graph import ChannelGraph
from pcsparse.compress.sensitivity import ChannelsAxis, fingerprint, scan
from pcsparse.compress.sensitivity_figure import panels_of, sensitivity_figure, sensitivity_page
from pcsparse.compress.sensitivity_log import load_scan
from pcsparse.compress.sensitivity_table import Evaluation, Point, SensitivityTable
from pcsparse.compress.voxels import prune_voxels
from pcsparse.compress.weights import weight_layers
from pcsparse.errors import FormatError, RangeError, UnsupportedError
from pcsparse.models import MinkUNet, MinkUNetSpec
from pcsparse.nn import BatchNorm, MaxPool3d, SparseConv3d, SubmanifoldConv3d
from tests.clouds import PLANE

LAYERS = ("stem.0", "encoder.0.0.conv1", "classifier")


def _network() -> MinkUNet:
    torch.manual_seed(0)
    return MinkUNet(MinkUNetSpec.minkunet14(in_channels=3, n_classes=5, width=1 / 8)).eval()


class Agreement:
    """1 minus how far the logits are from those of the network as it was; counts its calls."""

    def __init__(self, model: MinkUNet) -> None:
        feats = torch.randn(len(PLANE.coords), 3, generator=torch.Generator().manual_seed(3))
        self.x = SparseTensor(feats, PLANE.coords)
        with torch.no_grad():
            self.expected = model(self.x).feats
        self.calls = 0

    def __call__(self, model: MinkUNet) -> Evaluation:
        self.calls += 1
        with torch.no_grad():
            error = (model(self.x).feats - self.expected).abs().mean(dim=1)
        thirds = tuple(1.0 - float(part.mean()) for part in error.chunk(3))
        return Evaluation(sum(thirds) / 3, loss=float(error.mean()), per_sweep=thirds)


@pytest.mark.parametrize("axis", ["weights", "channels"])
def test_each_curve_falls_and_the_network_comes_back(axis):
    model = _network()
    model.train()
    before = copy.deepcopy(model.state_dict())
    evaluate = Agreement(model.eval())
    model.train()

    def spoiling(net):
        found = evaluate(net.eval())
        # an evaluation that leaves traces, as one that re-calibrates batch norms does
        with torch.no_grad():
            net.stem[1].running_mean += 1.0
            net.classifier.bias.fill_(float("nan"))
        return found

    how = ChannelsAxis(model, multiple=1) if axis == "channels" else axis
    names = LAYERS[:2] if axis == "channels" else LAYERS
    table = scan(model, spoiling, axis=how, ratios=(0.25, 0.5, 0.75), names=names)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(part.training for part in model.modules())
    assert table.dense.metric == 1.0
    assert list(table.curves) == list(names)
    for points in table.curves.values():
        values = [table.metric(point) for point in points]
        assert [point.ratio for point in points] == pytest.approx([0.25, 0.5, 0.75], abs=0.01)
        assert values[0] < 1.0
        assert values[0] > values[-1]
    assert evaluate.calls == 1 + 3 * len(names)


def test_what_is_evaluated_is_the_pruned_network_and_nothing_else():
    model, seen = _network(), []
    dense = {name: weight.clone() for name, weight in weight_layers(model).items()}

    def look(net):
        changed = {n: w.clone() for n, w in weight_layers(net).items() if not torch.equal(w, dense[n])}
        seen.append(changed)
        return 1.0

    table = scan(model, look, ratios=(0.5,), names=("stem.0", "classifier"))
    assert [list(changed) for changed in seen] == [[], ["stem.0"], ["classifier"]]
    weight = seen[1]["stem.0"]
    assert int((weight == 0).sum()) == round(0.5 * weight.numel())
    assert table.points[0].kept == weight.numel() - int((weight == 0).sum())


def test_ratios_that_round_to_one_width_are_evaluated_once():
    model = _network()
    axis = ChannelsAxis(model, multiple=4)
    # 16 channels in multiples of 4
    table = scan(
        model, lambda net: 1.0, axis=axis, ratios=(0.0, 0.1, 0.3, 0.4, 0.9), names=["encoder.2.0.conv1"]
    )
    assert [(point.kept, point.ratio) for point in table.points] == [(16, 0.0), (12, 0.25), (4, 0.75)]
    # what rounds to all channels is the network as it is, which was evaluated
    evaluate = Agreement(model)
    table = scan(model, evaluate, axis=axis, ratios=(0.1, 0.3), names=["encoder.2.0.conv1"])
    assert evaluate.calls == 2
    assert (table.points[0].metric, table.points[0].per_sweep) == (table.dense.metric, table.dense.per_sweep)
    # by its name the axis has the usual multiple, 8
    table = scan(model, lambda net: 1.0, axis="channels", ratios=(0.3, 0.4), names=["encoder.2.0.conv1"])
    assert [point.kept for point in table.points] == [16]


def test_costs_stand_beside_the_metric():
    model = _network()
    graph = ChannelGraph.of(model)
    feats = torch.ones(len(PLANE.coords), 3)
    cost = measure_cost(model, [SparseTensor(feats, PLANE.coords)], multiple=2, step=1000, runs=1)
    axis = ChannelsAxis(model, graph=graph, multiple=2, cost=cost)
    table = scan(model, lambda net: 1.0, axis=axis, ratios=(0.5,), names=("stem.0",))
    (point,) = table.points
    assert point.macs == cost.total("MACs", graph.widths({"stem.0": 2}))
    assert point.ms == cost.total("ms", graph.widths({"stem.0": 2}))
    assert point.macs < cost.total("MACs")


def test_costs_are_of_today_where_the_log_has_others(tmp_path):
    model, log = _network(), tmp_path / "scan.jsonl"
    scan(
        model, lambda net: 1.0, axis=ChannelsAxis(model, multiple=2), ratios=(0.5,), names=["stem.0"], log=log
    )
    feats = torch.ones(len(PLANE.coords), 3)
    cost = measure_cost(model, [SparseTensor(feats, PLANE.coords)], multiple=2, step=1000, runs=1)
    axis = ChannelsAxis(model, multiple=2, cost=cost)
    (point,) = scan(model, lambda net: 1 / 0, axis=axis, ratios=(0.5,), names=["stem.0"], log=log).points
    assert (point.macs, point.ms) == (axis.macs("stem.0", 2), axis.milliseconds("stem.0", 2))
    assert point.ms is not None


def test_nan_counts_as_the_worst_and_is_logged(tmp_path):
    model, log = _network(), tmp_path / "scan.jsonl"
    values = iter([0.8, 0.7, math.nan, math.inf, 0.6])
    table = scan(model, lambda net: next(values), ratios=(0.2, 0.4), names=LAYERS[:2], log=log, worst=0.05)
    assert [point.metric for point in table.points] == [0.7, None, None, 0.6]
    assert [table.metric(point) for point in table.points] == [0.7, 0.05, 0.05, 0.6]
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["metric"] for row in rows[1:]] == [0.8, 0.7, None, None, 0.6]
    assert table.to_csv().splitlines()[2].endswith(",1")
    # what failed is not tried again
    again = scan(model, lambda net: 1 / 0, ratios=(0.2, 0.4), names=LAYERS[:2], log=log, worst=0.05)
    assert again == table


def test_what_failed_is_the_worst_where_metrics_are_negative(tmp_path):
    values = iter([-1.0, -1.5, math.nan])
    table = scan(_network(), lambda net: next(values), ratios=(0.2, 0.4), names=LAYERS[:1])
    ((name, points),) = table.curves.items()
    # 0 is no bound: as low as anything that was seen
    assert [table.metric(point) for point in points] == [-1.5, -1.5]
    assert table.score_at(name, points[0].kept - 1) == -1.5
    for threshold in (-1.5, -9.0):
        assert table.suggest(threshold).kept == {name: points[0].kept}
    with pytest.raises(RangeError, match=f"cost {points[0].kept} at least"):
        table.suggest_within(points[1].kept, lambda kept: kept[name])
    # nothing is evaluated behind it
    values = iter([-1.0, math.nan])
    table = scan(_network(), lambda net: next(values), ratios=(0.2, 0.4), names=LAYERS[:1], stop_after=0.5)
    assert [point.metric for point in table.points] == [None]


def test_a_loss_that_is_not_finite_is_left_out(tmp_path):
    model, log = _network(), tmp_path / "scan.jsonl"
    table = scan(model, lambda net: Evaluation(0.5, loss=math.nan), ratios=(0.5,), names=LAYERS[:1], log=log)
    assert table.dense == Evaluation(0.5)
    assert load_scan(log) == table


def test_a_network_without_a_metric_is_refused():
    with pytest.raises(RangeError, match="is nan; there is nothing to scan"):
        scan(_network(), lambda net: math.nan, names=LAYERS)


@pytest.mark.parametrize("ratio", [1.0, -0.1, 2.0, math.nan])
def test_ratios_outside_are_refused(ratio):
    with pytest.raises(RangeError, match=r"must be in \[0, 1\)"):
        scan(_network(), lambda net: 1.0, ratios=(0.5, ratio))


def test_other_mistakes_are_refused():
    with pytest.raises(RangeError, match="at least one ratio"):
        scan(_network(), lambda net: 1.0, ratios=())
    with pytest.raises(RangeError, match="nothing is called 'x' on the axis weights"):
        scan(_network(), lambda net: 1.0, names=["x"])
    with pytest.raises(UnsupportedError, match="no axis 'depth'"):
        scan(_network(), lambda net: 1.0, axis="depth")


def test_a_layer_that_fell_too_far_is_left():
    values = iter([0.9, 0.88, 0.6, 0.89, 0.8])
    table = scan(
        _network(), lambda net: next(values), ratios=(0.2, 0.4, 0.6), names=LAYERS[:2], stop_after=0.095
    )
    assert [point.metric for point in table.points] == [0.88, 0.6, 0.89, 0.8]


def test_an_evaluation_that_raises_leaves_the_network_whole():
    model = _network()
    before = fingerprint(model)
    calls = iter([1, 0])
    with pytest.raises(ZeroDivisionError):
        scan(model, lambda net: 1 / next(calls), names=LAYERS)
    assert fingerprint(model) == before


def test_a_cut_log_is_continued_and_says_the_same(tmp_path):
    model, log = _network(), tmp_path / "deep" / "scan.jsonl"
    evaluate = Agreement(model)
    whole = scan(model, evaluate, ratios=(0.3, 0.6), names=LAYERS, log=log)
    content = log.read_bytes()
    lines = content.splitlines(keepends=True)
    assert len(lines) == 2 + 6
    # cut in the middle of the fourth evaluation's line, and right after the header's first bytes
    for kept, calls in ((b"".join(lines[:5]) + lines[5][:20], 3), (lines[0][:10], 7), (content, 0)):
        log.write_bytes(kept)
        evaluate.calls = 0
        again = scan(model, evaluate, ratios=(0.3, 0.6), names=LAYERS, log=log)
        assert evaluate.calls == calls
        assert [(p.name, p.kept, p.metric, p.per_sweep) for p in again.points] == [
            (p.name, p.kept, p.metric, p.per_sweep) for p in whole.points
        ]
    # more ratios reuse what is there
    evaluate.calls = 0
    scan(model, evaluate, ratios=(0.3, 0.6, 0.9), names=LAYERS, log=log)
    assert evaluate.calls == 3


def test_a_log_of_something_else_is_refused(tmp_path):
    model, log = _network(), tmp_path / "scan.jsonl"
    scan(model, lambda net: 1.0, ratios=(0.3,), names=LAYERS[:1], log=log)
    other = _network()
    with torch.no_grad():
        other.stem[0].weight[0, 0, 0] += 1.0
    others = (
        {"model": other},
        {"model": model, "axis": ChannelsAxis(model, multiple=1)},
        {"model": model, "tag": "other sweeps"},
        {"model": model, "worst": 0.1},
    )
    for options in others:
        with pytest.raises(FormatError, match="is the log of another scan"):
            scan(evaluate=lambda net: 1.0, log=log, **options)
    for text in ("hello\n", "[1]\n", "half a line"):
        log.write_text(text)
        with pytest.raises(FormatError, match="no log of a scan"):
            scan(model, lambda net: 1.0, log=log)
        assert log.read_text() == text


def test_networks_of_equal_weights_that_use_them_otherwise_are_told_apart(tmp_path):
    model, log = _network(), tmp_path / "scan.jsonl"
    scan(model, lambda net: 1.0, ratios=(0.3,), names=LAYERS[:1], log=log)
    for share, rest in ((0.3, "centre"), (0.6, "centre")):
        with pytest.raises(FormatError, match=r"is the log of another scan \(model "):
            scan(prune_voxels(model, share, rest), lambda net: 1.0, ratios=(0.3,), log=log)
    same = SubmanifoldConv3d(2, 2, 3, bias=True).state_dict()
    kinds: list[dict[str, Any]] = [
        {}, {"dilation": 2}, {"voxels": 0.5}, {"voxels": 0.4}, {"voxels": 0.5, "rest": "centre"},
    ]  # fmt: skip
    convs = [SubmanifoldConv3d(2, 2, 3, bias=True, **kind) for kind in kinds]
    for conv in convs:
        conv.load_state_dict(same)
    assert len({fingerprint(conv) for conv in convs}) == len(kinds)
    few = [SubmanifoldConv3d(2, 2, 3, offsets=offsets) for offsets in ((0, 13, 26), (1, 13, 25))]
    few[1].load_state_dict(few[0].state_dict())
    assert fingerprint(few[0]) != fingerprint(few[1])


@pytest.mark.parametrize(
    ("build", "settings"),
    [
        (lambda **how: SparseConv3d(2, 3, 3, **how), [{"stride": 1}, {"stride": 2}, {"padding": 1}]),
        (lambda **how: SparseConv3d(2, 3, 2, **how), [{"stride": 1}, {"stride": 2}, {"padding": 1}]),
        (lambda **how: MaxPool3d(2, **how), [{}, {"stride": 3}, {"padding": 1}, {"dilation": 2}]),
        (lambda **how: BatchNorm(3, **how), [{}, {"eps": 1e-3}]),
        (lambda **how: torch.nn.Sequential(torch.nn.LeakyReLU(**how)), [{}, {"negative_slope": 0.2}]),
        (lambda **how: torch.nn.Conv2d(2, 3, 3, **how), [{}, {"stride": 2}, {"padding": 1}]),
    ],
)
def test_fingerprints_tell_settings_apart(build, settings):
    modules = [build(**how) for how in settings]
    for module in modules:
        module.load_state_dict(modules[0].state_dict())
    prints = [fingerprint(module) for module in modules]
    assert len(set(prints)) == len(settings)
    assert prints == [fingerprint(copy.deepcopy(module)) for module in modules]


def test_what_changes_no_score_changes_no_fingerprint():
    kinds = [torch.nn.Dropout(0.1), torch.nn.Dropout(0.5), torch.nn.ReLU(), torch.nn.ReLU(inplace=True)]
    assert len({fingerprint(torch.nn.Sequential(torch.nn.Identity(), kind)) for kind in kinds}) == 1


def test_a_usual_network_has_the_fingerprint_that_logs_from_before_have():
    conv = SubmanifoldConv3d(1, 2, 3)
    with torch.no_grad():
        conv.weight.copy_(torch.arange(54.0).reshape(27, 1, 2))
    assert fingerprint(conv) == "14c957f19e0a4fcf"


_KILLED = """
import sys, time, torch
torch.set_num_threads(1)
from pathlib import Path
from pcsparse.compress.sensitivity import scan
from pcsparse.models import MinkUNet, MinkUNetSpec
torch.manual_seed(0)
model = MinkUNet(MinkUNetSpec.minkunet14(in_channels=3, n_classes=5, width=1 / 8)).eval()
def evaluate(net):
    time.sleep(0.05)
    return float(net.stem[0].weight.abs().mean())
scan(model, evaluate, names=["stem.0"], ratios=[i / 40 for i in range(40)], log=Path(sys.argv[1]),
     on_point=lambda point: print(point.kept, flush=True))
"""


def test_a_kill_loses_at_most_one_evaluation(tmp_path):
    log = tmp_path / "scan.jsonl"
    root = Path(__file__).resolve().parents[2]
    run = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(log)], stdout=subprocess.PIPE, text=True, cwd=root
    )
    assert run.stdout is not None
    told = [run.stdout.readline() for _ in range(4)]
    os.kill(run.pid, signal.SIGKILL)
    told += run.stdout.readlines()
    run.wait()
    run.stdout.close()
    assert 4 <= len(told) < 40
    stored = [json.loads(line) for line in log.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    # the header, the dense network, and every point that was told
    assert len(stored) - 2 in (len(told), len(told) + 1)


def _table() -> SensitivityTable:
    def point(name: str, kept: int, metric: float | None) -> Point:
        return Point(name, kept, 10, None, None, metric, None, (), 0.0)

    a = (point("a", 8, 0.79), point("a", 6, 0.76), point("a", 4, 0.77), point("a", 2, 0.5))
    b = (point("b", 8, 0.60), point("b", 6, 0.78), point("b", 4, None))
    return SensitivityTable("channels", Evaluation(0.8), (*a, *b))


def test_suggest_takes_the_largest_ratio_before_the_curve_falls():
    found = _table().suggest(0.765)
    # 0.77 at a larger ratio does not excuse 0.76 before it
    assert found.kept == {"a": 8, "b": 10}
    assert found.ratios["a"] == pytest.approx(0.2)
    assert found.degradation == pytest.approx(0.01)
    assert _table().suggest(0.75).kept == {"a": 4, "b": 10}
    assert _table().suggest(0.55).kept == {"a": 4, "b": 6}
    # 4 of b failed
    assert _table().suggest(0.0).kept == {"a": 2, "b": 6}
    assert _table().suggest(-9.0).kept == {"a": 2, "b": 6}
    with pytest.raises(RangeError, match=r"below the threshold 0\.81"):
        _table().suggest(0.81)


@pytest.mark.parametrize(
    ("budget", "kept"), [(40, (10, 10)), (29, (8, 10)), (24, (4, 10)), (14, (2, 6)), (13, None), (8.5, None)]
)
def test_suggest_within_is_the_least_degradation_that_fits(budget, kept):
    def cost(kept):
        return kept["a"] + 2 * kept["b"]

    costs = {(8, 10): 28, (4, 10): 24, (4, 6): 16, (2, 6): 14, (10, 10): 30}
    if kept is None:
        # 4 of b would cost 10, and failed
        with pytest.raises(RangeError, match=r"cannot be met.*cost 14"):
            _table().suggest_within(budget, cost)
        return
    found = _table().suggest_within(budget, cost)
    # by looking at every level there is
    allowed = [size for size, price in costs.items() if price <= budget]
    levels = {(10, 10): 0.0, (8, 10): 0.01, (4, 10): 0.04, (4, 6): 0.2, (2, 6): 0.3}
    best = min(allowed, key=lambda size: levels[size])
    assert (found.kept["a"], found.kept["b"]) == best
    assert found.cost == costs[best]
    assert found.degradation == pytest.approx(levels[best])
    assert best == kept


def test_suggest_within_takes_nothing_that_costs_more():
    # choosing 6 of a takes longer than all of it, and 8 of b longer than 6
    price = {"a": {10: 5, 8: 4, 6: 9, 4: 9, 2: 9}, "b": {10: 6, 8: 7, 6: 3, 4: 3}}

    def cost(kept):
        return sum(price[name][n] for name, n in kept.items())

    found = _table().suggest_within(7, cost)
    assert (found.kept, found.cost) == ({"a": 8, "b": 6}, 7)
    assert found.degradation == pytest.approx(0.2)
    assert found.ratios == pytest.approx({"a": 0.2, "b": 0.4})
    assert _table().suggest_within(11, cost).kept == {"a": 10, "b": 10}
    with pytest.raises(RangeError, match="cost 7 at least"):
        _table().suggest_within(6.9, cost)


def test_a_table_comes_back_from_its_log_without_the_network(tmp_path):
    model, log = _network(), tmp_path / "scan.jsonl"
    whole = scan(model, Agreement(model), ratios=(0.6, 0.3), names=LAYERS[:2], log=log)
    assert load_scan(log) == whole
    header, dense, *points = log.read_bytes().splitlines(keepends=True)
    # as workers leave it, the last line cut by a kill
    log.write_bytes(b"".join([header, dense, points[1], points[2], points[0], points[3][:-9]]))
    assert load_scan(log).points == whole.points[:3]
    log.write_bytes(header)
    with pytest.raises(FormatError, match="no evaluation of the whole network yet"):
        load_scan(log)
    for wrong in (b"", b"[]\n", b"{}\n", header + b"{}\n"):
        log.write_bytes(wrong)
        with pytest.raises(FormatError, match="no log of a scan"):
            load_scan(log)
    log.unlink()
    with pytest.raises(FormatError, match="no log of a scan"):
        load_scan(log)


def test_intervals_are_of_the_change():
    dense = Evaluation(0.5, per_sweep=(0.1, 0.5, 0.9, 0.5))
    # every sweep loses the same, however different they are
    same = Point("a", 5, 10, None, None, 0.4, None, (0.0, 0.4, 0.8, 0.4), 0.0)
    mixed = Point("a", 4, 10, None, None, 0.4, None, (0.1, 0.2, 0.9, 0.4), 0.0)
    none = Point("a", 3, 10, None, None, 0.4, None, (), 0.0)
    table = SensitivityTable("weights", dense, (same, mixed, none))
    assert table.interval(same) == pytest.approx((0.4, 0.4))
    low, high = table.interval(mixed)
    assert low < 0.4 < high
    # the mean of four changes lies between the least and the largest
    assert -0.3 <= low - 0.5 <= high - 0.5 <= 0.0
    assert table.interval(none) is None


def test_csv_has_a_line_a_point(tmp_path):
    table = _table()
    table.write_csv(tmp_path / "a" / "scan.csv")
    lines = (tmp_path / "a" / "scan.csv").read_text().splitlines()
    assert lines[0].startswith("axis,name,ratio,kept,size,metric,low,high,loss,macs,ms")
    assert len(lines) == 1 + len(table.points)
    assert lines[1].split(",")[:6] == ["channels", "a", str(1 - 8 / 10), "8", "10", "0.79"]


def test_the_figure_has_a_panel_a_part():
    names = [*(f"encoder.{i}.0.conv1" for i in range(11)), "stem.0", "stem.2"]
    panels = panels_of(names)
    assert panels["stem"] == ["stem.0", "stem.2"]
    assert panels["encoder.10"] == ["encoder.10.0.conv1"]
    assert sum(map(len, panels.values())) == len(names)


def test_picture_and_page_are_written_whole(tmp_path):
    dense = Evaluation(0.8, per_sweep=(0.7, 0.9))
    points = [Point(f"x<{i}>.conv", 5, 10, 1.0, 2.5, 0.7 - i / 10, 0.1, (0.6, 0.8), 0.0) for i in range(3)]
    points.append(Point("x<0>.conv", 2, 10, 1.0, 2.5, None, None, (), 0.0))
    table = SensitivityTable("channels", dense, tuple(points))
    sensitivity_figure(table, tmp_path / "a" / "scan.png", "A scan")
    sensitivity_page(table, tmp_path / "a" / "scan.html", "A <scan>")
    assert (tmp_path / "a" / "scan.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "a" / "scan.html").read_text()
    assert "A &lt;scan&gt;" in page
    assert "x&lt;2&gt;.conv" in page
    assert "(failed)" in page
    # nothing is fetched from elsewhere
    assert "http" not in page
    assert page.count("<tr>") == 1 + len(points)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["scan.html", "scan.png"]
