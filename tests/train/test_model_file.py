"""Stored models: the round trip, and every way in which a file can be wrong."""

import json
import pickle
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from pcsparse.data.collate import VoxelSettings
from pcsparse.data.input_spec import InputSpec
from pcsparse.data.label_map import LabelMap
from pcsparse.errors import FormatError, UnsupportedError
from pcsparse.models import MinkUNet, MinkUNetSpec
from pcsparse.train.model_file import ModelCard, arch_of, build_arch, load_model, save_model
from tests.streets import tiny_model

LABELS = LabelMap.load("semantickitti")


@pytest.fixture
def model():
    torch.manual_seed(3)
    model = tiny_model()
    # running statistics that are not those of a fresh model
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
        assert not name.endswith("running_mean") or bool((buffer != 0).all())
    return model


@pytest.fixture
def card(model):
    return ModelCard(
        arch=arch_of(model, 19),
        labels=LABELS,
        voxels=VoxelSettings(0.2, [-50.0, -50.0, -4.0, 50.0, 50.0, 3.0], 1.5),
        input_spec=InputSpec(-1.73, 20.0, 60.0, 0.9, 120_000),
        metrics={"miou": 0.25},
        provenance={"data": "tiny streets"},
    )


@pytest.fixture
def weights(tmp_path, model, card):
    path = tmp_path / "model.safetensors"
    save_model(path, model, card)
    return path


def edit_card(weights, **changes):
    path = weights.with_suffix(".json")
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


def edit_state(weights, change):
    state = load_file(weights)
    change(state)
    save_file(state, weights)


def test_a_model_comes_back_with_its_card(weights, model, card):
    for path in (weights, weights.parent):
        loaded, read = load_model(path)
        assert read == card
        assert loaded.spec == model.spec
        assert not loaded.training
        for name, tensor in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor), name


def test_what_float16_cannot_hold_stays_wide(tmp_path, model, card, weights):
    half = tmp_path / "half.safetensors"
    name = next(name for name, _ in model.named_buffers() if name.endswith("running_var"))
    model.get_buffer(name)[0] = 179406.0
    save_model(half, model, card, half=True)
    assert half.stat().st_size < 0.6 * weights.stat().st_size
    stored = load_file(half)
    wide = {key for key, tensor in stored.items() if tensor.dtype == torch.float32}
    assert wide == {name}
    loaded, _ = load_model(half)
    assert torch.equal(loaded.get_buffer(name), model.get_buffer(name))


def test_half_precision_is_half_the_size_and_widened_on_loading(tmp_path, model, card, weights):
    half = tmp_path / "half.safetensors"
    save_model(half, model, card, half=True)
    assert half.stat().st_size < 0.6 * weights.stat().st_size
    loaded, _ = load_model(half)
    for name, tensor in model.state_dict().items():
        other = loaded.state_dict()[name]
        assert other.dtype == tensor.dtype
        torch.testing.assert_close(other.float(), tensor.float(), rtol=1e-3, atol=1e-4)


def test_a_missing_or_truncated_file_is_named(weights, tmp_path):
    with pytest.raises(FormatError, match=r"nowhere\.safetensors does not exist"):
        load_model(tmp_path / "nowhere.safetensors")
    content = weights.read_bytes()
    for size in (0, 4, len(content) // 2, len(content) - 1):
        weights.write_bytes(content[:size])
        with pytest.raises(FormatError, match="truncated or no safetensors"):
            load_model(weights)
    weights.write_bytes(content)
    weights.with_suffix(".json").unlink()
    with pytest.raises(FormatError, match=r"model\.json cannot be read"):
        load_model(weights)


def test_a_pickle_is_never_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was opened",))

    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(FormatError, match="pickled checkpoints are not read"):
        load_model(path)


@pytest.mark.parametrize("name", ["run", "runs/v1.2", "model.pt"])
def test_a_model_that_is_not_there_is_said_to_be_missing(tmp_path, name):
    with pytest.raises(FormatError, match=rf"{name} does not exist; name the folder of a run, or a"):
        load_model(tmp_path / name)


def test_tensors_must_be_exactly_those_of_the_model(weights):
    first = "classifier.weight"
    original = weights.read_bytes()

    def extra(state):
        state["head.extra"] = torch.zeros(3)

    def reshaped(state):
        state[first] = state[first].reshape(-1).clone()

    def poisoned(state):
        state[first].view(-1)[0] = float("nan")

    for change, said in (
        (lambda state: state.pop(first), r"1 tensors are missing \['classifier.weight'\]"),
        (extra, "1 are unknown"),
        (reshaped, f"{first} has shape"),
        (poisoned, "not finite"),
    ):
        weights.write_bytes(original)
        edit_state(weights, change)
        with pytest.raises(FormatError, match=said):
            load_model(weights)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("os.system", "may only name classes under pcsparse"),
        ("torch.nn.Linear", "may only name classes under pcsparse"),
        ("pcsparsely.Evil", "may only name classes under pcsparse"),
        ("pcsparse.models.minkunet.Nothing", "does not have"),
        ("pcsparse.no_such_module.Net", "does not have"),
        ("pcsparse.train.model_file.load_model", "no model"),
        ("pcsparse.models.minkunet.MinkUNetSpec", "no model"),
        # what a module of the package imports is not of the package
        ("pcsparse.models.minkunet.nn", "no model"),
        ("pcsparse.nn.norm.BatchNorm", "not built from a Spec"),
        (7, "may only name classes"),
    ],
)
def test_an_arch_can_only_name_models_of_the_package(weights, card, target, said):
    edit_card(weights, arch={**card.arch, "_target_": target})
    with pytest.raises(FormatError, match=said):
        load_model(weights)


@pytest.mark.parametrize("arch", [None, {}, [], {"_target_": "pcsparse.models.minkunet.MinkUNet"}])
def test_an_arch_must_be_complete(weights, arch):
    edit_card(weights, arch=arch)
    with pytest.raises(FormatError, match="arch must have"):
        load_model(weights)


def test_a_spec_that_does_not_fit_is_named(weights, card):
    spec = json.loads(json.dumps(card.arch["spec"]))
    spec["stem"][1]["c_in"] += 1
    edit_card(weights, arch={**card.arch, "spec": spec})
    with pytest.raises(FormatError, match=r"Spec of pcsparse\.models\.minkunet\.MinkUNet does not fit"):
        load_model(weights)


def test_the_classes_must_be_those_of_the_label_set(weights, card):
    swapped = list(card.classes)
    swapped[0], swapped[8] = swapped[8], swapped[0]
    edit_card(weights, classes=swapped)
    with pytest.raises(FormatError, match="wrong names"):
        load_model(weights)
    edit_card(weights, classes=list(card.classes), label_set="mars")
    with pytest.raises(UnsupportedError, match=r"mars.*train again, or add its tables"):
        load_model(weights)


def own_map(name="mars"):
    """SemanticKITTI's with the raw ids of the ground exchanged."""
    rows = LABELS.rows()
    for row in rows["raw"]:
        row["id"] = {40: 72, 72: 40}.get(row["id"], row["id"])
    for row in rows["classes"]:
        row["raw"] = {40: 72, 72: 40}.get(row["raw"], row["raw"])
    return LabelMap.from_rows(name, **rows)


@pytest.mark.parametrize("name", ["mars", "semantickitti"])
def test_a_model_brings_its_own_label_map(tmp_path, model, card, name):
    labels = own_map(name)
    save_model(tmp_path / "own.safetensors", model, replace(card, labels=labels))
    loaded = load_model(tmp_path / "own.safetensors")[1]
    assert (loaded.label_set, loaded.classes) == (name, LABELS.names)
    assert loaded.labels == labels
    assert loaded.labels.to_raw(torch.tensor([8])).tolist() == [72]


def test_a_card_leaves_out_the_rows_of_a_map_that_pcsparse_brings(weights):
    assert "labels" not in json.loads(weights.with_suffix(".json").read_text())


@pytest.mark.parametrize(
    "labels", [{}, {"ignore": 0, "raw": [], "classes": []}, [], {"ignore": 0, "raw": 1, "classes": 2}]
)
def test_the_rows_of_a_card_must_be_a_label_map(weights, labels):
    edit_card(weights, labels=labels)
    with pytest.raises(FormatError, match="not the card of a model"):
        load_model(weights)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": 2}, "format 2"),
        ({"features": []}, "the model takes"),
        ({"voxel_size": -1.0}, "voxel_size"),
        ({"input": {"height": 2}}, "not the card of a model"),
    ],
    ids=["format", "features", "voxel-size", "input"],
)
def test_a_card_of_another_kind_is_refused(weights, changes, said):
    edit_card(weights, **changes)
    with pytest.raises((FormatError, ValueError), match=said):
        load_model(weights)


def test_a_card_must_be_json(weights):
    weights.with_suffix(".json").write_text("{")
    with pytest.raises(FormatError, match="not the card of a model"):
        load_model(weights)


def test_a_foreign_model_cannot_be_stored():
    with pytest.raises(UnsupportedError, match=r"torch\.nn\.modules\.linear\.Linear cannot be stored"):
        arch_of(torch.nn.Linear(2, 3), 3)
    with pytest.raises(FormatError, match="19 classes, the label set 7"):
        arch_of(tiny_model(), 7)


def test_arch_round_trip():
    spec = MinkUNetSpec.minkunet18(width=0.125)
    offsets = replace(spec.stem[1], offsets=(0, 13, 26))
    spec = replace(spec, stem=(spec.stem[0], offsets))
    assert build_arch(json.loads(json.dumps(arch_of(MinkUNet(spec), 19)))).spec == spec


def test_norms_come_back_as_they_were_set(tmp_path, model, card):
    norms = {name: part for name, part in model.named_modules() if isinstance(part, torch.nn.BatchNorm1d)}
    assert "norms" not in arch_of(model, 19)
    first, *_, last = norms
    norms[first].eps, norms[first].momentum = 1e-3, 0.01
    norms[last].momentum = None
    path = tmp_path / "model.safetensors"
    save_model(path, model, replace(card, arch=arch_of(model, 19)))
    found, stored = load_model(path)
    assert list(stored.arch["norms"]) == [first, last]
    for name, part in norms.items():
        loaded = found.get_submodule(name)
        assert (loaded.eps, loaded.momentum) == (part.eps, part.momentum)


@pytest.mark.parametrize(
    ("norms", "said"),
    [
        ({"nowhere": {"eps": 1e-3, "momentum": 0.1}}, "do not fit .*nowhere"),
        ({"classifier": {"eps": 1e-3, "momentum": 0.1}}, "'classifier', which is a Linear"),
        ({"NORM": {"eps": -1.0, "momentum": 0.1}}, "eps=-1.0"),
        ({"NORM": {"eps": "x", "momentum": 0.1}}, "do not fit"),
        ({"NORM": {"eps": 1e-3}}, "do not fit .*momentum"),
        ([1], "do not fit"),
    ],
)
def test_norms_of_a_card_must_be_those_of_the_model(weights, card, model, norms, said):
    name = next(name for name, part in model.named_modules() if isinstance(part, torch.nn.BatchNorm1d))
    text = json.dumps(norms).replace("NORM", name)
    edit_card(weights, arch={**card.arch, "norms": json.loads(text)})
    with pytest.raises(FormatError, match=said):
        load_model(weights)
