"""A level of known bounds as a grid of bits, in the order of its keys: no candidate is listed or sorted.

Source: FlyDSL (ROCm/FlyDSL, commit d4161ef7), a dense presence grid where the volume is small; here of bits,
as only the level is made with it, and maps are searched in sorted keys.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pcsparse.kernels.gpu import cuda_text
from pcsparse.kernels.gpu.mailbox import WORDS, mailbox
from pcsparse.kernels.key_layout import BATCH_SHIFT, BIAS, SHIFTS
from pcsparse.types import Bounds

_THREADS = 256
# bits that a block reads: four words a thread
_CHUNK = _THREADS * 128
MOST_CELLS = 1 << 28
"""Bits in 32 MB, which are cleared and read in the time that sorting takes some 100,000 candidates."""


# no level is made of this one
_NO_STEP: tuple[Tensor | int, ...] = (0,) * 7


@dataclass(frozen=True)
class Grid:
    """Where cells are among the bits.

    Attributes:
        low: key of the cell of bit 0.
        steps: bits from a batch, an x and a y to the next.
        cells: how many there are.
    """

    low: int
    steps: tuple[int, int, int]
    cells: int

    @staticmethod
    def of(bounds: Bounds | None, most: int = MOST_CELLS) -> "Grid | None":
        """A grid for cells within `bounds`, or None where they are unknown or more than `most`."""
        if bounds is None:
            return None
        # what a key cannot hold is not there
        low = [max(end + bias, 0) for end, bias in zip(bounds[0], (0, *BIAS), strict=True)]
        high = [end + bias for end, bias in zip(bounds[1], (0, *BIAS), strict=True)]
        b, x, y, z = [end - start + 1 for start, end in zip(low, high, strict=True)]
        cells = b * x * y * z
        if min(b, x, y, z) < 1 or cells > most:
            return None
        origin = sum([end << shift for end, shift in zip(low, (BATCH_SHIFT, *SHIFTS), strict=True)])
        return Grid(origin, (x * y * z, y * z, z), cells)

    @property
    def numbers(self) -> tuple[int, ...]:
        """What a kernel takes for a `Grid` of levels.cu."""
        return (self.low, *self.steps)

    @property
    def blocks(self) -> int:
        """Blocks of threads that read all bits."""
        return -(-self.cells // _CHUNK)

    @property
    def room(self) -> int:
        """Words (32 bits) for the bits, and a count for each block; a multiple of what a thread reads."""
        return self.blocks * (_CHUNK // 32) + -(-self.blocks // 4) * 4


@dataclass(frozen=True, eq=False)
class Marked:
    """Grids of levels one after another, of which the bits of the first are set.

    Attributes:
        grids: of the levels.
        words: int32, room for all of them.
        at: where the words of each begin.
    """

    grids: Sequence[Grid]
    words: Tensor
    at: Sequence[int]

    @staticmethod
    def room(grids: Sequence[Grid], device: torch.device) -> "Marked":
        """Room for these grids, no bit set."""
        at = (0, *itertools.accumulate([grid.room for grid in grids]))
        return Marked(grids, torch.zeros(at[-1], dtype=torch.int32, device=device), at)

    def listed(self, steps: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """The cells of all levels; waits once, for their numbers.

        Args:
            steps: how each level but the first is made of the one before, as `touched_cell` in levels.cu
                reads it.

        Returns:
            keys (m,) int64, ascending, and coordinates (m, 4) int32 of each level.
        """
        words, device, levels = self.words, self.words.device, []
        for first in range(0, len(self.grids), WORDS):
            last = min(first + WORDS, len(self.grids))
            box = mailbox(device)
            stamp = box.stamp()
            for level in range(first, last):
                grid, step = self.grids[level], _NO_STEP
                if level + 1 < len(self.grids):
                    then = self.grids[level + 1]
                    step = (steps[level], self.at[level + 1], *then.numbers, then.cells)
                letter = box.address + 8 * (level - first)
                to = box.counters, letter, stamp
                launch("count_cells", grid.blocks, words, self.at[level], *to, *grid.numbers, *step)
            counts = box.read(last - first)
            for level, m in zip(range(first, last), counts, strict=True):
                grid = self.grids[level]
                keys = torch.empty(m, dtype=torch.int64, device=device)
                coords = torch.empty((m, 4), dtype=torch.int32, device=device)
                launch("list_cells", grid.blocks, words, self.at[level], keys, coords, *grid.numbers)
                levels.append((keys, coords))
        return levels


def launch(name: str, blocks: int, *args: Tensor | int) -> None:
    """A kernel of levels.cu."""
    cuda_text.launch("levels.cu", name, blocks, _THREADS, *args)
