"""Pointwise modules and normalisation: torch's own, on the features, coordinates untouched."""

import pytest
import torch
from torch import nn as torch_nn

from pcsparse import SparseTensor, nn
from tests import oracle
from tests.clouds import CLOUDS, TWO_BATCHES
from tests.nn.test_conv import tensor_of
from tests.tolerance import tolerance

PAIRS = {
    "ReLU": (nn.ReLU, torch_nn.ReLU, ()),
    "LeakyReLU": (nn.LeakyReLU, torch_nn.LeakyReLU, (0.2,)),
    "SiLU": (nn.SiLU, torch_nn.SiLU, ()),
    "GELU": (nn.GELU, torch_nn.GELU, ()),
    "Linear": (nn.Linear, torch_nn.Linear, (3, 5)),
    "Dropout": (nn.Dropout, torch_nn.Dropout, (0.4,)),
}


@pytest.mark.parametrize(("ours", "theirs", "arguments"), PAIRS.values(), ids=PAIRS.keys())
@pytest.mark.parametrize("training", [True, False])
def test_features_and_gradients_are_torchs(rng, ours, theirs, arguments, training):
    x = tensor_of(TWO_BATCHES, rng)
    mine, other = ours(*arguments).double().train(training), theirs(*arguments).double().train(training)
    other.load_state_dict(mine.state_dict())
    torch.manual_seed(3)
    y = mine(x)
    torch.manual_seed(3)
    expected = other(x.feats)
    grad_out = torch.randn(expected.shape, generator=rng, dtype=torch.float64)

    def check(actual, wanted):
        # a linear layer adds in another order than torch's
        bound = tolerance(torch.float64, len(x), factor=16 if ours is nn.Linear else 0)
        torch.testing.assert_close(actual, wanted, **bound)

    check(y.feats, expected)
    assert y.coords is x.coords
    assert (y.stride, y.batch_size, y.cache) == (x.stride, x.batch_size, x.cache)
    got = torch.autograd.grad(y.feats, [x.feats, *mine.parameters()], grad_out)
    wanted = torch.autograd.grad(expected, [x.feats, *other.parameters()], grad_out)
    for a, b in zip(got, wanted, strict=True):
        check(a, b)
    assert all(torch.equal(a, b) for a, b in zip(mine.buffers(), other.buffers(), strict=True))


def test_batch_norm_is_over_occupied_voxels_only(rng):
    x, norm = tensor_of(TWO_BATCHES, rng), nn.BatchNorm(3).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2, 3]))
        norm.bias.copy_(torch.tensor([0.0, -1, 5]))
    expected = oracle.batch_norm(x.feats, norm.weight, norm.bias, norm.eps)

    torch.testing.assert_close(norm(x).feats, expected, **tolerance(torch.float64, len(x)))


@pytest.mark.parametrize("cloud", ["empty", "one"])
def test_batch_norm_of_hardly_any_voxel_uses_the_running_statistics(rng, cloud):
    norm = nn.BatchNorm(3).double()
    norm(tensor_of(TWO_BATCHES, rng))
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    x = tensor_of(CLOUDS[cloud], rng)
    y = norm(x)
    y.feats.sum().backward()

    expected = (x.feats - norm.running_mean) / torch.sqrt(norm.running_var + norm.eps)
    torch.testing.assert_close(y.feats, expected, **tolerance(torch.float64, 1))
    assert x.feats.grad.shape == x.feats.shape
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
    assert torch.equal(norm.eval()(x).feats, y.feats)


def test_modules_take_any_number_of_voxels_in_evaluation(rng):
    kinds = [(ours, arguments) for ours, _, arguments in PAIRS.values()]
    for ours, arguments in [*kinds, (nn.BatchNorm, (3,)), (nn.BatchNormReLU, (3,))]:
        x = tensor_of(CLOUDS["empty"], rng)
        y = ours(*arguments).double().eval()(x)
        assert isinstance(y, SparseTensor)
        assert len(y) == 0
