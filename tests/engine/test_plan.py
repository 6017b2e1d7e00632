"""Plans: text round trip, the rule, refusals with reasons."""

from dataclasses import replace

import pytest
import torch

from pcsparse.coords.cache import CoordCache
from pcsparse.coords.relation import Relation
from pcsparse.engine import plan as plan_module
from pcsparse.engine.choice import PASSES, first_choice
from pcsparse.engine.gather_scatter import GatherScatterConfig
from pcsparse.engine.output_stationary import OutputStationaryConfig
from pcsparse.engine.plan import DATAFLOWS, Choice, Plan, explain, plan_for
from pcsparse.engine.problem import ConvProblem
from pcsparse.errors import FormatError, RangeError, UnsupportedError
from pcsparse.ops import sparse_conv
from tests.clouds import UNSORTED

PROBLEM = ConvProblem("cpu", torch.float32, 27, 16, 32, 1000, 1000, 5000, symmetric=True)
CHOICES = [Choice(name, config) for name, flow in DATAFLOWS.items() for config in flow.configs(PROBLEM)]


@pytest.mark.parametrize("choice", CHOICES, ids=Choice.encode)
def test_every_choice_survives_its_text(choice):
    assert Choice.decode(choice.encode()) == choice
    assert type(Choice.decode(choice.encode()).config) is DATAFLOWS[choice.dataflow].config_class


def test_numbers_keep_their_value_and_type():
    config = GatherScatterConfig(epsilon=1 / 3, batch_below=12_345)
    again = Choice.decode(Choice("gather_scatter", config).encode()).config

    assert again == config
    assert isinstance(again.batch_below, int)
    whole = Choice.decode("gather_scatter(epsilon=0,batch_below=3)").config
    assert isinstance(whole.epsilon, float)


def test_a_plan_of_three_different_passes():
    plan = Plan(
        Choice("output_stationary", OutputStationaryConfig(512, 2, 4)),
        Choice("gather_scatter", GatherScatterConfig(0.3, 0)),
        Choice("output_stationary", OutputStationaryConfig(2048, 0, 16)),
    )
    text = plan.encode()

    assert Plan.decode(text) == plan
    assert "\n" not in text
    assert text == (
        "output_stationary(tile=512,panel=2,partials=4)|gather_scatter(epsilon=0.3,batch_below=0)|"
        "output_stationary(tile=2048,panel=0,partials=16)"
    )


@pytest.mark.parametrize(
    "text",
    ["", "nothing(tile=3)", "output_stationary(tile=x)", "output_stationary(width=3)", "output_stationary",
     "output_stationary(tile)", "output_stationary(tile=1=2)"],
)  # fmt: skip
def test_broken_choices_are_named(text):
    with pytest.raises(FormatError, match="is not a dataflow choice such as") as error:
        Choice.decode(text)
    assert repr(text) in str(error.value)


def test_broken_plans_are_named():
    one = CHOICES[0].encode()
    for text in (one, f"{one}|{one}", f"{one}|{one}|{one}|{one}"):
        with pytest.raises(FormatError, match="is not a plan of three passes"):
            Plan.decode(text)
    with pytest.raises(FormatError, match="'nonsense' is not a dataflow choice"):
        Plan.decode(f"{one}|nonsense|{one}")


@pytest.mark.parametrize("name", DATAFLOWS)
def test_a_dataflow_can_be_forced(name):
    # few channels, which all of them take
    problem = replace(PROBLEM, device=DATAFLOWS[name].devices[0], c_out=16)
    plan = plan_for(problem, name)

    assert [choice.dataflow for choice in (plan.forward, plan.grad_feats, plan.grad_weight)] == [name] * 3
    assert plan.forward.config == next(DATAFLOWS[name].configs(problem))


def test_the_rule_takes_the_first_that_does_not_refuse():
    assert plan_for(PROBLEM).forward.dataflow == "output_stationary"
    with pytest.raises(UnsupportedError, match=r"output_stationary: .* xpu; gather_scatter: .* xpu"):
        plan_for(replace(PROBLEM, device="xpu"))
    # the rule reads the problem only
    assert plan_for(PROBLEM) == plan_for(replace(PROBLEM))


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(
        UnsupportedError,
        match="no dataflow 'winograd'; known: auto, output_stationary, sorted_implicit_gemm, gather_scatter",
    ):
        plan_for(PROBLEM, "winograd")


def test_a_refusal_gives_its_reason():
    on_cuda = replace(PROBLEM, device="cuda")
    with pytest.raises(UnsupportedError, match="output_stationary: it has no kernel on cuda") as error:
        plan_for(on_cuda, "output_stationary")
    assert "device='cuda'" in str(error.value)
    assert "gather_scatter" not in str(error.value)


@pytest.mark.parametrize("of", PASSES)
@pytest.mark.parametrize("flow", DATAFLOWS.values(), ids=DATAFLOWS)
def test_the_rule_does_not_depend_on_rows(flow, of):
    # plans are found again by all that is left
    for n_in, n_out, n_pairs in ((0, 0, 0), (1, 5, 3), (10**6, 10**5, None), (10**7, 10**7, 10**8)):
        other = replace(PROBLEM, n_in=n_in, n_out=n_out, n_pairs=n_pairs)
        assert first_choice(flow, other, of) == first_choice(flow, PROBLEM, of)


def test_where_all_refuse_all_reasons_are_given(monkeypatch):
    class Never(type(DATAFLOWS["gather_scatter"])):  # type: ignore[misc]
        def refuses(self, problem):
            return f"{problem.c_in} channels are too many"

    refusing = {"first": DATAFLOWS["output_stationary"], "second": Never()}
    monkeypatch.setattr(plan_module, "DATAFLOWS", refusing)
    with pytest.raises(
        UnsupportedError, match="first: it has no kernel on cuda; second: 16 channels are too many"
    ):
        plan_for(replace(PROBLEM, device="cuda"))


def test_explain_tells_the_choice_and_every_refusal():
    text = explain(PROBLEM)
    assert "c_in=16" in text
    assert f"plan: {plan_for(PROBLEM).encode()}" in text
    assert "gather_scatter: can run it" in text

    text = explain(replace(PROBLEM, device="xpu"))
    assert "plan: none" in text
    assert "output_stationary: refuses: it has no kernel on xpu" in text
    assert "gather_scatter: refuses: it has no kernel on xpu" in text


def test_the_input_gradient_is_planned_for_the_channels_it_writes():
    plan = plan_for(replace(PROBLEM, c_in=256, c_out=16))
    assert (plan.forward.config.tile, plan.grad_feats.config.tile) == (2048, 512)


def test_configs_start_with_the_rule_and_do_not_repeat():
    for flow in DATAFLOWS.values():
        configs = tuple(flow.configs(PROBLEM))
        assert len(set(configs)) == len(configs) > 1
        assert isinstance(configs[0], flow.config_class)


@pytest.mark.parametrize("field", [{"tile": 0}, {"panel": -1}, {"panel": 5}, {"partials": -2}])
def test_a_config_that_no_kernel_can_run_is_refused(field):
    with pytest.raises(RangeError, match=r"tile must be at least 1, panel 0 to 4 and partials .* got"):
        OutputStationaryConfig(**field)


def test_a_layer_wider_than_the_sums_of_a_row_have_room_for(rng):
    coords, wide = UNSORTED.coords[:3], 131073
    kmap = CoordCache().kernel_map(coords, coords, Relation.of(1))
    feats = torch.randn(3, 1, generator=rng, requires_grad=True)
    weight = torch.randn(1, 1, wide, generator=rng, requires_grad=True)
    out = sparse_conv(feats, weight, kmap, dataflow="output_stationary")
    assert torch.equal(out, feats @ weight[0])
    # backward, its inputs are as wide
    out.sum().backward()
    assert torch.allclose(feats.grad, weight.detach().sum().expand(3, 1), rtol=1e-3, atol=1e-2)
    back = sparse_conv(out.detach(), weight.detach().transpose(1, 2), kmap, dataflow="output_stationary")
    assert back.shape == (3, 1)
    for c_in, c_out in ((1, wide), (wide, 1)):
        problem = ConvProblem("cpu", torch.float32, 1, c_in, c_out, 3, 3, 3, False)
        assert next(DATAFLOWS["output_stationary"].configs(problem)).tile >= 256
