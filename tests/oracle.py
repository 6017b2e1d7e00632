"""Independent implementations straight from their definitions: torch and the standard library only.

Nothing here imports the package. Sparse convolution is dense convolution over a box, read at occupied cells:

    fine = stride * coarse + dilation * offset[k] - padding

with `weight[k]` (c_in, c_out), offsets in C order (x slowest), odd kernels centred and even ones from 0. A
convolution reads fine and writes coarse, a transposed one reads coarse and writes fine.
"""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

Triple = tuple[int, int, int]
_BUDGET = 1 << 24  # numbers in one grid


@dataclass(frozen=True)
class Geometry:
    """A kernel. All fields are (x, y, z)."""

    kernel_size: Triple
    stride: Triple = (1, 1, 1)
    dilation: Triple = (1, 1, 1)
    padding: Triple = (0, 0, 0)

    @cached_property
    def offsets(self) -> list[Triple]:
        def along(size: int) -> list[int]:
            first = -(size - 1) // 2 if size % 2 else 0
            return [first + i for i in range(size)]

        return list(itertools.product(*map(along, self.kernel_size)))

    def fine(self, coarse: Triple, k: int) -> Triple:
        """The equation."""
        offset = self.offsets[k]
        x, y, z = (
            self.stride[a] * coarse[a] + self.dilation[a] * offset[a] - self.padding[a] for a in range(3)
        )
        return x, y, z


def kernel_map(fine: Tensor, coarse: Tensor, geometry: Geometry) -> set[tuple[int, int, int]]:
    """All (row of fine, row of coarse, k) that satisfy the equation, by a dictionary of coordinates."""
    row_of = {tuple(row): i for i, row in enumerate(fine.tolist())}
    found = set()
    for j, (batch, *cell) in enumerate(coarse.tolist()):
        for k in range(len(geometry.offsets)):
            i = row_of.get((batch, *geometry.fine(tuple(cell), k)))
            if i is not None:
                found.add((i, j, k))
    return found


def touched(fine: Tensor, geometry: Geometry) -> set[tuple[int, ...]]:
    """Every coarse cell that meets a fine one: the support of the dense convolution."""
    found = set()
    for batch, *cell in fine.tolist():
        for k in range(len(geometry.offsets)):
            shift = geometry.fine((0, 0, 0), k)
            scaled = [cell[a] - shift[a] for a in range(3)]
            if all(scaled[a] % geometry.stride[a] == 0 for a in range(3)):
                found.add((batch, *(scaled[a] // geometry.stride[a] for a in range(3))))
    return found


def written(coarse: Tensor, geometry: Geometry) -> set[tuple[int, ...]]:
    """Every fine cell that a transposed convolution writes."""
    ks = range(len(geometry.offsets))
    return {
        (batch, *geometry.fine(tuple(cell), k))
        for (batch, *cell), k in itertools.product(coarse.tolist(), ks)
    }


@dataclass(frozen=True)
class Box:
    """A dense grid's place: the coordinate of its first cell, and its cells an axis."""

    lower: Triple
    shape: Triple

    @staticmethod
    def around(coords: Tensor, margin: int = 0) -> "Box":
        if len(coords) == 0:
            return Box((0, 0, 0), (1, 1, 1))
        low = (coords[:, 1:].amin(0) - margin).tolist()
        high = (coords[:, 1:].amax(0) + margin).tolist()
        return Box(tuple(low), tuple(b - a + 1 for a, b in zip(low, high, strict=True)))

    def index(self, coords: Tensor) -> tuple[Tensor, ...]:
        return coords[:, 0].long(), *(coords[:, 1 + a].long() - self.lower[a] for a in range(3))

    def zeros(self, batch: int, channels: int, like: Tensor) -> Tensor:
        cells = batch * channels * math.prod(self.shape)
        if cells > _BUDGET:
            raise ValueError(f"the oracle refuses a grid of {cells} numbers; use a smaller cloud")
        return torch.zeros(batch, *self.shape, channels, dtype=like.dtype)


def to_grid(feats: Tensor, coords: Tensor, box: Box, batch: int) -> Tensor:
    """(n, c) -> (batch, x, y, z, c), zero where no voxel is."""
    return box.zeros(batch, feats.shape[1], feats).index_put(box.index(coords), feats)


def from_grid(grid: Tensor, coords: Tensor, box: Box) -> Tensor:
    """(batch, x, y, z, c) -> (n, c)."""
    return grid[box.index(coords)]


def _along(box_out: Box, box_in: Box, scale: Triple, shift: Triple) -> tuple[list[Tensor], list[Tensor]]:
    """An axis: the cells of `box_out` whose image `scale * cell + shift` lies in `box_in`, and the images."""
    cells, images = [], []
    for a in range(3):
        cell = torch.arange(box_out.shape[a])
        image = scale[a] * (cell + box_out.lower[a]) + shift[a] - box_in.lower[a]
        inside = (image >= 0) & (image < box_in.shape[a])
        cells.append(cell[inside])
        images.append(image[inside])
    return cells, images


def _mesh(axes: Iterable[Tensor]) -> tuple[Tensor, ...]:
    return tuple(torch.meshgrid(*axes, indexing="ij"))


def dense_conv(grid: Tensor, box_in: Box, weight: Tensor, box_out: Box, geometry: Geometry) -> Tensor:
    """out[coarse] = sum over k of grid[fine] @ weight[k]; differentiable."""
    out = box_out.zeros(grid.shape[0], weight.shape[2], grid)
    for k in range(len(geometry.offsets)):
        cells, images = _along(box_out, box_in, geometry.stride, geometry.fine((0, 0, 0), k))
        part = grid[(slice(None), *_mesh(images))] @ weight[k]
        out = out.index_put((torch.arange(len(grid))[:, None, None, None], *_mesh(cells)), part, True)
    return out


def dense_conv_transposed(
    grid: Tensor, box_in: Box, weight: Tensor, box_out: Box, geometry: Geometry
) -> Tensor:
    """out[fine] = sum over coarse and k that lead there of grid[coarse] @ weight[k]; differentiable."""
    out = box_out.zeros(grid.shape[0], weight.shape[2], grid)
    for k in range(len(geometry.offsets)):
        cells, images = _along(box_in, box_out, geometry.stride, geometry.fine((0, 0, 0), k))
        part = grid[(slice(None), *_mesh(cells))] @ weight[k]
        out = out.index_put((torch.arange(len(grid))[:, None, None, None], *_mesh(images)), part, True)
    return out


def sparse_conv(
    feats: Tensor,
    coords_in: Tensor,
    weight: Tensor,
    coords_out: Tensor,
    geometry: Geometry,
    *,
    batch: int,
    transposed: bool = False,
) -> Tensor:
    """(n_in, c_in) -> (n_out, c_out) by way of two dense grids; differentiable in feats and weight."""
    box_in, box_out = Box.around(coords_in), Box.around(coords_out)
    grid = to_grid(feats, coords_in, box_in, batch)
    convolve = dense_conv_transposed if transposed else dense_conv
    return from_grid(convolve(grid, box_in, weight, box_out, geometry), coords_out, box_out)


def voxelize(
    points: list[list[float]], voxel_size: float, batch: list[int], origin: Iterable[float] = (0.0, 0.0, 0.0)
) -> dict[tuple[int, ...], list[int]]:
    """Points of each voxel, in input order; voxels by coordinates (batch, x, y, z), lexicographic."""
    voxels: dict[tuple[int, ...], list[int]] = {}
    for i, (point, cloud) in enumerate(zip(points, batch, strict=True)):
        cell = (math.floor((p - o) / voxel_size) for p, o in zip(point, origin, strict=True))
        voxels.setdefault((cloud, *cell), []).append(i)
    return dict(sorted(voxels.items()))


def batch_norm(feats: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Training-mode normalisation over rows, with the biased variance."""
    mean = feats.mean(0)
    variance = ((feats - mean) ** 2).mean(0)
    return (feats - mean) / torch.sqrt(variance + eps) * weight + bias
