"""Other levels out of sorted keys, and the maps that lead there.

A voxel and an offset that meets a cell of the other level make a candidate. Candidates are listed, sorted by
cell and numbered, chunk by chunk of the x slabs that their cells lie in, so that threads share nothing. The
map needs no search: each candidate is one of its pairs.

A chunk's cells differ in few bits, so that two or three passes of a counting sort put them in order.
"""

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from numba import prange
from torch import Tensor

from pcsparse.kernels.cpu.keys import DIGIT, extent, sort_digit
from pcsparse.kernels.cpu.launch import jit_parallel, jit_serial
from pcsparse.kernels.key_layout import BATCH_SHIFT, BIAS, FIELD_BITS, SHIFTS, check_pair_count
from pcsparse.types import Triple

# given voxels a chunk, about: its candidates stay in the cache of a core
_CHUNK = 1024
_COUNTERS = 1 << 20
_SHIFT_X, _SHIFT_Y, _ = SHIFTS
_BITS_X = FIELD_BITS[0]
_MASK_X, _MASK_Y, _MASK_Z = ((1 << bits) - 1 for bits in FIELD_BITS)
_BEYOND = 1 << 62
# a candidate has its offset above, and its row below, a bit that says that its cell is not the one before
_NEW = 1 << 31

_Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Axis:
    """How biased cells u of one axis lead to biased cells of the other level.

    With u + shift = q * divisor + r, the offsets of residue r reach q * factor + step.

    Attributes:
        offsets: sorted by residue.
        steps: one for each of `offsets`.
        starts: (divisor + 1,) where each residue starts among them.
    """

    shift: int
    divisor: int
    factor: int
    offsets: list[int]
    steps: list[int]
    starts: list[int]

    @staticmethod
    def of(size: int, stride: int, dilation: int, first: int, bias: int, expand: bool) -> "_Axis":
        # a longer stride leads from the range of a key to cell 0 and to no other, as this one does
        stride = min(stride, 1 << _BITS_X)
        gaps = [dilation * o for o in range(size)]
        if expand:
            steps = [gap + first - stride * bias + bias for gap in gaps]
            return _Axis(0, 1, stride, list(range(size)), steps, [0, size])
        origin = (bias + first) // stride + 1
        residues = [gap % stride for gap in gaps]
        order = sorted(range(size), key=residues.__getitem__)
        steps = [bias - origin - gaps[o] // stride for o in order]
        starts = np.searchsorted(sorted(residues), np.arange(stride + 1)).tolist()
        return _Axis(stride * origin - bias - first, stride, 1, order, steps, starts)

    @property
    def inverse(self) -> int:
        """Divides by a product less its 40 lowest bits; exact, as u < 2^18 and divisor <= 2^18."""
        return (1 << 40) // self.divisor + 1

    def reached(self, keys: _Ints, shift: int, mask: int) -> tuple[int, int]:
        """The smallest cell that a field of `keys` may reach, and the bits of the largest one less that."""
        low, high = ((u + self.shift) // self.divisor * self.factor for u in extent(keys, shift, mask))
        smallest = low + min(self.steps)
        return smallest, max(high + max(self.steps) - smallest, 0).bit_length()


@dataclass(frozen=True, eq=False)
class _Chunks:
    """Candidates by the x slabs of their cells.

    Attributes:
        begins: (chunks,) where a chunk's candidates begin.
        ends: (chunks,) where they end.
        cells: those of a chunk once each, ascending: x slab, y and z less their smallest.
        pairs: the candidates by cell: offset, `_NEW`, row.
        counts: (chunks, k) candidates.
        sizes: (chunks,) cells.
        room: (workers, 4, most candidates of a chunk) to sort in.
        heads: (workers, digits) to count in.
    """

    begins: _Ints
    ends: _Ints
    cells: _Ints
    pairs: _Ints
    counts: _Ints
    sizes: _Ints
    room: _Ints
    heads: _Ints

    @staticmethod
    def of(candidates: _Ints, k: int) -> "_Chunks":
        """Room for so many `candidates` (chunks,) of k offsets."""
        ends, total, most = np.cumsum(candidates), int(candidates.sum()), max(1, int(candidates.max()))
        # no more than that where one chunk has nearly all; no result depends on it
        workers = max(1, min(candidates.size, torch.get_num_threads(), total // most))
        # torch, as the part that stays empty shall not be cleared
        cells, pairs = (torch.empty(total, dtype=torch.int64, device="cpu").numpy() for _ in range(2))
        room = torch.empty(workers, 4, most, dtype=torch.int64, device="cpu").numpy()
        counts, sizes = np.zeros((ends.size, k), np.int64), np.zeros(ends.size, np.int64)
        heads = np.empty((workers, 1 << DIGIT), np.int64)
        return _Chunks(ends - candidates, ends, cells, pairs, counts, sizes, room, heads)

    def arrays(self) -> tuple[_Ints, ...]:
        """What kernels take: all of it, in order."""
        return tuple(getattr(self, attribute.name) for attribute in fields(self))

    def listed(self, to_y: int, to_x: int, origin: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Keys of the other level, given rows and rows of the other level by offset, starts.

        A key is x slab, y from bit `to_x` and `to_y` of the cell on, and z, plus `origin`.
        """
        starts, bases = np.zeros(self.counts.shape[1] + 1, np.int64), np.cumsum(self.sizes) - self.sizes
        np.cumsum(self.counts.sum(axis=0), out=starts[1:])
        # where each chunk writes: the start of the list, and what earlier chunks found
        places = np.cumsum(self.counts, axis=0) - self.counts + starts[:-1]
        keys = np.empty(self.sizes.sum(), np.int64)
        given, reached = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.int32)
        _list(
            self.begins, self.ends, self.cells, self.pairs, self.sizes, bases, places, to_y, to_x, origin,
            keys, given, reached,
        )  # fmt: skip
        lists = torch.from_numpy(given), torch.from_numpy(reached), torch.from_numpy(starts)
        return torch.from_numpy(keys), *lists


@jit_serial
def _arrange(room, n, low, high, to_x, heads, begin, cells, pairs, counts):
    """Sort n candidates, cells in room[0] and pairs in room[1], and write them from `begin` on.

    `low` and `high` are their first and last x slab. Returns the number of different cells.
    """
    bits, now = to_x, 0
    while (high - low) >> (bits - to_x) > 0:
        bits += 1
    passes = (bits + DIGIT - 1) // DIGIT
    for number in range(passes):
        shift, width = number * bits // passes, (number + 1) * bits // passes - number * bits // passes
        sort_digit(
            room[now, :n], room[now + 1], room[2 - now], room[3 - now], low << to_x, shift, width, heads
        )
        now = 2 - now
    before, m = np.int64(-1), 0
    for t in range(n):
        cell, pair = room[now, t], room[now + 1, t]
        new = np.int64(cell != before)
        before = cell
        m += new
        # without a branch: a repeat writes its cell once more
        cells[begin + m - 1] = cell
        pairs[begin + t] = pair + new * _NEW
        counts[pair >> 32] += 1
    return m


@jit_parallel()
def _list(begins, ends, cells, pairs, sizes, bases, places, to_y, to_x, origin, keys, given, reached):
    for chunk in prange(sizes.size):
        begin, row = begins[chunk], bases[chunk] - 1
        for i in range(sizes[chunk]):
            cell = cells[begin + i]
            y, z = (cell >> to_y) & ((1 << (to_x - to_y)) - 1), cell & ((1 << to_y) - 1)
            keys[bases[chunk] + i] = ((cell >> to_x) << _SHIFT_X) + (y << _SHIFT_Y) + z + origin
        for t in range(begin, ends[chunk]):
            pair = pairs[t]
            row += (pair >> 31) & 1
            place = places[chunk, pair >> 32]
            places[chunk, pair >> 32] = place + 1
            given[place], reached[place] = pair & (_NEW - 1), row


def _cuts(keys: _Ints, k: int, axis: _Axis) -> tuple[_Ints, _Ints]:
    """Divide the x slabs of the other level so that about as many given voxels reach each chunk.

    Returns:
        given (2, chunks): where the voxels that reach a chunk begin and end; slabs (chunks + 1,): where it
        begins.
    """
    # a chunk counts its candidates by offset, so many offsets want few chunks
    chunks = max(1, min(-(-keys.size // _CHUNK), _COUNTERS // k))
    low, high = min(axis.steps), max(axis.steps)
    middle = keys[keys.size * np.arange(1, chunks) // chunks] >> _SHIFT_X
    batch = middle >> _BITS_X << _BITS_X
    cell = ((middle & _MASK_X) + axis.shift) // axis.divisor * axis.factor + high
    # a slab of many voxels is one chunk: each of two that begin alike would list all of them
    _, kept = np.unique(batch + cell, return_index=True)
    batch, cell = batch[kept], cell[kept]

    def first_to_reach(step: int) -> _Ints:
        u = -((step - cell) // axis.factor) * axis.divisor - axis.shift
        return np.searchsorted(keys, (batch + np.clip(u, 0, _MASK_X + 1)) << _SHIFT_X)

    given = [0, *first_to_reach(high)], [*first_to_reach(low), keys.size]
    return np.array(given), np.array([0, *(batch + cell), _BEYOND])


@jit_parallel()
def _divide(
    keys, divisor, inverse, shift, to_y, to_x, begins, ends, cells, pairs, counts, sizes, room, heads
):
    """The candidates of a partition: one a voxel."""
    dx, dy, dz = divisor
    over_x, over_y, over_z = inverse
    hx, hy, hz = shift
    for worker in prange(room.shape[0]):
        for chunk in range(worker, sizes.size, room.shape[0]):
            begin, n, slab = begins[chunk], ends[chunk] - begins[chunk], np.int64(0)
            for t in range(n):
                key = keys[begin + t]
                x, y = ((key >> _SHIFT_X) & _MASK_X) + hx, ((key >> _SHIFT_Y) & _MASK_Y) + hy
                z = (key & _MASK_Z) + hz
                qx, qy, qz = (x * over_x) >> 40, (y * over_y) >> 40, (z * over_z) >> 40
                offset = ((x - qx * dx) * dy + y - qy * dy) * dz + z - qz * dz
                slab = ((key >> BATCH_SHIFT) << _BITS_X) + qx
                room[worker, 0, t] = (slab << to_x) + (qy << to_y) + qz
                room[worker, 1, t] = (offset << 32) + begin + t
            low = room[worker, 0, 0] >> to_x if n else slab
            sizes[chunk] = _arrange(
                room[worker], n, low, slab, to_x, heads[worker], begin, cells, pairs, counts[chunk]
            )


def partition_keys(keys: Tensor, stride: Triple, first: Triple) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    array, k = keys.numpy(), stride[0] * stride[1] * stride[2]
    x, y, z = (_Axis.of(s, s, 1, f, bias, False) for s, f, bias in zip(stride, first, BIAS, strict=True))
    (begins, ends), _ = _cuts(array, k, x)
    chunks = _Chunks.of(ends - begins, k)
    (y0, bits_y), (z0, to_y) = y.reached(array, _SHIFT_Y, _MASK_Y), z.reached(array, 0, _MASK_Z)
    to_x, inverse = to_y + bits_y, (x.inverse, y.inverse, z.inverse)
    shift = x.shift, y.shift - (y0 - y.steps[0]) * stride[1], z.shift - (z0 - z.steps[0]) * stride[2]
    _divide(array, stride, inverse, shift, to_y, to_x, *chunks.arrays())
    return chunks.listed(to_y, to_x, (x.steps[0] << _SHIFT_X) + (y0 << _SHIFT_Y) + z0)


@jit_serial
def _candidates(keys, begin, end, first, last, numbers, tables, to_y, to_x, room):
    """List what keys[begin:end] reach in the x slabs first to last - 1.

    Returns the number of candidates, their lowest and their highest slab.
    """
    hx, dx, over_x, mx = numbers[0, 0], numbers[0, 1], numbers[0, 2], numbers[0, 3]
    hy, dy, over_y, my = numbers[1, 0], numbers[1, 1], numbers[1, 2], numbers[1, 3]
    hz, dz, over_z, mz = numbers[2, 0], numbers[2, 1], numbers[2, 2], numbers[2, 3]
    n, low, high = 0, last, first
    for i in range(begin, end):
        key = keys[i]
        x, y = ((key >> _SHIFT_X) & _MASK_X) + hx, ((key >> _SHIFT_Y) & _MASK_Y) + hy
        z = (key & _MASK_Z) + hz
        qx, qy, qz = (x * over_x) >> 40, (y * over_y) >> 40, (z * over_z) >> 40
        rx, ry, rz = x - qx * dx, y - qy * dy, z - qz * dz
        for a in range(tables[0, 0, rx], tables[0, 0, rx + 1]):
            slab = ((key >> BATCH_SHIFT) << _BITS_X) + qx * mx + tables[0, 1, a]
            if slab < first or slab >= last:
                continue
            low, high = min(low, slab), max(high, slab)
            for b in range(tables[1, 0, ry], tables[1, 0, ry + 1]):
                column = (slab << to_x) + ((qy * my + tables[1, 1, b]) << to_y) + qz * mz
                offset = tables[0, 2, a] + tables[1, 2, b]
                for c in range(tables[2, 0, rz], tables[2, 0, rz + 1]):
                    room[0, n] = column + tables[2, 1, c]
                    room[1, n] = ((offset + tables[2, 2, c]) << 32) + i
                    n += 1
    return n, low, high


@jit_parallel()
def _reach(
    keys, given, slabs, numbers, tables, to_y, to_x, begins, ends, cells, pairs, counts, sizes, room, heads
):
    """The candidates of any kernel; they may end before the `ends` that are given, and these are set."""
    for worker in prange(room.shape[0]):
        for chunk in range(worker, sizes.size, room.shape[0]):
            n, low, high = _candidates(
                keys, given[0, chunk], given[1, chunk], slabs[chunk], slabs[chunk + 1], numbers, tables, to_y,
                to_x, room[worker],
            )  # fmt: skip
            begin = begins[chunk]
            sizes[chunk] = _arrange(
                room[worker], n, low, high, to_x, heads[worker], begin, cells, pairs, counts[chunk]
            )
            ends[chunk] = begin + n


def reached_cells(
    keys: Tensor, size: Triple, stride: Triple, dilation: Triple, first: Triple, expand: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    array, k = keys.numpy(), size[0] * size[1] * size[2]
    if expand:
        check_pair_count(array.size * k, array.size * k, array.size, k)
    axes = [_Axis.of(*field, expand) for field in zip(size, stride, dilation, first, BIAS, strict=True)]
    given, slabs = _cuts(array, k, axes[0])
    (y0, bits_y), (z0, to_y) = axes[1].reached(array, _SHIFT_Y, _MASK_Y), axes[2].reached(array, 0, _MASK_Z)
    numbers = np.array([(axis.shift, axis.divisor, axis.inverse, axis.factor) for axis in axes])
    tables, most = np.zeros((3, 3, max(*size, *numbers[:, 1]) + 1), np.int64), 1
    ahead = (size[1] * size[2], size[2], 1)
    for table, axis, low, names in zip(tables, axes, (0, y0, z0), ahead, strict=True):
        table[0, : len(axis.starts)] = axis.starts
        table[1, : len(axis.steps)] = np.array(axis.steps) - low
        table[2, : len(axis.steps)] = np.array(axis.offsets) * names
        most *= int(np.diff(axis.starts).max())
    chunks = _Chunks.of((given[1] - given[0]) * most, k)
    _reach(array, given, slabs, numbers, tables, to_y, to_y + bits_y, *chunks.arrays())
    if not expand:
        check_pair_count(int(chunks.counts.sum()), array.size, int(chunks.sizes.sum()), k)
    made, rows, reached, starts = chunks.listed(to_y, to_y + bits_y, (y0 << _SHIFT_Y) + z0)
    return (made, reached, rows, starts) if expand else (made, rows, reached, starts)
