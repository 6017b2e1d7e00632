"""Layers: right ones are timed, wrong ones are not."""

import pytest
import torch

from pcsparse.bench import map_library
from pcsparse.bench.cases import CONV_CASES, tagged
from pcsparse.bench.layers import run_conv_case
from pcsparse.bench.map_library import plain_torch
from pcsparse.kernels import cpu
from tests.bench.scenes import small_scene

CI_CONVS = {case.name: case for case in tagged(CONV_CASES, ["ci"])}


def run_conv(case, runs=1, **options):
    return run_conv_case(case, small_scene(), [plain_torch()], runs, **options)


@pytest.mark.parametrize("case", CI_CONVS.values(), ids=CI_CONVS.keys())
def test_a_right_layer_is_timed(case):
    result = run_conv(case, runs=2)
    assert result.passed, result.ours.failed
    (peer,) = result.peers
    assert not peer.failed, peer.failed
    assert len(result.ours.checks) == len(peer.checks) == (3 if case.backward else 1)
    assert result.ours.time is not None
    assert peer.time is not None
    assert result.works[0].narrow == (case.dtype == torch.bfloat16)


def test_a_goal_is_scaled_by_pairs():
    case = CI_CONVS["submanifold 3^3 C=16"]
    result = run_conv(case)
    n_pairs = result.works[0].operations / (2 * 16 * 16)
    assert result.goal == case.goal.seconds
    assert result.scaled_goal == pytest.approx(case.goal.seconds * n_pairs / case.goal.amount)


def test_a_map_is_made_once_unless_it_is_part_of_the_case(monkeypatch):
    built = []
    plain = map_library.plain_map
    monkeypatch.setattr(map_library, "plain_map", lambda *given: built.append(1) or plain(*given))
    counts = {}
    for name in ("submanifold 3^3 C=16", "strided 2^3 with its map C=32"):
        built.clear()
        run_conv(CI_CONVS[name], runs=4, settle=0)
        counts[name] = len(built)
    assert counts["submanifold 3^3 C=16"] == 1
    # a warm input, the check, two warm-up runs, four timed
    assert counts["strided 2^3 with its map C=32"] == 1 + 1 + 2 + 4


@pytest.mark.parametrize(("options", "each"), [({}, 2), ({"settle": 0}, 1), ({"settle": 3}, 4)], ids=str)
def test_a_layer_settles_once_before_each_timed_run_unless_told_otherwise(monkeypatch, options, each):
    built = []
    plain = map_library.plain_map
    monkeypatch.setattr(map_library, "plain_map", lambda *given: built.append(1) or plain(*given))
    run_conv(CI_CONVS["strided 2^3 with its map C=32"], runs=4, **options)
    # a warm input, the check, two warm-up runs, then four turns
    assert len(built) == 1 + 1 + 2 + 4 * each


def _one_value_off(kernel):
    def wrong(*arguments, **options):
        out = kernel(*arguments, **options)
        out.view(-1)[out.numel() // 2] += 0.05 * out.abs().max()
        return out

    return wrong


def assert_nothing_timed(result):
    assert result.ours.time is None
    assert all(peer.time is None for peer in result.peers)


@pytest.mark.parametrize("case", CI_CONVS.values(), ids=CI_CONVS.keys())
def test_one_wrong_value_of_the_forward_kernel_costs_the_time(case, monkeypatch):
    monkeypatch.setattr(cpu, "output_stationary", _one_value_off(cpu.output_stationary))
    result = run_conv(case)
    assert "out" in {check.what for check in result.ours.failed}
    assert not result.peers[0].failed
    assert_nothing_timed(result)


def test_one_wrong_value_of_the_weight_gradient_costs_the_time(monkeypatch):
    kernel = _one_value_off(cpu.output_stationary_grad_weight)
    monkeypatch.setattr(cpu, "output_stationary_grad_weight", kernel)
    result = run_conv(CI_CONVS["submanifold 3^3 C=32 forward+backward"])
    assert {check.what for check in result.ours.failed} == {"grad_weight"}
    assert_nothing_timed(result)


def test_a_wrong_peer_has_no_time_and_the_package_keeps_its_own(monkeypatch):
    monkeypatch.setattr(
        "pcsparse.bench.peer._forward", lambda feats, weight, plain: feats.new_ones(plain.n_out, 32)
    )
    result = run_conv(CI_CONVS["submanifold 3^3 C=32"])
    (peer,) = result.peers
    assert {check.what for check in peer.failed} == {"out"}
    assert peer.time is None
    assert result.ours.time is not None
