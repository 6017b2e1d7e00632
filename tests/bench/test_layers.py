"""Maps and layers: right ones are timed, wrong ones are not."""

import pytest
import torch

from pcsparse.bench.cases import CONV_CASES, MAP_CASES, tagged
from pcsparse.bench.layers import run_conv_case, run_map_case
from pcsparse.kernels import cpu
from tests.bench.scenes import small_scene

CI_MAPS = {case.name: case for case in tagged(MAP_CASES, ["ci", "stress"])}
CI_CONVS = {case.name: case for case in tagged(CONV_CASES, ["ci"])}


@pytest.mark.parametrize("case", CI_MAPS.values(), ids=CI_MAPS.keys())
def test_a_right_map_is_timed(case):
    result = run_map_case(case, small_scene(), runs=2)
    assert result.passed
    assert result.ours is not None
    assert result.ours.runs == 2
    # plain torch has no generic strided map
    assert (result.peer is None) == (case.name == "map 3^3 stride 2")


@pytest.mark.parametrize("case", CI_CONVS.values(), ids=CI_CONVS.keys())
def test_a_right_layer_is_timed(case):
    result = run_conv_case(case, small_scene(), runs=2)
    assert result.passed, result.checks
    assert len(result.checks) == 2 * (3 if case.backward else 1)
    assert result.ours is not None
    assert result.peer is not None


def _one_value_off(kernel):
    def wrong(*arguments):
        out = kernel(*arguments)
        out.view(-1)[out.numel() // 2] += 0.01 * out.abs().max()
        return out

    return wrong


@pytest.mark.parametrize("case", CI_CONVS.values(), ids=CI_CONVS.keys())
def test_one_wrong_value_of_the_forward_kernel_costs_the_time(case, monkeypatch):
    monkeypatch.setattr(cpu, "output_stationary", _one_value_off(cpu.output_stationary))
    result = run_conv_case(case, small_scene(), runs=1)
    failed = {check.what for check in result.checks if not check.passed}
    assert "pcsparse: out" in failed
    assert not any(what.startswith("plain torch") for what in failed)
    assert (result.ours, result.peer) == (None, None)


def test_one_wrong_value_of_the_weight_gradient_costs_the_time(monkeypatch):
    monkeypatch.setattr(
        cpu, "output_stationary_grad_weight", _one_value_off(cpu.output_stationary_grad_weight)
    )
    case = CI_CONVS["submanifold 3^3 C=32 forward+backward"]
    result = run_conv_case(case, small_scene(), runs=1)
    failed = {check.what for check in result.checks if not check.passed}
    assert failed == {"pcsparse: grad_weight"}
    assert result.ours is None


def test_a_wrong_peer_is_not_timed_either(monkeypatch):
    monkeypatch.setattr(
        "pcsparse.bench.peer._forward", lambda feats, weight, plain: feats.new_ones(plain.n_out, 32)
    )
    result = run_conv_case(CI_CONVS["submanifold 3^3 C=32"], small_scene(), runs=1)
    assert {check.what for check in result.checks if not check.passed} == {"plain torch: out"}
    assert (result.ours, result.peer) == (None, None)


@pytest.mark.parametrize("case", CI_MAPS.values(), ids=CI_MAPS.keys())
def test_a_wrong_pair_costs_the_maps_time(case, monkeypatch):
    match = cpu.match_keys

    def neighbour_row(*arguments):
        rows_in, rows_out, starts = match(*arguments)
        rows_in = rows_in.clone()
        rows_in[0] ^= 1
        return rows_in, rows_out, starts

    monkeypatch.setattr(cpu, "match_keys", neighbour_row)
    result = run_map_case(case, small_scene(), runs=1)
    assert not result.passed
    assert (result.ours, result.peer) == (None, None)


def test_a_wrong_map_fails_the_layers_on_it(monkeypatch):
    # the twin builds its own map, so a layer that agrees with itself on a wrong map is found out
    match = cpu.match_keys

    def lost_offset(*arguments):
        rows_in, rows_out, starts = match(*arguments)
        first = int(starts[1])
        return rows_in[first:], rows_out[first:], torch.cat([starts[:1], starts[1:] - first])

    monkeypatch.setattr(cpu, "match_keys", lost_offset)
    result = run_conv_case(CI_CONVS["submanifold 3^3 C=16"], small_scene(), runs=1)
    assert {check.what for check in result.checks if not check.passed} == {
        "pcsparse: out",
        "plain torch: out",
    }
