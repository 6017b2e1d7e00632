"""The loss that no host waits for, against the one that leaves rows out."""

import pytest
import torch

from pcsparse.train.losses import segmentation_loss
from pcsparse.train.recordable_loss import recordable_loss
from pcsparse.train.settings import LossSettings
from tests.host_waits import host_waits
from tests.tolerance import tolerance

SETTINGS = [
    LossSettings(),
    LossSettings(lovasz=0.7),
    LossSettings(label_smoothing=0.1),
    LossSettings(lovasz=1.0, label_smoothing=0.2),
]


def _name(settings):
    return f"lovasz-{settings.lovasz}-smooth-{settings.label_smoothing}"


def _value_and_gradient(loss, logits, *given):
    logits = logits.clone().requires_grad_()
    value = loss(logits, *given)
    return value.detach(), *torch.autograd.grad(value, logits)


@pytest.mark.parametrize("settings", SETTINGS, ids=_name)
@pytest.mark.parametrize("weighted", [False, True])
def test_value_and_gradient_are_those_of_the_rows_that_count(device, rng, settings, weighted):
    logits = (2 * torch.randn(60, 5, generator=rng)).to(device)
    # class 4 is absent
    targets = torch.randint(-1, 4, (60,), generator=rng).to(device)
    weights = torch.tensor([1.0, 3.0, 0.5, 2.0, 7.0], device=device) if weighted else None
    ours = _value_and_gradient(recordable_loss, logits, targets, settings, weights)
    theirs = _value_and_gradient(segmentation_loss, logits, targets, settings, weights)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, **tolerance(torch.float32, 60))
    assert not ours[1][targets < 0].any()


@pytest.mark.parametrize("n", [0, 7])
def test_nothing_counts(device, n):
    logits, targets = torch.randn(n, 3, device=device), torch.full((n,), -1, device=device)
    value, gradient = _value_and_gradient(recordable_loss, logits, targets, LossSettings(lovasz=1.0), None)
    assert value == 0
    assert not gradient.any()


@pytest.mark.parametrize("settings", SETTINGS[1:], ids=_name)
def test_the_host_waits_for_nothing(device, settings):
    logits = torch.randn(20, 4, device=device, requires_grad=True)
    targets = torch.arange(20, device=device) % 5 - 1
    weights = torch.ones(4, device=device)
    with host_waits(device) as waits:
        recordable_loss(logits, targets, settings, weights).backward()
    assert waits.places == []
