"""Residual blocks against the equation, with convolutions and normalisation of the oracle."""

import pytest
import torch
from torch import nn

from pcsparse.errors import RangeError, ShapeError
from pcsparse.nn import ResidualBlock
from tests import oracle
from tests.clouds import TWO_BATCHES
from tests.nn.test_conv import tensor_of
from tests.oracle import Geometry
from tests.tolerance import tolerance


def _expected(block, x):
    state = dict(block.named_parameters())

    def conv(feats, name, size):
        geometry, weight = Geometry((size,) * 3), state[f"{name}.weight"]
        return oracle.sparse_conv(feats, x.coords, weight, x.coords, geometry, batch=2)

    def norm(feats, name):
        return oracle.batch_norm(feats, state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)

    y = torch.relu(norm(conv(x.feats, "conv1", 3), "norm1"))
    y = norm(conv(y, "conv2", 3), "norm2")
    if "shortcut.0.weight" in state:
        return torch.relu(y + norm(conv(x.feats, "shortcut.0", 1), "shortcut.1"))
    return torch.relu(y + x.feats)


@pytest.mark.parametrize(("c_mid", "c_out"), [(3, 3), (5, 3), (5, 4)])
def test_forward_and_gradients(rng, c_mid, c_out):
    torch.manual_seed(1)
    x, block = tensor_of(TWO_BATCHES, rng), ResidualBlock(3, c_mid, c_out).double()
    expected, y = _expected(block, x), block(x)
    grad_out = torch.randn(expected.shape, generator=rng, dtype=torch.float64)
    leaves = [x.feats, *block.parameters()]

    close = tolerance(torch.float64, terms=len(x) * 27, factor=256)
    torch.testing.assert_close(y.feats, expected, **close)
    for mine, theirs in zip(
        torch.autograd.grad(y.feats, leaves, grad_out),
        torch.autograd.grad(expected, leaves, grad_out),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, **close)
    assert any(name.startswith("shortcut") for name, _ in block.named_parameters()) == (c_out != 3)


def test_a_shortcut_may_be_asked_for():
    assert isinstance(ResidualBlock(3, 2, 3, projected=True).shortcut, nn.Sequential)
    assert isinstance(ResidualBlock(3, 2, 3, projected=False).shortcut, nn.Identity)
    with pytest.raises(ShapeError, match="from 3 to 4 channels cannot add its input"):
        ResidualBlock(3, 2, 4, projected=False)


def test_kept_offsets_reach_both_convolutions():
    block = ResidualBlock(3, 3, 3, ([12, 13], [13, 14, 15]))
    assert (block.conv1.weight.shape[0], block.conv2.weight.shape[0]) == (2, 3)
    with pytest.raises(RangeError, match="offsets must ascend"):
        ResidualBlock(3, 3, 3, (None, [27]))
