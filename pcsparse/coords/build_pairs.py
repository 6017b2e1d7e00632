"""Maps that are born as lists: every pair is written once, and only those there are.

Twin in form: `coords.build_tables`; `coords.build` takes the one that a device wants.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pcsparse.coords.device_constant import device_constant
from pcsparse.coords.kernel_map import KernelMap, Pairs
from pcsparse.coords.keys import Extent
from pcsparse.coords.relation import Relation
from pcsparse.coords.sorted_keys import SortedKeys
from pcsparse.kernels.map_ways import MapRule, Way
from pcsparse.kernels.select import backend_of


def identity(relation: Relation, n: int, device: torch.device) -> KernelMap:
    """Every one of `n` rows meets itself."""
    rows = torch.arange(n, dtype=torch.int32, device=device)
    pairs = Pairs(rows, rows, device_constant([0, n], rows, torch.int64))
    return KernelMap(relation, n, n, pairs, symmetric=True, monotone=True, checked=True)


def search(
    fine: SortedKeys,
    coarse: SortedKeys,
    relation: Relation,
    deltas: Sequence[int],
    *,
    symmetric: bool,
    how: Way | MapRule = "search",
) -> KernelMap:
    """The map of the offsets whose `deltas` are given; `symmetric`: of one set, mirrored about the middle.

    `how` is for tables: lists are merged, always.
    """
    half = torch.tensor(deltas[: len(deltas) // 2] if symmetric else deltas, dtype=torch.int64, device="cpu")
    found = backend_of(fine.keys).match_keys(fine.keys, coarse.scaled(relation.stride), half, symmetric)
    return _renumbered(Pairs(*found), fine, coarse, relation, symmetric=symmetric)


def partition(fine: SortedKeys, relation: Relation, bounds: Extent) -> tuple[SortedKeys, KernelMap]:
    """The level where each fine cell lies in one coarse cell, and the map to it."""
    keys, *lists = backend_of(fine.keys).partition_keys(fine.keys, relation.stride, relation.steps()[0])
    coarse = SortedKeys.made(keys, bounds)
    return coarse, _renumbered(Pairs(*lists), fine, coarse, relation)


def reached(fine: SortedKeys, relation: Relation, bounds: Extent) -> tuple[SortedKeys, KernelMap]:
    """The coarse level that a kernel touches, and the map to it."""
    keys, lists = _level(fine, relation, expand=False)
    coarse = SortedKeys.made(keys, bounds)
    return coarse, _renumbered(lists, fine, coarse, relation)


def expanded(coarse: SortedKeys, relation: Relation, bounds: Extent) -> tuple[SortedKeys, KernelMap]:
    """The fine level that a kernel reaches, and the map from it."""
    keys, lists = _level(coarse, relation, expand=True)
    fine = SortedKeys.made(keys, bounds)
    return fine, _renumbered(lists, fine, coarse, relation)


def _level(given: SortedKeys, relation: Relation, *, expand: bool) -> tuple[Tensor, Pairs]:
    keys, *lists = backend_of(given.keys).reached_cells(
        given.keys, relation.kernel_size, relation.stride, relation.dilation, relation.steps()[0], expand
    )
    return keys, Pairs(*lists)


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
