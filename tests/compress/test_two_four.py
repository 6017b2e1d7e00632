"""2:4 masks, SR-STE and the one-shot recipe."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from pcsparse.compress.two_four import (
    attach_mask,
    attach_sr_ste,
    bake,
    one_shot_two_four,
    two_four_mask,
)
from pcsparse.errors import DtypeError, RangeError, ShapeError, UnsupportedError
from pcsparse.packed.two_four import pack_two_four
from tests.packed.oracle_two_four import best_two
from tests.tolerance import tolerance


def test_the_two_largest_of_four_stay(rng):
    weight = torch.randn(13, 24, generator=rng)
    assert two_four_mask(weight).tolist() == [best_two(row) for row in weight.tolist()]


def test_of_equal_magnitudes_the_first_stay():
    # every group of four from -1, 0 and 1: all ties there are
    weight = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0])] * 4)
    mask = two_four_mask(weight)
    assert mask.tolist() == [best_two(row) for row in weight.tolist()]
    assert torch.equal(mask.sum(dim=1), torch.full((81,), 2))


def test_convolution_weights_are_masked_along_their_last_dimension(rng):
    weight = torch.randn(2, 3, 8, generator=rng)
    assert torch.equal(two_four_mask(weight), two_four_mask(weight.view(6, 8)).view(2, 3, 8))


def test_what_has_no_mask_is_refused():
    with pytest.raises(ShapeError, match="6 columns, no multiple of 4"):
        two_four_mask(torch.zeros(2, 6))
    with pytest.raises(RangeError, match="1 of 4 weights are not finite"):
        two_four_mask(torch.tensor([[1.0, float("inf"), 0.0, 0.0]]))


def test_sr_ste_is_the_formula_of_the_paper(rng):
    linear = nn.Linear(8, 5)
    dense = linear.weight.detach().clone()
    mask = torch.tensor([best_two(row) for row in dense.tolist()])
    x, grad_out = torch.randn(3, 8, generator=rng), torch.randn(3, 5, generator=rng)
    original = linear.weight
    attach_sr_ste(linear, decay=0.3)
    out = linear(x)
    torch.testing.assert_close(out, x @ (dense * mask).T + linear.bias, **tolerance(torch.float32, 8))
    out.backward(grad_out)
    # of the masked weights, passed on to all of them, and the decay of those that were dropped
    expected = grad_out.T @ x + 0.3 * dense * ~mask
    torch.testing.assert_close(original.grad, expected, **tolerance(torch.float32, 8))

    bake(linear)
    assert torch.equal(linear.weight, dense * mask)
    assert type(linear) is nn.Linear
    assert linear.weight.requires_grad


def test_groups_of_a_convolution_lie_along_its_input_channels(rng):
    conv = nn.Conv2d(8, 3, (2, 4), bias=False)
    dense = conv.weight.detach().clone()
    rows = dense.permute(0, 2, 3, 1)
    mask = torch.tensor([best_two(row) for row in rows.reshape(-1, 8).tolist()])
    mask = mask.view(rows.shape).permute(0, 3, 1, 2)
    x, grad_out = torch.randn(2, 8, 5, 6, generator=rng), torch.randn(2, 3, 4, 3, generator=rng)
    original = conv.weight
    attach_sr_ste(conv, decay=0.3)
    assert torch.equal(conv.weight, dense * mask)
    conv(x).backward(grad_out)
    wanted = torch.nn.grad.conv2d_weight(x, dense.shape, grad_out) + 0.3 * dense * ~mask
    torch.testing.assert_close(original.grad, wanted, **tolerance(torch.float32, 24, 32))
    bake(conv)
    assert torch.equal(conv.weight, dense * mask)
    attach_mask(conv, mask)
    conv.zero_grad()
    conv(x).backward(grad_out)
    assert torch.equal(conv.parametrizations.weight.original.grad != 0, mask)
    with pytest.raises(ShapeError, match="6 columns"):
        attach_sr_ste(nn.Conv2d(6, 4, 4))


def _regression(rng, teacher, steps):
    """Plain gradient descent towards a teacher (16, 4), and the mean squared error."""
    x = torch.randn(256, 16, generator=rng)
    target = x @ teacher

    def fit(model):
        optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
        for _ in range(steps):
            optimiser.zero_grad()
            loss = (model(x) - target).square().mean()
            loss.backward()
            optimiser.step()

    def error(model):
        with torch.no_grad():
            return float((model(x) - target).square().mean())

    return fit, error


def test_sr_ste_finds_the_mask_that_the_first_weights_do_not_have(rng):
    torch.manual_seed(0)
    teacher = torch.randn(4, 16, generator=rng)
    teacher = (teacher * two_four_mask(teacher)).T
    free, fixed = nn.Linear(16, 4, bias=False), nn.Linear(16, 4, bias=False)
    fit, error = _regression(rng, teacher, 400)
    attach_sr_ste(free)
    attach_mask(fixed, two_four_mask(fixed.weight))
    for linear in (free, fixed):
        fit(linear)
        bake(linear)
        assert torch.equal(pack_two_four(linear.weight).unpack(), linear.weight)
    assert torch.equal(free.weight != 0, teacher.T != 0)
    assert error(free) < 1e-3
    assert error(fixed) > 0.1


def test_one_shot_trains_only_what_is_kept(rng):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 4))
    masks = [two_four_mask(layer.weight) for layer in model[::2]]
    fit, error = _regression(rng, torch.randn(16, 4, generator=rng), 60)
    pruned_errors = []

    def watched(given):
        assert given is model
        assert all(
            torch.equal(layer.weight != 0, mask) for layer, mask in zip(model[::2], masks, strict=True)
        )
        pruned_errors.append(error(model))
        fit(model)

    before = [layer.weight.detach().clone() for layer in model[::2]]
    report = one_shot_two_four(model, watched)

    assert [layer.name for layer in report] == ["0", "2", "4"]
    for found, dense, layer, mask in zip(report, before, model[::2], masks, strict=True):
        expected = float((dense * mask).abs().sum() / dense.abs().sum())
        assert found.kept == pytest.approx(expected, rel=1e-5)
        assert 0.5 < found.kept < 1.0
        assert found.refused is None
        assert not parametrize.is_parametrized(layer)
        assert torch.equal(layer.weight != 0, mask)
        assert not torch.equal(layer.weight, dense * mask)
    assert error(model) < 0.9 * pruned_errors[0]


def test_layers_that_have_no_groups_stay_dense_and_say_why():
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2))
    with torch.no_grad():
        model[1].weight.zero_()
    dense = model[0].weight.detach().clone()
    first, second = one_shot_two_four(model)
    assert torch.equal(model[0].weight, dense)
    assert (first.kept, first.refused) == (1.0, "6 inputs are no multiple of 4")
    assert (second.kept, second.refused) == (1.0, None)


def test_layers_are_plain_again_when_training_fails():
    model = nn.Sequential(nn.Linear(8, 4))

    def fail(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        one_shot_two_four(model, fail)
    assert not parametrize.is_parametrized(model[0])
    assert pack_two_four(model[0].weight)


def test_wrong_layers_are_refused():
    with pytest.raises(ShapeError, match="6 columns"):
        attach_sr_ste(nn.Linear(6, 2))
    for decay in (-0.1, float("nan"), float("inf")):
        with pytest.raises(RangeError, match="decay must be at least 0"):
            attach_sr_ste(nn.Linear(4, 2), decay)
    linear = nn.Linear(4, 2)
    with pytest.raises(UnsupportedError, match="no 2:4 mask to bake in; call attach_sr_ste"):
        bake(linear)
    with pytest.raises(ShapeError, match=r"mask must have shape \(2, 4\)"):
        attach_mask(linear, torch.ones(4, 2).bool())
    with pytest.raises(DtypeError, match="mask must be bool"):
        attach_mask(linear, torch.ones(2, 4))
    attach_sr_ste(linear)
    for attach in (attach_sr_ste, lambda layer: attach_mask(layer, torch.ones(2, 4).bool())):
        with pytest.raises(UnsupportedError, match="parametrised already"):
            attach(linear)
    with pytest.raises(UnsupportedError, match="parametrised already"):
        one_shot_two_four(nn.Sequential(nn.Linear(4, 4), linear))
