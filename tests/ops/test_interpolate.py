"""Interpolation by inverse squared distance: against loops, gradients, places alone."""

import math

import pytest
import torch

from pcsparse.coords.neighbors import nearest_neighbours
from pcsparse.errors import RangeError
from pcsparse.ops import interpolate


def test_values_are_those_of_a_loop(device, rng):
    points, places = torch.randn(30, 3, generator=rng), torch.randn(20, 3, generator=rng)
    feats = torch.randn(30, 4, generator=rng, dtype=torch.float64)
    found = nearest_neighbours(points.to(device), 3, queries=places.to(device))
    out = interpolate(feats.to(device), found)

    for place, value in zip(places.tolist(), out.cpu(), strict=True):
        ranks = sorted((math.dist(place, point), row) for row, point in enumerate(points.tolist()))[:3]
        weights = [1 / d**2 for d, _ in ranks]
        expected = sum(w * feats[row] for w, (_, row) in zip(weights, ranks, strict=True)) / sum(weights)
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)


def test_gradients(rng):
    points, places = torch.randn(8, 3, generator=rng), torch.randn(5, 3, generator=rng)
    feats = torch.randn(8, 2, generator=rng, dtype=torch.float64, requires_grad=True)
    found = nearest_neighbours(points, 3, queries=places)

    assert torch.autograd.gradcheck(lambda values: interpolate(values, found), (feats,))


def test_a_place_on_a_point_takes_its_features(rng):
    points, feats = 10 * torch.randn(9, 3, generator=rng), torch.randn(9, 4, generator=rng)
    out = interpolate(feats, nearest_neighbours(points, 3))

    torch.testing.assert_close(out, feats, rtol=1e-6, atol=1e-6)
    assert out.dtype == torch.float32


def test_fewer_than_three_points():
    points, feats = torch.tensor([[0.0, 0, 0], [3, 0, 0]]), torch.tensor([[1.0], [4.0]])
    places = torch.tensor([[1.0, 0, 0], [1.5, 0, 0]])
    out = interpolate(feats, nearest_neighbours(points, 3, queries=places))

    torch.testing.assert_close(out, torch.tensor([[(1 + 4 / 4) / (1 + 1 / 4)], [2.5]]))


def test_a_place_whose_cloud_has_no_points_is_named():
    found = nearest_neighbours(
        torch.zeros(2, 3), 3, queries=torch.zeros(3, 3), batch=torch.tensor([0, 0]),
        query_batch=torch.tensor([0, 1, 1]),
    )  # fmt: skip
    with pytest.raises(
        RangeError, match="2 of 3 places have no neighbour to take features from, first row 1"
    ):
        interpolate(torch.zeros(2, 1), found)
