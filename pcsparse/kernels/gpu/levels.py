"""Other levels out of sorted keys, and the maps that lead there.

A voxel and an offset that meets a cell of the other level make a candidate; of a strided kernel only those
are made that can meet one. Candidates are sorted by cell and numbered; the host waits once, for the number.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pcsparse.kernels.gpu import cuda_text
from pcsparse.kernels.gpu.constants import on_device
from pcsparse.kernels.gpu.tables import to_pairs
from pcsparse.kernels.key_layout import BIAS, FIELD_BITS, check_pair_count
from pcsparse.types import Triple

_THREADS = 256


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
class _Touched:
    """Candidates of coarse cells that fine voxels touch.

    Attributes:
        ranked: by cell.
        offsets: (n * slots,) int32 of the candidates as they were made.
        slots: candidates a voxel.
        k: kernel offsets.
    """

    ranked: Ranked
    offsets: Tensor
    slots: int
    k: int

    @staticmethod
    def of(keys: Tensor, size: Triple, stride: Triple, dilation: Triple, first: Triple) -> "_Touched":
        rows = [_touching(*axis) for axis in zip(size, stride, dilation, first, BIAS, strict=True)]
        slots = math.prod(row[-1] for row in rows)
        n, axes = keys.numel() * slots, on_device([number for row in rows for number in row], keys.device)
        cells = torch.empty(n, dtype=torch.int64, device=keys.device)
        offsets = torch.empty(n, dtype=torch.int32, device=keys.device)
        _launch("touched_cells", n, keys, axes, cells, offsets, slots)
        return _Touched(Ranked.of(cells), offsets, slots, size[0] * size[1] * size[2])

    def table(self) -> Tensor:
        """The map (k, m) int32 from the fine to the coarse level."""
        ranked = self.ranked
        table = torch.full((self.k, ranked.count), -1, dtype=torch.int32, device=self.offsets.device)
        lists = ranked.values, ranked.ranks, ranked.order, self.offsets
        _launch("place_voxels", self.offsets.numel(), *lists, table, self.slots, ranked.count)
        return table


def _touching(size: int, stride: int, dilation: int, first: int, bias: int) -> list[int]:
    """The nine numbers that `touched_cells` reads of one axis."""
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


def partition_table(keys: Tensor, stride: Triple, first: Triple) -> tuple[Tensor, Tensor]:
    touched = _Touched.of(keys, stride, stride, (1, 1, 1), first)
    return touched.ranked.unique(), touched.table()


def partition_keys(keys: Tensor, stride: Triple, first: Triple) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    coarse, table = partition_table(keys, stride, first)
    return coarse, *to_pairs(table, keys.numel())


def _expanded(keys: Tensor, size: Triple, stride: Triple, dilation: Triple, first: Triple) -> Ranked:
    """Fine cells of coarse ones, offset after offset."""
    n, k = keys.numel(), size[0] * size[1] * size[2]
    check_pair_count(n * k, n * k, n, k)
    axes: list[int] = []
    for s, d, gap, f, bias in zip(size, stride, dilation, first, BIAS, strict=True):
        # a longer stride leaves the range as this one does, unless all cells are 0
        step = min(d, 1 << FIELD_BITS[0])
        axes += [s, step, gap if s > 1 else 0, f + bias - step * bias]
    cells = torch.empty(n * k, dtype=torch.int64, device=keys.device)
    _launch("reached_cells", n * k, keys, on_device(axes, keys.device), cells, n)
    return Ranked.of(cells)


def reached_level(
    keys: Tensor, size: Triple, stride: Triple, dilation: Triple, first: Triple, expand: bool = False
) -> Tensor:
    kernel = size, stride, dilation, first
    ranked = _expanded(keys, *kernel) if expand else _Touched.of(keys, *kernel).ranked
    return ranked.unique()


def reached_cells(
    keys: Tensor, size: Triple, stride: Triple, dilation: Triple, first: Triple, expand: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if not expand:
        touched = _Touched.of(keys, size, stride, dilation, first)
        return touched.ranked.unique(), *to_pairs(touched.table(), keys.numel())
    ranked, n, k = _expanded(keys, size, stride, dilation, first), keys.numel(), size[0] * size[1] * size[2]
    coarse = torch.arange(n, dtype=torch.int32, device=keys.device).repeat(k)
    starts = torch.arange(k + 1, device=keys.device) * n
    return ranked.unique(), ranked.inverse().int(), coarse, starts
