"""Models side by side: what the tables hold, and the program on tiny streets."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pcsparse.data.collate import VoxelSettings
from pcsparse.data.files import read_labels, write_labels
from pcsparse.data.input_spec import CloudFacts, InputSpec
from pcsparse.data.label_map import LabelMap
from pcsparse.errors import FormatError, RangeError
from pcsparse.programs import infer, judge_models
from pcsparse.programs.infer import InferSettings
from pcsparse.programs.judge_models import JudgeSettings
from pcsparse.programs.judge_table import Judgement, ground_table, iou_table, shares_table
from pcsparse.train.model_file import ModelCard, arch_of, save_model
from tests.streets import tiny_model, tiny_street

LABELS = LabelMap.load("semantickitti")
CAR, ROAD, BUILDING, NONE = 0, 8, 12, -1
POINTS = np.array([[5, 0, -1.7], [5, 1, -1.7], [5, 2, 1.0], [5, 3, 0.0]], np.float32)


def _judged(name, targets, truth):
    one = Judgement(name, LABELS)
    one.add("street", POINTS, np.array(targets), None if truth is None else np.array(truth))
    return one


def _row(table, start):
    (line,) = [line for line in table.splitlines() if line.startswith(start)]
    return line.removeprefix(start).split()


def test_the_tables_hold_a_column_a_model():
    truth = [ROAD, ROAD, BUILDING, NONE]
    judged = [
        _judged("good", [ROAD, ROAD, BUILDING, CAR], truth),
        _judged("bad", [ROAD, BUILDING, ROAD, NONE], truth),
    ]
    shares = shares_table(judged)
    assert _row(shares, "class, share in %") == ["good", "bad"]
    assert _row(shares, "road") == ["50.00", "50.00"]
    assert _row(shares, "car") == ["25.00", "0.00"]
    assert _row(shares, "(none)") == ["0.00", "25.00"]
    assert "bicycle" not in shares
    assert _row(ground_table(judged), "street") == ["100.0", "/", "100.0", "50.0", "/", "0.0"]
    iou = iou_table(judged)
    # the car of the good model is on a point without a label
    assert _row(iou, "road (2)") == ["100.0", "33.3"]
    assert _row(iou, "building (1)") == ["100.0", "0.0"]
    assert _row(iou, "mIoU of 2 present") == ["100.0", "16.7"]
    assert _row(iou, "mean of road, building") == ["100.0", "16.7"]
    assert _row(iou, "accuracy") == ["100.0", "33.3"]
    assert "car" not in iou


def test_without_labels_there_is_no_iou_and_a_point_without_a_class_misses_its_label():
    assert iou_table([_judged("one", [ROAD] * 4, None)]) == ""
    missed = iou_table([_judged("one", [ROAD, NONE, NONE, NONE], [ROAD, ROAD, NONE, NONE])])
    assert _row(missed, "road (2)") == ["50.0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two streets of one name, a model and another of the same name."""
    folder = tmp_path_factory.mktemp("judge")
    for seed in (0, 1):
        sweep = tiny_street(seed)
        (folder / str(seed)).mkdir()
        np.save(folder / str(seed) / "street.npy", np.column_stack([sweep.points, sweep.intensity]))
        torch.manual_seed(seed)
        model = tiny_model()
        spec = InputSpec.of([CloudFacts.of(sweep.points, sweep.intensity)])
        card = ModelCard(arch_of(model, 19), LABELS, VoxelSettings(0.3), spec, {}, {})
        save_model(folder / str(seed) / "tiny.safetensors", model, card)
    return folder


def test_a_model_agrees_with_its_own_labels_in_every_class_and_is_drawn_beside_them(folder, tmp_path, capsys):
    model, source = folder / "0/tiny.safetensors", folder / "0/street.npy"
    settings = InferSettings((source,), out=tmp_path, checkpoint=str(model), picture=False)
    assert infer.run(settings) == 0
    predicted = read_labels(tmp_path / "street.label", 600)
    # a fifth has no label, as by hand
    predicted[::5] = 0
    write_labels(tmp_path / "by-hand.label", predicted)
    capsys.readouterr()
    judged = judge_models.run(
        JudgeSettings(
            (source, folder / "1/street.npy"),
            (str(model), str(folder / "1/tiny.safetensors")),
            (str(tmp_path / "by-hand.label"), "-"),
            tmp_path / "pictures",
        )
    )
    assert [one.model for one in judged] == ["0/tiny", "1/tiny"]
    assert [one.points for one in judged] == [1200, 1200]
    metrics = judged[0].metrics
    assert metrics is not None
    assert int(metrics.n_truth.sum()) == 480
    assert metrics.mean_iou_present == pytest.approx(1)
    assert judged[1].metrics is not None
    assert judged[1].metrics.mean_iou_present < 0.5
    said = capsys.readouterr().out
    for part in ("class, share in %", "low is ground / high none", "accuracy", "1/street.npy"):
        assert part in said
    with_labels, without = (
        np.asarray(Image.open(tmp_path / "pictures" / f"{k}-street.npy.png")).shape[0] for k in (0, 1)
    )
    # labels and two models; two models
    assert with_labels > 1.3 * without


def test_what_does_not_fit_is_refused(folder, tmp_path):
    source, model = folder / "0/street.npy", str(folder / "0/tiny.safetensors")
    with pytest.raises(RangeError, match="2 label files for 1 sweeps"):
        judge_models.run(JudgeSettings((source,), (model,), ("-", "-")))
    with pytest.raises(RangeError, match="no model 'nothing'"):
        judge_models.run(JudgeSettings((source,), ("nothing",)))
    write_labels(tmp_path / "short.label", np.zeros(5, np.uint32))
    with pytest.raises(FormatError, match=r"short\.label"):
        judge_models.run(JudgeSettings((source,), (model,), (str(tmp_path / "short.label"),)))


def test_the_script_is_called_as_a_user_does(folder, monkeypatch, capsys):
    script = Path(judge_models.__file__).parents[2] / "scripts/judge_models.py"
    arguments = [str(folder / "0/street.npy"), "--models", str(folder / "0/tiny.safetensors")]
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    with pytest.raises(SystemExit) as status:
        runpy.run_path(str(script), run_name="__main__")
    assert status.value.code == 0
    assert _row(capsys.readouterr().out, "class, share in %") == ["tiny"]
