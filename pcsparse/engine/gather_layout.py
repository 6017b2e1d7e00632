"""Where the rows of each pair lie in the buffer of gather-GEMM-scatter: made once a map and grouping."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pcsparse.coords.kernel_map import KernelMap
from pcsparse.engine.grouping import Group
from pcsparse.errors import RangeError
from pcsparse.kernels.key_layout import MOST_PAIRS
from pcsparse.kernels.select import backend_of


@dataclass(frozen=True, eq=False)
class GatherLayout:
    """The buffer of a map under a grouping.

    Attributes:
        runs: offsets that are one product, and the rows of each of them, as `Backend.gather_gemm` takes them.
        gather: `Backend.gather_layout`.
        places: (n,) int32, the rows of the buffer of each output, in the order of the offsets.
        starts: (n_out + 1,) int64; output j adds the rows places[starts[j]:starts[j + 1]].
    """

    runs: list[tuple[tuple[int, ...], int]]
    gather: list[Tensor]
    places: Tensor
    starts: Tensor


def layout_of(kmap: KernelMap, groups: tuple[Group, ...]) -> GatherLayout:
    """The layout of `kmap` under `groups`, made once and kept with the map.

    Raises:
        RangeError: with its padding the buffer has more rows than 32 bits can tell apart.
    """
    return kmap.kept(("gather_scatter", groups), lambda: _made(kmap, groups))


def _made(kmap: KernelMap, groups: Sequence[Group]) -> GatherLayout:
    counts = kmap.offset_counts()
    runs, first, total = _runs(groups, counts)
    if total > MOST_PAIRS:
        raise RangeError(
            f"{sum(counts)} pairs at {len(counts)} offsets, padded to the largest offset of their group, "
            f"take a buffer of {total} rows, more than 32-bit positions can tell apart ({MOST_PAIRS}); use a "
            "smaller epsilon of the grouping, or a smaller kernel or batch"
        )
    places = _places(kmap, first, counts)
    gather = backend_of(places).gather_layout(kmap.pairs.rows_in, places, kmap.n_in, total)
    order, starts = kmap.by_output()
    places = places[order.long()]
    if kmap.symmetric:
        # the centre's products are never made; it has one pair an output row
        places = places[places >= 0]
        starts = starts - torch.arange(kmap.n_out + 1, device=starts.device)
    return GatherLayout(runs, gather, places, starts)


def _runs(
    groups: Sequence[Group], counts: Sequence[int]
) -> tuple[list[tuple[tuple[int, ...], int]], dict[int, int], int]:
    """Runs; the first row of each offset in the buffer; rows of the buffer."""
    runs: list[tuple[tuple[int, ...], int]] = []
    for group in groups:
        if group.batched:
            runs.append((group.offsets, group.rows))
        else:
            runs += [((offset,), counts[offset]) for offset in group.offsets]
    first: dict[int, int] = {}
    total = 0
    for offsets, rows in runs:
        for offset in offsets:
            first[offset] = total
            total += rows
    return runs, first, total


def _places(kmap: KernelMap, first: dict[int, int], counts: Sequence[int]) -> Tensor:
    """(n_pairs,) int32: the row of the buffer of each pair, -1 where its offset has none."""
    device, n_pairs = kmap.pairs.starts.device, kmap.n_pairs
    begins = [sum(counts[:k]) for k in range(len(counts))]
    # far enough below that no pair of an offset without a place gets one
    steps = [first[k] - begin if k in first else -n_pairs - 1 for k, begin in enumerate(begins)]
    numbers = torch.tensor([steps, counts], dtype=torch.int64, device="cpu").view(2, -1).to(device)
    step = torch.repeat_interleave(numbers[0], numbers[1], output_size=n_pairs)
    return (torch.arange(n_pairs, device=device) + step).clamp(min=-1).int()
