"""Maps that are born as tables: their size is known before they are, so that the host need not wait for them.

Twin in form: `coords.build_pairs`; `coords.build` takes the one that a device wants.
"""

import torch
from torch import Tensor

from pcsparse.coords.kernel_map import KernelMap
from pcsparse.coords.keys import Extent
from pcsparse.coords.relation import Relation
from pcsparse.coords.sorted_keys import SortedKeys
from pcsparse.kernels.select import backend_of
from pcsparse.types import Triple


def identity(relation: Relation, n: int, device: torch.device) -> KernelMap:
    """Every one of `n` rows meets itself."""
    table = torch.arange(n, dtype=torch.int32, device=device)[None]
    return KernelMap(relation, n, n, table=table, symmetric=True, monotone=True, checked=True)


def search(
    fine: SortedKeys, coarse: SortedKeys, relation: Relation, deltas: Tensor, *, mirrored: bool
) -> KernelMap:
    """The map of the offsets whose `deltas` are given; see `Backend.match_table` for `mirrored`."""
    table = backend_of(fine.keys).match_table(fine.keys, coarse.scaled(relation.stride), deltas, mirrored)
    return _renumbered(table, fine, coarse, relation, symmetric=mirrored)


def partition(fine: SortedKeys, relation: Relation, bounds: Extent) -> tuple[SortedKeys, KernelMap]:
    """The level where each fine cell lies in one coarse cell, and the map to it."""
    keys, table = backend_of(fine.keys).partition_table(
        fine.keys, relation.stride, relation.steps()[0], (bounds.low, bounds.high)
    )
    coarse = SortedKeys.made(keys, bounds)
    return coarse, _renumbered(table, fine, coarse, relation)


def floor(fine: SortedKeys, stride: Triple, bounds: Extent) -> Tensor:
    """The cells of `stride` that the voxels lie in: keys (m,) int64, ascending."""
    # of a kernel as long as the stride: every fine cell touches the one that it lies in
    kernel = stride, stride, (1, 1, 1), (0, 0, 0)
    return backend_of(fine.keys).reached_level(fine.keys, *kernel, False, (bounds.low, bounds.high))


def reached(
    given: SortedKeys, relation: Relation, bounds: Extent, *, expand: bool = False
) -> tuple[SortedKeys, KernelMap | None]:
    """The level that a kernel makes, the fine one if `expand`; its map is searched when somebody asks."""
    kernel = relation.kernel_size, relation.stride, relation.dilation, relation.steps()[0]
    keys = backend_of(given.keys).reached_level(given.keys, *kernel, expand, (bounds.low, bounds.high))
    return SortedKeys.made(keys, bounds), None


def _renumbered(
    table: Tensor, fine: SortedKeys, coarse: SortedKeys, relation: Relation, *, symmetric: bool = False
) -> KernelMap:
    """From ranks of sorted keys to rows of the caller."""
    n_in, n_out = fine.keys.numel(), coarse.keys.numel()
    monotone = fine.order is None and coarse.order is None
    if not monotone:
        table = backend_of(table).renumber_table(table, fine.order, coarse.order)
    return KernelMap(relation, n_in, n_out, table=table, symmetric=symmetric, monotone=monotone, checked=True)
