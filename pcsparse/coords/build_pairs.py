"""Maps that are born as lists: every pair is written once, and only those there are.

Twin in form: `coords.build_tables`; `coords.build` takes the one that a device wants.
"""

import torch
from torch import Tensor

from pcsparse.coords.device_constant import device_constant
from pcsparse.coords.kernel_map import KernelMap, Pairs
from pcsparse.coords.keys import Extent
from pcsparse.coords.relation import Relation
from pcsparse.coords.sorted_keys import SortedKeys
from pcsparse.kernels.select import backend_of
from pcsparse.types import Triple


def identity(relation: Relation, n: int, device: torch.device) -> KernelMap:
    """Every one of `n` rows meets itself."""
    rows = torch.arange(n, dtype=torch.int32, device=device)
    pairs = Pairs(rows, rows, device_constant([0, n], rows, torch.int64))
    return KernelMap(relation, n, n, pairs, symmetric=True, monotone=True, checked=True)


def search(
    fine: SortedKeys, coarse: SortedKeys, relation: Relation, deltas: Tensor, *, mirrored: bool
) -> KernelMap:
    """The map of the offsets whose `deltas` are given; see `Backend.match_keys` for `mirrored`."""
    found = backend_of(fine.keys).match_keys(fine.keys, coarse.scaled(relation.stride), deltas, mirrored)
    return _renumbered(Pairs(*found), fine, coarse, relation, symmetric=mirrored)


def partition(fine: SortedKeys, relation: Relation, bounds: Extent) -> tuple[SortedKeys, KernelMap]:
    """The level where each fine cell lies in one coarse cell, and the map to it."""
    keys, *lists = backend_of(fine.keys).partition_keys(fine.keys, relation.stride, relation.steps()[0])
    coarse = SortedKeys.made(keys, bounds)
    return coarse, _renumbered(Pairs(*lists), fine, coarse, relation)


def floor(fine: SortedKeys, stride: Triple, bounds: Extent) -> Tensor:
    """The cells of `stride` that the voxels lie in: keys (m,) int64, ascending; `bounds` are of no use."""
    return backend_of(fine.keys).partition_keys(fine.keys, stride, (0, 0, 0))[0]


def reached(
    given: SortedKeys, relation: Relation, bounds: Extent, *, expand: bool = False
) -> tuple[SortedKeys, KernelMap]:
    """The level that a kernel makes, the fine one if `expand`, and the map from fine to coarse."""
    keys, *lists = backend_of(given.keys).reached_cells(
        given.keys, relation.kernel_size, relation.stride, relation.dilation, relation.steps()[0], expand
    )
    level = SortedKeys.made(keys, bounds)
    fine, coarse = (level, given) if expand else (given, level)
    return level, _renumbered(Pairs(*lists), fine, coarse, relation)


def _renumbered(
    pairs: Pairs, fine: SortedKeys, coarse: SortedKeys, relation: Relation, *, symmetric: bool = False
) -> KernelMap:
    """From ranks of sorted keys to rows of the caller."""
    n_in, n_out = fine.keys.numel(), coarse.keys.numel()
    monotone = fine.order is None and coarse.order is None
    if not monotone:
        rows = backend_of(pairs.rows_in).renumber_pairs(
            pairs.rows_in, pairs.rows_out, pairs.starts, fine.order, coarse.order, n_out
        )
        pairs = Pairs(*rows, pairs.starts)
    return KernelMap(relation, n_in, n_out, pairs, symmetric=symmetric, monotone=monotone, checked=True)
