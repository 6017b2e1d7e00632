"""Gathering rows and groups: against torch's indexing, gradients, what is refused."""

import pytest
import torch

from pcsparse.coords.neighbors import Neighbours, ball_query
from pcsparse.errors import DtypeError, RangeError, ShapeError
from pcsparse.ops import gather_rows, group_neighbours


@pytest.mark.parametrize("kind", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("shape", [(0,), (40,), (9, 4), (3, 2, 5)], ids=str)
def test_rows_are_those_of_torch(device, rng, shape, kind):
    feats = torch.randn(13, 7, generator=rng).to(device)
    rows = torch.randint(-1, 13, shape, generator=rng, dtype=kind).to(device)
    padded = torch.cat([feats, feats.new_zeros(1, 7)])

    assert torch.equal(gather_rows(feats, rows), padded[rows.long()])


def test_gradients_of_rows(rng):
    feats = torch.randn(6, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    rows = torch.tensor([[0, 5, -1], [5, 5, 2]], dtype=torch.int32)

    assert torch.autograd.gradcheck(gather_rows, (feats, rows))
    gather_rows(feats, rows).sum().backward()
    assert feats.grad[:, 0].tolist() == [1, 0, 1, 0, 0, 3]


def test_operator_is_registered_right(rng):
    feats = torch.randn(6, 3, generator=rng, requires_grad=True)
    rows = torch.tensor([0, 5, -1, 5])
    torch.library.opcheck(torch.ops.pcsparse.gather_rows.default, (feats, rows))


def test_no_rows_to_gather_from(device):
    nothing = torch.zeros(0, 4, device=device, requires_grad=True)
    out = gather_rows(nothing, torch.full((3, 2), -1, device=device))
    out.sum().backward()

    assert out.tolist() == torch.zeros(3, 2, 4).tolist()
    assert nothing.grad.shape == (0, 4)


def test_groups_are_places_from_the_centre_and_features(rng):
    points = torch.randn(50, 3, generator=rng)
    feats = torch.randn(50, 2, generator=rng, dtype=torch.float64)
    centres = points[[4, 30]]
    found = ball_query(points, 0.7, 6, queries=centres)
    assert 0 < found.counts.min() < 6
    groups = group_neighbours(points, centres, feats, found.rows)

    assert groups.shape == (2, 6, 5)
    assert groups.dtype == torch.float64
    for centre, group, rows in zip(centres, groups, found.rows.tolist(), strict=True):
        for entry, row in zip(group, rows, strict=True):
            expected = torch.cat([(points[row] - centre).double(), feats[row]])
            assert torch.equal(entry, expected if row >= 0 else torch.zeros(5, dtype=torch.float64))
    assert torch.equal(group_neighbours(points, centres, None, found.rows).double(), groups[..., :3])


def test_what_is_refused():
    feats, points = torch.zeros(4, 2), torch.zeros(4, 3)
    for rows in ([0, 4], [-2, 0]):
        with pytest.raises(RangeError, match=rf"rows span {rows[0]} to {rows[1]}, but feats has 4 rows"):
            gather_rows(feats, torch.tensor(rows))
    with pytest.raises(DtypeError, match="rows must be int32, int64, got float32"):
        gather_rows(feats, torch.zeros(2))
    with pytest.raises(DtypeError, match=r"feats must be float, got torch\.int64"):
        gather_rows(feats.long(), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ShapeError, match="feats must have shape"):
        gather_rows(feats[0], torch.zeros(2, dtype=torch.int64))
    rows = torch.zeros(2, 3, dtype=torch.int32)
    with pytest.raises(ShapeError, match=r"centres must have shape \(2, 3\), got \(3, 3\)"):
        group_neighbours(points, points[:3], None, rows)
    with pytest.raises(ShapeError, match=r"feats must have shape \(4, \*\), got \(3, 2\)"):
        group_neighbours(points, points[:2], feats[:3], rows)
    assert Neighbours(rows, rows.double()).counts.tolist() == [3, 3]
