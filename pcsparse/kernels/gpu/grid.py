"""A level of known bounds as a grid of bits, in the order of its keys: no candidate is listed or sorted.

Source: FlyDSL (ROCm/FlyDSL, commit d4161ef7), a dense presence grid where the volume is small; here of bits,
as only the level is made with it, and maps are searched in sorted keys.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pcsparse.kernels.gpu import cuda_text
from pcsparse.kernels.key_layout import BIAS
from pcsparse.types import Bounds

_THREADS = 256
# bits that a block reads: four words a thread
_CHUNK = _THREADS * 128
MOST_CELLS = 1 << 28
"""Bits in 32 MB, which are cleared and read in the time that sorting takes some 100,000 candidates."""


@dataclass(frozen=True)
class Grid:
    """Where cells are among the bits.

    Attributes:
        low: the lowest (batch, x, y, z), biased as in a key.
        steps: bits from a batch, an x and a y to the next.
        cells: how many there are.
    """

    low: tuple[int, ...]
    steps: tuple[int, int, int]
    cells: int

    @staticmethod
    def of(bounds: Bounds | None) -> "Grid | None":
        """A grid for cells within `bounds`, or None where they are unknown or too far apart."""
        if bounds is None:
            return None
        sizes = [high - low + 1 for low, high in zip(*bounds, strict=True)]
        cells = math.prod(sizes)
        if min(sizes) < 1 or cells > MOST_CELLS:
            return None
        low = tuple(low + bias for low, bias in zip(bounds[0], (0, *BIAS), strict=True))
        _, _, y, z = sizes
        return Grid(low, (sizes[1] * y * z, y * z, z), cells)

    @property
    def numbers(self) -> tuple[int, ...]:
        """What kernels take to find the bit of a key: steps, the number of bit 0, the number of bits."""
        origin = sum(low * step for low, step in zip(self.low, (*self.steps, 1), strict=True))
        return (*self.steps, origin, self.cells)

    def empty(self, device: torch.device) -> Tensor:
        """Room for the bits, none of them set: (words,) int32."""
        return torch.zeros(-(-self.cells // _CHUNK) * (_CHUNK // 32), dtype=torch.int32, device=device)


def listed(grid: Grid, words: Tensor) -> tuple[Tensor, Tensor]:
    """The cells whose bits are set; waits for their number.

    Returns:
        keys (m,) int64, ascending; ranks (words,) int32, the place of a word's first cell among them, without
        meaning where it has none.
    """
    blocks = words.numel() // (_CHUNK // 32)
    counts = torch.empty(blocks, dtype=torch.int32, device=words.device)
    cuda_text.launch("levels.cu", "count_cells", blocks, _THREADS, words, counts)
    ends = counts.cumsum(0, dtype=torch.int32)
    keys = torch.empty(int(ends[-1]), dtype=torch.int64, device=words.device)
    ranks = torch.empty_like(words)
    cuda_text.launch(
        "levels.cu", "list_cells", blocks, _THREADS, words, ends, ranks, keys, *grid.steps, *grid.low
    )
    return keys, ranks
