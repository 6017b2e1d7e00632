"""Accuracy with its confidence interval, by drawing held-out groups again and again."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pcsparse.checks import check_shape
from pcsparse.errors import RangeError

_DRAWS = 2000
_TAIL = 0.025


@dataclass(frozen=True)
class Score:
    """A share, or a difference of two, and where 95 % of its bootstrap lies.

    Attributes:
        value: of the held-out data as they are.
        low, high: 2.5th and 97.5th percentile over groups drawn with replacement.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """In per cent."""
        return f"{100 * self.value:.1f} ({100 * self.low:.1f} to {100 * self.high:.1f})"


def accuracy(counts: Tensor) -> Score:
    """Right predictions over counted ones.

    Args:
        counts: (groups, 2) integers, right and counted.

    Raises:
        ShapeError: other counts.
        RangeError: nothing was counted.
    """
    drawn = _draw(counts)
    return _score(_share(counts[None])[0], _share(drawn))


def gain(before: Tensor, after: Tensor) -> Score:
    """What accuracy `after` has more than `before`, on the same groups: each draw holds both.

    Args:
        before: (groups, 2) integers, right and counted.
        after: the same of another model.

    Raises:
        ShapeError, RangeError: as `accuracy`.
    """
    check_shape("after", after, tuple(before.shape))
    drawn, again = _draw(before), _draw(after)
    found = _share(after[None])[0] - _share(before[None])[0]
    return _score(found, _share(again) - _share(drawn))


def _draw(counts: Tensor) -> Tensor:
    """(draws, groups, 2), the same groups for counts of as many groups."""
    check_shape("counts", counts, (None, 2))
    if int(counts[:, 1].sum()) == 0:
        raise RangeError("no held-out item has a label; an accuracy needs some")
    # a group that counts nothing could be all that a draw holds
    counts = counts[counts[:, 1] > 0]
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(len(counts), (_DRAWS, len(counts)), generator=generator)
    return counts[rows]


def _share(counts: Tensor) -> Tensor:
    right, counted = counts.sum(dim=1).double().unbind(dim=1)
    return right / counted


def _score(value: Tensor, drawn: Tensor) -> Score:
    low, high = torch.quantile(drawn, torch.tensor([_TAIL, 1 - _TAIL], dtype=torch.float64)).tolist()
    return Score(float(value), low, high)
