"""Pillars against a plain loop, and what a grid does with points it cannot hold."""

import math

import pytest
import torch

from pcsparse.coords.pillars import PillarGrid, to_pillars
from pcsparse.errors import DtypeError, RangeError, ShapeError
from tests.cuda_division import CudaDivision

GRID = PillarGrid((0.0, 3.0), (-1.0, 1.0), (-2.0, 1.0), 0.5)


def cloud(rng: torch.Generator, n: int) -> torch.Tensor:
    low, high = torch.tensor([[0.0, -1.0, -2.0], [3.0, 1.0, 1.0]])
    return low + torch.rand(n, 3, generator=rng) * (high - low)


def test_points_stand_in_the_pillar_that_a_loop_finds(rng):
    points = cloud(rng, 300)
    batch = torch.randint(3, (300,), generator=rng)
    pillars = to_pillars(points, GRID, batch=batch)
    found: dict[tuple[int, ...], list[int]] = {}
    for i, ((x, y, _), b) in enumerate(zip(points.tolist(), batch.tolist(), strict=True)):
        found.setdefault((b, math.floor(x / 0.5), math.floor((y + 1.0) / 0.5), 0), []).append(i)
    assert [tuple(row) for row in pillars.coords.tolist()] == sorted(found)
    for row, cell in enumerate(sorted(found)):
        assert torch.nonzero(pillars.inverse == row)[:, 0].tolist() == found[cell]
    assert GRID.shape == (6, 4)


def test_lower_ends_are_inside_and_upper_ends_are_not():
    points = torch.tensor(
        [
            [0.0, -1.0, -2.0],
            [3.0, 0.0, 0.0],
            [1.0, 1.0, 0.0],
            [1.0, 0.0, 1.0],
            [2.9999, 0.9999, 0.9999],
            [-1e-6, 0.0, 0.0],
            [1.0, 0.0, -2.0001],
            [math.nan, 0.0, 0.0],
            [1.0, 0.0, math.inf],
        ]
    )
    inside = GRID.inside(points)
    assert inside.tolist() == [True, False, False, False, True, False, False, False, False]
    assert to_pillars(points[inside], GRID).coords.tolist() == [[0, 0, 0, 0], [0, 5, 3, 0]]
    with pytest.raises(RangeError, match=r"7 of 9 points lie outside .* first at row 1: \[3.0, 0.0, 0.0\]"):
        to_pillars(points, GRID)


def test_no_point_of_a_decimal_grid_falls_between_inside_and_its_cells():
    grid = PillarGrid((-25.6, 25.6), (-25.6, 25.6), (-3.0, 3.0), 0.32)
    assert grid.shape == (160, 160)
    edges = torch.arange(-80, 81, dtype=torch.float64) * 0.32
    near = torch.cat([edges, edges.float().double(), torch.nextafter(edges, edges.new_tensor(math.inf))])
    points = torch.stack([near, near.flip(0), torch.zeros_like(near)], dim=1)
    for typed in (points, points.float()):
        kept = typed[grid.inside(typed)]
        coords = to_pillars(kept, grid).coords
        assert int(coords[:, 1:3].min()) >= 0
        assert int(coords[:, 1:3].max()) <= 159
        assert len(kept) > 400


def test_what_is_inside_is_so_on_every_device(device):
    # 0.07 m a cell: the upper end, and what is one bit below it
    grid = PillarGrid((-3.5, 1.75), (-1.75, 1.75), (-1.0, 1.0), 0.07)
    places = torch.arange(-60, 30).double() * 0.07
    far = torch.tensor(math.inf, dtype=torch.float64)
    near = torch.cat([places, places.nextafter(far), places.nextafter(-far)])
    points = torch.stack([near, near.clamp(-1.7, 1.7), torch.zeros_like(near)], dim=1)
    cells = [math.floor((x - grid.x[0]) / grid.size) for x in near.tolist()]
    expected = [0 <= cell < 75 for cell in cells]

    with CudaDivision():
        inside = grid.inside(points.to(device))
        pillars = to_pillars(points.to(device)[inside], grid)

    assert inside.tolist() == expected
    there = [cell for cell, held in zip(cells, expected, strict=True) if held]
    assert pillars.coords[pillars.inverse, 1].tolist() == there


def test_coarser_cells_hold_whole_cells(rng):
    points = cloud(rng, 50)
    coarse = GRID.coarser(2)
    assert coarse.shape == (3, 2)
    fine = to_pillars(points, GRID)
    cells = to_pillars(points, coarse).coords[to_pillars(points, coarse).inverse]
    assert torch.equal(fine.coords[fine.inverse][:, 1:3] // 2, cells[:, 1:3])
    with pytest.raises(RangeError, match="6 x 4 cells has no coarser one by 4"):
        GRID.coarser(4)


def test_no_points_have_no_pillars():
    assert to_pillars(torch.zeros(0, 3), GRID).coords.shape == (0, 4)


def test_impossible_grids_and_points_are_refused():
    with pytest.raises(RangeError, match="from a lower to a higher"):
        PillarGrid((0.0, 1.0), (0.0, 1.0), (1.0, 1.0), 0.5)
    with pytest.raises(RangeError, match="whole number of cells"):
        PillarGrid((0.0, 1.1), (0.0, 1.0), (0.0, 1.0), 0.5)
    for size in (0.0, -1.0, math.nan):
        with pytest.raises(RangeError, match="larger than 0"):
            PillarGrid((0.0, 1.0), (0.0, 1.0), (0.0, 1.0), size)
    with pytest.raises(ShapeError, match="points"):
        to_pillars(torch.zeros(3, 4), GRID)
    with pytest.raises(DtypeError, match="points"):
        GRID.inside(torch.zeros(3, 3, dtype=torch.int32))
