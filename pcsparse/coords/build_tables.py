"""Maps that are born as tables: their size is known before they are, so that the host need not wait for them.

Twin in form: `coords.build_pairs`; `coords.build` takes the one that a device wants.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pcsparse.coords.kernel_map import KernelMap
from pcsparse.coords.keys import Extent
from pcsparse.coords.relation import Relation
from pcsparse.coords.sorted_keys import SortedKeys
from pcsparse.kernels.jobs import LevelStep, Search
from pcsparse.kernels.map_ways import MapRule, Way
from pcsparse.kernels.select import backend_of


def identity(relation: Relation, n: int, device: torch.device) -> KernelMap:
    """Every one of `n` rows meets itself."""
    table = torch.arange(n, dtype=torch.int32, device=device)[None]
    return KernelMap(relation, n, n, table=table, symmetric=True, monotone=True, checked=True)


def search(
    fine: SortedKeys,
    coarse: SortedKeys,
    relation: Relation,
    deltas: Sequence[int],
    *,
    symmetric: bool,
    how: Way | MapRule = "search",
) -> KernelMap:
    """The map of the offsets whose `deltas` are given; `symmetric`: of one set, mirrored about the middle."""
    wanted = Wanted(fine, coarse, relation, tuple(deltas), symmetric, how)
    return _map_of(wanted, search_into([wanted], [None])[0])


def first(
    coords: Tensor, relation: Relation, deltas: tuple[int, ...], *, symmetric: bool
) -> tuple[SortedKeys, KernelMap]:
    """The keys of a cloud and its map to itself: the host waits once for both where rows ascend by key.

    Args:
        coords: (n, 4) int32, contiguous.
        relation: of the map.
        deltas: as `search` takes them.
        symmetric: as there.

    Raises:
        RangeError: see `SortedKeys.of`.
    """
    keys, low, high, table = backend_of(coords).pack_and_match(coords, deltas)
    extent = Extent(low, high)
    extent.check()
    found = SortedKeys.of_packed(coords, keys, extent) if table is None else SortedKeys(keys, None, extent)
    if table is None:
        return found, search(found, found, relation, deltas, symmetric=symmetric)
    return found, _map_of(Wanted(found, found, relation, deltas, symmetric), table)


def first_levels(
    coords: Tensor, steps: tuple[LevelStep, ...], relation: Relation | None
) -> tuple[SortedKeys, list[tuple[Tensor, Tensor]], Tensor | None]:
    """The keys of a cloud, levels made of it, and the table from it to the first one if `relation` says how.

    Args:
        coords: (n, 4) int32, contiguous.
        steps: of the levels.
        relation: of the map to the first level, or None.

    Returns:
        keys; keys and coordinates of each level, none where rows do not ascend; the table, if there is one.

    Raises:
        RangeError: see `SortedKeys.of`.
    """
    deltas = None if relation is None or not steps else relation.key_steps()
    keys, low, high, levels, table = backend_of(coords).pack_and_reach(coords, steps, deltas)
    extent = Extent(low, high)
    extent.check()
    if levels is None:
        return SortedKeys.of_packed(coords, keys, extent), [], None
    return SortedKeys(keys, None, extent), levels, table


def first_level_map(
    fine: SortedKeys, coarse: SortedKeys, relation: Relation, table: Tensor
) -> KernelMap | None:
    """The map of a table of `first_levels`; None where its outputs might leave the range of a key."""
    if not coarse.extent.moved(relation.stride).fits:
        # who asks for the map hears of it, and no other
        return None
    return _map_of(Wanted(fine, coarse, relation, (), False), table)


@dataclass(frozen=True, eq=False)
class Wanted:
    """A map to be searched: the arguments of `search`."""

    fine: SortedKeys
    coarse: SortedKeys
    relation: Relation
    deltas: tuple[int, ...]
    symmetric: bool
    how: Way | MapRule = "search"


def search_all(wanted: Sequence[Wanted]) -> list[KernelMap]:
    """Several maps with one launch, all on one device; the host does not wait.

    Raises:
        RangeError: a scaled output coordinate leaves the range of a key.
    """
    tables = search_into(wanted, [None] * len(wanted))
    return list(map(_map_of, wanted, tables))


def _map_of(one: Wanted, table: Tensor) -> KernelMap:
    return KernelMap(
        one.relation,
        one.fine.keys.shape[0],
        one.coarse.keys.shape[0],
        table=table,
        symmetric=one.symmetric,
        monotone=one.fine.order is None and one.coarse.order is None,
        checked=True,
    )


def search_into(wanted: Sequence[Wanted], tables: Sequence[Tensor | None]) -> list[Tensor]:
    """The tables of several maps, written to `tables` (k, room) int32, or to new ones where these are None.

    Raises:
        RangeError: a scaled output coordinate leaves the range of a key.
    """
    searches = []
    for one, table in zip(wanted, tables, strict=True):
        fine, coarse, stride = one.fine, one.coarse, one.relation.stride
        coarse.check_scaled(stride)
        orders, bounds = (fine.order, coarse.order), (fine.extent.low, fine.extent.high)
        keys = fine.keys, coarse.keys
        searches.append(
            Search(*keys, one.deltas, stride, *orders, one.symmetric, table, bounds=bounds, how=one.how)
        )
    return backend_of(wanted[0].fine.keys).match_tables(searches)


def levels(fine: SortedKeys, steps: Sequence[LevelStep]) -> list[tuple[SortedKeys, Tensor]]:
    """A chain of levels, keys and coordinates (m, 4) int32 of each; the host waits once for all of them.

    Args:
        fine: where the chain begins.
        steps: their bounds fit keys.
    """
    made = backend_of(fine.keys).reached_levels(fine.keys, steps)
    return [
        (SortedKeys(keys, None, Extent(*step.bounds)), coords)
        for step, (keys, coords) in zip(steps, made, strict=True)
    ]


def expanded(coarse: SortedKeys, relation: Relation, bounds: Extent) -> tuple[SortedKeys, None]:
    """The fine level that a coarse one makes; its map is searched when somebody asks."""
    kernel = relation.kernel_size, relation.stride, relation.dilation, relation.steps()[0]
    keys = backend_of(coarse.keys).reached_level(coarse.keys, *kernel, True, (bounds.low, bounds.high))
    return SortedKeys.made(keys, bounds), None
