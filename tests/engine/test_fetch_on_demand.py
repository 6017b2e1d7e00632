"""Fetch-on-demand: its passes with the kernels of a GPU, its refusals, and that a tuner may take it."""

from dataclasses import replace

import pytest
import torch

from pcsparse.coords.watched_map import TRANSPOSED, Derived
from pcsparse.engine import autotune
from pcsparse.engine.autotune import table_of, tune
from pcsparse.engine.choice import Choice, choices
from pcsparse.engine.conv_call import ConvCall
from pcsparse.engine.dataflow import Epilogue, Passing
from pcsparse.engine.fetch_on_demand import FetchOnDemand, FetchOnDemandConfig
from pcsparse.engine.guard import Operands
from pcsparse.engine.plan import DATAFLOWS, explain, plan_for
from pcsparse.engine.problem import ConvProblem
from pcsparse.errors import RangeError, UnsupportedError
from pcsparse.kernels.select import backend_of
from pcsparse.ops.conv import sparse_conv
from tests.engine.test_dataflows import C_IN, C_OUT, NAMES, _expected, draw_operands, maps
from tests.engine.test_sorted_implicit_gemm import _map_on
from tests.engine.test_sorted_implicit_gemm import gpu as gpu
from tests.tolerance import tolerance

PROBLEM = ConvProblem("cuda", torch.float16, 27, 16, 16, 50_000, 50_000, None, symmetric=True)
FLOW, PLAIN = FetchOnDemand(), FetchOnDemandConfig()


def _check_rows(gpu, rng, name, dtype, configs=(PLAIN,), c_in=C_IN, c_out=C_OUT):
    """Forward and the gradient of the inputs; that of the weights is the implicit GEMM's."""
    kmap, mine = maps()[name], _map_on(gpu, name)
    operands = draw_operands(rng, kmap, dtype, c_in, c_out)
    out, grad_feats, _ = _expected(*operands, kmap)
    feats, weight, grad_out = (part.to(gpu) for part in operands)
    near = tolerance(dtype, terms=max(1, kmap.volume * max(c_in, c_out)), factor=32)
    for config in configs:
        for actual, wanted in (
            (FLOW.forward(feats, weight, mine, config), out),
            (FLOW.grad_feats(grad_out, weight, mine, config), grad_feats),
        ):
            assert actual.dtype == dtype
            torch.testing.assert_close(actual.cpu(), wanted.to(dtype), **near)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_rows_match_the_twin(gpu, rng, name, dtype):
    _check_rows(gpu, rng, name, dtype)


def test_every_config_matches_the_twin(gpu, rng):
    problem = replace(PROBLEM, k=8, c_out=12)
    configs = list(FLOW.configs(problem))
    assert {config.lanes for config in configs} == {0, 1, 4, 8}
    _check_rows(gpu, rng, "strided", torch.float16, configs, 16, 12)


def test_the_gradient_of_the_weights_is_the_implicit_gemms(gpu, rng):
    kmap = _map_on(gpu, "one-voxel")
    feats, weight, grad_out = (part.to(gpu) for part in draw_operands(rng, kmap, torch.float32))
    expected = torch.zeros_like(weight)
    expected[13] = feats.T @ grad_out
    torch.testing.assert_close(FLOW.grad_weight(feats, grad_out, kmap, PLAIN), expected)


def test_what_ends_a_layer_is_done_before_rounding(gpu, rng):
    kmap, mine = maps()["submanifold"], _map_on(gpu, "submanifold")
    feats, weight, rows = (part.to(gpu) for part in draw_operands(rng, kmap, torch.float32, 4, 8))
    mask = (torch.arange(kmap.n_out) % 3 > 0).to(gpu)
    passing = Passing(mask, rows.flip(0), torch.rand(8, device=gpu), torch.rand(8, device=gpu))
    ending = Epilogue(torch.rand(8, device=gpu), rows, True, passing)
    out = FLOW.forward(feats, weight, mine, PLAIN, ending)
    plain = FLOW.forward(feats, weight, mine, PLAIN)

    torch.testing.assert_close(out, ending.apply(plain), **tolerance(torch.float32, terms=4))


def test_the_gradient_of_a_symmetric_map_needs_no_other_map(gpu, rng):
    kmap = _map_on(gpu, "submanifold")
    _, weight, grad_out = (part.to(gpu) for part in draw_operands(rng, maps()["submanifold"], torch.float32))
    FLOW.grad_feats(grad_out, weight, kmap, PLAIN)

    assert "fetch_layout" in kmap._derived
    assert "transposed" not in kmap._derived


def test_no_rule_sends_a_layer_to_it():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        for distinct in (True, False):
            plan = plan_for(replace(PROBLEM, dtype=dtype, c_in=4, distinct=distinct))
            assert "fetch_on_demand" not in plan.encode()
    named = plan_for(PROBLEM, "fetch_on_demand")
    assert [named.forward, named.grad_feats, named.grad_weight] == [Choice("fetch_on_demand", PLAIN)] * 3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"device": "cpu"}, "it is for GPUs and has no kernel on cpu"),
        ({"dtype": torch.float64}, "it adds in float32, and the features are float64"),
        ({"distinct": False}, "leads several inputs to one output"),
        # 24 us of shared memory on an H200, where the implicit GEMM took 16
        ({"c_in": 32, "c_out": 32}, "32 to 32 float16 channels a pair reads 2048 bytes .* beyond 1024"),
        ({"c_in": 16, "c_out": 32, "dtype": torch.float32}, "reads 2048 bytes"),
        # not the forward pass, but the input gradient, from 128 to 2
        ({"c_in": 2, "c_out": 128, "k": 3}, "reads 2048 bytes"),
        ({"k": 343, "c_in": 4}, "weights of 343 offsets, 4 to 16 float16 channels, do not fit 49152 bytes"),
    ],
)
def test_refusals_give_their_reason(changes, reason):
    problem = replace(PROBLEM, **changes)
    with pytest.raises(UnsupportedError, match=reason):
        plan_for(problem, "fetch_on_demand")
    assert f"fetch_on_demand: refuses: {FLOW.refuses(problem)}" in explain(problem)


@pytest.mark.parametrize(("c_in", "c_out"), [(4, 32), (32, 4), (16, 16), (16, 32), (32, 16), (3, 64), (1, 1)])
def test_layers_of_few_channels_are_taken(c_in, c_out):
    for dtype in (torch.float16, torch.bfloat16):
        assert FLOW.refuses(replace(PROBLEM, c_in=c_in, c_out=c_out, dtype=dtype)) is None
    assert FLOW.refuses(replace(PROBLEM, k=125, c_in=4)) is None


@pytest.mark.parametrize("wrong", [{"lanes": 3}, {"lanes": 16}, {"threads": 64}, {"threads": -128}], ids=str)
def test_numbers_that_no_kernel_runs_with_are_named(wrong):
    with pytest.raises(RangeError, match=r"lanes must be 1, 2, 4 or 8, threads 128 or 256.* got"):
        FetchOnDemandConfig(**wrong)


@pytest.fixture
def mine_is_quick(monkeypatch):
    """Devices as of a GPU, and a clock by which fetch-on-demand takes a third."""
    monkeypatch.setattr(type(DATAFLOWS["sorted_implicit_gemm"]), "devices", ("cpu", "cuda"))
    monkeypatch.setattr(FetchOnDemand, "devices", ("cpu", "cuda"))
    real = autotune.time_in_turns

    def quick(candidates, **options):
        found = real(candidates, **options)
        longest = max((timing.q3 for timing in found.values()), default=0.0)
        return {
            name: replace(timing, median=taken, q1=taken, q3=taken)
            for name, timing in found.items()
            for taken in [longest / 3 if name.startswith("fetch_on_demand(") else longest]
        }

    monkeypatch.setattr(autotune, "time_in_turns", quick)


_SOME = ("sorted_implicit_gemm", "fetch_on_demand")


def _call(gpu, kmap) -> ConvCall:
    feats, weight = torch.zeros(kmap.n_in, 4, device=gpu), torch.zeros(kmap.volume, 4, 8, device=gpu)
    return ConvCall(("layer",), ConvProblem.of(feats, weight, kmap), kmap)


class _Gemm(type(DATAFLOWS["sorted_implicit_gemm"])):  # type: ignore[misc]
    """With its rule alone: an interpreter is slow."""

    def configs(self, problem):
        return list(super().configs(problem))[:1]


def test_a_tuner_takes_it_where_it_is_quick(gpu, rng, mine_is_quick):
    kmap = _map_on(gpu, "one-offset")
    call = _call(gpu, kmap)
    flows = {"sorted_implicit_gemm": _Gemm(), "fetch_on_demand": DATAFLOWS["fetch_on_demand"]}
    group = tune([call], passes=("forward", "grad_feats"), runs=1, dataflows=flows)
    assert [(t.rule.dataflow, t.best.dataflow) for t in group.passes] == [_SOME, _SOME]
    assert [trial.rejected for t in group.passes for trial in t.trials if trial.rejected] == []

    table = table_of([group], "cpu")
    plan = plan_for(call.problem, tuned=table)
    assert [plan.forward.dataflow, plan.grad_feats.dataflow] == ["fetch_on_demand"] * 2
    # nobody has tuned it
    assert plan.grad_weight == plan_for(call.problem).grad_weight
    feats, weight, _ = (part.to(gpu) for part in draw_operands(rng, kmap, torch.float32, 4, 8))
    by_hand = FLOW.forward(feats, weight, kmap, plan.forward.config)
    assert torch.equal(sparse_conv(feats, weight, kmap, tuned=table), by_hand)


def test_a_wrong_one_is_never_timed(gpu, monkeypatch, mine_is_quick):
    backend = backend_of(torch.zeros(1, device=gpu))
    real = backend.fetch_on_demand

    def wrong(*given, **options):
        out = real(*given, **options)
        out[0, 0] += 1e-2 * out.abs().max()
        return out

    monkeypatch.setattr(backend, "fetch_on_demand", wrong)
    call = _call(gpu, _map_on(gpu, "one-offset"))
    flows = {"sorted_implicit_gemm": _Gemm(), "fetch_on_demand": DATAFLOWS["fetch_on_demand"]}
    [found] = tune([call], passes=("forward",), runs=1, dataflows=flows).passes
    rejected = {trial.choice for trial in found.trials if trial.rejected}
    assert rejected == set(choices(FLOW, call.problem, "forward"))
    assert all("against the twin" in trial.rejected for trial in found.trials if trial.rejected)
    assert found.best.dataflow == "sorted_implicit_gemm"


@pytest.mark.parametrize("name", ["submanifold", "strided"])
def test_a_tuner_sees_what_lists_cost(gpu, name):
    operands = Operands.draw(_call(gpu, _map_on(gpu, name)))
    choice = Choice("fetch_on_demand", PLAIN)
    tried = {of: next(operands.tried([choice], of, DATAFLOWS))[0] for of in ("forward", "grad_feats")}
    assert [trial.rejected for trial in tried.values()] == [None] * 2

    lists, back = Derived(False, "fetch_layout"), {Derived(True, "fetch_layout"), Derived(False, TRANSPOSED)}
    assert tried["forward"].derived == {lists}
    # a symmetric map is its own transpose
    assert tried["grad_feats"].derived == ({lists} if name == "submanifold" else back)
