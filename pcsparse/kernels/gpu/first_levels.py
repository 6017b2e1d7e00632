"""The levels of a cloud of which nothing is known, not even where it ends: the host waits once for all.

What packing finds is left on the device too. There it says where the bits of each level will be (see
`plan_levels` in keys.cu), so that all that makes the levels is launched at once; the host then hears how many
cells there are, which is when it can make room for them.
"""

import functools
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pcsparse.kernels.gpu import cuda_text
from pcsparse.kernels.gpu.constants import on_device
from pcsparse.kernels.gpu.grid import MOST_CELLS
from pcsparse.kernels.gpu.keys import FACTS, facts_of, pack_rows, start_packing
from pcsparse.kernels.gpu.levels import axes_of, reached_levels
from pcsparse.kernels.gpu.mailbox import WORDS
from pcsparse.kernels.gpu.match import searched
from pcsparse.kernels.jobs import LevelStep, Search
from pcsparse.kernels.key_layout import key_holds

_THREADS = 256
# enough to fill a card; a block takes a run of chunks
_MOST_BLOCKS = 1024
# words (32 bits) of a chunk, which a block reads at once
_CHUNK = 1024
# of all levels; those below the first have an eighth of its cells, and less
_MOST_WORDS = MOST_CELLS // 32 * 5 // 4
# voxels in fewer cells than this many each are found faster by their bits than by a sort
_WORDS_A_VOXEL = 128
_NO_ROOM = 0xFFFFFFFF


def pack_and_reach(
    coords: Tensor, steps: Sequence[LevelStep], deltas: tuple[int, ...] | None = None
) -> tuple[Tensor, tuple[int, ...], tuple[int, ...], list[tuple[Tensor, Tensor]] | None, Tensor | None]:
    table: Tensor | None = None
    levels: list[tuple[Tensor, Tensor]] = []
    if coords.shape[0] and 0 < len(steps) <= WORDS - FACTS:
        planned = _Planned(coords, tuple(steps))
        keys = planned.keys
        low, high, ascending, counts = planned.started()
    else:
        keys, low, high, ascending = pack_rows(coords)
        counts = [_NO_ROOM] * len(steps)
    if not ascending or not key_holds(low, high):
        return keys, low, high, None, None
    for m in counts:
        if m == _NO_ROOM:
            rest = _closer(steps, low, high)[len(levels) :] if keys.shape[0] else steps
            levels += reached_levels(levels[-1][0] if levels else keys, rest)
            break
        levels.append(planned.listed(len(levels), m))
        if len(levels) == 1 and deltas is not None:
            # first what keeps the device busy
            table = _searched(keys, levels[0][0], deltas, steps[0])
    if table is None and deltas is not None and levels:
        table = _searched(keys, levels[0][0], deltas, steps[0])
    return keys, low, high, levels, table


def _closer(steps: Sequence[LevelStep], low: tuple[int, ...], high: tuple[int, ...]) -> list[LevelStep]:
    """The same levels of a cloud from `low` to `high`, with bounds no wider than their cells, as grids need.

    As `plan_levels` in keys.cu has it.
    """
    found = []
    for step in steps:
        ends: list[tuple[int, int]] = [(low[0], high[0])]
        for axis, (stride, first) in enumerate(zip(step.stride, step.first, strict=True)):
            last = first + step.dilation[axis] * (step.size[axis] - 1)
            ends.append((-((last - low[1 + axis]) // stride), (high[1 + axis] - first) // stride))
        low = tuple([max(end[0], kept) for end, kept in zip(ends, step.bounds[0], strict=True)])
        high = tuple([min(end[1], kept) for end, kept in zip(ends, step.bounds[1], strict=True)])
        found.append(replace(step, bounds=(low, high)))
    return found


def _searched(keys: Tensor, coarse: Tensor, deltas: tuple[int, ...], step: LevelStep) -> Tensor:
    return searched([Search(keys, coarse, deltas, step.stride)])[0]


@functools.lru_cache(maxsize=64)
def _chain_numbers(steps: tuple[LevelStep, ...]) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """What `plan_levels` reads, what `touched_cell` reads of each level, and candidates a voxel."""
    rules: list[int] = []
    axes: list[int] = []
    for step in steps:
        gaps = zip(step.first, step.dilation, step.size, strict=True)
        last = [first + gap * (size - 1) for first, gap, size in gaps]
        rules += [*step.stride, *step.first, *last, *step.bounds[0], *step.bounds[1]]
        axes += axes_of(step.size, step.stride, step.dilation, step.first)[0]
    one = steps[0]
    return tuple(rules), tuple(axes), axes_of(one.size, one.stride, one.dilation, one.first)[1]


class _Planned:
    """A chain of levels that is being made.

    Attributes:
        keys: (n,) int64 of the cloud.
    """

    def __init__(self, coords: Tensor, steps: tuple[LevelStep, ...]) -> None:
        """Make room; nothing is launched yet, as a lack of memory must not leave a letter behind."""
        n, device = coords.shape[0], coords.device
        rules, axes, self._slots = _chain_numbers(steps)
        self._rules, self._axes = on_device(rules, device), on_device(axes, device)
        chunks = min(_MOST_WORDS, _WORDS_A_VOXEL * n) // _CHUNK + 8
        self._coords, self._levels, self._blocks = coords, len(steps), min(chunks, _MOST_BLOCKS)
        self.keys = torch.empty(n, dtype=torch.int64, device=device)
        self._words = torch.empty(chunks * _CHUNK, dtype=torch.int32, device=device)
        # what packing tells, where the bits of each level are, the end of all, ends of the blocks of each
        size = FACTS + 7 * len(steps) + 1 + self._blocks * len(steps)
        self._plan = torch.empty(size, dtype=torch.int64, device=device)

    def started(self) -> tuple[tuple[int, ...], tuple[int, ...], bool, list[int]]:
        """Launch all that needs no size; waits for what packing found, and for the sizes of the levels."""
        levels, n, words, plan = self._levels, self.keys.shape[0], self._words, self._plan
        box, stamp = start_packing(self._coords, self.keys, plan, self._rules, levels, words.numel())
        self._launch("clear_planned", self._blocks, words, plan, levels)
        size = n * self._slots
        voxels = (self.keys, self._axes, words, plan, self._slots, size)
        self._launch("mark_planned", -(-size // _THREADS), *voxels)
        for level in range(levels):
            to = (box.counters, box.address + 8 * (FACTS + level), stamp)
            self._launch("count_planned", self._blocks, words, self._axes, plan, level, levels, *to)
        letter = box.read(FACTS + levels)
        return *facts_of(letter), letter[FACTS:]

    def listed(self, level: int, m: int) -> tuple[Tensor, Tensor]:
        """Keys (m,) int64, ascending, and coordinates (m, 4) int32 of a level."""
        keys = torch.empty(m, dtype=torch.int64, device=self.keys.device)
        coords = torch.empty((m, 4), dtype=torch.int32, device=self.keys.device)
        if m:
            to = (self._plan, level, self._levels, keys, coords)
            self._launch("list_planned", self._blocks, self._words, *to)
        return keys, coords

    @staticmethod
    def _launch(name: str, blocks: int, *args: Tensor | int) -> None:
        cuda_text.launch("levels.cu", name, blocks, _THREADS, *args)
