"""Coarser levels out of sorted keys, without sorting them again.

For a partition the fine x slabs of one coarse slab are merged column by column: the z cells of a coarse
column are bits of a bitmap, so they leave it in order, and each fine voxel finds its coarse row by counting
bits. What the map needs, the coarse row and the offset of every fine voxel, is known on the way.
"""

import math

import numpy as np
import numpy.typing as npt
import torch
from numba import prange
from torch import Tensor

from pcsparse.kernels.cpu.bits import count_ones, lowest_one
from pcsparse.kernels.cpu.keys import distinct_keys
from pcsparse.kernels.cpu.launch import jit_parallel, jit_serial
from pcsparse.kernels.key_layout import BATCH_SHIFT, BIAS, FIELD_BITS, SHIFTS
from pcsparse.types import Triple

# fine voxels a chunk, about: chunks end where a coarse x slab does
_CHUNK = 2048
_CHUNKS = 64
_COUNTERS = 1 << 20
_SHIFT_X, _SHIFT_Y, _ = SHIFTS
_MASK_X, _MASK_Y, _MASK_Z = ((1 << bits) - 1 for bits in FIELD_BITS)
_BIAS_X, _BIAS_Y, _BIAS_Z = BIAS
# of 64 cells; two more, as the field is shifted by up to a stride
_WORDS = _MASK_Z // 64 + 2


@jit_serial
def _lower_bound(keys, low, high, wanted):
    while low < high:
        middle = (low + high) >> 1
        if keys[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low


@jit_serial
def _first_key(key, x):
    """The smallest key of the batch of `key` with biased x or more."""
    return ((key >> BATCH_SHIFT) << BATCH_SHIFT) + (np.int64(min(max(x, 0), _MASK_X + 1)) << _SHIFT_X)


def _cuts(keys: npt.NDArray[np.int64], stride: int, shift: int, chunks: int) -> npt.NDArray[np.int64]:
    """The ends of chunks of about equal size, moved on to where a coarse x slab ends; (chunks + 1,)."""
    last = keys[keys.size * np.arange(1, chunks + 1) // max(chunks, 1) - 1]
    coarse = (((last >> _SHIFT_X) & _MASK_X) + shift) // stride
    edges = np.minimum((coarse + 1) * stride - shift, _MASK_X + 1)
    ends = np.searchsorted(keys, ((last >> BATCH_SHIFT) << BATCH_SHIFT) + (edges << _SHIFT_X))
    return np.concatenate([[0], ends])


@jit_parallel()
def _merge(keys, cuts, stride, shift, origin, words, slabs, coarse, ranks, offsets, counts, sizes):
    """Coarse keys of each chunk, written from the chunk's first fine row on; ranks count within the chunk.

    `words` (chunks, 2, words of a z column) is zero before, `slabs` (chunks, 3, sx) is room to work.
    With biased fields u: coarse cell + origin = (u + shift) // stride, offset = (u + shift) % stride.
    """
    sx, sy, sz = stride
    hx, hy, hz = shift
    # an exact division by a multiplication: u < 2^18, so the error of u * (1 + 2^40 // s) stays below 1 / s
    over_z = (np.int64(1) << 40) // sz + 1
    for chunk in prange(sizes.size):
        bits, base = words[chunk, 0], words[chunk, 1]
        head, begin, end = slabs[chunk, 0], slabs[chunk, 1], slabs[chunk, 2]
        position, n = cuts[chunk], cuts[chunk]
        while position < cuts[chunk + 1]:
            key = keys[position]
            cell_x = (((key >> _SHIFT_X) & _MASK_X) + hx) // sx
            for a in range(sx):
                head[a] = position
                edge = _first_key(key, cell_x * sx - hx + a + 1)
                jump = 64
                while position + jump < cuts[chunk + 1] and keys[position + jump] < edge:
                    jump *= 4
                position = _lower_bound(keys, position, min(position + jump, cuts[chunk + 1]), edge)
                end[a] = position
            prefix = ((key >> BATCH_SHIFT) << BATCH_SHIFT) + ((cell_x - origin[0]) << _SHIFT_X)
            while True:
                lowest = np.int64(1) << 62
                for a in range(sx):
                    if head[a] < end[a]:
                        lowest = min(lowest, (keys[head[a]] >> _SHIFT_Y) & _MASK_Y)
                if lowest > _MASK_Y:
                    break
                cell_y = (lowest + hy) // sy
                stop = cell_y * sy - hy + sy
                first_word, last_word = np.int64(1) << 62, np.int64(-1)
                for a in range(sx):
                    begin[a] = p = head[a]
                    while p < end[a] and ((keys[p] >> _SHIFT_Y) & _MASK_Y) < stop:
                        cell = (((keys[p] & _MASK_Z) + hz) * over_z) >> 40
                        bits[cell >> 6] |= np.int64(1) << (cell & 63)
                        first_word, last_word = min(first_word, cell >> 6), max(last_word, cell >> 6)
                        p += 1
                    head[a] = p
                column = prefix + ((cell_y - origin[1]) << _SHIFT_Y) - origin[2]
                for word in range(first_word, last_word + 1):
                    base[word] = n - cuts[chunk]
                    left = bits[word]
                    while left != 0:
                        coarse[n] = column + (word << 6) + lowest_one(left)
                        left &= left - 1
                        n += 1
                for a in range(sx):
                    for p in range(begin[a], head[a]):
                        u = (keys[p] & _MASK_Z) + hz
                        cell = (u * over_z) >> 40
                        below = bits[cell >> 6] & ((np.int64(1) << (cell & 63)) - 1)
                        ranks[p] = base[cell >> 6] + count_ones(below)
                        offset_y = ((keys[p] >> _SHIFT_Y) & _MASK_Y) + hy - cell_y * sy
                        k = (a * sy + offset_y) * sz + u - cell * sz
                        offsets[p] = k
                        counts[chunk, k] += 1
                # a slice would become a parallel loop of its own, and take long to compile
                for word in range(first_word, last_word + 1):
                    bits[word] = 0
        sizes[chunk] = n - cuts[chunk]


@jit_parallel()
def _gather(cuts, bases, places, coarse, ranks, offsets, coarse_out, rows_in, rows_out):
    for chunk in prange(places.shape[0]):
        for i in range(bases[chunk + 1] - bases[chunk]):
            coarse_out[bases[chunk] + i] = coarse[cuts[chunk] + i]
        for p in range(cuts[chunk], cuts[chunk + 1]):
            place = places[chunk, offsets[p]]
            places[chunk, offsets[p]] = place + 1
            rows_in[place], rows_out[place] = p, bases[chunk] + ranks[p]


def partition_keys(keys: Tensor, stride: Triple, first: Triple) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    array, n, k = keys.numpy(), keys.numel(), stride[0] * stride[1] * stride[2]
    # (c - first) // stride == (u + shift) // stride - origin for a biased field u = c + bias
    origin = tuple((bias + start) // step + 1 for bias, start, step in zip(BIAS, first, stride, strict=True))
    shift = tuple(
        step * cells - bias - start
        for bias, start, step, cells in zip(BIAS, first, stride, origin, strict=True)
    )
    # a chunk counts its voxels by offset, so many offsets want few chunks
    chunks = min(-(-n // _CHUNK), _CHUNKS, max(1, _COUNTERS // k))
    cuts = _cuts(array, stride[0], shift[0], chunks)
    coarse, ranks, offsets = np.empty(n, np.int64), np.empty(n, np.int32), np.empty(n, np.int32)
    counts, sizes = np.zeros((chunks, k), np.int64), np.zeros(chunks, np.int64)
    biased = tuple(cells - bias for cells, bias in zip(origin, BIAS, strict=True))
    words, slabs = np.zeros((chunks, 2, _WORDS), np.int64), np.empty((chunks, 3, stride[0]), np.int64)
    _merge(array, cuts, stride, shift, biased, words, slabs, coarse, ranks, offsets, counts, sizes)
    bases, starts = np.zeros(chunks + 1, np.int64), np.zeros(k + 1, np.int64)
    np.cumsum(sizes, out=bases[1:])
    np.cumsum(counts.sum(axis=0), out=starts[1:])
    places = np.cumsum(counts, axis=0) - counts + starts[:-1]
    keys_out, rows_in, rows_out = np.empty(bases[-1], np.int64), np.empty(n, np.int32), np.empty(n, np.int32)
    _gather(cuts, bases, places, coarse, ranks, offsets, keys_out, rows_in, rows_out)
    lists = torch.from_numpy(rows_in), torch.from_numpy(rows_out), torch.from_numpy(starts)
    return torch.from_numpy(keys_out), *lists


@jit_serial
def _axis(cell, size, stride, dilation, first, cells):
    """The coarse cells of one axis that `cell` touches. Returns their number."""
    n = 0
    for o in range(size):
        # 32 bits: dividing 64 takes twice as long
        scaled = np.int32(cell - first - dilation * o)
        coarse = scaled // np.int32(stride)
        if coarse * stride == scaled:
            cells[n] = coarse
            n += 1
    return n


@jit_parallel()
def _touched(keys, size, stride, dilation, first, cells, room, found, sizes):
    """List the coarse cells of each block of voxels; `cells` (blocks, 3, longest axis) is room to work."""
    for block in prange(sizes.size):
        xs, ys, zs = cells[block, 0], cells[block, 1], cells[block, 2]
        before, nx, ny = np.int64(-1), 0, 0
        n = block * _CHUNK * room
        for i in range(block * _CHUNK, min(keys.size, (block + 1) * _CHUNK)):
            key = keys[i]
            if key >> _SHIFT_Y != before:
                before = key >> _SHIFT_Y
                x, y = ((key >> _SHIFT_X) & _MASK_X) - _BIAS_X, (before & _MASK_Y) - _BIAS_Y
                nx = _axis(x, size[0], stride[0], dilation[0], first[0], xs)
                ny = _axis(y, size[1], stride[1], dilation[1], first[1], ys)
            if nx * ny == 0:
                continue
            nz = _axis((key & _MASK_Z) - _BIAS_Z, size[2], stride[2], dilation[2], first[2], zs)
            batch = (key >> BATCH_SHIFT) << BATCH_SHIFT
            for a in range(nx):
                for b in range(ny):
                    column = (
                        batch + ((xs[a] + _BIAS_X) << _SHIFT_X) + ((ys[b] + _BIAS_Y) << _SHIFT_Y) + _BIAS_Z
                    )
                    for c in range(nz):
                        found[n] = column + zs[c]
                        n += 1
        sizes[block] = n - block * _CHUNK * room


def touched_keys(keys: Tensor, size: Triple, stride: Triple, dilation: Triple, first: Triple) -> Tensor:
    blocks, room = -(-keys.numel() // _CHUNK), 1
    for cells, step, gap in zip(size, stride, dilation, strict=True):
        # offsets that reach a coarse cell from one fine cell are stride / gcd(stride, dilation) apart
        room *= -(-cells * math.gcd(step, gap) // step)
    work, sizes = np.empty((blocks, 3, max(size)), np.int64), np.zeros(blocks, np.int64)
    # torch, as the part that stays empty shall not be cleared
    found = torch.empty(blocks * _CHUNK * room, dtype=torch.int64).numpy()
    _touched(keys.numpy(), size, stride, dilation, first, work, room, found, sizes)
    parts = [found[i * _CHUNK * room :][:n] for i, n in enumerate(sizes)]
    return distinct_keys(torch.from_numpy(np.concatenate([np.empty(0, np.int64), *parts])))
