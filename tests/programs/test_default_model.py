"""Models that pcsparse brings: by name, and by the cloud where none is named."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from pcsparse.cli import main
from pcsparse.data.collate import VoxelSettings
from pcsparse.data.files import read_labels
from pcsparse.data.input_spec import CloudFacts, InputSpec
from pcsparse.data.label_map import LabelMap
from pcsparse.programs import infer_models
from pcsparse.programs.default_model import DEFAULT_MODEL, brought_models, model_named
from pcsparse.train.model_file import ModelCard, arch_of, load_model, save_model
from tests.infer.sweeps import walled_street
from tests.streets import tiny_model

DENSE = walled_street(columns=64)
# a quarter of the lasers
SPARSE = walled_street(columns=64).reshape(64, 64, 4)[::4].reshape(-1, 4)


def _write_model(path, rows, seed):
    torch.manual_seed(seed)
    model = tiny_model()
    spec = InputSpec.of([CloudFacts.of(rows[:, :3], rows[:, 3])])
    labels = LabelMap.load("semantickitti")
    save_model(path, model, ModelCard(arch_of(model, 19), labels, VoxelSettings(0.3), spec, {}, {}))


@pytest.fixture
def brought(tmp_path, monkeypatch):
    """A folder of weights with a dense and a sparse model; the two disagree."""
    folder = tmp_path / "brought"
    folder.mkdir()
    _write_model(folder / DEFAULT_MODEL, DENSE, 0)
    _write_model(folder / "a-sparse.safetensors", SPARSE, 1)
    monkeypatch.setattr("pcsparse.resources.weights_dir", lambda: folder)
    np.save(tmp_path / "dense.npy", DENSE)
    np.save(tmp_path / "sparse.npy", SPARSE)
    return folder


def _infer(tmp_path, source, *flags):
    """Predicted raw ids."""
    arguments = ["infer", str(tmp_path / source), "--out", str(tmp_path / "out"), "--no-picture", *flags]
    assert main(arguments) == 0
    rows = DENSE if source == "dense.npy" else SPARSE
    return read_labels(tmp_path / "out" / f"{source.removesuffix('.npy')}.label", len(rows)).tolist()


def test_the_cloud_decides_which_model_is_used(tmp_path, brought, capsys):
    for source, name, other in (
        ("dense.npy", "minkunet-hdl64e", "a-sparse"),
        ("sparse.npy", "a-sparse", "minkunet-hdl64e"),
    ):
        chosen = _infer(tmp_path, source)
        assert f"  model {name}: " in capsys.readouterr().out
        assert chosen == _infer(tmp_path, source, "--model", name)
        assert chosen != _infer(tmp_path, source, "--model", other)
        # a named one is not explained
        assert "its own sweeps" not in capsys.readouterr().out


def test_each_model_is_loaded_once(tmp_path, brought, capsys, monkeypatch):
    loads = []

    def load(path):
        loads.append(path.stem)
        return load_model(path)

    monkeypatch.setattr(infer_models, "load_model", load)
    for name in ("dense-2.npy", "sparse-2.npy"):
        np.save(tmp_path / name, DENSE if name.startswith("dense") else SPARSE)
    assert main(["infer", str(tmp_path / "*.npy"), "--out", str(tmp_path / "out"), "--no-picture"]) == 0
    assert loads == ["minkunet-hdl64e", "a-sparse"]
    assert capsys.readouterr().out.count("  model a-sparse: ") == 2


def test_a_cloud_in_tiles_gets_the_default_model(tmp_path, brought, capsys):
    tiled = _infer(tmp_path, "sparse.npy", "--tile", "60")
    assert "  model minkunet-hdl64e: the default one" in capsys.readouterr().out
    assert tiled == _infer(tmp_path, "sparse.npy", "--tile", "60", "--model", "minkunet-hdl64e")


@pytest.mark.parametrize("verb", ["infer", "inspect"])
def test_an_unknown_name_lists_what_there_is(tmp_path, brought, capsys, verb):
    source = str(tmp_path / "dense.npy")
    assert main([verb, source, "--model", "minkunet-hdl46e"]) == 2
    said = capsys.readouterr().err
    assert "no model 'minkunet-hdl46e', but: minkunet-hdl64e, a-sparse" in said
    assert "--checkpoint" not in said
    assert main([verb, source, "--model", str(brought / DEFAULT_MODEL)]) == 2
    assert "is named by --checkpoint" in capsys.readouterr().err
    assert main([verb, source, "--model", "a-sparse", "--checkpoint", str(brought / DEFAULT_MODEL)]) == 2
    assert "named twice" in capsys.readouterr().err


def test_inspect_compares_with_the_model_that_infer_would_use(tmp_path, brought, capsys):
    assert main(["inspect", str(tmp_path / "sparse.npy"), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["model"]["weights"], found["fine"]) == (str(brought / "a-sparse.safetensors"), True)
    _infer(tmp_path, "sparse.npy")
    assert f"  model a-sparse: {found['model']['choice']}\n" in capsys.readouterr().out
    # zeros in place of returns that are none look dense; without them, as the flag leaves them out, it is not
    source = tmp_path / "zeros.npy"
    np.save(source, np.concatenate([SPARSE, np.zeros((3 * len(SPARSE), 4), np.float32)]))
    assert main(["inspect", str(source)]) == 1
    said = capsys.readouterr().out
    assert "model      a-sparse.safetensors knows" in said
    assert said.splitlines()[-1].endswith(f"pcsparse infer {source} --min-range 0.5")


def test_inspect_names_the_better_model_where_another_is_given(tmp_path, brought, capsys):
    assert main(["inspect", str(tmp_path / "sparse.npy"), "--model", "minkunet-hdl64e"]) == 1
    said = capsys.readouterr().out
    assert "--model a-sparse would mend it" in said
    assert said.splitlines()[-1].endswith(f"infer {tmp_path / 'sparse.npy'} --model a-sparse")
    # one that fits is kept
    rows = DENSE + np.float32([0, 0, 2, 0])
    np.save(tmp_path / "dense.npy", rows)
    assert main(["inspect", str(tmp_path / "dense.npy"), "--model", "minkunet-hdl64e"]) == 1
    assert "dense.npy --model minkunet-hdl64e --z-offset -" in capsys.readouterr().out


def test_the_brought_models_begin_with_the_default_one():
    assert [path.stem for path in brought_models()] == ["minkunet-hdl64e", "minkunet-32beam"]
    assert brought_models()[0].name == DEFAULT_MODEL


def test_the_own_vehicle_gets_no_class_from_a_model_that_leaves_it_out(tmp_path, brought, capsys):
    rows, n = SPARSE.copy(), len(SPARSE) // 4
    # a roof under the sensor
    rows[:n, :3] = np.random.default_rng(0).uniform((-1, -1, -1), (1, 1, -0.9), (n, 3))
    # and something in the middle of a square
    rows[-20:, :3] = np.random.default_rng(1).uniform((29, 29, -1), (31, 31, 0), (20, 3))
    np.save(tmp_path / "sparse.npy", rows)
    own = np.linalg.norm(rows[:, :3], axis=1) < 2.5
    assert own.sum() == n
    model = brought / "a-sparse.safetensors"
    given = ("--checkpoint", str(model))
    assert 0 not in _infer(tmp_path, "sparse.npy", *given)
    assert main(["inspect", str(tmp_path / "sparse.npy"), *given]) == 0
    assert "--min-range 2.5 would mend it" in capsys.readouterr().out
    card = json.loads(model.with_suffix(".json").read_text())
    model.with_suffix(".json").write_text(json.dumps(card | {"min_range": 2.5}))
    np.testing.assert_array_equal(np.array(_infer(tmp_path, "sparse.npy", *given)) == 0, own)
    assert main(["inspect", str(tmp_path / "sparse.npy"), *given]) == 0
    assert "the model leaves out what is nearer than 2.5 m" in capsys.readouterr().out
    # the middle of a square is no sensor
    assert 0 not in _infer(tmp_path, "sparse.npy", *given, "--tile", "60")


# what a sweep of the sensor has, within which the medians over simulated ones must lie
SENSORS = {
    "minkunet-hdl64e": {"n_points": (1e5, 1.3e5), "near_density": (25, 45), "intensity_high": (0.4, 0.9)},
    "minkunet-32beam": {"n_points": (2.5e4, 4e4), "near_density": (10, 20), "intensity_high": (0.15, 0.5)},
}
ANY_SENSOR = {"ground_height": (-1.95, -1.5), "reach": (40, 90)}


@pytest.mark.parametrize("name", SENSORS)
def test_a_brought_model_is_small_and_says_what_it_is(name):
    weights = model_named(name)
    assert weights.stat().st_size <= 12e6
    with safe_open(weights, "pt") as content:
        names = content.keys()
        kinds = {content.get_slice(name).get_dtype() for name in names}
    assert "F16" in kinds
    assert kinds <= {"F16", "I64"}
    card = load_model(weights)[1]
    for key, (low, high) in (SENSORS[name] | ANY_SENSOR).items():
        assert low <= getattr(card.input_spec, key) <= high, key
    assert {"data", "sensor", "licence", "device"} <= card.provenance.keys()
    text = weights.with_suffix(".md").read_text()
    assert text.startswith(f"# {name}\n")
    for part in ("scripts/train_default.py", "scripts/evaluate.py", "## Limits", "Apache-2.0"):
        assert part in text
