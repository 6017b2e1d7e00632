"""`pcsparse tune`, and the programs that read its table."""

import numpy as np
import pytest
import torch

from pcsparse.cli import main
from pcsparse.config import InferSettings
from pcsparse.data.collate import VoxelSettings
from pcsparse.data.input_spec import CloudFacts, InputSpec
from pcsparse.data.label_map import LabelMap
from pcsparse.engine.choice import PASSES, Choice
from pcsparse.engine.output_stationary import OutputStationaryConfig
from pcsparse.engine.tune_cache import Bucket, TuneTable, load_table, store_table
from pcsparse.ops import conv as conv_module
from pcsparse.programs import infer
from pcsparse.train.model_file import ModelCard, arch_of, save_model
from tests.streets import tiny_model, tiny_street, write_root


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    """An untrained model."""
    torch.manual_seed(0)
    model, sweep = tiny_model(), tiny_street(0)
    card = ModelCard(
        arch=arch_of(model, 19),
        labels=LabelMap.load("semantickitti"),
        voxels=VoxelSettings(0.3),
        input_spec=InputSpec.of([CloudFacts.of(sweep.points, sweep.intensity)]),
        metrics={},
        provenance={},
    )
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_model(path, model, card)
    return path


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    sweep = tiny_street(0, 400)
    path = tmp_path_factory.mktemp("cloud") / "sweep.bin"
    np.column_stack([sweep.points, sweep.intensity]).astype(np.float32).tofile(path)
    return path


@pytest.fixture
def seen(monkeypatch):
    """(problem, plan) of every convolution that runs, less those that only look for sizes."""
    real, plans = conv_module.plan_for, []

    def spy(problem, *args):
        plan = real(problem, *args)
        if problem.device != "meta":
            plans.append((problem, plan))
        return plan

    monkeypatch.setattr(conv_module, "plan_for", spy)
    return plans


def _odd(problems, tile=96):
    choice = Choice("output_stationary", OutputStationaryConfig(tile=tile))
    return TuneTable.here("cpu", {(Bucket.of(problem), of): choice for problem in problems for of in PASSES})


def test_tune_prints_a_table_and_stores_one(model_file, cloud, tmp_path, capsys):
    out = tmp_path / "tuned.json"
    threads = torch.get_num_threads()
    arguments = ["--model", str(model_file), "--cloud", str(cloud), "--passes", "forward", "--runs", "1"]
    assert main(["tune", *arguments, "--threads", "1", "--out", str(out)]) == 0

    said = capsys.readouterr().out
    assert "times faster than the rule" in said
    assert "voxels of 0.3 m" in said
    assert str(out) in said
    assert "rejected" not in said
    assert torch.get_num_threads() == threads
    rows = [line for line in said.splitlines() if " n=" in line]
    assert rows
    assert all(" forward " in line for line in rows)
    # every group says what its maps cost, and what a new cloud does
    groups = sum(line.startswith("group ") for line in said.splitlines())
    assert f" in {groups} groups" in said
    assert said.count("derived ") - said.count("derived of") == said.count("new cloud") == groups + 1
    assert "tile_spans" in said
    # it is for one thread
    torch.set_num_threads(1)
    try:
        table = load_table(out, "cpu")
    finally:
        torch.set_num_threads(threads)
    assert {of for _, of in table.entries} == {"forward"}
    # also where the rule's stays
    assert len(table.entries) == len(rows)


def test_infer_takes_its_plans_from_the_table(model_file, cloud, tmp_path, seen):
    def run(name: str, tuned: str | None) -> bytes:
        settings = InferSettings(
            (cloud,), out=tmp_path / name, checkpoint=str(model_file), picture=False, tuned=tuned
        )
        assert infer.run(settings) == 0
        return (tmp_path / name / "sweep.label").read_bytes()

    labels = run("rule", None)
    store_table(tmp_path / "tuned.json", _odd([problem for problem, _ in seen]))
    assert 96 not in {plan.forward.config.tile for _, plan in seen}
    del seen[:]
    tuned = run("tuned", str(tmp_path / "tuned.json"))

    assert seen
    assert {plan.forward.config.tile for _, plan in seen} == {96}
    assert len(tuned) == len(labels)


def test_train_and_evaluate_take_their_plans_from_the_table(tmp_path, monkeypatch, seen):
    pytest.importorskip("hydra")
    monkeypatch.chdir(tmp_path)
    root = write_root(tmp_path / "kitti", {"00": 1, "08": 1}, points=400)
    train = [
        "train", f"data.root={root}", "model=minkunet14", "model.spec.width=0.125", "name=tiny", "epochs=1",
        "batch_size=1", "voxels.voxel_size=0.4", "workers=0", "progress=plain",
    ]  # fmt: skip
    evaluate = ["evaluate", f"data.root={root}", "split=val", "checkpoint=runs/tiny", "workers=0"]
    assert main(train) == 0
    assert main(evaluate) == 0
    store_table("tuned.json", _odd([problem for problem, _ in seen]))
    del seen[:]
    assert main([*evaluate, "tuned=tuned.json"]) == 0
    assert {plan.forward.config.tile for _, plan in seen} == {96}
    del seen[:]
    assert main([*train, "name=again", "tuned=tuned.json"]) == 0
    # augmentation may draw a cloud of another bucket
    tuned = [plan for _, plan in seen if plan.forward.config.tile == 96]
    assert tuned
    assert all(plan.grad_weight.config.tile == 96 for plan in tuned)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "resnet50"], "resnet50"),
        (["--runs", "0"], "runs=0"),
        (["--threads", "-1"], "threads=-1"),
        (["--threads", "0"], "threads=0"),
        (["--voxel-size", "0"], "voxel_size=0"),
        (["--voxel-size", "inf"], "voxel_size=inf"),
        (["--dtype", "float16"], "dtype=float16 is for GPUs"),
        (["--tf32"], "tf32 is for GPUs"),
        (["--device", "gpu"], "device 'gpu' is none"),
        (["--model", "MODEL", "--cloud", "none.bin"], "none.bin"),
        (["--model", "MODEL", "--cloud", "CLOUD", "--out", "CLOUD"], "is not a table of tunings"),
    ],
)
def test_bad_use_is_one_line(model_file, cloud, tmp_path, capsys, arguments, said):
    places = {"MODEL": str(model_file), "CLOUD": str(cloud)}
    before = cloud.read_bytes()
    given = [places.get(argument, argument) for argument in arguments]
    assert main(["tune", "--out", str(tmp_path / "t.json"), *given]) == 2
    errors = capsys.readouterr().err
    assert said in errors
    assert errors.strip().count("\n") == 0
    assert cloud.read_bytes() == before


def test_a_device_that_is_not_there_is_one_line(model_file, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["tune", "--model", str(model_file), "--device", "cuda"]) == 2
    assert "sees no CUDA device here" in capsys.readouterr().err


def test_a_missing_table_is_one_line(model_file, cloud, tmp_path, capsys):
    arguments = ["infer", str(cloud), "--checkpoint", str(model_file), "--out", str(tmp_path)]
    assert main([*arguments, "--tuned", str(tmp_path / "none.json")]) == 2
    assert "make one with `pcsparse tune" in capsys.readouterr().err
