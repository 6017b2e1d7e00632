"""The linear layer with a 2:4 matrix: against torch's dense one, gradients, refusals, tracing."""

import dataclasses

import pytest
import torch
from torch.nn.functional import linear

from pcsparse.errors import DeviceError, DtypeError, ShapeError, UnsupportedError
from pcsparse.ops.two_four_linear import two_four_linear
from pcsparse.packed.two_four import TwoFourMatrix, pack_two_four
from tests.packed.test_two_four import random_two_four
from tests.tolerance import tolerance


def _case(rng, n_items=3, n_out=11, n_in=44):
    weight = random_two_four(rng, n_out, n_in) / n_in**0.5
    x, bias = torch.randn(n_items, n_in, generator=rng), torch.randn(n_out, generator=rng)
    return x, weight, bias


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("n_items", [0, 1, 5])
def test_the_layer_and_its_gradients_are_the_dense_ones(device, rng, relu, n_items):
    x, weight, bias = _case(rng, n_items)
    grad_out = torch.randn(n_items, 11, generator=rng)
    x.requires_grad_(), bias.requires_grad_()
    dense = linear(x, weight, bias)
    expected = dense.relu() if relu else dense
    grads = torch.autograd.grad(expected, (x, bias), grad_out)

    matrix = pack_two_four(weight)
    matrix = dataclasses.replace(
        matrix, values=matrix.values.to(device), positions=matrix.positions.to(device)
    )
    moved = [part.detach().to(device, copy=True).requires_grad_() for part in (x, bias)]
    actual = two_four_linear(moved[0], matrix, moved[1], relu=relu)
    bound = tolerance(torch.float32, 44)
    torch.testing.assert_close(actual.cpu(), expected, **bound)
    for mine, theirs in zip(torch.autograd.grad(actual, moved, grad_out.to(device)), grads, strict=True):
        torch.testing.assert_close(mine.cpu(), theirs, **bound)
    if n_items:
        assert bool((actual == 0).any()) == relu


def test_a_backward_pass_within_autocast_computes_in_32_bits_as_forward_does(device, rng):
    x, weight, _ = _case(rng)
    matrix = pack_two_four(weight)
    matrix = dataclasses.replace(
        matrix, values=matrix.values.to(device), positions=matrix.positions.to(device)
    )
    x = x.to(device).requires_grad_()
    (outside,) = torch.autograd.grad(two_four_linear(x, matrix).square().sum(), x)
    with torch.autocast(device.type, torch.bfloat16):
        (within,) = torch.autograd.grad(two_four_linear(x, matrix).square().sum(), x)
    assert torch.equal(within, outside)


def test_gradients_on_meta_have_shapes(rng):
    x, weight, _ = _case(rng)
    matrix = pack_two_four(weight)
    matrix = dataclasses.replace(
        matrix, values=matrix.values.to("meta"), positions=matrix.positions.to("meta")
    )
    x = x.to("meta").requires_grad_()
    two_four_linear(x, matrix).sum().backward()
    assert x.grad.shape == x.shape


def test_without_bias(rng):
    x, weight, _ = _case(rng)
    actual = two_four_linear(x, pack_two_four(weight))
    torch.testing.assert_close(actual, linear(x, weight), **tolerance(torch.float32, 44))


def test_wrong_input_is_refused(rng):
    x, weight, bias = _case(rng)
    matrix = pack_two_four(weight)

    def changed(**parts):
        return dataclasses.replace(matrix, **parts)

    cases = [
        ((x[0], matrix), ShapeError, r"x must have shape \(\*, 44\), got \(44,\)"),
        ((x[:, :40], matrix), ShapeError, r"x must have shape \(\*, 44\)"),
        ((x.double(), matrix), DtypeError, "x must be float32, got float64"),
        ((x, matrix.to(torch.bfloat16)), DtypeError, "matrix.values must be float32, got bfloat16"),
        ((x, matrix, bias[:3]), ShapeError, r"bias must have shape \(11\)"),
        ((x, matrix, bias.half()), DtypeError, "bias must be float32"),
        ((x.to("meta"), matrix), DeviceError, "x on meta, values on cpu"),
        ((x, changed(n_in=42)), ShapeError, "42 columns, no multiple of 4"),
        ((x, changed(values=matrix.values[:, :20])), ShapeError, r"matrix.values must have shape \(11, 22\)"),
        ((x, changed(positions=matrix.positions[:, :5])), ShapeError, r"must have shape \(11, 6\)"),
        ((x, changed(positions=matrix.positions.int())), DtypeError, "positions must be uint8"),
    ]
    for arguments, error, text in cases:
        with pytest.raises(error, match=text):
            two_four_linear(*arguments)
    trained = changed(values=matrix.values.clone().requires_grad_())
    with pytest.raises(UnsupportedError, match="have no gradient; train the dense layer with"):
        two_four_linear(x, trained)


def test_opcheck(rng):
    x, weight, bias = _case(rng)
    matrix = pack_two_four(weight)
    arguments = (x.requires_grad_(), matrix.values, matrix.positions, bias.requires_grad_(), True)
    found = torch.library.opcheck(
        torch.ops.pcsparse.two_four_linear.default,
        arguments,
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )
    assert set(found.values()) == {"SUCCESS"}


def test_one_graph_serves_every_batch(rng):
    _, weight, bias = _case(rng)
    matrix = pack_two_four(weight)

    def layer(x):
        again = TwoFourMatrix(matrix.values, matrix.positions, 11, 44)
        return two_four_linear(x, again, bias, relu=True)

    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="eager")
    for n_items in (2, 5):
        x = torch.randn(n_items, 44, generator=rng)
        assert torch.equal(compiled(x), layer(x))
