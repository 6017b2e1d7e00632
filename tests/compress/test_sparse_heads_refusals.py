"""What sparsify_heads refuses before anything changes, and the model as it was when it fails in the midst."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from pcsparse.compress import sparse_heads_recipe as recipe
from pcsparse.compress.heads import EIESettings, TwoFourSettings, sparsify_heads
from pcsparse.errors import FormatError, RangeError, UnsupportedError
from pcsparse.nn import EIELinear, SemiStructuredLinear, eie_linear
from pcsparse.packed.eie import EIEFormat
from tests.compress.sparse_heads_cases import bev, mlp, problem


def _same(model: nn.Module, before: nn.Module) -> bool:
    """Modules of the same classes and modes in the same places, without hooks, and all tensors equal."""
    pairs = zip(model.named_modules(), before.named_modules(), strict=True)
    alike = all(
        (name, type(one), one.training) == (other_name, type(other), other.training)
        and not one._forward_pre_hooks
        and not parametrize.is_parametrized(one)
        for (name, one), (other_name, other) in pairs
    )
    state, other_state = model.state_dict(), before.state_dict()
    return (
        alike
        and list(state) == list(other_state)
        and all(torch.equal(state[k], other_state[k]) for k in state)
    )


def _never(_):
    raise AssertionError("work was begun")


@pytest.mark.parametrize(
    ("method", "options", "error", "text"),
    [
        ("4:2", {}, RangeError, "method must be 'eie', '2:4', EIESettings or TwoFourSettings, got '4:2'"),
        ("eie", {"mode": "fast"}, RangeError, "mode must be one of auto, sparse, dense, got 'fast'"),
        ("eie", {"heads": "head"}, RangeError, "heads must be a list of names, got the text 'head'"),
        (
            "eie",
            {"heads": ["neck"]},
            RangeError,
            "no module 'neck'; linear and 2-D layers: stem, head.shared.0,",
        ),
        (
            "eie",
            {"heads": ["head.shared.1"]},
            RangeError,
            "'head.shared.1' holds no linear or 2-D convolution",
        ),
        (
            "eie",
            {"heads": []},
            UnsupportedError,
            "no layer can be converted: there are no linear or 2-D layers",
        ),
        ("2:4", {"heads": ["stem"]}, UnsupportedError, "stem: 3 input channels are no multiple of 4"),
        (EIESettings(1e-4), {}, UnsupportedError, "stem: a density of 0.0001 keeps none of its 216 weights"),
        (
            EIESettings(0.5, {"heat": 0.1}),
            {},
            RangeError,
            "'heat' is not converted; layers that are: stem, head",
        ),
        (
            "2:4",
            {"fit_shared": _never, "fit": None},
            RangeError,
            "fit_shared trains shared values, and 2:4 has",
        ),
        ("2:4", {"with_dense_control": True, "fit": None}, RangeError, "give fit and evaluate"),
        ("eie", {"with_dense_control": True, "evaluate": None}, RangeError, "give fit and evaluate"),
        (
            EIESettings(1.0, widths=EIEFormat(1, pointer_bits=2)),
            {"heads": ["head.heat"]},
            RangeError,
            "head.heat: column 0 has 5 entries on one PE, more than a pointer of 2 bits",
        ),
    ],
)
def test_refused_before_work_begins(method, options, error, text):
    model = bev()
    before = copy.deepcopy(model)
    with pytest.raises(error, match=text):
        sparsify_heads(model, method, **{"fit": _never, "evaluate": _never, **options})
    assert _same(model, before)


@pytest.mark.parametrize("method", ["eie", "2:4"])
@pytest.mark.parametrize("part", ["weight", "bias"])
def test_what_is_not_finite_is_refused_by_name(method, part):
    model = mlp()
    with torch.no_grad():
        getattr(model[3], part)[1] = float("nan")
    with pytest.raises(RangeError, match=r"3: .*not finite; look for what made"):
        sparsify_heads(model, method, fit=_never, evaluate=_never)


def test_an_unknown_way_to_begin_is_refused_before_any_training():
    with pytest.raises(RangeError, match="initial must be one of linear, density, random, got 'lineer'"):
        EIESettings(initial="lineer")


@pytest.mark.parametrize("density", [0.0, -0.1, 1.5, float("nan")])
def test_a_density_is_a_share_that_keeps_something(density):
    with pytest.raises(RangeError, match="density: a density must be above 0 and at most 1"):
        EIESettings(density)
    with pytest.raises(RangeError, match="fc: a density must be"):
        EIESettings(0.5, {"fc": density})


def test_settings_of_2_4_are_checked():
    for options, text in [
        ({"training": "sgd"}, "training must be 'mask' or 'sr-ste', got 'sgd'"),
        ({"decay": -1.0}, "decay must be at least 0, got -1.0"),
        ({"rounds": -1}, "rounds must be at least 0, got -1"),
    ]:
        with pytest.raises(RangeError, match=text):
            TwoFourSettings(**options)


def test_a_model_that_is_a_layer_is_refused():
    with pytest.raises(
        UnsupportedError, match=r"the model: is the model itself .* wrap it in nn\.Sequential"
    ):
        sparsify_heads(nn.Linear(8, 8), "2:4")
    model = nn.Sequential(nn.Linear(8, 8))
    sparsify_heads(model, "2:4")
    with pytest.raises(UnsupportedError, match=r"0: is converted already \(SemiStructuredLinear\)"):
        sparsify_heads(model, "2:4")


def test_a_lazy_layer_must_have_seen_its_input():
    with pytest.raises(UnsupportedError, match=r"1\.weight has no values yet; call the model once before"):
        sparsify_heads(nn.Sequential(nn.Linear(8, 8), nn.LazyLinear(8)), "2:4")


METHODS = [EIESettings(0.3), TwoFourSettings(permute=True), TwoFourSettings("sr-ste")]


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("at", [1, 2, 3, 4, 5, 6, 7, 8])
def test_whatever_fails_the_model_is_as_it_was(method, at):
    fit, evaluate = problem(40)
    model = mlp()
    fit(model)
    model[2].eval()
    before = copy.deepcopy(model)
    parameters = list(model.parameters())
    calls = []

    def count(function):
        def counted(given):
            calls.append(function)
            result = function(given)
            if len(calls) == at:
                raise KeyboardInterrupt
            return result

        return counted

    # dense, pruned, fit, measured, shared, fit, measured, packed; without what is shared for 2:4
    last = 8 if isinstance(method, EIESettings) else 5
    if at > last:
        sparsify_heads(model, method, fit=count(fit), evaluate=count(evaluate))
        assert len(calls) == last
        assert not _same(model, before)
        return
    with pytest.raises(KeyboardInterrupt):
        sparsify_heads(model, method, fit=count(fit), evaluate=count(evaluate))
    assert len(calls) == at
    assert _same(model, before)
    # an optimiser from before goes on
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))
    # and it can be trained and converted
    fit(model)
    sparsify_heads(model, method)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_weights_that_run_away_are_named(method):
    model = mlp()
    before = copy.deepcopy(model)

    def explode(given):
        with torch.no_grad():
            given[3].parametrizations.weight.original.fill_(float("inf"))

    with pytest.raises(
        RangeError, match=r"3: .* not finite after training \(pruned, fine-tuned\); take a lower"
    ):
        sparsify_heads(model, method, fit=explode)
    assert _same(model, before)


def test_a_layer_packed_wrong_is_noticed(monkeypatch):
    real = recipe.pack_eie

    def wrong(codes, codebook, widths=None):
        return real(codes.flip(0), codebook, widths)

    monkeypatch.setattr("pcsparse.compress.shared_weights.pack_eie", wrong)
    model = mlp()
    before = copy.deepcopy(model)
    with pytest.raises(FormatError, match=r"0: \d+ of 768 weights are others when decoded"):
        sparsify_heads(model, "eie")
    assert _same(model, before)


@pytest.mark.parametrize("given", [False, True])
def test_a_product_that_is_wrong_is_noticed(monkeypatch, given):
    real = eie_linear.eie_linear

    def wrong(x, layout, bias=None, *, relu=False):
        return real(x, layout, bias, relu=relu) * 1.001

    monkeypatch.setattr(eie_linear, "eie_linear", wrong)
    model = bev()
    before = copy.deepcopy(model)
    evaluate = (lambda m: float(m(torch.ones(1, 3, 40, 40))[0].sum())) if given else None
    with pytest.raises(FormatError, match=r"stem: the packed layer gives \S+ where \S+ is right"):
        sparsify_heads(model, "eie", evaluate=evaluate)
    assert _same(model, before)


def test_a_device_without_kernels_takes_the_dense_product_or_refuses(monkeypatch):
    def refuse(*_, **__):
        raise UnsupportedError("no kernels here")

    monkeypatch.setattr(eie_linear, "eie_layout", refuse)
    model = mlp()
    with pytest.raises(UnsupportedError, match="no kernels here"):
        sparsify_heads(model, "eie", mode="sparse", fit=_never)
    assert type(model[0]) is nn.Linear
    sparsify_heads(model, "eie")
    assert isinstance(model[0], EIELinear)
    with torch.no_grad():
        model(torch.randn(2, 24))
    assert "no kernels here" in repr(model[0])


def test_a_model_in_part_converted_can_be_converted_further():
    model = bev()
    sparsify_heads(model, "2:4", heads=["head.heat"])
    before = copy.deepcopy(model)
    with pytest.raises(ZeroDivisionError):
        sparsify_heads(model, "eie", heads=["head"], evaluate=lambda _: 1 / 0)
    assert _same(model, before)
    report = sparsify_heads(model, "eie", heads=["head"])
    assert [layer.name for layer in report.layers] == ["head.shared.0", "head.box"]
    assert isinstance(model.head["heat"].linear, SemiStructuredLinear)


def test_buffers_that_no_state_dict_has_come_back_and_the_error_is_the_one_that_was_raised():
    model = mlp()
    model.register_buffer("seen", torch.zeros(1), persistent=False)

    def fit(network):
        network.seen += 5
        network.register_buffer("average", torch.ones(2))
        raise KeyError("of the training")

    with pytest.raises(KeyError, match="of the training"):
        sparsify_heads(model, "2:4", fit=fit)
    assert model.seen.tolist() == [0.0]
    assert type(model[0]) is nn.Linear
