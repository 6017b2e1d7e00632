"""Grouped convolution against one oracle convolution a group."""

import pytest
import torch

from pcsparse import nn
from pcsparse.errors import ShapeError
from pcsparse.ops import grouped_sparse_conv
from tests.clouds import TWO_BATCHES, UNSORTED
from tests.nn.test_conv import tensor_of
from tests.ops.test_conv import KINDS, Case
from tests.tolerance import tolerance

# groups, c_in, c_out: depthwise with a remainder, several bundles, wide groups, a multiplier
SIZES = [(1, 3, 5), (3, 3, 3), (20, 20, 20), (2, 6, 4), (4, 4, 12), (2, 40, 34)]


def _expected(case, feats, weight, groups, bias):
    c_in, each = weight.shape[1], weight.shape[2] // groups
    parts = []
    for g in range(groups):
        columns = slice(g * each, (g + 1) * each)
        parts.append(case.expected(feats[:, g * c_in : (g + 1) * c_in], weight[:, :, columns], bias[columns]))
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize(("groups", "c_in", "c_out"), SIZES)
@pytest.mark.parametrize("kind", ["submanifold", "strided-overlapping", "inverse"])
def test_value_and_gradients(rng, kind, groups, c_in, c_out):
    case = Case(UNSORTED, *KINDS[kind])
    feats, weight, bias, grad_out = case.operands(rng, c_in, c_out)
    weight = weight.detach()[:, : c_in // groups].contiguous().requires_grad_()
    residual = torch.randn(grad_out.shape, generator=rng, dtype=torch.float64, requires_grad=True)
    leaves = (feats, weight, bias, residual)
    expected = (_expected(case, feats, weight, groups, bias) + residual).relu()
    wanted = torch.autograd.grad(expected, leaves, grad_out)

    actual = grouped_sparse_conv(feats, weight, case.kmap, groups, bias=bias, residual=residual, relu=True)
    got = torch.autograd.grad(actual, leaves, grad_out)

    torch.testing.assert_close(actual, expected, **tolerance(torch.float64, 1000, factor=64))
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, **tolerance(torch.float64, 1000, factor=64))


def test_a_group_does_not_see_another_ones_weights(rng):
    case = Case(UNSORTED, *KINDS["submanifold"])
    feats, weight, _, _ = case.operands(rng, 4, 4)
    weight = weight.detach()[:, :1].contiguous()
    weight[:, :, 2] = float("nan")
    out = grouped_sparse_conv(feats.detach(), weight, case.kmap, 4)

    assert out[:, 2].isnan().any()
    assert out[:, [0, 1, 3]].isfinite().all()


def test_modules_take_groups(rng):
    x = tensor_of(TWO_BATCHES, rng)
    wide = nn.SubmanifoldConv3d(3, 3, groups=3).double()
    down, up = nn.SparseConv3d(3, 6, 2, 2, groups=3).double(), nn.SparseInverseConv3d(6, 3, groups=3).double()

    assert (wide.weight.shape, down.weight.shape, up.weight.shape) == ((27, 1, 3), (8, 1, 6), (8, 2, 3))
    assert "groups=3" in repr(wide)
    y = up(down(wide(x)))
    assert y.feats.shape == x.feats.shape
    y.feats.sum().backward()
    assert wide.weight.grad.abs().sum() > 0


def test_bad_groups_are_named():
    with pytest.raises(
        ShapeError, match="groups must divide both channel counts, got groups=2, c_in=3, c_out=4"
    ):
        nn.SubmanifoldConv3d(3, 4, groups=2)
    with pytest.raises(ShapeError, match="got groups=0"):
        nn.SubmanifoldConv3d(3, 4, groups=0)


def test_weights_that_do_not_fit_are_named(rng):
    case = Case(UNSORTED, *KINDS["submanifold"])
    feats, weight, _, _ = case.operands(rng, 4, 4)
    with pytest.raises(ShapeError, match=r"weight \(27, 4, 4\) in 2 groups takes 8 inputs .* feats has 4"):
        grouped_sparse_conv(feats, weight, case.kmap, 2)
