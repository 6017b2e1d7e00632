"""Every config composes into the schema and builds what it names; a key that is not there is an error."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pcsparse import resources
from pcsparse.compress.pruning_channels import ChannelPruning
from pcsparse.compress.pruning_joint import JointPruning
from pcsparse.compress.pruning_offsets import OffsetPruning
from pcsparse.compress.pruning_voxels import VoxelPruning
from pcsparse.compress.search.amc import AMC
from pcsparse.config import (
    CompressSettings,
    EvaluateSettings,
    TrainSettings,
    build,
    build_augmentation,
    register,
    to_yaml,
)
from pcsparse.data.transforms import Augmentation
from pcsparse.errors import FormatError, RangeError, UnsupportedError
from pcsparse.models import SPVCNN, MinkUNet
from pcsparse.programs.compress_job import Job
from pcsparse.train.settings import FitSettings, LossSettings, OptimSettings, ScheduleSettings
from tests.streets import write_root

hydra = pytest.importorskip("hydra")
omegaconf = pytest.importorskip("omegaconf")

CONFIGS = resources.configs_dir()
GROUPS = ("model", "data", "optim", "schedule", "augment", "experiment")
COMPRESS_GROUPS = ("compress", "method", "executor", "experiment/compress")


def options(groups):
    """GROUP=NAME; experiments of compression are in a folder of their group."""
    names = {group: sorted(path.stem for path in (CONFIGS / group).glob("*.yaml")) for group in groups}
    split = {group: group.partition("/") for group in groups}
    return [f"{split[g][0]}={split[g][2]}{split[g][1]}{name}" for g in groups for name in names[g]]


OPTIONS = options(GROUPS)
COMPRESS_OPTIONS = options(COMPRESS_GROUPS)


def compose(name="train", overrides=()):
    register()
    fixed = [] if name == "evaluate" else ["output_dir=nowhere"]
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        raw = hydra.compose(name, overrides=[*fixed, "data.root=nowhere", *overrides])
    return omegaconf.OmegaConf.to_object(raw)


def test_every_config_file_is_tested():
    tested = {*GROUPS, *COMPRESS_GROUPS, "."}
    assert {str(path.parent.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml")} == tested
    assert len(OPTIONS) >= 15
    assert {"compress=channels", "method=amc", "experiment=compress/hdl64e_synthetic"} <= {*COMPRESS_OPTIONS}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_and_builds(option, tmp_path):
    root = write_root(tmp_path, {"00": 1, "08": 1, "11": 1}, points=5)
    settings = compose(overrides=[option, f"data.root={root}"])
    assert type(settings) is TrainSettings
    assert isinstance(build_augmentation(settings.augment), Augmentation)
    assert type(settings.optim) is OptimSettings
    assert type(settings.schedule) is ScheduleSettings
    assert type(settings.loss) is LossSettings
    for split in ("train", "val", "test"):
        assert len(build(getattr(settings.data, split))) == 1
    # full width costs seconds, and says no more
    settings.model["spec"]["width"] = 0.125
    model = build(settings.model)
    assert type(model) is (SPVCNN if option == "model=spvcnn" else MinkUNet)
    assert model.spec.n_classes == 19


def test_the_default_is_a_half_turn_of_augmentation_and_no_mix():
    augmentation = build_augmentation(compose().augment)
    assert [type(step).__name__ for step in augmentation.steps] == [
        "RandomYaw", "RandomFlip", "RandomScale", "HeightShift", "Jitter", "RandomDrop", "IntensityJitter",
    ]  # fmt: skip
    assert augmentation.mix is None
    assert (
        type(build_augmentation(compose(overrides=["augment=polar_mix"]).augment).mix).__name__ == "SectorMix"
    )


def test_a_step_of_augmentation_can_be_left_out():
    overrides = ["augment.steps.jitter=null", "augment.steps.height.limit=0.5"]
    steps = build_augmentation(compose(overrides=overrides).augment).steps
    assert len(steps) == 6
    assert [step.limit for step in steps if type(step).__name__ == "HeightShift"] == [0.5]


def test_the_experiment_of_the_default_model_is_what_it_says():
    settings = compose(overrides=["experiment=hdl64e_synthetic"])
    assert settings.model["spec"] == {
        "_target_": "pcsparse.models.minkunet.MinkUNetSpec.minkunet18",
        "in_channels": 4,
        "n_classes": 19,
        "width": 0.5,
    }
    assert settings.voxels.voxel_size == 0.1
    assert settings.name == "hdl64e_synthetic"


@pytest.mark.parametrize(
    "override",
    [
        "epoch=3",
        "+epoch=3",
        "optim.learning_rate=1",
        "+optim.learning_rate=1",
        "+loss.lovaz=1",
        "+data.rooot=x",
        "optim=adamm",
        "epochs=many",
    ],
)
def test_a_misspelt_key_is_an_error(override):
    with pytest.raises(Exception, match=r"epoch|learning_rate|lovaz|rooot|adamm|many"):
        compose(overrides=[override])


def test_a_misspelt_key_of_a_built_node_is_an_error():
    settings = compose(overrides=["+model.spec.widht=0.5"])
    with pytest.raises(FormatError, match=r"unexpected keyword argument \\?'widht"):
        build(settings.model)


def test_what_a_built_object_raises_comes_through(tmp_path):
    with pytest.raises(FormatError, match=r"^nowhere is no SemanticKITTI root"):
        build(compose().data.train)
    with pytest.raises(FormatError, match=r"cannot build pcsparse\.models\.Nothing"):
        build({"_target_": "pcsparse.models.Nothing"})


@pytest.mark.parametrize("override", ["optim.lr=-1", "precision=float8", "epochs=0", "ema_decay=1.0"])
def test_a_senseless_value_is_an_error(override):
    with pytest.raises((RangeError, UnsupportedError)):
        compose(overrides=[override])


@pytest.mark.parametrize("option", COMPRESS_OPTIONS)
def test_every_option_of_a_compression_composes_and_builds(option):
    settings = compose("compress", ["budget.share=0.5", option])
    assert type(settings) is CompressSettings
    assert (settings.budget.unit, settings.budget.within(10.0)) == ("ms", 5.0)
    pruning, method = build(settings.compress), build(settings.method)
    kinds = {
        "compress=joint": JointPruning, "compress=offsets": OffsetPruning, "compress=voxels": VoxelPruning,
    }  # fmt: skip
    assert type(pruning) is kinds.get(option, ChannelPruning)
    assert {*pruning.facts("cost"), *pruning.facts("scan")} <= {*pruning.facts()}
    assert pruning.facts()["axis"] == pruning.name
    assert option.removeprefix("method=").split("_")[0] in method.name or not option.startswith("method=")
    assert callable(build(settings.executor).run)
    assert isinstance(build_augmentation(settings.augment), Augmentation)
    # to a resumed run, settings with equal texts are equal
    assert repr(method) == repr(build(settings.method))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("budget.share=50", "at most 1"),
        ("budget.ms=12", "got .*share.*ms"),
        ("budget.seconds=1", "seconds"),
        ("evaluation.split=dev", "evaluation.split"),
        ("lr_factor=0", "lr_factor"),
        ("epochs=0", "epochs"),
        ("resume=maybe", "resume"),
        ("temperature=0", "temperature must be above 0, got 0"),
        ("distill=nan", "distill must be at least 0"),
        ("l1=-1e-4", "l1 and l2 must be at least 0"),
        ("reconstruct=true rounds=2", "2 rounds; set rounds=1 or reconstruct=false"),
    ],
)
def test_a_compression_without_meaning_is_refused(override, said):
    with pytest.raises(Exception, match=said):
        compose("compress", ["budget.share=0.5", *override.split()])


def test_a_compression_into_the_folder_of_its_checkpoint_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    settings = compose("compress", ["budget.share=0.5", f"checkpoint={tmp_path}"])
    with pytest.raises(FormatError, match="would be overwritten; choose another name="):
        Job.of(replace(settings, output_dir=str(tmp_path)))


def test_the_defaults_of_a_compression_leave_the_validation_set_alone():
    settings = compose("compress", ["budget.share=0.5"])
    assert (settings.keep, settings.validate_every) == ("last", 0)
    assert settings.evaluation.split != settings.measure.split
    assert build(settings.method).settings.episodes == settings.evaluations == 200


@pytest.mark.parametrize("method", ["amc", "amc_paper", "amc_released_code"])
def test_rollouts_in_flight_are_left_alone_when_the_schedule_is_scaled(method):
    settings = compose("compress", [f"method={method}", "method.rollouts=3", "budget.share=0.5"])
    made = build(settings.method)
    assert made.rollouts == 3
    assert made.fitted(20) == AMC(made.settings.scaled_to(20), 3)
    assert build(compose("compress", [f"method={method}", "budget.share=0.5"]).method).rollouts == 1


def test_evaluate_composes():
    settings = compose("evaluate", ["checkpoint=runs/x", "split=test"])
    assert type(settings) is EvaluateSettings
    assert (settings.checkpoint, settings.split) == ("runs/x", "test")
    with pytest.raises(Exception, match="chekpoint"):
        compose("evaluate", ["+chekpoint=runs/x"])


def test_settings_survive_yaml(tmp_path):
    settings = compose(overrides=["experiment=hdl64e_synthetic", "voxels.crop=[-1,-2,-3,1,2,3]"])
    (tmp_path / "config.yaml").write_text(to_yaml(settings))
    schema = omegaconf.OmegaConf.structured(TrainSettings)
    omegaconf.OmegaConf.set_readonly(schema, False)
    loaded = omegaconf.OmegaConf.load(tmp_path / "config.yaml")
    assert loaded.voxels.crop == [-1.0, -2.0, -3.0, 1.0, 2.0, 3.0]
    assert loaded.optim.lr == settings.optim.lr
    assert loaded.model == settings.model


def test_fit_settings_need_no_hydra(monkeypatch):
    for name in ("hydra", "hydra.utils", "omegaconf"):
        monkeypatch.setitem(sys.modules, name, None)
    assert FitSettings(epochs=2).epochs == 2
    assert TrainSettings(output_dir="x").epochs == 15
    with pytest.raises(UnsupportedError, match=r"pcsparse\[train\]"):
        build({"_target_": "pcsparse.models.MinkUNet"})


def test_no_config_names_a_place_of_this_machine():
    for path in CONFIGS.rglob("*.yaml"):
        assert str(Path.home()) not in path.read_text()
