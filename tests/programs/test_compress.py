"""A whole compression on tiny streets: what comes out, what is taken over, what is refused."""

import copy
import csv
import json
import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch

from pcsparse.cli import main
from pcsparse.compress.chosen import Choice
from pcsparse.compress.cost import CostTable
from pcsparse.compress.finetune import recalibrate
from pcsparse.compress.graph import ChannelGraph
from pcsparse.compress.measured import count_macs
from pcsparse.compress.pruning import CostSummary
from pcsparse.compress.pruning_channels import ChannelPruning
from pcsparse.compress.pruning_offsets import OffsetPruning
from pcsparse.compress.pruning_voxels import VoxelPruning
from pcsparse.compress.report_facts import Measured
from pcsparse.compress.search.dynamic_programming import DynamicProgramming
from pcsparse.compress.search.executor import InProcess, SpawnedProcesses
from pcsparse.compress.search.uniform import Uniform
from pcsparse.compress.sensitivity import fingerprint
from pcsparse.compress.settings import BudgetSettings, ScanSettings
from pcsparse.compress.shared_maps import SharedMaps
from pcsparse.compress.voxels import voxel_layers
from pcsparse.compress.weights import weight_layers
from pcsparse.data.collate import VoxelSettings
from pcsparse.errors import FormatError, RangeError, UnsupportedError
from pcsparse.programs import compress_report, compress_steps, compress_tuning
from pcsparse.programs.compress import compress
from pcsparse.programs.compress_evaluation import SearchScore, SweepScorer, inputs_of
from pcsparse.train.evaluation import evaluate
from pcsparse.train.metrics import SemanticKittiMetrics
from pcsparse.train.model_file import load_model
from pcsparse.train.run_log import CsvLog
from pcsparse.train.sweep_scores import SweepScores
from tests.programs.compress_case import AXES, SETTINGS, tiny_job, write_model
from tests.streets import write_root

STEPS = ["cost", "scan", "search", "prune", "tune", "export", "measure"]


@pytest.fixture(scope="module", autouse=True)
def quick():
    """One thread, a short look at the machine, and no figures of the library, which its own tests draw."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("sensitivity_page", "search_figure"):
            patch.setattr(compress_steps, name, lambda *given, **named: None)
        patch.setattr(compress_steps, "sensitivity_figure", lambda table, path: path.write_bytes(b""))
        patch.setattr("pcsparse.timing._BUSY_SECONDS", 0.01)
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished compression: its folder, beside its dense network."""
    folder = tmp_path_factory.mktemp("compress")
    compress(tiny_job(folder))
    return folder


@pytest.fixture
def copied(whole, tmp_path):
    """The same in a folder that may be changed."""
    shutil.copytree(whole, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def unreported(monkeypatch):
    """Nothing is scored and timed at the end: that is looked at elsewhere."""
    for name in ("compare_step", "report"):
        monkeypatch.setattr(f"pcsparse.programs.compress.{name}", lambda *given: None)


class Counting:
    """Counts evaluations; raises in place of one of them."""

    def __init__(self, monkeypatch, stop_at=None):
        self.n, inner = 0, SweepScorer.__call__

        def call(scorer, model):
            self.n += 1
            if self.n == stop_at:
                raise KeyboardInterrupt
            return inner(scorer, model)

        monkeypatch.setattr(SweepScorer, "__call__", call)


def read_rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def done(folder):
    record = json.loads((folder / "run/steps.json").read_text())
    return [name for name, entry in record["steps"].items() if entry["done"]]


def test_the_result_is_what_was_chosen_within_the_budget_and_smaller(whole):
    run, job = whole / "run", tiny_job(whole)
    assert done(whole) == STEPS
    model, card = load_model(run)
    choice = Choice.load(run / "chosen.json")
    assert {g.name: g.width for g in ChannelGraph.of(model).free} == {s.name: s.kept for s in choice.steps}
    dense, small = (count_macs(net, inputs_of(job.cost_batches, job.device)) for net in (job.model, model))
    assert small == pytest.approx(choice.cost)
    assert small <= choice.budget == pytest.approx(0.5 * dense)
    assert (run / "model.safetensors").stat().st_size < 0.7 * (whole / "dense.safetensors").stat().st_size
    # tuned on: not the weights that were cut
    pruned, pruned_card = load_model(run / "pruned.safetensors")
    assert not torch.equal(pruned.stem[0].weight, model.stem[0].weight)
    again = copy.deepcopy(pruned)
    recalibrate(again, job.calibration_inputs)
    assert fingerprint(again) == fingerprint(pruned)
    for net, its_card in ((pruned, pruned_card), (model, card)):
        confusion = evaluate(net, job.final_set, card.voxels, 19, device=job.device)
        expected = SemanticKittiMetrics.of(confusion).mean_iou_present
        assert its_card.metrics["miou_present"] == pytest.approx(expected)
    assert card.provenance["compressed_from"] == "dense.safetensors"
    assert card.voxels == job.card.voxels


def test_every_trial_of_the_search_is_what_the_log_says(whole):
    rows = [json.loads(line) for line in (whole / "run/search.jsonl").read_text().splitlines()]
    job = tiny_job(whole)
    job.prunable.load_cost(whole / "run/cost.json", inputs_of(job.cost_batches, job.device))
    space = job.prunable.space("MACs")
    score = SearchScore(job.prunable.networks(space), compress_steps.scorer_of(job))
    assert len(rows) == 1 + SETTINGS.evaluations
    assert score(tuple(rows[2]["widths"])) == pytest.approx(rows[2]["score"], abs=1e-12)


def test_the_same_command_again_evaluates_and_trains_nothing(copied, monkeypatch):
    before = files(copied)
    counted = Counting(monkeypatch)
    monkeypatch.setattr(compress_tuning, "fit", None)
    compress(tiny_job(copied))
    assert counted.n == 0
    after = files(copied)
    assert after.keys() == before.keys()
    assert {path.name for path in before if before[path] != after[path]} <= {"config.yaml"}


def test_cut_off_in_scan_and_search_it_goes_on_without_those_evaluations(whole, tmp_path, unreported, capsys):
    for name in ("dense.safetensors", "dense.json"):
        shutil.copy(whole / name, tmp_path / name)
    n_scan = 1 + len(tiny_job(tmp_path).prunable.graph.free)
    # the sixth of the scan; then all that it left but one, and the second of the search
    finished = 0
    for stop_at in (6, n_scan - 5 + 2):
        with pytest.MonkeyPatch.context() as patch:
            Counting(patch, stop_at)
            with pytest.raises(KeyboardInterrupt):
                compress(tiny_job(tmp_path, tune=False))
        finished += stop_at - 1
    assert done(tmp_path) == ["cost", "scan"]
    logged = json.loads((tmp_path / "run/search.jsonl").read_text().splitlines()[1])["score"]
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        counted = Counting(patch)
        compress(tiny_job(tmp_path, tune=False))
    assert counted.n == n_scan + SETTINGS.evaluations - finished
    # numbers and the highest go on from the log
    told = re.findall(r"evaluation (\d): score 0\.\d+, highest (0\.\d+),", capsys.readouterr().out)
    assert [int(number) for number, _ in told] == [2, 3]
    assert all(float(highest) >= round(logged, 4) for _, highest in told)
    own, theirs = (Choice.load(folder / "run/chosen.json") for folder in (tmp_path, whole))
    assert own == theirs
    pruned = [(folder / "run/pruned.safetensors").read_bytes() for folder in (tmp_path, whole)]
    assert pruned[0] == pruned[1]


def test_single_weights_are_scanned_layer_by_layer_and_nothing_follows_from_it(copied, unreported):
    before = files(copied)
    wanted = {"scan": ScanSettings(ratios=(0.5,), weights=(0.5, 0.9))}
    layers = weight_layers(tiny_job(copied).model)
    n_points = 1 + 2 * len(layers)
    with pytest.MonkeyPatch.context() as patch:
        Counting(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            compress(tiny_job(copied, **wanted))
    with pytest.MonkeyPatch.context() as patch:
        counted = Counting(patch)
        compress(tiny_job(copied, **wanted))
        assert counted.n == n_points - 3
        compress(tiny_job(copied, **wanted))
        assert counted.n == n_points - 3
    after = files(copied)
    # without the page, see `quick`
    made = {path.name for path in after.keys() - before.keys()}
    assert made == {"weights.jsonl", "weights.csv", "weights.png"}
    assert {p.name for p in before if before[p] != after[p]} <= {"config.yaml", "steps.json"}
    rows = [line.split(",") for line in (copied / "run/weights.csv").read_text().splitlines()]
    assert [row[:2] for row in rows if row[0] == "weights"] == [["weights", n] for n in layers for _ in "ab"]


def test_cut_off_in_the_fine_tuning_it_ends_with_the_same_weights(copied, unreported):
    expected = (copied / "run/model.safetensors").read_bytes()
    record = json.loads((copied / "run/steps.json").read_text())
    for name in ("tune", "export", "measure"):
        record["steps"].pop(name)
    (copied / "run/steps.json").write_text(json.dumps(record))
    shutil.rmtree(copied / "run/tuned")
    inner = CsvLog.write

    def write(log, *values):
        inner(log, *values)
        raise KeyboardInterrupt

    changes = {"checkpoint_every": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CsvLog, "write", write)
        with pytest.raises(KeyboardInterrupt):
            compress(tiny_job(copied, **changes))
    assert done(copied) == ["cost", "scan", "search", "prune"]
    compress(tiny_job(copied, **changes))
    assert (copied / "run/model.safetensors").read_bytes() == expected


def test_other_settings_are_refused_and_overwriting_keeps_what_they_do_not_touch(copied, monkeypatch):
    kept = {name: (copied / "run" / name).read_bytes() for name in ("cost.json", "search.jsonl")}
    with pytest.raises(
        FormatError, match=r"tune: .*lr=0.0002.* then, .*lr=0.0004.* now; export: follows tune"
    ):
        compress(tiny_job(copied, lr_factor=0.2))
    counted = Counting(monkeypatch)
    control = {"rounds": 2, "control": True, "distill": 0.5, "half": True, "resume": "overwrite"}
    compress(tiny_job(copied, **control))
    assert counted.n == 0
    assert {name: (copied / "run" / name).read_bytes() for name in kept} == kept
    run = copied / "run"
    assert sorted(path.name for path in (run / "tuned").iterdir() if path.is_dir()) == ["round-1", "round-2"]
    # the control took as many steps as both rounds together
    steps = [len((run / name / "log.csv").read_text().splitlines()) - 1
             for name in ("tuned/round-1", "tuned/round-2", "control")]  # fmt: skip
    assert steps == [2, 2, 4]
    notes = {name: load_model(run / name)[1].provenance for name in ("tuned", "control")}
    assert notes["tuned"]["stage"] == "pruned, trained on"
    assert notes["control"]["stage"] == "whole, trained on"
    # it learned from labels alone, in one go
    assert {*notes["tuned"]} - {*notes["control"]} == {"distilled", "tuned_rounds"}
    found = Measured.load(run / "measured.json")
    assert [network.name for network in found.networks] == ["dense", "control", "pruned", "tuned"]
    assert [network.file_type for network in found.networks] == ["float32"] * 3 + ["float16"]
    scores = {
        network.name: SweepScores.load(run / f"scores/{network.name}.npz") for network in found.networks
    }
    for name, network in zip(scores, found.networks, strict=True):
        over = scores[name].gain_over(scores["control"]).value if network.smaller else None
        assert (network.over_control and network.over_control.value) == over
        assert network.gain is None or network.gain.value == scores[name].gain_over(scores["dense"]).value
    model, _ = load_model(run)
    chosen = {s.name: s.kept for s in Choice.load(run / "chosen.json").steps}
    assert {g.name: g.width for g in ChannelGraph.of(model).free} == chosen


def test_penalties_hold_for_the_pruned_network_and_for_its_control(copied, monkeypatch, unreported):
    inner, seen = compress_tuning.fit, {}

    def fit(model, train_set, val_set, settings, out, **given):
        seen[out.name] = {name: repr(given[name]) for name in ("penalty", "extra_loss")}
        return inner(model, train_set, val_set, settings, out, **given)

    monkeypatch.setattr(compress_tuning, "fit", fit)
    changes = {"l1": 1e-6, "l2": 1e-3, "distill": 0.5, "control": True}
    with pytest.raises(FormatError, match=r"tune: .*l1 None then, 1e-06 now, l2 None then, 0\.001 now"):
        compress(tiny_job(copied, **changes))
    compress(tiny_job(copied, **changes, resume="overwrite"))
    assert {one["penalty"] for one in seen.values()} == {"WeightPenalty(l1=1e-06, l2=0.001)"}
    assert seen["tuned"]["extra_loss"].startswith("Distillation")
    assert seen["control"]["extra_loss"] == "None"
    assert load_model(copied / "run")[1].provenance["tuned_l2"] == "0.001"


class Page(HTMLParser):
    """Rows of each table, and everything that the page would fetch."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.sources, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "table":
            self.rows.append(0)
        if tag == "tr":
            self.rows[-1] += 1
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_report_needs_no_other_file_and_has_every_layer_and_step(whole):
    text = (whole / "run/report.html").read_text()
    page, found = Page(text), Measured.load(whole / "run/measured.json")
    assert page.open == []
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    steps = len(Choice.load(whole / "run/chosen.json").steps)
    # a head each; the layers have a sum
    assert page.rows == [1 + 3, 1 + 1, 1 + len(found.layers) + 1, 1 + steps]
    assert "pcsparse compress of a test" in text
    assert (whole / "run/report.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert {layer.name for layer in found.layers} >= {"stem.0", "down.3.0", "decoder.3.0.conv2", "classifier"}
    assert all(ms is not None for ms in found.predicted)


def test_a_budget_that_cannot_be_met_says_the_least_before_anything_is_scanned(
    tmp_path, monkeypatch, unreported
):
    counted = Counting(monkeypatch)
    with pytest.raises(RangeError, match=r"smallest reachable cost is \d+") as refused:
        compress(tiny_job(tmp_path, budget=BudgetSettings(macs=1.0)))
    assert counted.n == 0
    # and that is true, whatever chooses the channels
    taylor = ChannelPruning((0.0, 0.5), 4, "taylor")
    least = float(str(refused.value).partition("reachable cost is ")[2].partition(",")[0])
    compress(tiny_job(tmp_path, budget=BudgetSettings(macs=1.0001 * least), method=Uniform(), pruning=taylor,
                      scan=ScanSettings(run=False), evaluations=1, tune=False))  # fmt: skip
    assert counted.n == 1


class Closable(InProcess):
    """Knows whether it was closed."""

    closed = False

    def close(self):
        self.closed = True


def test_processes_end_with_the_search_also_where_it_breaks_off(tmp_path, monkeypatch):
    executor = Closable()
    Counting(monkeypatch, stop_at=2)
    with pytest.raises(KeyboardInterrupt):
        compress(tiny_job(tmp_path, executor=executor, scan=ScanSettings(run=False)))
    assert executor.closed


class Odd(torch.nn.Module):
    """Something that no graph knows."""

    def forward(self, x):
        return x.replace(torch.cumsum(x.feats, dim=1))


def test_an_unknown_operator_is_named_with_its_place_and_nothing_is_written(tmp_path):
    job = tiny_job(tmp_path)
    job.model.stem.insert(2, Odd())
    with pytest.raises(UnsupportedError, match=r"cumsum.*stem\.2|stem\.2.*cumsum"):
        compress(job)
    assert not (tmp_path / "run").exists()


def test_an_evaluation_without_a_score_is_logged_and_is_the_worst(tmp_path, monkeypatch, unreported, capsys):
    inner, seen = SearchScore.__call__, []

    def call(score, assignment):
        seen.append(assignment)
        return float("nan") if len(seen) != 2 else inner(score, assignment)

    monkeypatch.setattr(SearchScore, "__call__", call)
    compress(tiny_job(tmp_path, scan=ScanSettings(run=False), tune=False))
    rows = [json.loads(line) for line in (tmp_path / "run/search.jsonl").read_text().splitlines()[1:]]
    assert [row["score"] is None for row in rows] == [True, False, True]
    told = re.findall(r"evaluation \d: score (failed|0\.\d{4}),", capsys.readouterr().out)
    assert [word == "failed" for word in told] == [True, False, True]
    assert Choice.load(tmp_path / "run/chosen.json").assignment == seen[1]


def test_a_scorer_recalibrates_and_passes_on_what_is_not_finite(tmp_path):
    job = tiny_job(tmp_path)
    plain = SweepScorer(job.search_batches, [], 19, job.device)
    anew = SweepScorer(job.search_batches, job.calibration_inputs, 19, job.device)
    model = copy.deepcopy(job.model)
    first = plain(model)
    assert 0 <= first.metric <= 1
    assert len(first.per_sweep) == 2
    assert plain(model) == first
    model.stem[1].running_mean += 5.0
    assert plain(model) != first
    assert anew(model) == anew(copy.deepcopy(job.model))
    with torch.no_grad():
        model.classifier.bias[3] = float("nan")
    assert math.isnan(plain(model).metric)


def test_least_squares_leave_the_norms_that_they_come_near_to(copied, unreported, capsys):
    before = load_model(copied / "run/pruned.safetensors")[0]
    compress(tiny_job(copied, reconstruct=True, resume="overwrite", tune=False))
    model, card = load_model(copied / "run/pruned.safetensors")
    assert "of its output missing" in capsys.readouterr().out
    assert "layers by least squares" in card.provenance["reconstructed"]
    assert model.spec == before.spec
    assert not torch.equal(model.classifier.weight, before.classifier.weight)
    wide = set(load_model(copied / "dense.safetensors")[0].stem[1].running_var.tolist())
    assert set(model.stem[1].running_var.tolist()) <= wide
    assert not set(before.stem[1].running_var.tolist()) & wide


def test_kernel_offsets_are_another_axis(tmp_path, monkeypatch):
    counted = Counting(monkeypatch)
    budget = BudgetSettings(share=0.9, of="macs")
    given = {"pruning": OffsetPruning((0.0, 0.5), "layer"), "budget": budget, "rounds": 2, "evaluations": 2}
    compress(tiny_job(tmp_path, **given))
    run = tmp_path / "run"
    choice, job = Choice.load(run / "chosen.json"), tiny_job(tmp_path, **given)
    model, _ = load_model(run)
    maps = SharedMaps.of(model, inputs_of(job.cost_batches, job.device), scope="layer")
    assert [len(maps.group(step.name).offsets) for step in choice.steps] == list(choice.assignment)
    assert any(step.kept < step.full for step in choice.steps)
    assert count_macs(model, inputs_of(job.cost_batches, job.device)) == pytest.approx(choice.cost)
    assert choice.cost <= choice.budget
    found = Measured.load(run / "measured.json")
    stem = next(layer for layer in found.layers if layer.name == "stem.0")
    assert (stem.before.k, stem.after.k) == (27, model.stem[0].weight.shape[0])
    assert found.predicted[found.layers.index(stem)] is not None
    # and it goes on as the other one does
    n = counted.n
    assert n == 1 + len(choice.steps) + 2
    compress(tiny_job(tmp_path, **given))
    assert counted.n == n
    compress(tiny_job(tmp_path, **{**given, "rounds": 1}, reconstruct=True, resume="overwrite", tune=False))
    assert "layers by least squares" in load_model(run)[1].provenance["reconstructed"]
    refitted = load_model(run)[0]
    for step in (step for step in choice.steps if step.kept < step.full):
        layer, whole = refitted.get_submodule(step.name), job.model.get_submodule(step.name)
        assert layer.weight.shape[0] == step.kept
        assert not torch.equal(layer.weight, whole.weight[list(layer.offsets)])


def test_other_sweeps_of_the_cost_make_the_scan_of_offsets_anew(tmp_path, unreported):
    given = {"pruning": OffsetPruning((0.0, 0.5)), "budget": BudgetSettings(share=0.9, of="macs"),
             "method": Uniform(), "tune": False}  # fmt: skip
    other = {**given, "cost": replace(SETTINGS.cost, sweeps=2)}
    compress(tiny_job(tmp_path, **given))
    log = (tmp_path / "run/sensitivity.jsonl").read_bytes()
    with pytest.raises(FormatError, match=r"scan: pairs_of '\w+' then"):
        compress(tiny_job(tmp_path, **other))
    compress(tiny_job(tmp_path, **other, resume="overwrite"))
    assert done(tmp_path)[1:4] == ["scan", "search", "prune"]
    assert (tmp_path / "run/sensitivity.jsonl").read_bytes() != log
    costs = SETTINGS.cost, other["cost"]
    scans = [
        [tiny_job(tmp_path, pruning=AXES[axis], cost=cost).inputs["scan"] for cost in costs]
        for axis in ("joint", "channels")
    ]
    # the scan of channels alone looks at none of them
    assert [a == b for a, b in scans] == [False, True]


def test_channels_and_offsets_are_searched_together(tmp_path, monkeypatch):
    counted = Counting(monkeypatch)
    given = {"pruning": AXES["joint"], "rounds": 2, "evaluations": 2}
    compress(tiny_job(tmp_path, **given))
    run = tmp_path / "run"
    choice, job = Choice.load(run / "chosen.json"), tiny_job(tmp_path, **given)
    model, _ = load_model(run)
    sweeps = inputs_of(job.cost_batches, job.device)
    kept = {step.name: step.kept for step in choice.steps}
    offsets = {name: n for name, n in kept.items() if name.startswith("offsets of ")}
    maps = SharedMaps.of(model, sweeps)
    assert {f"offsets of {group.name}": len(group.offsets) for group in maps.groups if group.free} == offsets
    widths = {f"channels of {group.name}": group.width for group in ChannelGraph.of(model).free}
    assert {**widths, **offsets} == kept
    assert count_macs(model, sweeps) == pytest.approx(choice.cost)
    assert choice.cost <= choice.budget
    page = (run / "report.html").read_text()
    assert "channels of stem.0" in page
    assert "offsets of stem.0" in page
    found = Measured.load(run / "measured.json")
    assert all(predicted is not None for predicted in found.predicted)
    # and it goes on as the other ones do, what was measured besides included
    n = counted.n
    assert n == 1 + len(choice.steps) + 2
    compress(tiny_job(tmp_path, **given))
    assert counted.n == n
    (run / "cost-offsets.json").unlink()
    with pytest.raises(FormatError, match=r"cost-offsets\.json is gone.*cost\.json; remove that too"):
        compress(tiny_job(tmp_path, **given))
    # as it says; what was made of these times is another thing then, and is told
    (run / "cost.json").unlink()
    with pytest.raises(FormatError, match=r"scan: follows cost|search: follows cost"):
        compress(tiny_job(tmp_path, **given))
    compress(tiny_job(tmp_path, **given, resume="overwrite"))
    assert (run / "cost-offsets.json").is_file()


def test_voxels_are_another_axis(tmp_path, monkeypatch, unreported):
    counted = Counting(monkeypatch)
    budget = BudgetSettings(share=0.92, of="macs")
    given = {"pruning": VoxelPruning((0.0, 0.5, 0.75)), "budget": budget, "evaluations": 2, "tune": False}
    compress(tiny_job(tmp_path, **given))
    run = tmp_path / "run"
    choice, (model, _) = Choice.load(run / "chosen.json"), load_model(run)
    shares = {name: part.voxels for name, part in voxel_layers(model).items()}
    assert shares == {step.name: None if step.kept == 1000 else step.kept / 1000 for step in choice.steps}
    assert any(shares.values())
    assert choice.cost <= choice.budget
    assert choice.cost / choice.full_cost < 0.92
    # and it goes on as the other ones do
    n = counted.n
    assert n == 1 + len(choice.steps) + 2
    compress(tiny_job(tmp_path, **given))
    assert counted.n == n
    # a budget that no share of rows can meet
    with pytest.raises(RangeError, match="smallest reachable cost is"):
        compress(tiny_job(tmp_path, **{**given, "budget": BudgetSettings(share=0.9, of="bytes")},
                          resume="overwrite"))  # fmt: skip


def test_methods_that_want_curves_get_those_of_the_scan(copied, monkeypatch, unreported, capsys):
    counted = Counting(monkeypatch)
    job = tiny_job(copied, method=DynamicProgramming(), resume="overwrite", tune=False)
    compress(job)
    # the answer alone, and that is said before it begins
    assert counted.n == 1
    assert "search: dynamic programming, 1 evaluation, " in capsys.readouterr().out
    assert Choice.load(copied / "run/chosen.json").method == "dynamic programming"


def test_a_scan_that_leaves_a_step_whole_is_refused_before_it_where_curves_decide(copied, monkeypatch):
    counted = Counting(monkeypatch)
    few = {"scan": ScanSettings(ratios=(0.05,)), "resume": "overwrite"}
    with pytest.raises(RangeError, match=r"ratios of the scan leave '.*' whole, as rounded"):
        compress(tiny_job(copied, method=DynamicProgramming(), **few))
    assert counted.n == 0


def test_searches_by_lines_between_widths_of_the_scan_are_told_from_those_that_were_blind_there(tmp_path):
    def facts(method, pruning, ratios):
        job = tiny_job(tmp_path, method=method, pruning=pruning, scan=ScanSettings(ratios=ratios))
        return job.inputs["search"].get("curves")

    method = DynamicProgramming()
    assert facts(method, AXES["channels"], (0.5,)) is None
    assert facts(method, AXES["joint"], (0.5,)) is None
    for pruning in AXES.values():
        assert facts(method, pruning, (0.25, 0.5)) == "lines between the widths of the scan"
        assert facts(Uniform(), pruning, (0.25, 0.5)) is None


def test_a_cost_that_was_measured_anew_stands_in_the_files_of_the_scan(copied, monkeypatch, unreported):
    drawn, run = [], copied / "run"
    monkeypatch.setattr(compress_steps, "sensitivity_page", lambda table, *given: drawn.append(table))
    before, log = (run / "sensitivity.csv").read_text(), (run / "sensitivity.jsonl").read_bytes()
    compress(tiny_job(copied))
    assert (drawn, (run / "sensitivity.csv").read_text()) == ([], before)
    (run / "cost.json").unlink()
    counted = Counting(monkeypatch)
    compress(tiny_job(copied, tune=False, resume="overwrite"))
    # of the search alone
    assert counted.n <= SETTINGS.evaluations
    cost, rows = CostTable.load(run / "cost.json", any_machine=True), read_rows(run / "sensitivity.csv")
    graph = ChannelGraph.of(load_model(copied / "dense.safetensors")[0])
    expected = [cost.total("ms", graph.widths({row["name"]: int(row["kept"])})) for row in rows]
    assert [float(row["ms"]) for row in rows] == expected
    assert [point.ms for point in drawn[0].points] == expected
    assert (run / "sensitivity.csv").read_text() != before
    assert (run / "sensitivity.jsonl").read_bytes() == log


@pytest.mark.slow
def test_processes_find_what_one_process_finds(copied, unreported):
    found = []
    with SpawnedProcesses(2, threads=1) as executor:
        # a search in between, so that the last one begins anew
        for n, where in ((4, executor), (2, None), (4, None)):
            compress(tiny_job(copied, executor=where, evaluations=n, resume="overwrite", tune=False))
            found.append(Choice.load(copied / "run/chosen.json"))
    assert found[0] == found[2]
    assert [choice.evaluations for choice in found] == [4, 2, 4]


def test_as_a_user_calls_it_then_evaluates_and_infers(tmp_path, monkeypatch, capsys):
    pytest.importorskip("hydra")
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "dense.safetensors")
    root = write_root(tmp_path / "kitti", {"00": 2, "08": 1}, points=150)
    command = [
        "compress", f"data.root={root}", "checkpoint=dense.safetensors", "name=small", "method=uniform",
        "compress.multiple=4", "cost.sweeps=1", "cost.step=1000", "cost.runs=1", "scan.run=false",
        "measure.runs=1", "evaluation.sweeps=2", "tune=false", "workers=0",
    ]  # fmt: skip
    assert main(command) == 2
    assert "budget.share" in capsys.readouterr().err
    assert main([*command, "budget.share=0.5", "budget.of=bytes", "compress.ratios=[0.5,1.0]"]) == 2
    assert "compress.ratios must be in [0, 1)" in capsys.readouterr().err
    assert main([*command, "budget.share=0.5", "scan.ratios=[0.5,-0.5]"]) == 2
    assert "scan.ratios must be in [0, 1)" in capsys.readouterr().err
    assert main([*command, "budget.share=0.5", "voxels.voxel_size=0.05"]) == 2
    assert "leave voxels out" in capsys.readouterr().err
    assert main([*command, "budget.share=0.5", "budget.of=bytes"]) == 0
    said = capsys.readouterr().out
    assert "of the parameters" in said
    assert "report.html" in said
    assert main(["evaluate", f"data.root={root}", "checkpoint=runs/small", "workers=0"]) == 0
    sweep = root / "sequences/08/velodyne/000000.bin"
    assert main(["infer", str(sweep), "--checkpoint", "runs/small", "--out", "out", "--no-picture"]) == 0
    assert (tmp_path / "out/000000.label").stat().st_size == 4 * 150


def test_the_voxels_of_the_checkpoint_cannot_be_changed_in_passing():
    assert replace(SETTINGS, epochs=3).fit_settings(VoxelSettings(0.6), 5).voxels.voxel_size == 0.6
    assert SETTINGS.fit_settings(VoxelSettings(0.6), 5).epochs == 5
    assert SETTINGS.fit_settings(VoxelSettings(0.6), 5).optim.lr == pytest.approx(0.1 * SETTINGS.optim.lr)


@pytest.mark.parametrize("busy", [False, True])
def test_the_report_says_what_its_numbers_are_worth(tmp_path, monkeypatch, busy):
    job = tiny_job(tmp_path)
    summary = CostSummary(1.0, 0.1, 1e6, 1e3, busy)
    monkeypatch.setattr(type(job.prunable), "summary", lambda self: summary)

    def said(split):
        job.settings = replace(job.settings, measure=replace(job.settings.measure, split=split))
        return " ".join(compress_report._notes(job))

    assert ("BUSY" in said("val")) == busy
    assert "flatter" not in said("val")
    assert "THE SCORES ARE OF train" in said("train")
