"""Pillars: the cells of a bird's-eye grid, each as high as the grid, and the points that stand in them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pcsparse.checks import check_dtype, check_shape
from pcsparse.coords.device_constant import device_constant
from pcsparse.coords.voxelize import Voxels, voxelize
from pcsparse.errors import RangeError

Span = tuple[float, float]

# share of a cell by which a span may miss a whole number of cells: decimal metres are no binary fractions
_SLACK = 1e-6


@dataclass(frozen=True)
class PillarGrid:
    """A rectangle of square cells around the sensor.

    Attributes:
        x, y: from, to, in metres; whole multiples of `size` apart.
        z: from, to, in metres.
        size: edge length of a cell, metres.

    Raises:
        RangeError: a span that is empty, not finite or no whole number of cells.
    """

    x: Span
    y: Span
    z: Span
    size: float

    def __post_init__(self) -> None:
        numbers = (*self.x, *self.y, *self.z, self.size)
        if not all(map(math.isfinite, numbers)) or self.size <= 0:
            raise RangeError(f"a grid needs finite metres and cells larger than 0, got {self}")
        for name, (low, high) in (("x", self.x), ("y", self.y), ("z", self.z)):
            if not low < high:
                raise RangeError(
                    f"{name} of a grid must go from a lower to a higher value, got {low}, {high}"
                )
        for name, (low, high) in (("x", self.x), ("y", self.y)):
            cells = (high - low) / self.size
            if abs(cells - round(cells)) > _SLACK * cells:
                raise RangeError(
                    f"{name} of a grid must be a whole number of cells, got {low} to {high} m with cells of "
                    f"{self.size} m: {cells:.6g}"
                )

    @property
    def shape(self) -> tuple[int, int]:
        """Cells along x and along y."""
        return round((self.x[1] - self.x[0]) / self.size), round((self.y[1] - self.y[0]) / self.size)

    def coarser(self, stride: int) -> "PillarGrid":
        """The same rectangle in cells `stride` times as long.

        Raises:
            RangeError: the cells are no whole multiples of `stride`.
        """
        nx, ny = self.shape
        if stride < 1 or nx % stride or ny % stride:
            raise RangeError(f"a grid of {nx} x {ny} cells has no coarser one by {stride}")
        return PillarGrid(self.x, self.y, self.z, self.size * stride)

    def inside(self, points: Tensor) -> Tensor:
        """Which points the grid holds.

        Args:
            points: (n, 3) float32 or float64, metres; one that is not finite is outside.

        Returns:
            (n,) bool. Lower ends belong to the grid, upper ones do not, as with cells.

        Raises:
            ShapeError, DtypeError: other points.
        """
        check_shape("points", points, (None, 3))
        check_dtype("points", points, torch.float32, torch.float64)
        # the arithmetic of `voxelize`, so that what is inside has a cell inside
        corner = device_constant((self.x[0], self.y[0]), points, torch.float64)
        edge = device_constant((self.size,), points, torch.float64)
        cells = torch.floor((points[:, :2].double() - corner) / edge)
        within = (cells >= 0) & (cells < device_constant(self.shape, cells))
        z = points[:, 2].double()
        return within.all(dim=1) & (z >= self.z[0]) & (z < self.z[1])


def to_pillars(points: Tensor, grid: PillarGrid, *, batch: Tensor | None = None) -> Voxels:
    """Group points by the cell of the grid in which they stand.

    Args:
        points: (n, 3) float32 or float64, metres, all inside the grid: which others to leave out is for the
            caller to say, by `grid.inside`.
        grid: the cells.
        batch: (n,) integer, the cloud of each point; 0 for all if None.

    Returns:
        Voxels whose coords are (batch, x, y, 0), x and y from 0; none if n = 0.

    Raises:
        ShapeError, DtypeError: as `voxelize`.
        RangeError: points outside the grid; the text says how many.
    """
    outside = ~grid.inside(points)
    if bool(outside.any()):
        row = int(torch.nonzero(outside)[0])
        raise RangeError(
            f"{int(outside.sum())} of {len(points)} points lie outside the grid of x {grid.x}, y {grid.y}, "
            f"z {grid.z} m, first at row {row}: {points[row].tolist()}; keep the rows of "
            "grid.inside(points), or take a larger grid"
        )
    flat = torch.cat([points[:, :2], torch.zeros_like(points[:, 2:])], dim=1)
    return voxelize(flat, grid.size, batch=batch, origin=(grid.x[0], grid.y[0], 0.0))
