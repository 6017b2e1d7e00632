"""Where the time goes."""

import time

import pytest
import torch
from torch.autograd.profiler import record_function

from pcsparse.bench.cases import NetCase
from pcsparse.bench.shares import REST, group_of, profile_case, profile_run
from pcsparse.models import MinkUNetSpec
from tests.bench.scenes import small_scene

SPEC = MinkUNetSpec.minkunet14(width=0.125)


@pytest.mark.parametrize(
    ("operator", "group"),
    [
        ("pcsparse::sparse_conv", "convolution forward"),
        ("pcsparse::sparse_conv_grad_feats", "convolution grad_feats"),
        ("pcsparse::sparse_conv_grad_weight", "convolution grad_weight"),
        ("aten::native_batch_norm_backward", "batch norm"),
        ("pcsparse::scale_shift_grad", "batch norm"),
        ("aten::threshold_backward", "ReLU"),
        ("Optimizer.step#SGD.step", "optimiser"),
        ("aten::cat", "cat"),
        ("aten::add_", "addition"),
        ("aten::index_select", None),
    ],
)
def test_operators_find_their_groups(operator, group):
    assert group_of(operator) == group


def test_nested_operators_count_once_and_the_rest_is_what_is_left():
    def run():
        with record_function("batch_norm outer"), record_function("relu inner"):
            time.sleep(0.03)
        with record_function("aten::cat"):
            time.sleep(0.01)
        time.sleep(0.02)

    found = profile_run("case", run, 2)
    seconds = {share.name: share.seconds for share in found.shares}
    assert seconds.keys() == {"batch norm", "cat", REST}
    assert 0.03 <= seconds["batch norm"] < 0.045
    assert 0.01 <= seconds["cat"] < 0.02
    assert 0.02 <= seconds[REST] < 0.035
    assert sum(share.share for share in found.shares) == pytest.approx(1)
    assert found.seconds == pytest.approx(sum(seconds.values()))
    assert str(found).splitlines()[-1].endswith(REST)


@pytest.mark.parametrize("training", [False, True])
def test_a_network_shows_its_convolutions_and_maps(training):
    case = NetCase("tiny", SPEC, training, ("ci",), torch.float32)
    found = {share.name: share.share for share in profile_case(case, small_scene(), 1).shares}
    assert {"maps", "convolution forward", "batch norm"} <= found.keys()
    assert ({"convolution grad_feats", "convolution grad_weight", "optimiser"} <= found.keys()) == training
    assert all(share > 0 for share in found.values())
