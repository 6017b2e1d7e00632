"""Other levels out of sorted keys, and the maps that lead there.

A voxel and an offset that meets a cell of the other level make a candidate; of a strided kernel only those
are made that can meet one. Where the host knows bounds, and they are not too far apart, candidates are marked
in a grid of bits; else they are sorted. The host waits once, for the number of cells.
"""

import functools
import itertools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pcsparse.kernels.gpu import cuda_text
from pcsparse.kernels.gpu.constants import on_device
from pcsparse.kernels.gpu.grid import Grid, Marked
from pcsparse.kernels.gpu.keys import key_extent, unpack_keys
from pcsparse.kernels.gpu.match import searched
from pcsparse.kernels.gpu.tables import to_pairs
from pcsparse.kernels.jobs import LevelStep, Search
from pcsparse.kernels.key_layout import BIAS, FIELD_BITS, SHIFTS, check_pair_count
from pcsparse.types import Bounds, Triple

_THREADS = 256
# cells of a partition so long that none leads from the end of an axis over both guards into the next one
_LONGEST = 512


def _launch(name: str, n: int, *args: Tensor | int) -> None:
    """One thread for each of `n`, which is the last argument."""
    cuda_text.launch("levels.cu", name, -(-n // _THREADS), _THREADS, *args, n)


@dataclass(frozen=True, eq=False)
class Ranked:
    """Keys in order, and the place of each among the different ones.

    Attributes:
        values: (n,) int64, ascending; -1, which is none, first.
        order: (n,) int64, where each was before; ties in input order.
        ranks: (n,) int32, how many different keys there are up to each.
        count: how many there are.
    """

    values: Tensor
    order: Tensor
    ranks: Tensor
    count: int

    @staticmethod
    def of(keys: Tensor) -> "Ranked":
        """Sort `keys` (n,) int64 and wait for the number of different ones."""
        values, order = torch.sort(keys, stable=True)
        heads = torch.empty(keys.numel(), dtype=torch.int32, device=keys.device)
        _launch("mark_heads", keys.numel(), values, heads)
        ranks = heads.cumsum(0, dtype=torch.int32)
        return Ranked(values, order, ranks, int(ranks[-1]) if keys.numel() else 0)

    def unique(self, first: Tensor | None = None) -> Tensor:
        """The different keys (count,) int64; `first` (count,) int64 gets the first position of each."""
        unique = torch.empty(self.count, dtype=torch.int64, device=self.values.device)
        place = 0 if first is None else first
        _launch("list_heads", self.values.numel(), self.values, self.ranks, self.order, unique, place)
        return unique

    def inverse(self) -> Tensor:
        """The place of each key, as they were before the sort, among the different ones: (n,) int64."""
        rows = torch.empty_like(self.order)
        _launch("place_ranks", rows.numel(), self.ranks, self.order, rows)
        return rows


def unique_keys(keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    ranked = Ranked.of(keys)
    first = torch.empty(ranked.count, dtype=torch.int64, device=keys.device)
    return ranked.unique(first), ranked.inverse(), first


@dataclass(frozen=True, eq=False)
class _Touching:
    """The coarse cells that fine voxels touch.

    Attributes:
        keys: (n,) int64 of the voxels.
        axes: (27,) int64, what `touched_cell` in levels.cu reads.
        slots: candidates a voxel.
        k: kernel offsets.
    """

    keys: Tensor
    axes: Tensor
    slots: int
    k: int

    @staticmethod
    def of(keys: Tensor, size: Triple, stride: Triple, dilation: Triple, first: Triple) -> "_Touching":
        axes, slots = axes_of(size, stride, dilation, first)
        return _Touching(keys, on_device(axes, keys.device), slots, math.prod(size))

    def marked(self, grids: Sequence[Grid]) -> Marked:
        """Grids of this level and of those to be made of it, the bits of this one set."""
        marked, n, grid = Marked.room(grids, self.keys.device), self.keys.numel() * self.slots, grids[0]
        numbers = (0, self.slots, *grid.numbers, grid.cells)
        _launch("mark_touched", n, self.keys, self.axes, marked.words, *numbers)
        return marked

    def level(self, grid: Grid | None) -> Tensor:
        """Keys (m,) int64 of the level."""
        if grid is None or self.keys.numel() == 0:
            return self.sorted(with_table=False)[0]
        return self.marked([grid]).listed([])[0][0]

    def sorted(self, *, with_table: bool) -> tuple[Tensor, Tensor]:
        """Keys (m,) int64 of the level and the map (k, m) int32 to it, empty if not asked for, by a sort."""
        n = self.keys.numel() * self.slots
        cells = torch.empty(n, dtype=torch.int64, device=self.keys.device)
        offsets = torch.empty(n, dtype=torch.int32, device=self.keys.device)
        _launch("touched_cells", n, self.keys, self.axes, cells, offsets, self.slots)
        ranked = Ranked.of(cells)
        shape = (self.k if with_table else 0, ranked.count)
        table = torch.full(shape, -1, dtype=torch.int32, device=self.keys.device)
        if with_table:
            lists = ranked.values, ranked.ranks, ranked.order, offsets
            _launch("place_voxels", n, *lists, table, self.slots, ranked.count)
        return ranked.unique(), table


@functools.lru_cache(maxsize=256)
def axes_of(size: Triple, stride: Triple, dilation: Triple, first: Triple) -> tuple[tuple[int, ...], int]:
    """What `touched_cell` reads of all three axes, and how many candidates a voxel has."""
    rows = [_axis(*axis) for axis in zip(size, stride, dilation, first, BIAS, strict=True)]
    return tuple(itertools.chain(*rows)), math.prod(row[-1] for row in rows)


def _axis(size: int, stride: int, dilation: int, first: int, bias: int) -> list[int]:
    """The nine numbers that `touched_cell` reads of one axis."""
    # a longer stride leads from the range of a key to cell 0 and to no other, as this one does
    stride = min(stride, 1 << FIELD_BITS[0])
    # a lone offset is at 0 whatever its dilation, which may be large
    dilation = dilation if size > 1 else 0
    common = math.gcd(dilation, stride)
    period = stride // common
    cells_up = (bias + first) // stride + 1
    # u - bias - first, made positive by whole cells
    shift = stride * cells_up - bias - first
    inverse = pow(dilation // common, -1, period)
    slots = -(-size // period)
    return [stride, shift, common, inverse, period, size, dilation, bias - cells_up, slots]


def partition_table(
    keys: Tensor, stride: Triple, first: Triple, bounds: Bounds | None = None
) -> tuple[Tensor, Tensor]:
    touching, grid = _Touching.of(keys, stride, stride, (1, 1, 1), first), Grid.of(bounds)
    if grid is None or keys.numel() == 0 or max(stride) > _LONGEST:
        return touching.sorted(with_table=True)
    coarse = touching.level(grid)
    axes = [range(start, start + step) for start, step in zip(first, stride, strict=True)]
    deltas = [sum(map(operator.lshift, step, SHIFTS)) for step in itertools.product(*axes)]
    return coarse, searched([Search(keys, coarse, tuple(deltas), stride)])[0]


def partition_keys(keys: Tensor, stride: Triple, first: Triple) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    coarse, table = partition_table(keys, stride, first)
    return coarse, *to_pairs(table, keys.numel())


def _expanding(
    keys: Tensor, size: Triple, stride: Triple, dilation: Triple, first: Triple
) -> tuple[Tensor, int]:
    """What `reached_cell` in levels.cu reads, (12,) int64, and how many fine cells coarse ones reach.

    Raises:
        RangeError: more of them than `key_layout.MOST_PAIRS`.
    """
    n, k, axes = keys.numel(), math.prod(size), []
    check_pair_count(n * k, n * k, n, k)
    for s, d, gap, f, bias in zip(size, stride, dilation, first, BIAS, strict=True):
        # a longer stride leaves the range as this one does, unless all cells are 0
        step = min(d, 1 << FIELD_BITS[0])
        axes += [s, step, gap if s > 1 else 0, f + bias - step * bias]
    return on_device(axes, keys.device), n * k


def _expanded(keys: Tensor, axes: Tensor, n_pairs: int) -> Ranked:
    cells = torch.empty(n_pairs, dtype=torch.int64, device=keys.device)
    _launch("reached_cells", n_pairs, keys, axes, cells, keys.numel())
    return Ranked.of(cells)


def reached_level(
    keys: Tensor,
    size: Triple,
    stride: Triple,
    dilation: Triple,
    first: Triple,
    expand: bool = False,
    bounds: Bounds | None = None,
) -> Tensor:
    grid = Grid.of(bounds)
    if not expand:
        return _Touching.of(keys, size, stride, dilation, first).level(grid)
    axes, n_pairs = _expanding(keys, size, stride, dilation, first)
    if grid is None or n_pairs == 0:
        return _expanded(keys, axes, n_pairs).unique()
    marked = Marked.room([grid], keys.device)
    numbers = (0, keys.numel(), *grid.numbers, grid.cells)
    _launch("mark_reached", n_pairs, keys, axes, marked.words, *numbers)
    return marked.listed([])[0][0]


def reached_levels(keys: Tensor, steps: Sequence[LevelStep]) -> list[tuple[Tensor, Tensor]]:
    levels: list[tuple[Tensor, Tensor]] = []
    while len(levels) < len(steps):
        done, grids = len(levels), []
        for step in steps[done:]:
            grid = Grid.of(step.bounds)
            if grid is None:
                break
            grids.append(grid)
        step = steps[done]
        touching = _Touching.of(keys, step.size, step.stride, step.dilation, step.first)
        if grids and keys.numel():
            rest = steps[done + 1 : done + len(grids)]
            axes = [axes_of(step.size, step.stride, step.dilation, step.first)[0] for step in rest]
            levels += touching.marked(grids).listed([on_device(numbers, keys.device) for numbers in axes])
        else:
            levels.append(_within(touching.level(None), step.bounds))
        keys = levels[-1][0]
    return levels


def _within(keys: Tensor, bounds: Bounds) -> tuple[Tensor, Tensor]:
    """The keys of cells within bounds, and the cells; one or two waits."""
    coords, (low, high) = unpack_keys(keys), key_extent(keys)
    if all(map(operator.le, bounds[0], low)) and all(map(operator.le, high, bounds[1])):
        return keys, coords
    # of this cloud alone; the numbers are copied to a place of the driver's own before this returns
    ends = torch.tensor(bounds, dtype=torch.int64, device="cpu").to(keys.device, non_blocking=True)
    rows = ((coords >= ends[0]) & (coords <= ends[1])).all(dim=1).nonzero().squeeze(1)
    return keys[rows], coords[rows]


def reached_cells(
    keys: Tensor, size: Triple, stride: Triple, dilation: Triple, first: Triple, expand: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if not expand:
        level, table = _Touching.of(keys, size, stride, dilation, first).sorted(with_table=True)
        return level, *to_pairs(table, keys.numel())
    n, k = keys.numel(), math.prod(size)
    ranked = _expanded(keys, *_expanding(keys, size, stride, dilation, first))
    coarse = torch.arange(n, dtype=torch.int32, device=keys.device).repeat(k)
    starts = torch.arange(k + 1, device=keys.device) * n
    return ranked.unique(), ranked.inverse().int(), coarse, starts
