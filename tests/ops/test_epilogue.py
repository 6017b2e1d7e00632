"""Bias, residual and ReLU inside the convolution against the same steps outside of it."""

import pytest
import torch

from pcsparse.errors import DtypeError, ShapeError
from pcsparse.ops import sparse_conv
from tests.clouds import TWO_BATCHES, UNSORTED
from tests.engine.test_dataflows import FLOWS, on_device
from tests.ops.test_conv import KINDS, Case, skip_without_kernel
from tests.tolerance import tolerance

# remainders of vectors and of panels: 80 channels are panels of three and two vectors
CHANNELS = [(3, 1), (5, 19), (4, 64), (17, 80)]


@pytest.mark.parametrize("dataflow", FLOWS)
@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
@pytest.mark.parametrize("kind", ["submanifold", "strided-overlapping", "inverse"])
def test_value_and_gradients_are_those_of_the_steps(rng, kind, relu, dataflow):
    case = Case(UNSORTED, *KINDS[kind])
    feats, weight, bias, grad_out = case.operands(rng)
    residual = torch.randn(grad_out.shape, generator=rng, dtype=torch.float64, requires_grad=True)
    leaves = (feats, weight, bias, residual)
    expected = case.expected(feats, weight, bias) + residual
    expected = expected.relu() if relu else expected
    wanted = torch.autograd.grad(expected, leaves, grad_out)

    actual = sparse_conv(feats, weight, case.kmap, bias=bias, residual=residual, relu=relu, dataflow=dataflow)
    got = torch.autograd.grad(actual, leaves, grad_out)

    torch.testing.assert_close(actual, expected, **tolerance(torch.float64, 200, factor=64))
    assert not relu or (actual == 0).any()
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, **tolerance(torch.float64, 500, factor=64))


@pytest.mark.parametrize("dataflow", FLOWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("c_in", "c_out"), CHANNELS)
def test_every_dtype_and_width(device, rng, c_in, c_out, dtype, dataflow):
    case = Case(TWO_BATCHES, *KINDS["submanifold"])
    parts = [part.detach().to(dtype) for part in case.operands(rng, c_in, c_out)]
    feats, weight, bias, residual = parts
    expected = case.expected(*(part.double() for part in (feats, weight, bias)))
    expected = (expected + residual.double()).clamp(min=0).to(dtype)

    skip_without_kernel(dataflow, device)
    feats, weight, bias, residual = (part.to(device) for part in parts)
    kmap = on_device(case.kmap, device)
    actual = sparse_conv(feats, weight, kmap, bias=bias, residual=residual, relu=True, dataflow=dataflow)

    assert actual.dtype == dtype
    torch.testing.assert_close(actual.cpu(), expected, **tolerance(dtype, 27 * c_in, factor=32))


@pytest.mark.parametrize("dataflow", FLOWS)
def test_sixteen_bits_are_rounded_once(rng, dataflow):
    # 256 + 1 is no bfloat16: rounded before the residual of -256 it would be lost
    case = Case(UNSORTED, *KINDS["one-by-one"])
    n = case.kmap.n_in
    feats = torch.full((n, 1), 256.0, dtype=torch.bfloat16)
    weight, bias = torch.ones(1, 1, 1, dtype=torch.bfloat16), torch.ones(1, dtype=torch.bfloat16)
    residual = torch.full((n, 1), -256.0, dtype=torch.bfloat16)

    out = sparse_conv(feats, weight, case.kmap, bias=bias, residual=residual, dataflow=dataflow)

    assert (out == 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_nan_survives_the_relu(rng, dtype):
    case = Case(UNSORTED, *KINDS["one-by-one"])
    feats = torch.full((case.kmap.n_in, 1), -1.0)
    feats[3] = float("nan")
    weight = torch.ones(1, 1, 1)
    out = sparse_conv(feats.to(dtype), weight.to(dtype), case.kmap, relu=True)

    assert out.isnan().sum() == 1
    assert out[3].isnan()


def test_a_residual_must_fit_the_output(rng):
    case = Case(UNSORTED, *KINDS["strided"])
    feats, weight, _, grad_out = case.operands(rng)
    with pytest.raises(ShapeError, match=r"residual must have shape .* that of the output, got"):
        sparse_conv(feats, weight, case.kmap, residual=grad_out[1:])
    with pytest.raises(DtypeError, match=r"residual is torch.float32, feats is torch.float64"):
        sparse_conv(feats, weight, case.kmap, residual=grad_out.float())
