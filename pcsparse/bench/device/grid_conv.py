"""Convolutions on a grid that ends, as dense networks have them: SECOND's layers in other libraries."""

import itertools
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pcsparse.bench.library import LibraryConv
from pcsparse.bench.map_library import Lists, twin
from pcsparse.coords.kernel_map import Pairs
from pcsparse.coords.relation import Relation
from pcsparse.kernels.reference.keys import pack_rows
from pcsparse.types import Triple

Levels = dict[tuple[str, bool], tuple[Tensor, Lists]]


@dataclass(frozen=True)
class GridConv:
    """A convolution of a dense grid; all fields are along (x, y, z).

    Attributes:
        kernel: cells.
        stride: cells.
        padding: zeros on each side.
        grid: cells that come in.
        key: of the map; layers that share one have equal keys.
        submanifold: whether outputs are written at the inputs' voxels alone.
    """

    kernel: Triple
    stride: Triple
    padding: Triple
    grid: Triple
    key: str
    submanifold: bool = False

    @property
    def grid_out(self) -> Triple:
        """Cells that go out."""
        x, y, z = (
            (n + 2 * p - k) // s + 1
            for n, k, s, p in zip(self.grid, self.kernel, self.stride, self.padding, strict=True)
        )
        return x, y, z

    def map(self, coords: Tensor) -> tuple[Tensor, Pairs]:
        """Output coordinates, ascending by key, and pairs, tap by tap in C order, by plain torch."""
        taps = [(x, y, z) for x, y, z in itertools.product(*map(range, self.kernel))]
        reached = []
        for tap in taps:
            cells, inside = self._reach(coords, tap)
            reached.append((torch.cat([coords[:, :1], cells], dim=1)[inside], inside.nonzero()[:, 0]))
        if self.submanifold:
            out = coords
        else:
            out = torch.cat([cells for cells, _ in reached])
            out = out[_first_of_each(pack_rows(out)[0])]
        keys = pack_rows(out)[0]
        rows_in, rows_out = [], []
        for cells, rows in reached:
            wanted = pack_rows(cells)[0]
            place = torch.searchsorted(keys, wanted).clamp(max=max(len(keys) - 1, 0))
            hit = keys[place] == wanted if len(keys) else wanted.bool()
            rows_in.append(rows[hit].int())
            rows_out.append(place[hit].int())
        counts = torch.tensor([0, *map(len, rows_in)], device=coords.device)
        return out, Pairs(torch.cat(rows_in), torch.cat(rows_out), counts.cumsum(0))

    def _reach(self, coords: Tensor, tap: Triple) -> tuple[Tensor, Tensor]:
        """The output cell that reads each input cell by a tap, and whether there is one within the grid."""
        stride = coords.new_tensor(self.stride)
        scaled = coords[:, 1:] - coords.new_tensor(tap) + coords.new_tensor(self.padding)
        cells = torch.div(scaled, stride, rounding_mode="floor").int()
        inside = (scaled == cells * stride) & (cells >= 0) & (cells < coords.new_tensor(self.grid_out))
        return cells, inside.all(dim=1)


def _first_of_each(keys: Tensor) -> Tensor:
    unique, inverse = torch.unique(keys, return_inverse=True)
    rows = torch.arange(len(keys), device=keys.device)
    return torch.full_like(unique, len(keys)).scatter_reduce(0, inverse, rows, reduce="amin")


class GridLibrary(Protocol):
    """What a network on a grid asks of a library."""

    def grid_tensor(self, coords: Tensor, feats: Tensor, grid: Triple, batch: int) -> Any:
        """A new tensor, without any map; coordinates (n, 4) int32 from 0 up."""

    def grid_conv(self, conv: GridConv, c_in: int, c_out: int) -> LibraryConv:
        """A module without bias whose weights are loaded in C order over (x, y, z)."""

    def feats(self, x: Any) -> Tensor:
        """(n, c)."""

    def replace(self, x: Any, feats: Tensor) -> Any:
        """Other features at the same voxels."""

    def grid_coords(self, x: Any) -> Tensor:
        """(n, 4) int32, in the library's order of rows."""


@dataclass(frozen=True, eq=False)
class _Level:
    feats: Tensor
    coords: Tensor
    maps: Levels


class GridTwin:
    """The twins on maps of `GridConv.map`.

    Args:
        operations: to which the operations of every convolution are appended as it runs.
    """

    def __init__(self, operations: list[float]) -> None:
        self.operations = operations

    def grid_tensor(self, coords: Tensor, feats: Tensor, grid: Triple, batch: int) -> _Level:
        """A new tensor."""
        return _Level(feats, coords, {})

    def grid_conv(self, conv: GridConv, c_in: int, c_out: int) -> LibraryConv:
        """Our layout already."""
        module = _TwinGridConv(self, conv, c_in, c_out)
        return LibraryConv(module, module.weight, lambda weight: weight)

    def feats(self, x: _Level) -> Tensor:
        """(n, c)."""
        return x.feats

    def replace(self, x: _Level, feats: Tensor) -> _Level:
        """Other features."""
        return _Level(feats, x.coords, x.maps)

    def grid_coords(self, x: _Level) -> Tensor:
        """(n, 4)."""
        return x.coords


class _TwinGridConv(nn.Module):
    def __init__(self, library: GridTwin, conv: GridConv, c_in: int, c_out: int) -> None:
        super().__init__()
        taps = conv.kernel[0] * conv.kernel[1] * conv.kernel[2]
        self.weight = nn.Parameter(torch.zeros(taps, c_in, c_out))
        self._library, self._conv, self._convolve = library, conv, twin().convolve

    def forward(self, x: _Level) -> _Level:
        key = (self._conv.key, self._conv.submanifold)
        if key not in x.maps:
            out, pairs = self._conv.map(x.coords)
            # the relation is not read: the pairs say it all
            x.maps[key] = out, Lists(Relation.of(1), pairs, len(x.coords), len(out))
        out, lists = x.maps[key]
        _, c_in, c_out = self.weight.shape
        self._library.operations.append(2.0 * lists.pairs.rows_in.numel() * c_in * c_out)
        return _Level(self._convolve(x.feats, self.weight, lists), out, x.maps)
