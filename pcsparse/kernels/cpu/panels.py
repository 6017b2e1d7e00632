"""Weights laid out as the microkernels read them, and which register block runs which channels."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from pcsparse.kernels.cpu.emitter import HAS_BF16_DOT, HAS_WIDE_REGISTERS, KINDS, VECTOR_BYTES
from pcsparse.kernels.cpu.memory import aligned

# rows whose accumulators, NV vectors each, fill the registers without spilling. Measured on AVX-512: 6x4 and
# 8x3 leave one vector a weight and some for broadcasts; 12x2 and 12x1 fill as many, but the addresses of
# twelve rows no longer fit into the general registers
_ROWS = {1: 8, 2: 8, 3: 8, 4: 6} if HAS_WIDE_REGISTERS else {1: 6}


@dataclass(frozen=True)
class Columns:
    """Neighbouring output channels that one run of the kernel computes.

    Attributes:
        first: the first channel.
        count: channels, the padding not counted.
        blocks: panels side by side.
        nv: vectors a panel.
        lanes: channels a vector.
    """

    first: int
    count: int
    blocks: int
    nv: int
    lanes: int

    @property
    def mr(self) -> int:
        """Rows of the register block."""
        return _ROWS[self.nv]

    @property
    def width(self) -> int:
        """Channels with padding."""
        return self.blocks * self.nv * self.lanes


@cache
def split_columns(c_out: int, lanes: int, panel: int = 0) -> tuple[Columns, ...]:
    """Cover `c_out` channels by panels.

    Wide panels repay the loads of a row best, so panels of four and three vectors are mixed; only 1, 2 and 5
    vectors leave a narrower one.

    Args:
        c_out: output channels.
        lanes: channels a vector.
        panel: vectors a panel, 1 to 4; 0 for the rule above.
    """
    parts: list[Columns] = []
    first = 0
    for nv, blocks in _panels(-(-c_out // lanes), panel):
        if blocks:
            count = min(c_out - first, blocks * nv * lanes)
            parts.append(Columns(first, count, blocks, nv, lanes))
            first += count
    return tuple(parts)


def _panels(vectors: int, panel: int) -> list[tuple[int, int]]:
    """(vectors a panel, panels), together `vectors`."""
    widest = max(_ROWS)
    if panel:
        nv = min(panel, widest)
        return [(nv, vectors // nv), (vectors % nv, 1 if vectors % nv else 0)]
    if vectors <= widest:
        return [(vectors, 1 if vectors else 0)]
    if widest == 1:
        return [(1, vectors)]
    if vectors == 5:
        return [(3, 1), (2, 1)]
    if vectors % 4 and vectors % 3 == 0:
        return [(3, vectors // 3)]
    threes = -vectors % 4
    return [(4, (vectors - 3 * threes) // 4), (3, threes)]


def pack_panels(weight: Tensor, columns: Columns, kind: str) -> Tensor:
    """Panels of some output channels, (k, blocks, steps * width) elements, aligned to 64 bytes.

    Args:
        weight: (k, c_in, c_out) float32, float64 or bfloat16, any strides.
        columns: the channels.
        kind: name in `emitter.KINDS`. For the dot product two input channels stand side by side.
    """
    assert kind in KINDS
    k, c_in, _ = weight.shape
    pair = 2 if kind == "bfloat16" else 1
    words, width = -(-c_in // pair), columns.nv * columns.lanes
    part = weight.detach()[:, :, columns.first : columns.first + columns.count]
    missing = (0, columns.width - columns.count, 0, words * pair - c_in)
    if any(missing):
        part = torch.nn.functional.pad(part, missing)
    panels = aligned((k, columns.blocks, words * pair * width), weight.dtype)
    ordered = part.reshape(k, words, pair, columns.blocks, width).permute(0, 3, 1, 4, 2)
    panels.view(ordered.shape).copy_(ordered)
    return panels


def lanes_of(dtype: torch.dtype) -> int:
    """Output channels of an accumulator vector: sums are float32, or float64 for float64."""
    return VECTOR_BYTES // (8 if dtype == torch.float64 else 4)


def must_widen(dtype: torch.dtype) -> bool:
    """Whether features of `dtype` are multiplied as float32: 16 bits without an instruction for them."""
    return dtype == torch.float16 or (dtype == torch.bfloat16 and not HAS_BF16_DOT)
