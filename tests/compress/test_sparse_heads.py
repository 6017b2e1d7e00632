"""Heads made sparse in one call: each step against the same by hand, training, what is left alone."""

import copy

import pytest
import torch
from torch import nn

from pcsparse.compress.channel_order import permute_head
from pcsparse.compress.heads import (
    EIESettings,
    TwoFourSettings,
    keep_largest,
    share_weights,
    sparsify_heads,
)
from pcsparse.nn import EIELinear, Linear, LinearConv2d, SemiStructuredLinear
from pcsparse.packed.eie import EIEFormat
from tests.compress.sparse_heads_cases import bev, mlp, problem
from tests.packed.oracle_two_four import best_two
from tests.tolerance import tolerance


def halved(weight: torch.Tensor) -> torch.Tensor:
    """Two of each four input channels, for linear layers and convolutions, row by row."""
    rows = weight.movedim(1, -1)
    mask = torch.tensor([best_two(row) for row in rows.reshape(-1, rows.shape[-1]).tolist()])
    return weight * mask.view(rows.shape).movedim(-1, 1)


def shared(weight: torch.Tensor, density: float) -> torch.Tensor:
    """Deep Compression of a weight of any shape; equal weights would be told apart by their order."""
    flat = weight.flatten(1)
    return share_weights(flat * keep_largest(flat, density)).to_dense().view(weight.shape)


@torch.no_grad()
def test_eie_in_one_shot_is_pruning_and_sharing():
    model = bev()
    before = copy.deepcopy(model).eval()
    report = sparsify_heads(model, EIESettings(0.3), heads=["head"])
    assert [layer.name for layer in report.layers] == ["head.shared.0", "head.heat", "head.box"]
    for layer in report.layers:
        wanted = shared(before.get_submodule(layer.name).weight, 0.3)
        module = model.get_submodule(layer.name)
        assert isinstance(module, LinearConv2d)
        assert torch.equal(module.dense_weight(), wanted)
        before.get_submodule(layer.name).weight.copy_(wanted)
        assert layer.density == pytest.approx(0.3, abs=0.01)
        assert layer.shape == tuple(wanted.shape)
    x = torch.randn(2, 3, 9, 7)
    for found, expected in zip(model.eval()(x), before(x), strict=True):
        torch.testing.assert_close(found, expected, **tolerance(torch.float32, 144, 64))
    assert type(model.stem) is nn.Conv2d
    assert type(model.head["shared"][1]) is nn.BatchNorm2d


@torch.no_grad()
def test_two_four_in_one_shot_halves_along_the_input_channels():
    model = bev()
    before = copy.deepcopy(model).eval()
    report = sparsify_heads(model, "2:4")
    (stem,) = report.skipped
    assert (stem.name, stem.reason) == ("stem", "3 input channels are no multiple of 4")
    for layer in report.layers:
        wanted = halved(before.get_submodule(layer.name).weight)
        assert torch.equal(model.get_submodule(layer.name).dense_weight(), wanted)
        before.get_submodule(layer.name).weight.copy_(wanted)
        assert layer.density == 0.5
    x = torch.randn(1, 3, 9, 7)
    for found, expected in zip(model.eval()(x), before(x), strict=True):
        torch.testing.assert_close(found, expected, **tolerance(torch.float32, 144, 64))


@pytest.mark.parametrize("method", [EIESettings(0.15), "2:4", TwoFourSettings("sr-ste")], ids=str)
def test_training_wins_back_what_pruning_lost(method):
    fit, evaluate = problem()
    model = mlp()
    fit(model)
    report = sparsify_heads(model, method, evaluate=evaluate, fit=fit, with_dense_control=True)
    dense, pruned, tuned = (report.accuracy(s) for s in ("dense", "pruned", "pruned, fine-tuned"))
    assert dense > 0.8
    assert pruned < dense - 0.03
    assert tuned > pruned + 0.5 * (dense - pruned)
    assert report.accuracy("dense, fine-tuned") > 0.8
    last = "pruned, fine-tuned"
    if isinstance(method, EIESettings):
        assert report.accuracy("shared, fine-tuned") >= report.accuracy("shared") - 0.02
        last = "shared, fine-tuned"
    # as good as before to within a point whose two best classes lie within rounding
    assert report.accuracy("packed") == pytest.approx(report.accuracy(last), abs=2 / 800)
    assert report.accuracy("packed") == evaluate(model.eval())


def test_each_fit_finds_what_it_trains():
    fit, evaluate = problem()
    model = mlp()
    fit(model)
    model[1].eval()
    seen = []

    def watch(given):
        assert given is model
        assert given.training
        assert not given[1].training
        seen.append([layer.weight.detach().clone() for layer in given[::3]])
        fit(given)
        seen.append([layer.weight.detach().clone() for layer in given[::3]])

    def look(given):
        assert not any(module.training for module in given.modules())
        assert not torch.is_grad_enabled()
        return evaluate(given)

    norm = model[4].running_mean.clone()
    report = sparsify_heads(model, EIESettings(0.2), fit=watch, evaluate=look)
    assert [stage.name for stage in report.stages] == [
        "dense",
        "pruned",
        "pruned, fine-tuned",
        "shared",
        "shared, fine-tuned",
        "packed",
    ]
    pruned, tuned, before, after = seen
    for i in range(3):
        kept = pruned[i] != 0
        assert int(kept.sum()) == round(0.2 * kept.numel())
        assert torch.equal(tuned[i] != 0, kept)
        assert not torch.equal(tuned[i], pruned[i])
        # sharing starts from what training ended with
        assert torch.equal(before[i], share_weights(tuned[i]).to_dense())
        assert len(after[i].unique()) <= 16
        assert torch.equal(after[i] != 0, kept)
        assert not torch.equal(after[i], before[i])
        assert torch.equal(model[3 * i].dense_weight(), after[i])
    assert model.training
    assert not model[1].training
    assert not torch.equal(model[4].running_mean, norm)


@torch.no_grad()
def test_sr_ste_chooses_while_it_trains():
    model = mlp()
    first = [halved(layer.weight) != 0 for layer in model[::3]]

    def turn(given):
        # what was small becomes large
        for layer in given[::3]:
            layer.parametrizations.weight.original.reciprocal_()

    report = sparsify_heads(model, TwoFourSettings("sr-ste", decay=0.1), fit=turn)
    assert [stage.accuracy for stage in report.stages] == [None] * 4
    for layer, mask in zip(model[::3], first, strict=True):
        assert torch.equal(layer.dense_weight() != 0, ~mask)


def test_centroids_may_have_a_training_of_their_own():
    calls = []
    model = mlp()
    options = {"evaluate": lambda _: 1.0, "with_dense_control": True}

    def note(name):
        return lambda given: calls.append((name, given is model))

    sparsify_heads(model, "eie", fit=note("fit"), fit_shared=note("shared"), **options)
    assert calls == [("fit", False), ("shared", False), ("fit", True), ("shared", True)]
    model, calls = mlp(), calls[:0]
    sparsify_heads(model, "eie", fit_shared=note("shared"), **options)
    assert calls == [("shared", False), ("shared", True)]
    model, calls = mlp(), calls[:0]
    sparsify_heads(model, "2:4", fit=note("fit"), **options)
    assert calls == [("fit", False), ("fit", True)]


def test_a_control_leaves_the_model_alone():
    fit, evaluate = problem()
    one, other = mlp(), mlp()
    for model in (one, other):
        model.insert(3, nn.Dropout(0.3))
    torch.manual_seed(0)
    with_control = sparsify_heads(one, "2:4", fit=fit, evaluate=evaluate, with_dense_control=True)
    torch.manual_seed(0)
    without = sparsify_heads(other, "2:4", fit=fit, evaluate=evaluate)
    assert with_control.accuracy("dense, fine-tuned") is not None
    assert without.accuracy("dense, fine-tuned") is None
    assert with_control.accuracy("packed") == without.accuracy("packed")
    # all but what the layers measured
    named = zip(one.named_buffers(), other.named_buffers(), strict=True)
    assert all(torch.equal(a, b) for (_, a), (_, b) in named)


def test_channels_are_ordered_where_they_may_be():
    model = mlp()
    model.eval()
    x = torch.randn(5, 24)
    plain, ordered = copy.deepcopy(model), copy.deepcopy(model)
    orders = permute_head(ordered)
    expected = [halved(layer.weight.detach()) for layer in ordered[::3]]
    sparsify_heads(model, TwoFourSettings(permute=True))
    for layer, weight in zip(model[::3], expected, strict=True):
        assert torch.equal(layer.dense_weight(), weight)
    assert torch.equal(model[4].running_var, ordered[4].running_var)
    assert orders["3"].after > orders["3"].before
    # a head that mixes channels between, or whose parts stand elsewhere, keeps its order
    mixing = nn.Sequential(plain[0], nn.Softmax(dim=1), plain[3])
    tied = nn.ModuleList([nn.Sequential(plain[0], plain[3]), plain[3]])
    for head in (mixing, tied):
        wanted = [halved(layer.weight.detach()) for layer in (plain[0], plain[3])]
        given = copy.deepcopy(head)
        sparsify_heads(given, TwoFourSettings(permute=True))
        found = [m.dense_weight() for m in given.modules() if isinstance(m, SemiStructuredLinear)]
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    with torch.no_grad():
        torch.testing.assert_close(ordered(x), plain(x), **tolerance(torch.float32, 32, 64))


def test_a_layer_in_two_places_is_converted_once():
    model = nn.ModuleDict({"a": nn.Linear(8, 8), "b": nn.ModuleList([nn.ReLU()])})
    model["b"].append(model["a"])
    report = sparsify_heads(model, "eie", heads=["b"])
    (layer,) = report.layers
    assert (layer.name, layer.also) == ("a", ("b.1",))
    assert isinstance(model["a"], EIELinear)
    assert model["b"][1] is model["a"]
    assert "a = b.1" in str(report)


class _Own(nn.Linear):
    pass


def test_what_stays_dense_says_why():
    model = nn.ModuleDict(
        {
            "fine": nn.Linear(8, 8),
            "voxels": Linear(8, 8),
            "own": _Own(8, 8),
            "groups": nn.Conv2d(8, 8, 3, groups=2),
            "mirror": nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
            "tied": nn.Linear(8, 8),
            "embedding": nn.Embedding(8, 8),
            "hooked": nn.Linear(8, 8),
            "spectral": torch.nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)),
            "narrow": nn.Linear(8, 8).half(),
            "block": nn.TransformerEncoderLayer(8, 2, 8),
            "empty": nn.ModuleList([SemiStructuredLinear(8, 8)]),
        }
    )
    model["tied"].weight = model["embedding"].weight
    model["hooked"].register_forward_hook(lambda *_: None)
    report = sparsify_heads(model, "2:4")
    assert [layer.name for layer in report.layers] == ["fine"]
    reasons = {layer.name: layer.reason for layer in report.skipped}
    assert reasons == {
        "voxels": "is a pcsparse.nn.pointwise.Linear, not torch's own layer",
        "own": f"is a {__name__}._Own, not torch's own layer",
        "groups": "groups=2; a patch of all channels is multiplied by one matrix",
        "mirror": "padding_mode='reflect'; only zeros are padded",
        "tied": "shares a parameter with embedding",
        "hooked": "has hooks, which would be lost",
        "spectral": "its weight is parametrised; remove that first",
        "narrow": "its parameters are torch.float16; only float32 is packed",
        "block.self_attn.out_proj": (
            "is a torch.nn.modules.linear.NonDynamicallyQuantizableLinear, not torch's own layer"
        ),
        "block.linear1": "nn.TransformerEncoderLayer reads its weight past its forward",
        "block.linear2": "nn.TransformerEncoderLayer reads its weight past its forward",
        "empty.0": "is converted already (SemiStructuredLinear)",
    }
    assert "left dense: narrow: its parameters are torch.float16" in str(report)


def test_heads_are_chosen_by_name_or_by_function():
    for heads, expected in [
        (["head.heat", "stem"], ["stem", "head.heat"]),
        (["head.shared"], ["head.shared.0"]),
        (lambda name, module: module.kernel_size == (1, 1), ["head.heat"]),
        (None, ["stem", "head.shared.0", "head.heat", "head.box"]),
    ]:
        model = bev()
        report = sparsify_heads(model, EIESettings(0.5), heads=heads)
        assert [layer.name for layer in report.layers] == expected
        converted = [name for name, m in model.named_modules() if isinstance(m, LinearConv2d)]
        assert sorted(converted) == sorted(expected)


def test_densities_and_widths_of_single_layers():
    model = mlp()
    settings = EIESettings(0.25, {"3": 0.5}, EIEFormat(2, code_bits=3, index_bits=5))
    report = sparsify_heads(model, settings, mode="dense")
    assert [layer.density for layer in report.layers] == [0.25, 0.5, 0.25]
    for layer in model[::3]:
        assert layer.widths == settings.widths
        assert layer.mode == "dense"
        # some centroids lie where pruning left nothing
        assert 3 < len(layer.dense_weight().unique()) <= 8


def test_an_input_that_is_a_gradient_of_something_is_no_matter():
    # 2:4 passes gradients on to what lies before
    model = mlp()
    sparsify_heads(model, "2:4")
    x = torch.randn(3, 24, requires_grad=True)
    model(x).sum().backward()
    assert bool((x.grad != 0).any())
