"""BatchNorm is torch.nn.BatchNorm1d on the features, with a residual and a ReLU inside."""

import contextlib

import pytest
import torch
from torch import nn as torch_nn

from pcsparse import SparseTensor, nn
from pcsparse.errors import DtypeError, RangeError, ShapeError
from pcsparse.ops.batch_norm import batch_norm
from tests.clouds import TWO_BATCHES, UNSORTED
from tests.nn.test_conv import tensor_of
from tests.tolerance import tolerance

SETTINGS = {
    "usual": {},
    "not-affine": {"affine": False},
    "plain-average": {"momentum": None},
    "slow": {"momentum": 0.01, "eps": 1e-3},
    "no-statistics": {"track_running_stats": False},
}


def _leaf(n, channels, rng):
    return torch.randn(n, channels, generator=rng, dtype=torch.float64, requires_grad=True)


def _moved(leaf, device):
    return leaf.detach().to(device, copy=True).requires_grad_()


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("with_residual", [False, True], ids=["alone", "residual"])
@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
def test_three_batches_and_an_evaluation(device, rng, settings, with_residual, relu):
    mine = nn.BatchNorm(3, **settings).double().to(device)
    other = torch_nn.BatchNorm1d(3, **settings).double()
    if mine.affine:
        with torch.no_grad():
            mine.weight.copy_(torch.tensor([1.0, -2, 3]))
            mine.bias.copy_(torch.tensor([0.0, -1, 5]))
    other.load_state_dict(mine.state_dict())
    coords = TWO_BATCHES.coords.to(device)
    for batch in range(4):
        training = batch < 3
        feats, more = (_leaf(len(coords), 3, rng) for _ in range(2))
        x = SparseTensor(_moved(feats, device), coords, batch_size=2)
        extra = x.replace(_moved(more, device))
        y = mine.train(training)(x, residual=extra if with_residual else None, relu=relu).feats
        expected = other.train(training)(feats) + (more if with_residual else 0)
        expected = expected.relu() if relu else expected
        leaves = [x.feats, *([extra.feats] if with_residual else []), *mine.parameters()]
        same = [feats, *([more] if with_residual else []), *other.parameters()]
        grad_out = torch.randn(expected.shape, generator=rng, dtype=torch.float64)

        bound = tolerance(torch.float64, len(x), factor=64)
        torch.testing.assert_close(y.cpu(), expected, **bound)
        got = torch.autograd.grad(y, leaves, grad_out.to(device))
        wanted = torch.autograd.grad(expected, same, grad_out)
        for a, b in zip(got, wanted, strict=True):
            torch.testing.assert_close(a.cpu(), b, **bound)
        for a, b in zip(mine.buffers(), other.buffers(), strict=True):
            torch.testing.assert_close(a.cpu(), b, **bound)


@pytest.mark.parametrize("way", [contextlib.nullcontext, lambda: torch.device("cpu")], ids=["plain", "torch"])
def test_one_voxel_goes_backward_after_a_cloud_that_moved_the_statistics(rng, way):
    norm = nn.BatchNorm(3).double().train()
    norm.running_mean.fill_(0.5)
    one, many = _leaf(1, 3, rng), _leaf(9, 3, rng)
    with way():
        alone = torch.autograd.grad(norm.of_rows(one).square().sum(), one)[0]
        both = norm.of_rows(one).square().sum() + norm.of_rows(many).square().sum()
        both.backward()
    assert not torch.equal(norm.running_mean, torch.full((3,), 0.5, dtype=torch.float64))
    assert torch.equal(one.grad, alone)


def test_norm_and_relu_in_one_module(rng):
    x = tensor_of(UNSORTED, rng)
    norm, both = nn.BatchNorm(3).double(), nn.BatchNormReLU(3).double()
    assert torch.equal(both(x, residual=x).feats, norm(x, residual=x, relu=True).feats)
    assert (both(x).feats >= 0).all()
    assert list(both.state_dict()) == list(norm.state_dict())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sixteen_bit_features_with_float32_parameters(rng, dtype):
    x = tensor_of(TWO_BATCHES, rng)
    low = x.replace(x.feats.detach().to(dtype))
    norm, exact = nn.BatchNorm(3), torch_nn.BatchNorm1d(3).double()
    y = norm(low).feats

    assert y.dtype == dtype
    expected = exact(low.feats.double()).to(dtype)
    torch.testing.assert_close(y, expected, **tolerance(dtype, len(x), factor=32))
    # statistics are of float32, not of the features' dtype
    torch.testing.assert_close(
        norm.running_var.double(), exact.running_var, **tolerance(torch.float32, len(x), factor=32)
    )


def test_a_large_mean_does_not_swallow_the_variance(rng):
    feats = torch.randn(5000, 4, generator=rng) + 1000
    _, mean, var = batch_norm(feats, None, None)

    torch.testing.assert_close(mean.double(), feats.double().mean(dim=0), rtol=1e-6, atol=0)
    # torch.var over float64 sees what float32 features can hold
    torch.testing.assert_close(var.double(), feats.double().var(dim=0, correction=0), rtol=1e-4, atol=0)


def test_bits_do_not_depend_on_the_threads(rng):
    feats = torch.randn(3001, 19, generator=rng)
    weight, bias, grad_out = torch.rand(19), torch.rand(19), torch.randn(3001, 19, generator=rng)
    found = []
    before = torch.get_num_threads()
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        leaves = [part.clone().requires_grad_() for part in (feats, weight, bias)]
        out, mean, var = batch_norm(*leaves, relu=True)
        found.append([out, mean, var, *torch.autograd.grad(out, leaves, grad_out)])
    torch.set_num_threads(before)

    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_bad_input_is_named(rng):
    x = tensor_of(UNSORTED, rng)
    with pytest.raises(RangeError, match="at least 2 rows to find a variance, got 1"):
        batch_norm(torch.zeros(1, 3), None, None)
    with pytest.raises(ShapeError, match=r"weight must have shape \(3\), got \(2,\)"):
        batch_norm(torch.zeros(4, 3), torch.zeros(2), None)
    with pytest.raises(ShapeError, match=r"residual must have the shape of feats, \(4, 3\), got \(4, 2\)"):
        batch_norm(torch.zeros(4, 3), None, None, residual=torch.zeros(4, 2))
    with pytest.raises(DtypeError, match="feats must be float32"):
        batch_norm(torch.zeros(4, 3, dtype=torch.int32), None, None)
    with pytest.raises(ShapeError, match=r"feats must have shape \(\*, 8\), got"):
        nn.BatchNorm(8, affine=False).double()(x)
    with pytest.raises(ShapeError, match="coordinates differ"):
        nn.BatchNorm(3).double()(x, residual=tensor_of(TWO_BATCHES, rng))
