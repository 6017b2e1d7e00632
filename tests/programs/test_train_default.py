"""The default models' training: its recipes, and how its processes are started, ended and harvested."""

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from pcsparse.data.collate import VoxelSettings
from pcsparse.data.input_spec import CloudFacts, InputSpec
from pcsparse.data.label_map import LabelMap
from pcsparse.data.synthetic import pool
from pcsparse.data.synthetic.pool import RenderedSweeps
from pcsparse.data.synthetic.writer import FORMAT
from pcsparse.errors import FormatError, RangeError, UnsupportedError
from pcsparse.models.minkunet import MinkUNetSpec
from pcsparse.programs import train_default, train_default_processes
from pcsparse.programs.default_recipes import PUBLISHED_SHARES, RECIPES, recipe_named
from pcsparse.programs.train_default import DefaultSettings, main
from pcsparse.programs.train_default_part import TrainingJob, wait_for_sweeps
from pcsparse.train.fit import fit
from pcsparse.train.model_file import load_model
from pcsparse.train.settings import FitSettings
from pcsparse.train.survey import Survey
from tests.streets import TinyStreets, tiny_model

LABELS = LabelMap.load("synthetic")


def test_recipes_share_no_town_with_each_other_or_with_those_that_judge():
    towns = [set(range(r.pool.seed, r.pool.seed + r.pool.towns)) for r in RECIPES]
    assert not towns[0] & towns[1]
    # the model cards judge on seeds 5000 to 5999
    assert not any(seeds & set(range(5000, 6000)) for seeds in towns)


@pytest.mark.parametrize("recipe", RECIPES, ids=[recipe.name for recipe in RECIPES])
def test_a_recipe_fits_the_file_size_and_its_batches_are_whole(recipe):
    parameters = sum(
        int(np.prod(p.shape))
        for p in train_default_model(recipe).parameters()
    )  # fmt: skip
    assert 2 * parameters < 12e6
    # a smaller batch at the end of an epoch would not fit what is recorded
    assert len(recipe.pool) % recipe.batch_size == 0
    settings = recipe.settings(100.0, "cpu", 1)
    assert settings.time_limit == 100.0
    assert recipe_named(recipe.name) is recipe
    assert sum(one.loader_share for one in RECIPES) == 1.0


def train_default_model(recipe):
    from pcsparse.models.minkunet import MinkUNet

    return MinkUNet(MinkUNetSpec.minkunet18(width=recipe.width))


def test_the_augmentation_of_a_recipe_handles_a_sweep():
    from tests.streets import tiny_street

    for recipe in RECIPES:
        first, second = tiny_street(1, 3000), tiny_street(2, 3000)
        mixed = recipe.augmentation()(first, np.random.default_rng(2), lambda: second)  # noqa: B023
        assert len(mixed.points) == len(mixed.targets) > 500


def test_the_configuration_says_the_same_as_the_recipe():
    hydra = pytest.importorskip("hydra")
    from pcsparse.config import build_augmentation, register

    register()
    folder = str(Path(__file__).parents[2] / "configs")
    with hydra.initialize_config_dir(folder, version_base="1.3"):
        settings = hydra.compose("train", overrides=["augment=sim_to_real", "data.root=x"])
    told = repr(build_augmentation(settings.augment))
    assert told.replace("[", "(").replace("]", ")") == repr(recipe_named("minkunet-hdl64e").augmentation())


class FakeProcess:
    """A process that runs until it is ended, or a training that runs for some looks."""

    fails, fails_again = 0, 0
    # looks at a training until it ends
    patience = 6
    started: ClassVar[list["FakeProcess"]] = []
    # renderers that fail whenever they are started
    broken: ClassVar[list[list[str]]] = []

    def __init__(self, command, env, stdout=None, stderr=None):
        self.part = command[command.index("--part") + 1 :]
        if self.part[0] == "render":
            # no renderer's words on the console
            assert stderr == train_default_processes.subprocess.STDOUT
            stdout.write(b"a town\nRangeError: no town\n\n")
        self.env, self.looks, self.status = env, FakeProcess.patience, None
        self.command = command
        self.ends = FakeProcess.fails if "never" not in command else FakeProcess.fails_again
        if self.part[:3] in FakeProcess.broken:
            self.status = 1
        FakeProcess.started.append(self)

    def poll(self):
        if self.part[0] == "train":
            self.looks -= 1
            self.status = self.ends if self.looks <= 0 else self.status
        return self.status

    def terminate(self):
        trainings = [one for one in FakeProcess.started if one.part[0] == "train"]
        self.ended_early = any(one.status is None for one in trainings)
        self.status = -15

    def kill(self):
        self.status = -9 if self.status is None else self.status

    def wait(self, timeout):
        return self.status


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setattr(train_default, "_LOOK", 0.0)
    monkeypatch.setattr(train_default_processes.subprocess, "Popen", FakeProcess)
    FakeProcess.started, FakeProcess.broken = [], []
    return DefaultSettings(tmp_path / "out", tmp_path / "work", 1000.0, renderers=4, render_seconds=1e6)


def fill(settings, recipe, sweeps):
    """Empty files in place of the first sweeps of a pool."""
    folder = settings.pool(recipe)
    pool._claim(recipe.pool, folder)
    for index in range(sweeps):
        recipe.pool.path(folder, index).touch()


def test_rendering_starts_with_one_process_a_model_and_goes_on_with_all(settings):
    arguments = ["out", "--work", "work"]
    for recipe in settings.recipes:
        fill(settings, recipe, 1)
    # no run has stored a model
    assert train_default.run(settings, arguments) == 1
    names = [recipe.name for recipe in settings.recipes]
    parts = [process.part for process in FakeProcess.started]
    assert [part[:3] for part in parts[::2]][:2] == [["render", name, "0"] for name in names]
    assert [part[:2] for part in parts[1:4:2]] == [["train", name] for name in names]
    assert parts[4:] == [["render", name, "1", "2"] for name in names]
    assert all(process.env["OMP_NUM_THREADS"] == "1" for process in FakeProcess.started)
    assert all(process.status is not None for process in FakeProcess.started)


def test_rendering_ends_when_its_time_is_over(settings):
    train_default.run(replace(settings, render_seconds=0.0), [])
    assert {p.part[0]: p.status for p in FakeProcess.started} == {"render": -15, "train": 0}
    assert all(p.ended_early for p in FakeProcess.started if p.part[0] == "render")


def test_a_renderer_that_fails_is_started_again_and_then_named(settings, monkeypatch, capsys):
    recipe = settings.recipes[0]
    FakeProcess.broken = [["render", recipe.name, "0"]]
    monkeypatch.setattr(FakeProcess, "patience", 30)
    log = settings.work / "logs" / f"{recipe.name}-render-0.log"
    said = (
        rf"has 0 of 96 sweeps: render 0 of {recipe.name} ended with status 1; see {log}, which ends: RangeErr"
    )
    with pytest.raises(RangeError, match=f"{said}or: no town, 4 times in all"):
        train_default.run(settings, [])
    failed = [one for one in FakeProcess.started if one.part[:3] in FakeProcess.broken]
    assert len(failed) == 4
    said = capsys.readouterr().out
    assert "once more (3 of 3)" in said
    assert "go on" not in said
    assert log.read_text().count("a town") == 4
    # none is left alone
    assert all(one.status is not None for one in FakeProcess.started)


def test_a_renderer_may_fail_where_there_is_enough(settings, monkeypatch, capsys):
    FakeProcess.broken = [["render", settings.recipes[0].name, "0"]]
    monkeypatch.setattr(FakeProcess, "patience", 30)
    for recipe in settings.recipes:
        fill(settings, recipe, 2)
    assert train_default.run(replace(settings, enough=2), []) == 1
    said = capsys.readouterr().out
    assert "4 times in all; the others go on" in said
    assert said.count("go on") == 1
    assert said.count("once more") == 3


@pytest.mark.parametrize("all_fail", [False, True])
def test_a_failed_renderer_ends_all_only_if_it_was_the_last_of_its_model(
    settings, monkeypatch, all_fail, capsys
):
    recipe = settings.recipes[0]
    monkeypatch.setattr(FakeProcess, "patience", 30)
    FakeProcess.broken = [["render", recipe.name, part] for part in "01"][not all_fail :]
    for one in settings.recipes:
        fill(settings, one, 1)
    if all_fail:
        with pytest.raises(RangeError, match=rf"{recipe.name} has 1 of 96 sweeps: render . .*4 times in all"):
            train_default.run(settings, [])
    else:
        assert train_default.run(settings, []) == 1
        # both trainings to their ends
        ends = [one.status for one in FakeProcess.started if one.part[0] == "train"]
        assert ends == [0, 0]
        assert "render 1 of" in capsys.readouterr().out


def test_the_last_renderer_may_fail_where_there_is_enough(settings, monkeypatch, capsys):
    FakeProcess.broken = [["render", settings.recipes[0].name, part] for part in "01"]
    monkeypatch.setattr(FakeProcess, "patience", 30)
    for recipe in settings.recipes:
        fill(settings, recipe, 2)
    train_default.run(replace(settings, enough=2), [])
    assert "no renderer is left, but there are enough sweeps" in capsys.readouterr().out


@pytest.mark.parametrize("early", [True, False])
def test_a_training_that_fails_for_good_is_told(settings, monkeypatch, early, capsys):
    monkeypatch.setattr(FakeProcess, "fails", 3)
    monkeypatch.setattr(FakeProcess, "fails_again", 3)
    monkeypatch.setattr(train_default, "_TOO_LATE", 60.0 if early else 1e6)
    assert train_default.run(settings, []) == 1
    lines = capsys.readouterr().out.splitlines()
    said = [line for line in lines if line.startswith("training failed: train of ")]
    # no sweep of its model is missing because of it
    assert len(said) == 2
    assert said[1].endswith("no training is left")
    often = ", 2 times in all" if early else ""
    assert f"ended with status 3{often}; what it stored last" in said[1]
    assert len(FakeProcess.started) == (6 if early else 4)


def test_renderers_that_are_late_are_not_waited_for(settings):
    fill(settings, settings.recipes[0], 5)
    with pytest.raises(RangeError, match=r"has 5 of 96 sweeps after 0 s; .*--enough-seconds.*work/logs"):
        train_default.run(replace(settings, enough_seconds=1e-9), [])
    # nor does a training wait beyond its own end
    recipe = settings.recipes[0]
    job = TrainingJob(recipe, settings.pool(recipe), settings.run(recipe), "cpu", 1, 96, "never")
    with pytest.raises(RangeError, match="5 of 96 sweeps when the time was over"):
        wait_for_sweeps(job, RenderedSweeps(recipe.pool, job.pool), 0.0)


def test_a_pool_of_another_simulator_is_refused_before_anything_starts(settings):
    recipe = settings.recipes[0]
    fill(settings, recipe, 1)
    record = settings.pool(recipe) / "pool.json"
    record.write_text(record.read_text().replace(f'"simulator": {FORMAT}', '"simulator": 1'))
    with pytest.raises(FormatError, match=f"simulated otherwise .simulator 1, now {FORMAT}"):
        train_default.run(settings, [])
    assert not FakeProcess.started


def test_a_training_that_fails_is_started_once_more_without_graphs(settings, monkeypatch):
    monkeypatch.setattr(FakeProcess, "fails", 1)
    train_default.run(settings, [])
    trainings = [process for process in FakeProcess.started if process.part[0] == "train"]
    assert len(trainings) == 4
    for process in trainings[2:]:
        at = process.command.index("--record")
        assert process.command[at + 1] == "never"
        assert at < process.command.index("--part")


def test_what_the_runs_stored_is_exported_in_half_precision(settings, monkeypatch):
    recipe = settings.recipes[0]
    # towns where all classes are as frequent
    monkeypatch.setattr(train_default.RenderedSweeps, "class_shares", lambda self: (1 / 19,) * 19)
    spec = InputSpec.of([CloudFacts.of(np.full((5, 3), 7.0, np.float32), np.full(5, 0.25, np.float32))])
    monkeypatch.setattr(train_default, "survey_of", lambda sweeps, n: Survey(torch.ones(n), spec))
    fitting = FitSettings(epochs=1, batch_size=2, voxels=VoxelSettings(0.5), workers=0, progress="none")
    fit(tiny_model(), TinyStreets(2), None, fitting, settings.run(recipe), labels=LABELS)
    assert train_default.run(replace(settings, recipes=(recipe,)), []) == 0
    model, card = load_model(settings.out / f"{recipe.name}.safetensors")
    assert card.label_set == LABELS.label_set
    # of all that was rendered in the end
    assert card.input_spec == spec
    whole, half = settings.run(recipe) / "model.safetensors", settings.out / f"{recipe.name}.safetensors"
    assert half.stat().st_size < 0.55 * whole.stat().st_size
    log = settings.out / f"{recipe.name}.log.csv"
    assert log.read_text() == (settings.run(recipe) / "log.csv").read_text()
    assert model.spec.n_classes == 19
    # moved to streets with many buildings and hardly a bicycle; fences stay
    moved = (model.classifier.bias - load_model(whole)[0].classifier.bias).detach()
    shares = torch.tensor(PUBLISHED_SHARES)
    fence = shares.new_tensor(1 / 19)
    total = shares.sum() - shares[13] + fence
    for at, share in ((12, shares[12]), (1, shares[1]), (13, fence)):
        torch.testing.assert_close(moved[at], (share / total * 19).log(), atol=2e-3, rtol=2e-3)
    assert "SemanticKITTI" in card.provenance["priors"]
    # what has been moved is not moved again
    monkeypatch.setattr(train_default, "render_sample", lambda *given: 0)
    again = replace(settings, recipes=(recipe,), out=settings.out / "again")
    assert train_default._export_again(again, settings.out) == 0
    twice = load_model(again.out / f"{recipe.name}.safetensors")[0]
    assert torch.equal(twice.classifier.bias, model.classifier.bias)


def test_a_model_that_cannot_be_exported_is_missing(settings, capsys):
    recipe = settings.recipes[0]
    fitting = FitSettings(epochs=1, batch_size=2, voxels=VoxelSettings(0.5), workers=0, progress="none")
    fit(tiny_model(), TinyStreets(2), None, fitting, settings.run(recipe), labels=LABELS)
    # no sweep to count classes in
    assert train_default.run(replace(settings, recipes=(recipe,)), []) == 1
    said = capsys.readouterr().out
    assert "not exported now" in said
    assert f"missing: ['{recipe.name}']" in said


def test_senseless_settings_are_refused(tmp_path):
    for change in (
        {"seconds": 5.0},
        {"renderers": 1},
        {"loaders": 0},
        {"enough": 0},
        {"enough_seconds": 0.0},
    ):
        with pytest.raises(RangeError):
            replace(DefaultSettings(tmp_path, tmp_path, 100.0), **change)
    with pytest.raises(UnsupportedError, match="minkunet-32beam"):
        main([str(tmp_path), "--work", str(tmp_path), "--seconds", "60", "--models", "none"])


@pytest.mark.parametrize("option", ["--towns", "--sweeps", "--batch-size", "--width"])
def test_a_zero_is_no_default(tmp_path, monkeypatch, option):
    monkeypatch.setattr(train_default, "run", lambda settings, arguments: 0)
    with pytest.raises(RangeError):
        main([str(tmp_path), "--work", str(tmp_path), "--seconds", "60", option, "0"])


@pytest.mark.slow
def test_models_are_rendered_trained_and_written_in_the_time_given(tmp_path):
    arguments = [
        "--seconds",
        "150",
        "--device",
        "cpu",
        "--renderers",
        "2",
        "--loaders",
        "1",
        "--enough",
        "2",
        "--towns",
        "1",
        "--sweeps",
        "2",
    ]
    small = ["--batch-size", "2", "--width", "0.125"]
    assert main([str(tmp_path / "out"), "--work", str(tmp_path / "work"), *arguments, *small]) == 0
    for recipe in RECIPES:
        _, card = load_model(tmp_path / "out" / f"{recipe.name}.safetensors")
        assert card.metrics["step"] >= 1
        assert "simulated towns" in card.provenance["data"]
