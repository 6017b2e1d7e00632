"""Parameters and buffers as torch would find them."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from pcsparse.nn.own_tensor import own_tensor

NAMES = ("weight", "bias", "running_mean", "num_batches_tracked")


def _masked(norm):
    prune.l1_unstructured(norm, "weight", 0.5)
    return norm


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.BatchNorm1d(4),
        lambda: nn.BatchNorm1d(4, affine=False, track_running_stats=False),
        lambda: copy.deepcopy(nn.BatchNorm1d(4)).double(),
        lambda: _masked(nn.BatchNorm1d(4)),
        lambda: parametrize.register_parametrization(nn.BatchNorm1d(4), "weight", nn.Identity()),
        lambda: nn.BatchNorm1d(4)._replicate_for_data_parallel(),
    ],
    ids=["plain", "bare", "converted", "masked", "parametrized", "replica"],
)
def test_the_same_as_torch_finds(make):
    norm = make()
    if not hasattr(norm, "weight"):
        # torch sets those of a replica as attributes
        norm.weight, norm.bias = torch.ones(4), torch.zeros(4)
    for name in NAMES:
        assert own_tensor(norm, name) is getattr(norm, name)


def test_what_is_not_there_is_an_error_of_torch():
    with pytest.raises(AttributeError, match="has no attribute 'scale'"):
        own_tensor(nn.BatchNorm1d(4), "scale")
