"""Whole networks: right ones are timed, wrong ones are not."""

import pytest
import torch

from pcsparse.bench.cases import NetCase
from pcsparse.bench.nets import _calibrated, run_net_case
from pcsparse.kernels import cpu
from pcsparse.models import MinkUNetSpec
from tests.bench.scenes import small_scene

SPEC = MinkUNetSpec.minkunet14(width=0.125)
FORWARD, TRAINING = (NetCase("tiny", SPEC, training, ("ci",)) for training in (False, True))


def _rows_swapped(kernel):
    def wrong(*arguments):
        out = kernel(*arguments)
        out[[0, 1]] = out[[1, 0]]
        return out

    return wrong


def test_forward_gives_the_network_and_its_maps():
    whole, maps = run_net_case(FORWARD, small_scene(), runs=2)
    assert whole.passed, whole.checks
    assert len(whole.works) == sum(p.dim() == 3 for p in _calibrated(FORWARD, small_scene()).parameters())
    assert maps.works == ()
    assert (whole.ours.runs, whole.peer.runs, maps.ours.runs, maps.peer) == (2, 2, 2, None)


def test_a_training_step_is_checked_by_loss_and_gradients():
    (step,) = run_net_case(TRAINING, small_scene(), runs=1)
    assert step.passed, [check for check in step.checks if not check.passed]
    n_convs = sum(parameter.dim() == 3 for parameter in _calibrated(TRAINING, small_scene()).parameters())
    assert len(step.checks) == 2 * (1 + n_convs)
    assert step.ours is not None
    assert step.peer is not None


def test_calibrated_logits_vary_from_voxel_to_voxel():
    # else they would be the classifier's bias, and no wrong convolution would show
    scene = small_scene()
    with torch.no_grad():
        logits = _calibrated(FORWARD, scene)(scene.fresh()).feats
    assert logits.std(dim=0).mean() > 0.1


@pytest.mark.parametrize("case", [FORWARD, TRAINING], ids=["forward", "training"])
def test_two_swapped_rows_cost_the_time(case, monkeypatch):
    monkeypatch.setattr(cpu, "output_stationary", _rows_swapped(cpu.output_stationary))
    result = run_net_case(case, small_scene(), runs=1)[0]
    failed = [check.what for check in result.checks if not check.passed]
    assert failed
    assert all(what.startswith("pcsparse") for what in failed)
    assert (result.ours, result.peer) == (None, None)


def test_a_wrong_weight_gradient_costs_the_training_time(monkeypatch):
    kernel = cpu.output_stationary_grad_weight

    def scaled(*arguments):
        return 1.05 * kernel(*arguments)

    monkeypatch.setattr(cpu, "output_stationary_grad_weight", scaled)
    (result,) = run_net_case(TRAINING, small_scene(), runs=1)
    failed = [check for check in result.checks if not check.passed]
    assert failed
    assert all("gradient" in check.what for check in failed)
    assert result.ours is None
