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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("groups", "c_in", "c_out"), SIZES)
def test_narrow_dtypes_stay_near_float64(rng, groups, c_in, c_out, dtype):
    case = Case(UNSORTED, *KINDS["submanifold"])
    feats, weight, bias, grad_out = case.operands(rng, c_in, c_out, dtype)
    weight = weight.detach()[:, : c_in // groups].contiguous().requires_grad_()
    leaves = (feats, weight, bias)
    wide = [part.detach().double().requires_grad_() for part in leaves]
    expected = _expected(case, wide[0], wide[1], groups, wide[2])
    wanted = torch.autograd.grad(expected, wide, grad_out.double())

    actual = grouped_sparse_conv(feats, weight, case.kmap, groups, bias=bias)
    got = torch.autograd.grad(actual, leaves, grad_out)

    assert actual.dtype == dtype
    close = tolerance(dtype, 27 * c_in // groups, factor=32)
    torch.testing.assert_close(actual, expected.to(dtype), **close)
    # a gradient of the bias sums over the voxels
    close = tolerance(dtype, len(feats) + 27 * c_in, factor=32, roundings=2)
    for mine, theirs in zip(got, wanted, strict=True):
        assert mine.dtype == dtype
        scale = max(1.0, float(theirs.abs().max()))
        torch.testing.assert_close(mine, theirs.to(dtype), rtol=close["rtol"], atol=close["atol"] * scale)


def test_operands_of_other_sizes_are_named(rng):
    case = Case(UNSORTED, *KINDS["submanifold"])
    n = len(case.coords_in)
    feats, weight = torch.zeros(n, 4), torch.zeros(27, 2, 6)

    def run(feats=feats, weight=weight, groups=2, **options):
        return grouped_sparse_conv(feats, weight, case.kmap, groups, **options)

    assert run().shape == (n, 6)
    for options, text in (
        ({"weight": weight[0]}, rf"feats must be .*\({n}, 4\) and \(2, 6\)"),
        ({"feats": feats[0]}, r"weight \(k, c_in / groups, c_out\), got \(4,\) and"),
        ({"feats": feats[:, :0], "weight": weight[:, :0]}, r"weight \(27, 0, 6\) in 2 groups"),
        ({"weight": weight[:, :, :0]}, r"weight \(27, 2, 0\) in 2 groups"),
        ({"groups": 0}, "in 0 groups"),
        ({"weight": weight[:, :, :5]}, r"\(27, 2, 5\) in 2 groups .* a multiple of 2"),
        ({"weight": weight[:5]}, "27 offsets, but .* weight 5 offsets"),
        ({"bias": torch.zeros(7)}, r"bias must have shape \(6\), got \(7,\)"),
        ({"residual": torch.zeros(n, 7)}, rf"residual must have shape \({n}, 6\), got \({n}, 7\)"),
    ):
        with pytest.raises(ShapeError, match=text):
            run(**options)
