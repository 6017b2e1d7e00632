"""The averaged model: parameters trail by the decay, statistics are copied."""

import torch
from torch import nn

from pcsparse.train.ema import ExponentialAverage


def test_parameters_trail_and_buffers_are_those_of_the_model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average = ExponentialAverage(model, 0.6)
    expected = [p.detach().clone() for p in model.parameters()]
    for step, decay in enumerate((1 / 10, 2 / 11, 3 / 12)):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        model(torch.randn(8, 3))
        average.update(model, step)
        expected = [
            decay * e + (1 - decay) * p.detach() for e, p in zip(expected, model.parameters(), strict=True)
        ]
    # much later the decay is the one that was asked for
    average.update(model, 1000)
    expected = [0.6 * e + 0.4 * p.detach() for e, p in zip(expected, model.parameters(), strict=True)]
    for got, wanted in zip(average.model.parameters(), expected, strict=True):
        torch.testing.assert_close(got, wanted)
        assert not got.requires_grad
    for got, wanted in zip(average.model.buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(got, wanted)
        assert got is not wanted


def test_a_model_without_buffers_can_be_averaged():
    model = nn.Linear(2, 2)
    ExponentialAverage(model, 0.5).update(model, 0)
