"""Packing and sorting of coordinate keys."""

import torch
from torch import Tensor

from pcsparse.kernels.gpu import cuda_text
from pcsparse.kernels.gpu.grid import Grid
from pcsparse.kernels.gpu.mailbox import Mailbox, mailbox
from pcsparse.kernels.key_layout import FIELD_BITS
from pcsparse.types import Bounds, Triple

THREADS = 256
"""Of a block, in all kernels of keys."""
# enough to fill a card, and few enough that their atomics do not queue; a thread takes several rows
_MOST_BLOCKS = 512
_MOST_PLACES = (1 << 31) - 1
NOTHING = (0, 0, 0, 0)
"""Either end of what no rows span."""


FACTS = 9
"""How many numbers packing tells: the ends of each column, and whether a key is not above the one before."""


def blocks_of(n: int) -> int:
    """Blocks for a kernel of `n` rows whose threads take several."""
    return min(-(-n // THREADS), _MOST_BLOCKS)


def _told(name: str, keys: Tensor, words: int) -> list[int]:
    """What a kernel tells the host of keys."""
    box, n = mailbox(keys.device), keys.numel()
    cuda_text.launch("keys.cu", name, blocks_of(n), THREADS, keys, box.counters, box.address, box.stamp(), n)
    return box.read(words)


def start_packing(
    coords: Tensor,
    keys: Tensor,
    told: Tensor | None,
    rules: Tensor | int = 0,
    levels: int = 0,
    room: int = 0,
) -> tuple[Mailbox, int]:
    """Launch the packing of `coords` (n, 4) int32, n > 0, without waiting for what it tells.

    Args:
        coords: rows.
        keys: (n,) int64, to be written.
        told: (FACTS or more,) int64, written too where a later kernel reads it.
        rules: what `plan_levels` in keys.cu reads, if there are levels.
        levels: that will be made of these rows.
        room: words (32 bits) for the bits of all levels.

    Returns:
        whose letter's first FACTS words will be what `facts_of` reads; and its stamp.
    """
    # a row is read at once, which needs its address to be a multiple of its size
    coords = coords if coords.data_ptr() % 16 == 0 else coords.clone()
    n, box = coords.shape[0], mailbox(coords.device)
    stamp = box.stamp()
    cuda_text.launch(
        "keys.cu", "pack_rows", blocks_of(n), THREADS, coords, keys, box.counters, box.address, stamp, n,
        0 if told is None else told, rules, levels, room,
    )  # fmt: skip
    return box, stamp


def facts_of(letter: list[int]) -> tuple[tuple[int, ...], tuple[int, ...], bool]:
    """The lowest and the highest of each column, and whether keys ascend, from what packing told."""
    return *_extent(letter), not letter[8]


def _extent(facts: list[int]) -> Bounds:
    """Low and high of what `widen` in keys.cu found."""
    high, low = facts[:4], facts[4:8]
    return tuple([(1 << 31) - 1 - end for end in low]), tuple([end - (1 << 31) for end in high])


def pack_rows(coords: Tensor) -> tuple[Tensor, tuple[int, ...], tuple[int, ...], bool]:
    keys = torch.empty(coords.shape[0], dtype=torch.int64, device=coords.device)
    if coords.shape[0] == 0:
        return keys, NOTHING, NOTHING, True
    return keys, *facts_of(start_packing(coords, keys, None)[0].read(FACTS))


def key_extent(keys: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return _extent(_told("key_extent", keys, 8)) if keys.numel() else (NOTHING, NOTHING)


def ascend(keys: Tensor) -> bool:
    return not (keys.numel() and _told("find_fall", keys, 1)[0])


def scale_keys(keys: Tensor, stride: Triple) -> Tensor:
    # a longer one would leave the range, unless all coordinates are 0 there
    steps = [min(step, 1 << max(FIELD_BITS)) for step in stride]
    n, scaled = keys.numel(), torch.empty_like(keys)
    cuda_text.launch("keys.cu", "scale_keys", -(-n // THREADS), THREADS, keys, scaled, *steps, n)
    return scaled


def sort_keys(keys: Tensor, bounds: Bounds | None = None) -> tuple[Tensor, Tensor]:
    n, device = keys.numel(), keys.device
    box = None if bounds is None or n == 0 else Grid.of(bounds, most=_MOST_PLACES)
    if box is None:
        values, order = torch.sort(keys, stable=True)
        return values, order.int()
    # a radix sort of half as many bits takes half as long
    places = torch.empty(n, dtype=torch.int32, device=device)
    blocks = -(-n // THREADS)
    cuda_text.launch("keys.cu", "place_keys", blocks, THREADS, keys, places, *box.numbers, n)
    order = torch.sort(places, stable=True)[1]
    ordered, rows = torch.empty_like(keys), torch.empty_like(places)
    cuda_text.launch("keys.cu", "take_keys", blocks, THREADS, keys, order, ordered, rows, n)
    return ordered, rows


def unpack_keys(keys: Tensor) -> Tensor:
    n = keys.numel()
    coords = torch.empty(n, 4, dtype=torch.int32, device=keys.device)
    cuda_text.launch("keys.cu", "unpack_keys", -(-n // THREADS), THREADS, keys, coords, n)
    return coords
