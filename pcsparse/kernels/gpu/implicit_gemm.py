"""Sorted implicit GEMM: a program owns a tile of output rows and walks over the offsets that the tile has.

Rows of features are gathered straight into shared memory, several loads ahead of the tensor cores; no buffer
of gathered rows is written, and no offset is run that no row of the tile has (`gemm_layout`). The steps of
the loop are flat: blocks of channels within blocks of offsets. Where a row has few channels, several offsets
lie side by side in one step, so that the tensor cores are not fed zeros. Sums of several splits, or of a loop
that is cut for want of rows, are partial sums in float32, added in order by a second kernel.

Source: TorchSparse++ (MICRO 2023, arXiv 2311.12862), section 4; the list of active offsets and the cut of the
flat loop are FlexGEMM's (JeffreyXiang/FlexGEMM@6dd94a8). Offsets side by side are ours.
"""

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from pcsparse.kernels.gpu.gemm_layout import MOST_TOGETHER
from pcsparse.kernels.gpu.launch import Launcher
from pcsparse.kernels.gpu.row_tiles import whole

# a row of fewer channels than this is widened with zeros: cp.async takes no less than 4 bytes
_FEWEST_CHANNELS = 4
# the least depth of a product on tensor cores
_LEAST_DEPTH = 16
# bytes that one load takes at most
_WIDEST_LOAD = 16
# shared memory for indices; and what two buffers take
_SPARE_BYTES, _FEWEST_STAGES = 2048, 3
# GPUs whose tensor cores work for groups of warps: Hopper, and Blackwell in data centres; sums in half of the
# registers of a warp
_WITH_GROUPS, _HALF_OF_A_WARP = (9, 10), 32 * 128
# sums of a block of the second kernel, and channels of them
_SUMS, _MOST_COLUMNS = 2048, 128
# beyond it a row times its length no longer fits 32 bits
_SHORT = 1 << 31


def implicit_gemm(
    feats: Tensor,
    weight: Tensor,
    layout: list[Tensor],
    n_out: int,
    tile_out: int,
    tile_in: int,
    warps: int,
    stages: int,
    parts: int,
    precision: str,
    mirrored: bool = False,
    *,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
    mask: Tensor | None = None,
    through: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    out = feats.new_empty((n_out, weight.shape[2]))
    if n_out == 0:
        return out
    feats = _loadable(feats)
    weight = _with_an_order(weight)
    finish: tuple[Tensor | None, ...] = ()
    # mostly all of them are None
    if not (bias is residual is mask is through is scale is shift is None):
        finish = (whole(bias), whole(residual), whole(mask), whole(through), whole(scale), whole(shift))
    rows, index, lists = layout
    splits, tiles, length, tile = index.shape
    lots = splits * parts
    partial = lots > 1
    numbers, constants = _form(
        weight.shape,
        weight.stride(),
        feats.stride(0),
        feats.element_size(),
        (tile, tile_out, tile_in, length, parts),
        mirrored,
        feats.shape[0] * feats.stride(0) >= _SHORT,
        partial,
        relu and not partial,
        precision,
    )
    if mirrored and len(weight):
        weight = weight[-1]
    if feats.is_cuda:
        warps, stages = fitting(constants, feats.element_size(), warps, stages, feats.get_device())
    sums = out.new_empty((lots, *out.shape), dtype=torch.float32) if partial else out
    _MULTIPLY(
        (tiles * -(-out.shape[1] // tile_out), lots, 1),
        (feats, weight, sums, rows, index, lists, *(() if partial else finish)),
        (n_out, *numbers),
        constants,
        warps,
        stages,
        _FINISHING if partial or not finish else 0,
    )
    if partial:
        _add(sums, out, finish, relu)
    return out


# operands of `_finish`
_FINISHING = 6


def fitting(constants: tuple[Any, ...], size: int, warps: int, stages: int, device: int) -> tuple[int, int]:
    """Warps and stages for which a device has room, of a kernel with the constants of `_form`.

    Args:
        constants: of the kernel.
        size: bytes of a feature.
        warps: as many as are wanted.
        stages: as many as are wanted.
        device: its number.
    """
    tile, tile_out, offsets, channels, *_, even_out, transposed, _, _, _, _ = constants
    stages = fitting_stages(stages, offsets * channels * (tile + tile_out) * size, device)
    if transposed and not even_out:
        warps = fitting_warps(warps, tile * tile_out, device)
    return warps, stages


@functools.lru_cache(maxsize=4096)
def fitting_warps(warps: int, sums: int, device: int) -> int:
    """As many warps as have registers for a tile of a gradient whose last channels are not there.

    Where a warp multiplies by itself, it holds what it multiplies. Weights that are read across their rows,
    each beside a question whether it is there, leave no room for half of the registers in sums: 72 bytes a
    thread lay on an A100's stack. Groups of warps read from shared memory. Numbers of warps change no bits.
    """
    alone = torch.cuda.get_device_properties(device).major not in _WITH_GROUPS
    return 2 * warps if alone and sums >= _HALF_OF_A_WARP * warps else warps


@functools.lru_cache(maxsize=4096)
def fitting_stages(stages: int, bytes_a_step: int, device: int) -> int:
    """As many stages as the device's shared memory has room for; they change no bits."""
    properties = torch.cuda.get_device_properties(device)
    # an H100's where torch does not tell
    room = getattr(properties, "shared_memory_per_block_optin", 227 * 1024) - _SPARE_BYTES
    # indices are loaded ahead of rows, so that two stages are one buffer of rows and weights
    while stages > _FEWEST_STAGES and (stages + 1) // 2 * bytes_a_step > room:
        stages -= 1
    return stages


@functools.lru_cache(maxsize=4096)
def _form(
    shape: torch.Size,
    steps: tuple[int, ...],
    feats_step: int,
    size: int,
    tiles: tuple[int, int, int, int, int],
    mirrored: bool,
    long: bool,
    partial: bool,
    relu: bool,
    precision: str,
) -> tuple[tuple[int, ...], tuple[Any, ...]]:
    """The kernel's numbers after the first, and its constants: all that does not change with the cloud."""
    (_, c_in, c_out), (tile, tile_out, tile_in, length, parts) = shape, tiles
    channels, offsets = _step(c_in, tile_in, length)
    transposed = steps[2] != 1
    line = steps[1] if not transposed else steps[2]
    # what steps and channels are multiples of: so many elements one load may take
    in_align, out_align = _alignment(size, c_in, feats_step), _alignment(size, c_out)
    weight_align = _alignment(size, steps[0], line, c_in if transposed else c_out)
    numbers = (
        c_in // in_align,
        c_out // out_align,
        length,
        parts,
        feats_step // in_align,
        (-steps[0] if mirrored else steps[0]) // weight_align,
        line // weight_align,
    )
    constants = (
        tile,
        tile_out,
        offsets,
        channels,
        -(-c_in // channels),
        in_align,
        out_align,
        weight_align,
        c_in % channels == 0,
        c_out % tile_out == 0,
        transposed,
        long or _extent(shape, steps) >= _SHORT,
        partial,
        relu,
        precision,
    )
    return numbers, constants


def _loadable(feats: Tensor) -> Tensor:
    """Rows whose channels lie together, from an address of the widest load, as the kernel promises."""
    if feats.stride(1) == 1 and not feats.data_ptr() % _WIDEST_LOAD:
        return feats
    return feats.clone(memory_format=torch.contiguous_format)


def _with_an_order(weight: Tensor) -> Tensor:
    """Weights whose rows or columns lie together: the transposed ones of a gradient are read as they are."""
    return weight if weight.stride(2) == 1 or weight.stride(1) == 1 else weight.contiguous()


def _extent(shape: tuple[int, ...], steps: tuple[int, ...]) -> int:
    return sum((count - 1) * step for count, step in zip(shape, steps, strict=True))


def _alignment(size: int, *steps: int) -> int:
    whole = _WIDEST_LOAD // size
    for step in steps:
        whole |= step
    return whole & -whole


def _step(c_in: int, tile_in: int, length: int) -> tuple[int, int]:
    """Channels of a block, and offsets side by side: together about `tile_in` deep, with the least zeros."""
    most = min(MOST_TOGETHER, length & -length) if length else 1
    fewest = max(_FEWEST_CHANNELS, min(_LEAST_DEPTH, 1 << (c_in - 1).bit_length()))
    sizes = [tile_in >> halvings for halvings in range(tile_in.bit_length())]
    sizes = [size for size in sizes if size >= fewest]
    channels = min(sizes, key=lambda size: (-(-c_in // size) * size, -size))
    offsets = min(most, max(1, tile_in // channels))
    return max(channels, _LEAST_DEPTH // offsets), offsets


@triton.jit
def _finish(sums, at, row, n, kept, inside, bias, residual, mask, through, scale, shift, RELU: tl.constexpr):
    if bias is not None:
        sums += tl.load(bias + n, mask=inside, other=0.0).to(tl.float32)[None, :]
    if mask is not None:
        computed = tl.load(mask + row, mask=row >= 0, other=0) != 0
        passed = tl.load(through + at, mask=kept, other=0.0).to(tl.float32)
        if scale is not None:
            passed *= tl.load(scale + n, mask=inside, other=0.0)[None, :]
        if shift is not None:
            passed += tl.load(shift + n, mask=inside, other=0.0)[None, :]
        sums = tl.where(computed[:, None], sums, passed)
    if residual is not None:
        sums += tl.load(residual + at, mask=kept, other=0.0).to(tl.float32)
    if RELU:
        # a NaN stays
        sums = tl.where(sums < 0, 0.0, sums)
    return sums


@triton.jit(do_not_specialize=[
    "n_out", "c_in", "c_out", "length", "parts", "feats_step", "weight_step", "weight_line",
])  # fmt: skip
def _multiply(
    feats,
    weight,
    out,
    rows,
    index,
    lists,
    bias,
    residual,
    mask,
    through,
    scale,
    shift,
    n_out,
    c_in,
    c_out,
    length,
    parts,
    feats_step,
    weight_step,
    weight_line,
    TILE: tl.constexpr,
    TILE_OUT: tl.constexpr,
    OFFSETS: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCKS: tl.constexpr,
    IN_ALIGN: tl.constexpr,
    OUT_ALIGN: tl.constexpr,
    WEIGHT_ALIGN: tl.constexpr,
    EVEN_IN: tl.constexpr,
    EVEN_OUT: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    LONG: tl.constexpr,
    PARTIAL: tl.constexpr,
    RELU: tl.constexpr,
    PRECISION: tl.constexpr,
):
    # numbers came divided, so that the compiler sees what they are multiples of
    c_in *= IN_ALIGN
    c_out *= OUT_ALIGN
    feats_step *= IN_ALIGN
    weight_step *= WEIGHT_ALIGN
    weight_line *= WEIGHT_ALIGN
    # tiles of output channels run side by side: they gather the same rows
    blocks_out = tl.cdiv(c_out, TILE_OUT)
    tile, lot = tl.program_id(0) // blocks_out, tl.program_id(1)
    split, part = lot // parts, lot % parts
    tile += split * (tl.num_programs(0) // blocks_out)
    lists += tile.to(tl.int64) * (length + 1)
    index += tile.to(tl.int64) * length * TILE

    r = tl.arange(0, TILE)
    n = (tl.program_id(0) % blocks_out) * TILE_OUT + tl.arange(0, TILE_OUT)
    inside = n < c_out
    # a step is OFFSETS offsets deep, of CHANNELS channels each
    depth = tl.arange(0, OFFSETS * CHANNELS)
    slot, channel = depth // CHANNELS, depth % CHANNELS
    if TRANSPOSED:
        weight_tile = channel[:, None] + n[None, :] * weight_line
    else:
        weight_tile = channel[:, None] * weight_line + n[None, :]

    steps = tl.cdiv(tl.load(lists), OFFSETS) * BLOCKS
    share = tl.cdiv(steps, parts)
    begin = part * share
    sums = tl.zeros((TILE, TILE_OUT), dtype=tl.float32)
    for step in range(begin, tl.minimum(begin + share, steps)):
        entry, ahead = step // BLOCKS * OFFSETS, step % BLOCKS * CHANNELS
        if OFFSETS == 1:
            i = tl.load(index + entry * TILE + r)[:, None]
            offset = tl.load(lists + 1 + entry)
        else:
            each = tl.arange(0, OFFSETS)
            i = tl.load(index + entry * TILE + (r[:, None] + each[None, :] * TILE))
            i = tl.broadcast_to(i[:, :, None], (TILE, OFFSETS, CHANNELS))
            i = tl.reshape(i, (TILE, OFFSETS * CHANNELS))
            offset = tl.load(lists + 1 + entry + slot)[:, None]
        real = i >= 0
        if LONG:
            i, offset = i.to(tl.int64), offset.to(tl.int64)
        a_at = feats + (i * feats_step + (channel + ahead)[None, :])
        b_at = weight + (offset * weight_step + (ahead if TRANSPOSED else ahead * weight_line) + weight_tile)
        if OFFSETS > 1:
            # the reshape hid that these lie side by side, in one row
            real = tl.max_constancy(real, (1, IN_ALIGN))
            a_at = tl.max_contiguous(a_at, (1, IN_ALIGN))
            a_at = tl.multiple_of(a_at, (1, IN_ALIGN * feats.dtype.element_ty.primitive_bitwidth // 8))
        if EVEN_IN:
            a = tl.load(a_at, mask=real, other=0.0)
        else:
            a = tl.load(a_at, mask=real & (channel + ahead < c_in)[None, :], other=0.0)
        if EVEN_IN and EVEN_OUT:
            b = tl.load(b_at)
        elif EVEN_IN:
            b = tl.load(b_at, mask=inside[None, :], other=0.0)
        elif EVEN_OUT:
            b = tl.load(b_at, mask=(channel + ahead < c_in)[:, None], other=0.0)
        else:
            b = tl.load(b_at, mask=(channel + ahead < c_in)[:, None] & inside[None, :], other=0.0)
        sums = tl.dot(a, b, sums, input_precision=PRECISION)

    row = tl.load(rows + tile.to(tl.int64) * TILE + r)
    at = row.to(tl.int64)[:, None] * c_out + n[None, :]
    kept = (row >= 0)[:, None]
    if not EVEN_OUT:
        kept = kept & inside[None, :]
    if PARTIAL:
        out += lot.to(tl.int64) * n_out * c_out
    else:
        sums = _finish(sums, at, row, n, kept, inside, bias, residual, mask, through, scale, shift, RELU)
    tl.store(out + at, sums.to(out.dtype.element_ty), mask=kept)


@triton.jit(do_not_specialize=["n_out", "c_out"])
def _add_lots(
    sums,
    out,
    bias,
    residual,
    mask,
    through,
    scale,
    shift,
    n_out,
    c_out,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    LOTS: tl.constexpr,
    OUT_ALIGN: tl.constexpr,
    RELU: tl.constexpr,
):
    c_out *= OUT_ALIGN
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    n = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = n < c_out
    row = tl.where(r < n_out, r, -1)
    at = row.to(tl.int64)[:, None] * c_out + n[None, :]
    kept = (row >= 0)[:, None] & inside[None, :]
    total = tl.load(sums + at, mask=kept, other=0.0)
    for _ in tl.static_range(1, LOTS):
        sums += n_out.to(tl.int64) * c_out
        total += tl.load(sums + at, mask=kept, other=0.0)
    total = _finish(total, at, row, n, kept, inside, bias, residual, mask, through, scale, shift, RELU)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=kept)


_MULTIPLY, _ADD = Launcher(_multiply), Launcher(_add_lots)


def _add(sums: Tensor, out: Tensor, finish: tuple[Tensor | None, ...], relu: bool) -> None:
    lots, n_out, c_out = sums.shape
    columns = min(_MOST_COLUMNS, 1 << (c_out - 1).bit_length())
    rows = _SUMS // columns
    align = _alignment(out.element_size(), c_out)
    _ADD(
        (-(-n_out // rows), -(-c_out // columns), 1),
        (sums, out, *finish),
        (n_out, c_out // align),
        (rows, columns, lots, align, relu),
        absent=0 if finish else _FINISHING,
    )
