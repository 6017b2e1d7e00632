"""The penalty of weights: its value by hand, its gradients those of autograd, and none for frozen weights."""

import pytest
import torch
from torch import nn

from pcsparse.compress.weight_penalty import WeightPenalty
from pcsparse.errors import RangeError


def _network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2, bias=False))


def test_value_and_gradients_are_those_of_the_sums():
    network, x = _network(), torch.randn(5, 3)
    weights = [network[0].weight, network[2].weight]
    term = sum(0.5 * w.abs().sum() + 0.25 * w.square().sum() for w in weights)
    (network(x).square().mean() + term).backward()
    wanted = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    network(x).square().mean().backward()
    assert float(WeightPenalty(l1=0.5, l2=0.25)(network)) == pytest.approx(float(term.detach()))
    for parameter, grad in zip(network.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, grad)


def test_frozen_weights_and_networks_without_any_are_left_alone():
    network = _network()
    network[0].weight.requires_grad_(False)
    assert float(WeightPenalty(l1=1.0)(network)) == pytest.approx(
        float(network[2].weight.detach().abs().sum())
    )
    assert network[0].weight.grad is None
    # a zero is not pushed away from zero
    with torch.no_grad():
        network[2].weight.zero_()
    network.zero_grad()
    WeightPenalty(l1=1.0, l2=1.0)(network)
    assert not network[2].weight.grad.any()
    assert float(WeightPenalty(l1=1.0)(nn.ReLU())) == 0.0


@pytest.mark.parametrize("bad", [{"l1": -1.0}, {"l2": float("nan")}, {"l2": float("inf")}])
def test_factors_out_of_range_are_refused(bad):
    with pytest.raises(RangeError, match="l1 and l2 must be at least 0"):
        WeightPenalty(**bad)
