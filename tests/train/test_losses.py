"""Losses against independent definitions, and their finite answers where nothing counts."""

import itertools
import math

import pytest
import torch

from pcsparse.errors import RangeError, ShapeError, UnsupportedError
from pcsparse.train.losses import (
    class_weights,
    cross_entropy,
    downwards,
    lovasz_softmax,
    segmentation_loss,
)
from pcsparse.train.settings import LossSettings
from tests.tolerance import tolerance


def brute_lovasz(logits, targets, n_classes):
    """The Lovasz extension of the Jaccard loss as a Choquet integral, set by set, in plain Python."""
    rows = [i for i, t in enumerate(targets.tolist()) if t >= 0]
    probabilities = logits.double().softmax(1)
    losses = []
    for c in range(n_classes):
        truth = {i for i in rows if targets[i] == c}
        if not truth:
            continue
        errors = {i: abs((i in truth) - float(probabilities[i, c])) for i in rows}

        def jaccard_loss(wrong, truth=truth):
            # rows in `wrong` are misclassified: predicted set = truth xor wrong
            predicted = truth ^ wrong
            return 1 - len(truth & predicted) / len(truth | predicted) if truth | predicted else 0.0

        levels = sorted({0.0, *errors.values()})
        total = 0.0
        for low, high in itertools.pairwise(levels):
            total += (high - low) * jaccard_loss({i for i in rows if errors[i] >= high})
        losses.append(total)
    return sum(losses) / len(losses)


def test_cross_entropy_is_the_weighted_mean(rng):
    logits = torch.randn(9, 4, generator=rng)
    targets = torch.tensor([0, 1, 2, 3, -1, 1, -1, 0, 2])
    weights = torch.tensor([1.0, 2.0, 0.5, 4.0])
    total = norm = 0.0
    for row, target in zip(logits.double(), targets.tolist(), strict=True):
        if target >= 0:
            total -= float(weights[target]) * float(row[target] - row.exp().sum().log())
            norm += float(weights[target])
    actual = cross_entropy(logits, targets, weights)
    torch.testing.assert_close(actual, torch.tensor(total / norm), **tolerance(torch.float32, 9))


@pytest.mark.parametrize("seed", range(4))
def test_lovasz_is_the_lovasz_extension_of_the_jaccard_loss(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(31, 5, generator=generator)
    # class 4 is absent
    targets = torch.randint(-1, 4, (31,), generator=generator)
    expected = torch.tensor(brute_lovasz(logits, targets, 5), dtype=torch.float32)
    torch.testing.assert_close(lovasz_softmax(logits, targets), expected, **tolerance(torch.float32, 31))


def test_lovasz_of_a_hard_prediction_is_one_minus_the_iou_of_present_classes():
    targets = torch.tensor([0, 0, 0, 1, 1, 2])
    predicted = torch.tensor([0, 0, 1, 1, 1, 0])
    logits = 200.0 * torch.nn.functional.one_hot(predicted, 4).float()
    mean_iou = (2 / 4 + 2 / 3 + 0) / 3
    torch.testing.assert_close(
        lovasz_softmax(logits, targets), torch.tensor(1 - mean_iou), **tolerance(torch.float32, 6)
    )


def test_lovasz_gradient(rng):
    logits = torch.randn(12, 3, generator=rng, requires_grad=True)
    targets = torch.randint(-1, 3, (12,), generator=rng)
    (grad,) = torch.autograd.grad(lovasz_softmax(logits, targets), logits)
    step = 1e-3
    for row, column in ((0, 0), (5, 2), (11, 1)):
        moved = [logits.detach().clone() for _ in range(2)]
        moved[0][row, column] -= step
        moved[1][row, column] += step
        low, high = (brute_lovasz(m, targets, 3) for m in moved)
        assert math.isclose(float(grad[row, column]), (high - low) / (2 * step), abs_tol=2e-3)


@pytest.mark.parametrize("turned", [False, True], ids=["rows", "columns"])
def test_errors_are_sorted_as_by_torch(rng, turned):
    errors = torch.rand(6, 500, generator=rng) * torch.tensor([1e-42, 1e-5, 1.0, 1.0, 3e38, 1.0])[:, None]
    # equal ones keep their places, also the least and the largest
    errors[2] = torch.randint(0, 4, (500,), generator=rng).float()
    errors[3, ::7], errors[3, 1::7], errors[4, ::9] = 0.0, torch.inf, torch.nan
    errors = errors.t().contiguous().t() if turned else errors
    wanted = torch.stack([row.argsort(descending=True, stable=True) for row in errors])
    kept = errors.clone()
    order = downwards(errors)
    assert torch.equal(order, wanted)
    assert order.is_contiguous()
    assert torch.equal(errors.nan_to_num(), kept.nan_to_num())
    assert downwards(errors[:, :0]).shape == (6, 0)


@pytest.mark.parametrize("n", [0, 1, 7], ids=["empty", "one", "several"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_nothing_labelled_gives_zero_with_zero_gradients(n, dtype):
    logits = torch.randn(n, 3, dtype=dtype, requires_grad=True)
    settings = LossSettings(lovasz=1.0)
    loss = segmentation_loss(logits, torch.full((n,), -1), settings, torch.ones(3))
    loss.backward()
    assert loss.item() == 0.0
    assert loss.dtype == torch.float32
    assert logits.grad.shape == (n, 3)
    assert not logits.grad.any()


def test_ignored_rows_have_no_influence(rng):
    logits = torch.randn(20, 3, generator=rng, requires_grad=True)
    targets = torch.randint(0, 3, (20,), generator=rng)
    targets[::4] = -1
    settings = LossSettings(lovasz=0.7, label_smoothing=0.1)
    loss = segmentation_loss(logits, targets, settings, None)
    loss.backward()
    assert not logits.grad[::4].any()
    kept = targets >= 0
    assert logits.grad[kept].any(dim=1).all()
    again = segmentation_loss(logits.detach()[kept], targets[kept], settings, None)
    assert loss.item() == again.item()


def test_wrong_shapes_and_targets_are_named():
    with pytest.raises(ShapeError, match=r"\(3, 2\) and \(4,\)"):
        cross_entropy(torch.zeros(3, 2), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(RangeError, match="reach 5, the network has 2"):
        lovasz_softmax(torch.zeros(3, 2), torch.tensor([0, 5, 1]))


def test_class_weights_balance_as_told():
    counts = torch.tensor([900, 90, 10, 0])
    inverse = class_weights(counts, "inverse", 1e9)
    torch.testing.assert_close(inverse * counts, torch.tensor([1000 / 3] * 3 + [0.0]))
    root = class_weights(counts, "sqrt", 1e9)
    torch.testing.assert_close(root[1] / root[0], torch.tensor(10.0).sqrt())
    # the class that never occurs weighs as much as the rarest
    assert root[3] == root[2]
    for weights in (inverse, root):
        torch.testing.assert_close((weights * counts).sum() / counts.sum(), torch.tensor(1.0))
    limited = class_weights(counts, "inverse", 4.0)
    torch.testing.assert_close(limited.max() / limited.min(), torch.tensor(4.0))
    assert class_weights(counts, "none", 4.0) is None
    with pytest.raises(RangeError, match="not one point"):
        class_weights(torch.zeros(3), "sqrt", 4.0)
    with pytest.raises(UnsupportedError, match="cubic"):
        class_weights(counts, "cubic", 4.0)
