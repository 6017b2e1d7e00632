"""A classifier moved to other class frequencies, against Bayes' rule."""

import pytest
import torch

from pcsparse.errors import RangeError, UnsupportedError
from pcsparse.train.priors import shift_priors
from tests.streets import tiny_model


class _Counts(torch.nn.Module):
    """Knows how often three classes looked alike in training."""

    def __init__(self, counts):
        super().__init__()
        self.classifier = torch.nn.Linear(1, 3)
        with torch.no_grad():
            self.classifier.weight.zero_()
            self.classifier.bias.copy_(torch.tensor(counts).log())

    def shares(self):
        return self.classifier(torch.zeros(1, 1)).softmax(1)[0]


def test_shares_follow_bayes():
    # 100 towns: class 0 has this look 30 times of 600, class 1 20 of 200, class 2 50 of 100
    model = _Counts([30.0, 20.0, 50.0])
    shift_priors(model, [600, 200, 100], [0.1, 0.1, 0.8])
    wanted = torch.tensor([30 / 600 * 0.1, 20 / 200 * 0.1, 50 / 100 * 0.8])
    torch.testing.assert_close(model.shares(), wanted / wanted.sum())


def test_a_class_without_a_share_stays():
    model = _Counts([30.0, 20.0, 50.0])
    before = model.classifier.bias.clone()
    shift_priors(model, [0, 1, 1], [1, 0, 1])
    assert torch.equal(model.classifier.bias[:2], before[:2])
    torch.testing.assert_close(model.classifier.bias[2], before[2])


def test_what_is_refused():
    with pytest.raises(UnsupportedError, match="Linear has no classifier"):
        shift_priors(torch.nn.Linear(1, 1), [1], [1])
    ones = [1.0] * 18
    for trained in (ones, [-1.0, *ones], [0.0] * 19):
        with pytest.raises(RangeError, match="19 classes need"):
            shift_priors(tiny_model(), trained, [1.0] * len(trained))
