"""The study of searches: counts against the metric, intervals, and a whole study on tiny streets."""

import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from pcsparse.compress.graph import ChannelGraph
from pcsparse.compress.search.space import CostTerm, Space, Step
from pcsparse.compress.search.trials import SearchResult, Trial
from pcsparse.compress.sensitivity import fingerprint
from pcsparse.data.collate import VoxelSettings
from pcsparse.data.input_spec import CloudFacts, InputSpec
from pcsparse.data.label_map import LabelMap
from pcsparse.errors import FormatError, RangeError
from pcsparse.programs import bench_compress_search as study_module
from pcsparse.programs.bench_compress_claim import claim
from pcsparse.programs.bench_compress_score import PrunedScore
from pcsparse.programs.bench_compress_search import SearchStudy, run
from pcsparse.programs.bench_compress_search_table import Judged, rows_of, table_text
from pcsparse.programs.bench_compress_streets import Streets, Towns
from pcsparse.train.metrics import ConfusionMatrix, SemanticKittiMetrics
from pcsparse.train.model_file import ModelCard, arch_of, load_model, save_model
from pcsparse.train.sweep_counts import SweepCounts, draw_weights
from tests.programs.counted_cost import counted_cost
from tests.streets import tiny_model, write_root

_FACTS = CloudFacts.of(np.zeros((2, 3), np.float32), np.zeros(2, np.float32))


def _confusions(rng, n=3):
    found = []
    for _ in range(n):
        confusion = ConfusionMatrix(4)
        confusion.update(
            torch.randint(-1, 4, (50,), generator=rng), torch.randint(-1, 3, (50,), generator=rng)
        )
        found.append(confusion)
    return found


def test_counts_give_the_metric_of_any_sum_of_sweeps(rng):
    confusions = _confusions(rng)
    counts = SweepCounts.of(confusions)
    whole = SemanticKittiMetrics.of(confusions[0] + confusions[1] + confusions[2]).mean_iou_present
    assert counts.miou() == pytest.approx(whole, abs=1e-12)
    one, twice = (
        SemanticKittiMetrics.of(confusions[1]),
        SemanticKittiMetrics.of(confusions[0] + confusions[0]),
    )
    found = counts.miou(np.array([[0.0, 1.0, 0.0], [2.0, 0.0, 0.0]]))
    assert found == pytest.approx([one.mean_iou_present, twice.mean_iou_present], abs=1e-12)
    again = SweepCounts.from_lists(json.loads(json.dumps(counts.to_lists())))
    assert np.array_equal(again.union, counts.union)


def _judged(method, right, seed=0, share=0.5):
    """Every sweep has 100 points of one class; `right` of them are told."""
    right = np.array(right)[:, None]
    truth = np.full_like(right, 100)
    trial = Trial(0, (8,), 5.0, 0.4, -0.6, 2.0)
    result = SearchResult(method, seed, 5.0, 10.0, "ms", (trial, dataclasses.replace(trial, cached=True)))
    return Judged(result, method, share, SweepCounts(right, truth, truth), 5.5)


def test_gains_are_over_uniform_on_the_same_sweeps():
    base = [40, 90, 10, 60]
    rows = rows_of(
        [
            _judged("uniform", base),
            # always five points more: sweeps differ much, the gain does not
            _judged("amc", [right + 5 for right in base]),
            _judged("amc", [right + 7 for right in base], seed=1),
            _judged("random", [right + d for right, d in zip(base, (9, -9, 9, -8), strict=True)]),
            _judged("evolution", [right - 3 for right in base]),
            _judged("uniform", base, share=0.25),
        ]
    )
    found = {(row.method, row.share): row for row in rows}
    assert [row.share for row in rows] == [0.5] * 4 + [0.25]
    amc = found["amc", 0.5]
    assert (amc.seeds, amc.evaluations, amc.seconds) == (2, 1, 4.0)
    assert amc.gain == pytest.approx(0.06)
    # two seeds drawn from two vary by half of what they should: 6 points and a root of two to each side
    assert amc.interval == pytest.approx((0.06 - 0.01 * 2**0.5, 0.06 + 0.01 * 2**0.5))
    assert amc.spread == pytest.approx((0.55, 0.57))
    verdicts = {method: row.verdict for (method, share), row in found.items() if share == 0.5}
    assert verdicts == {
        "uniform": "baseline",
        "amc": "beats uniform",
        "random": "no difference shown",
        "evolution": "loses to uniform",
    }
    text = table_text(rows, SweepCounts(*(np.full((4, 1), 100),) * 3), 10.0, 11.0)
    assert "| 50% | amc | 2 | 1 | 4 | 5.0 | 5.5 | 40.0 | 56.0 | 55.0, 57.0 | +6.0 (+4.6 to +7.4) |" in text


def test_sweeps_of_a_town_are_drawn_together(rng):
    counts = SweepCounts.of(_confusions(rng, 6))
    towns = counts.by_town(2)
    assert len(towns.right) == 3
    assert towns.miou() == pytest.approx(counts.miou())
    drawn = np.array([[2.0, 0.0, 1.0]])
    assert towns.miou(drawn) == pytest.approx(counts.miou(drawn.repeat(2, axis=1)))
    weights = draw_weights(5, np.random.default_rng(0))
    assert weights.shape == (2000, 5)
    assert (weights.sum(axis=1) == 5).all()


def test_gains_over_uniform_need_uniform():
    with pytest.raises(RangeError, match=r"there are none at 0\.25; add uniform"):
        rows_of([_judged("uniform", [1, 2]), _judged("amc", [1, 2], share=0.25)])
    with pytest.raises(RangeError, match="add uniform to the methods"):
        SearchStudy(Path("x"), Streets(Path("x")), methods=("amc",))


@pytest.mark.parametrize("given", [{"seeds": 0}, {"shares": (1.5,)}, {"workers": -1}, {"evaluations": 0}])
def test_senseless_numbers_are_refused_before_any_work(given):
    with pytest.raises(RangeError, match="a share must be in"):
        SearchStudy(Path("x"), Streets(Path("x")), **given)


def test_a_folder_belongs_to_one_network_and_its_streets(tmp_path):
    claim(tmp_path / "out", "a network")
    claim(tmp_path / "out", "a network")
    with pytest.raises(FormatError, match="a network; now another"):
        claim(tmp_path / "out", "another")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    sets = [Towns(name, 2, 1, 0, 1.0) for name in ("train", "search", "held")]
    for i, towns in enumerate(sets):
        write_root(root / "streets" / towns.name, {"00": 1, "01": 1}, points=300 + i)
    torch.manual_seed(0)
    model = tiny_model(0.25)
    labels = LabelMap.load("semantickitti")
    card = ModelCard(
        arch=arch_of(model, labels.n_classes), labels=labels,
        voxels=VoxelSettings(1.0),
        input_spec=InputSpec.of([_FACTS]), metrics={}, provenance={},
    )  # fmt: skip
    save_model(root / "model.safetensors", model, card)
    streets = Streets(root / "streets", *sets, voxel_size=1.0)
    return SearchStudy(
        root / "out", streets, root / "model.safetensors", shares=(1.0,), evaluations=4, seeds=2, workers=0,
        methods=("uniform", "random"),
    )  # fmt: skip


@pytest.mark.slow
def test_a_study_judges_every_answer_and_is_not_done_twice(study, monkeypatch, capsys):
    monkeypatch.setattr(Streets, "write", lambda self: None)
    # which widths fit, and which of them are drawn twice, must not hang on what a machine measures
    monkeypatch.setattr(study_module, "measure_cost", counted_cost)
    study = dataclasses.replace(study, shares=(0.9,))
    assert run(study) == 0
    rows = json.loads((study.out / "table.json").read_text())
    assert [row["method"] for row in rows] == ["uniform", "random"]
    assert [row["seeds"] for row in rows] == [1, 2]
    assert [row["evaluations"] for row in rows] == [1, 4]
    assert (study.out / "search-0.9.png").stat().st_size > 10_000
    # what a search says of its answer on the search sweeps is what the network really does there
    job = json.loads((study.out / "searches" / "random-0.9-1.json").read_text())["found"]
    best = max((t for t in job["trials"] if not t["cached"]), key=lambda t: t["score"])
    space = study_module._Process.score.space
    fresh = PrunedScore(study.checkpoint, study.streets, space)
    assert fresh(tuple(best["widths"])) == best["score"]
    assert space.cost(tuple(best["widths"])) <= job["budget"]
    first = capsys.readouterr().out

    def no_more(self, widths):
        raise AssertionError(widths)

    monkeypatch.setattr(PrunedScore, "__call__", no_more)
    assert run(study) == 0
    again = capsys.readouterr().out
    assert again[again.index("| budget") :] == first[first.index("| budget") :]
    with pytest.raises(FormatError, match="evaluations 4, now 5"):
        run(dataclasses.replace(study, evaluations=5))
    with pytest.raises(RangeError, match="cannot be met: the smallest reachable is"):
        run(dataclasses.replace(study, shares=(0.01,)))
    # where one can be met the rest is named and left out; what is there is of the same study
    assert run(dataclasses.replace(study, shares=(*study.shares, 0.01))) == 0
    partly = capsys.readouterr().out
    assert partly[partly.index("| budget") :].startswith(first[first.index("| budget") :])
    assert partly.rstrip().splitlines()[-1].startswith("a budget of ")
    assert "1.0% of the dense network's, cannot be met: the smallest reachable is" in partly


def test_steps_before_a_score_are_the_same_in_every_process_and_change_no_other(study):
    model, _ = load_model(study.checkpoint)
    groups = ChannelGraph.of(model).free
    steps = [
        Step(group.name, (group.width,), c_in=1, c_out=1, kernel=1, voxels=1, pairs=1.0) for group in groups
    ]
    space = Space(tuple(steps), (CostTerm("all", (), np.array(1.0)),))
    untrained = PrunedScore(study.checkpoint, study.streets, space)
    trained = PrunedScore(study.checkpoint, study.streets, space, steps=6)
    before = fingerprint(trained._dense[0])
    found = untrained(space.largest), trained(space.largest)
    # its weights were drawn at random
    assert found[1] > found[0] + 0.05
    # as another process has it, which loads all anew
    sent = pickle.loads(pickle.dumps(trained))
    assert (sent(space.largest), untrained(space.largest)) == (found[1], found[0])
    assert fingerprint(trained._dense[0]) == before
    # a second score begins from the dense weights again
    assert trained(space.largest) == found[1]
