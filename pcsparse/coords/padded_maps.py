"""Maps of a fixed size, into which the maps of one cloud after another are copied."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pcsparse.coords.build import map_deltas
from pcsparse.coords.build_tables import Wanted, search_into
from pcsparse.coords.cache import CoordCache
from pcsparse.coords.cache_plan import CachePlan, MapKey, Token
from pcsparse.coords.kernel_map import NO_NEIGHBOUR, KernelMap
from pcsparse.errors import UnsupportedError

_FLAGS = ("symmetric", "reads_coarse", "monotone")


class PaddedMaps:
    """Tables of the maps of a plan, with room for larger clouds than one; rows beyond a cloud have no pairs.

    Their memory stays where it is, so that launches that were recorded once read the maps of every cloud.

    Args:
        plan: what a network asks of a cache.
        cache: filled by the plan, as an example of the maps.
        rooms: rows that each coordinate set has room for, by its number.

    Raises:
        UnsupportedError: the plan has maps that are no tables.
    """

    def __init__(self, plan: CachePlan, cache: CoordCache, rooms: Sequence[int]) -> None:
        self.plan, self.rooms = plan, tuple(rooms)
        examples = cache.maps()
        if plan.corners or not all(kmap.of_table for kmap in examples.values()):
            raise UnsupportedError(
                "only maps that were made as tables can be padded, as convolutions on a GPU make them; this "
                "network asks for others, too"
            )
        # what is alike for every cloud; the examples themselves are large
        self._flags = {key: {name: getattr(kmap, name) for name in _FLAGS} for key, kmap in examples.items()}
        self._identities = {key for key, kmap in examples.items() if _is_identity(kmap)}
        self._tables = {key: self._room_for(key, kmap) for key, kmap in examples.items()}
        device = next(iter(examples.values())).device if examples else torch.device("cpu")
        # a column alone would have addresses that no kernel loads at once
        self._real = torch.zeros(plan.n_sets, 2, dtype=torch.int64, device=device)

    def _room_for(self, key: MapKey, kmap: KernelMap) -> Tensor:
        n_out = self.rooms[key.coarse]
        if key in self._identities:
            return torch.arange(n_out, dtype=torch.int32, device=kmap.device)[None]
        return torch.full((kmap.volume, n_out), NO_NEIGHBOUR, dtype=torch.int32, device=kmap.device)

    def fits(self, sets: Mapping[Token, Tensor]) -> bool:
        """Whether there is room for these coordinate sets, by number."""
        return all(coords.shape[0] <= self.rooms[token] for token, coords in sets.items())

    def load(self, cache: CoordCache, sets: Mapping[Token, Tensor]) -> None:
        """Search the maps of a cloud, all at once and into their places.

        Args:
            cache: with the levels of the plan.
            sets: the coordinates of every number, as `CachePlan.fill_levels` returns them.

        Raises:
            RangeError: see `build.build_kernel_map`.
        """
        wanted, tables = [], []
        for key, table in self._tables.items():
            if key in self._identities:
                continue
            deltas, *_ = map_deltas(key.relation, key.offsets, same_coords=False)
            fine, coarse = cache.sorted_keys(sets[key.fine]), cache.sorted_keys(sets[key.coarse])
            wanted.append(Wanted(fine, coarse, key.relation, deltas, symmetric=False))
            tables.append(table)
        if wanted:
            search_into(wanted, tables)
        counts = torch.tensor([sets[token].shape[0] for token in range(self.plan.n_sets)], device="cpu")
        if self._real.is_cuda:
            # memory that the host may forget at once: its allocator waits for the copy
            counts = counts.pin_memory()
        self._real[:, 0].copy_(counts, non_blocking=True)

    def cache(self) -> CoordCache:
        """A cache of the padded maps, with nothing derived from them yet.

        Its coordinates are on the "meta" device, so that a layer that reads them fails instead of reading
        those of another cloud.
        """
        maps = {}
        for key, table in self._tables.items():
            maps[key] = KernelMap(
                key.relation,
                self.rooms[key.fine],
                self.rooms[key.coarse],
                table=table,
                checked=True,
                **self._flags[key],
            )
        sets = [torch.empty(rows, 4, dtype=torch.int32, device="meta") for rows in self.rooms]
        return CoordCache.standing_in(self.plan, sets, maps, dict(enumerate(self._real[:, 0])))


def _is_identity(kmap: KernelMap) -> bool:
    return kmap.symmetric and kmap.volume == 1
