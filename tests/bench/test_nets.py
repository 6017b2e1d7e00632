"""Whole networks: right ones are timed, wrong ones are not."""

import pytest
import torch

import pcsparse.nn
from pcsparse.bench.cases import NetCase
from pcsparse.bench.map_library import plain_torch
from pcsparse.bench.nets import calibrated, run_net_case
from pcsparse.kernels import cpu
from pcsparse.models import MinkUNetSpec
from tests.bench.scenes import small_scene

SPEC = MinkUNetSpec.minkunet14(width=0.125)
FORWARD, TRAINING = (NetCase("tiny", SPEC, training, ("ci",)) for training in (False, True))
NARROW = {
    "forward": NetCase("tiny", SPEC, False, ("ci",), torch.bfloat16),
    "training": NetCase("tiny", SPEC, True, ("ci",), torch.bfloat16),
}
FUSED = NetCase("tiny", SPEC, False, ("ci",), form="fused")


def run(case, runs=1, peers=None):
    return run_net_case(case, small_scene(), [plain_torch()] if peers is None else peers, runs)


def n_convs():
    return sum(p.dim() == 3 for p in calibrated(TRAINING, small_scene()).parameters())


def _rows_swapped(kernel):
    def wrong(*arguments, **options):
        out = kernel(*arguments, **options)
        out[[0, 1]] = out[[1, 0]]
        return out

    return wrong


def test_forward_gives_the_network_and_its_maps():
    whole, maps = run(FORWARD, runs=2)
    assert whole.passed, whole.ours.failed
    assert not whole.peers[0].failed, whole.peers[0].failed
    assert len(whole.works) == n_convs()
    assert maps.works == ()
    assert (whole.ours.time.runs, whole.peers[0].time.runs, maps.ours.time.runs) == (2, 2, 2)


def test_a_training_step_is_checked_by_loss_and_gradients():
    (step,) = run(TRAINING)
    assert step.passed, step.ours.failed
    assert not step.peers[0].failed, step.peers[0].failed
    assert len(step.ours.checks) == len(step.peers[0].checks) == 1 + n_convs()
    assert step.ours.time is not None
    assert step.peers[0].time is not None


@pytest.mark.slow
@pytest.mark.parametrize("case", NARROW.values(), ids=NARROW.keys())
def test_bfloat16_is_checked_by_length(case):
    (result,) = run(case)
    assert result.passed, result.ours.failed
    assert not result.peers[0].failed, result.peers[0].failed
    assert all(work.narrow for work in result.works)
    if case.training:
        # the loss, and length and scale of every gradient
        assert len(result.ours.checks) == len(result.peers[0].checks) == 1 + 2 * n_convs()


@pytest.mark.parametrize("factor", [0.5, 2.0, 0.0], ids=["half", "double", "dropped"])
def test_a_gradient_of_the_wrong_size_is_refused_in_bfloat16(factor, monkeypatch):
    kernel = cpu.output_stationary_grad_weight
    monkeypatch.setattr(
        cpu, "output_stationary_grad_weight", lambda *given, **options: factor * kernel(*given, **options)
    )
    (result,) = run(NARROW["training"])
    refused = {check.what for check in result.ours.failed}
    every = {check.what for check in result.ours.checks if check.what.startswith("scale of gradient")}
    assert every <= refused
    assert len(every) == n_convs()
    assert result.ours.time is None
    assert not result.peers[0].failed


def test_without_fuse_the_fused_form_is_skipped_with_the_reason(monkeypatch):
    monkeypatch.delattr(pcsparse.nn, "fuse", raising=False)
    (result,) = run(FUSED)
    assert result.ours.time is None
    assert "no fuse()" in result.ours.refusal


def test_the_fused_form_is_what_fuse_returns(monkeypatch):
    given = []

    def fuse(model):
        given.append(model.training)
        return model

    monkeypatch.setattr(pcsparse.nn, "fuse", fuse, raising=False)
    (result,) = run(FUSED)
    assert given == [False]
    assert result.passed
    assert result.ours.time is not None


def test_a_wrong_fused_network_has_no_time(monkeypatch):
    def fuse(model):
        with torch.no_grad():
            model.classifier.bias.add_(0.1)
        return model

    monkeypatch.setattr(pcsparse.nn, "fuse", fuse, raising=False)
    (result,) = run(FUSED, peers=[])
    assert result.ours.failed
    assert result.ours.time is None


def test_calibrated_logits_vary_from_voxel_to_voxel():
    # else they would be the classifier's bias, and no wrong convolution would show
    scene = small_scene()
    with torch.no_grad():
        logits = calibrated(FORWARD, scene)(scene.fresh()).feats
    assert logits.std(dim=0).mean() > 0.1


@pytest.mark.parametrize("case", [FORWARD, TRAINING], ids=["forward", "training"])
def test_two_swapped_rows_cost_the_time(case, monkeypatch):
    monkeypatch.setattr(cpu, "output_stationary", _rows_swapped(cpu.output_stationary))
    result = run(case)[0]
    assert result.ours.failed
    assert not result.peers[0].failed
    assert result.ours.time is None
    assert result.peers[0].time is None


@pytest.mark.parametrize("case", NARROW.values(), ids=NARROW.keys())
def test_shuffled_rows_are_noticed_in_bfloat16(case, monkeypatch):
    kernel = cpu.output_stationary
    monkeypatch.setattr(cpu, "output_stationary", lambda *given, **options: kernel(*given, **options).flip(0))
    result = run(case, peers=[])[0]
    assert result.ours.failed
    assert result.ours.time is None


def test_a_wrong_weight_gradient_costs_the_training_time(monkeypatch):
    kernel = cpu.output_stationary_grad_weight

    def scaled(*arguments, **options):
        return 1.05 * kernel(*arguments, **options)

    monkeypatch.setattr(cpu, "output_stationary_grad_weight", scaled)
    (result,) = run(TRAINING)
    assert result.ours.failed
    assert all("gradient" in check.what for check in result.ours.failed)
    assert result.ours.time is None
