"""Labels of cells against a count by hand."""

from collections import Counter

import pytest
import torch

from pcsparse.coords.pillars import PillarGrid
from pcsparse.data.bev_labels import bev_targets
from pcsparse.errors import RangeError, ShapeError

CELLS = PillarGrid((-2.0, 2.0), (0.0, 3.0), (-1.0, 1.0), 1.0)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_a_cell_has_the_commonest_label_of_its_points(rng, dtype):
    points = torch.rand(60, 3, generator=rng) * torch.tensor([4.0, 2.0, 2.0]) - torch.tensor([2.0, 0.0, 1.0])
    targets = torch.randint(-1, 4, (60,), generator=rng, dtype=dtype)
    found = bev_targets(points, targets, CELLS)
    expected = torch.full((4, 3), -1)
    for x in range(4):
        for y in range(3):
            here = (points[:, 0].floor() + 2 == x) & (points[:, 1].floor() == y)
            votes = Counter(t for t in targets[here].tolist() if t >= 0)
            if votes:
                expected[x, y] = min(votes, key=lambda label: (-votes[label], label))
    assert torch.equal(found, expected)
    # nothing stands beyond y = 2, so nothing is known there
    assert (found[:, 2] == -1).all()
    assert (found[:, :2] >= 0).any()


def test_only_unlabelled_points_give_no_label():
    points = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.6, 0.0]])
    assert (bev_targets(points, torch.tensor([-1, -1]), CELLS) == -1).all()
    assert (bev_targets(points[:0], torch.zeros(0, dtype=torch.int64), CELLS) == -1).all()


def test_what_does_not_fit_is_refused():
    points = torch.tensor([[0.5, 0.5, 0.0], [0.5, 3.0, 0.0]])
    with pytest.raises(RangeError, match="1 of 2 points lie outside"):
        bev_targets(points, torch.tensor([1, 1]), CELLS)
    with pytest.raises(ShapeError, match="one row for each of the 1 points"):
        bev_targets(points[:1], torch.tensor([1, 1]), CELLS)
