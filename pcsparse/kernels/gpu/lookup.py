"""Kernel maps by looking keys up: in a grid, or in one of two hash tables. See `kernels.map_ways`.

Three launches a map: memory is cleared, keys are filled in, queries look. What keys are filled into serves
all maps of one call. The host waits for nothing.

Source: FlyDSL (ROCm/FlyDSL, commit d4161ef7) for a presence grid where the volume is small, here of bits with
ranks, a sixteenth of its size; WarpConvNet (NVlabs/WarpConvNet, docs/user_guide/packed_hash_table.md) for
packed keys at a load of at most a half, and occupancy first where kernels are large.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pcsparse.kernels.gpu import cuda_text
from pcsparse.kernels.gpu.grid import Grid
from pcsparse.kernels.gpu.match import offsets_of, searched, table_of
from pcsparse.kernels.jobs import Search
from pcsparse.kernels.key_layout import FIELD_BITS, check_offset_count
from pcsparse.kernels.map_ways import MOST_GRID_CELLS, MapSize, Way, is_mirrored, slots_of, way_of

_THREADS = 256
# enough to fill a card; a thread clears several places
_MOST_BLOCKS = 1024
_LOOK = {"grid": "look_in_grid", "hash": "look_in_hash", "runs": "look_in_runs"}
# bits of an axis of a stride on its way to a kernel
_STRIDE_BITS = 20


@dataclass(frozen=True, eq=False)
class Place:
    """What keys are found in.

    Attributes:
        way: how.
        memory: int64, which nobody has written to yet.
        numbers: what a kernel takes beside it: how large it is, and of a grid or a hash where its cells are.
        empty: what its words are before keys are filled in.
    """

    way: Way
    memory: Tensor
    numbers: tuple[int, ...]
    empty: int

    @staticmethod
    def of(way: Way, search: Search) -> "Place":
        """Room for the keys of a search, which `MapSize.refuses` not."""
        n, device = search.keys.numel(), search.keys.device
        if way == "runs":
            slots = slots_of(n)
            return Place(way, torch.empty((slots, 2), dtype=torch.int64, device=device), (slots - 1,), -1)
        box = Grid.of(search.bounds, most=MOST_GRID_CELLS)
        assert box is not None
        if way == "hash":
            slots = slots_of(n)
            memory = torch.empty(slots, dtype=torch.int64, device=device)
            return Place(way, memory, (slots - 1, *box.numbers), -1)
        # a word a run; memory is cleared 16 bytes at a time
        words = -(-box.cells // 64) * 2
        memory = torch.empty(words, dtype=torch.int64, device=device)
        return Place(way, memory, (box.cells, *box.numbers), 0)

    def fill(self, keys: Tensor) -> None:
        """Let the keys in, (n,) int64, ascending; memory is cleared."""
        n = keys.numel()
        _launch(f"fill_{self.way}", -(-n // _THREADS), keys, self.memory, n, *self.numbers)

    def look(self, search: Search, table: Tensor) -> None:
        """Write a table, of which the mirrored half, if there is one, is cleared."""
        mirrored = is_mirrored(search.deltas, search.symmetric)
        looked_up = search.deltas[: len(search.deltas) // 2] if mirrored else search.deltas
        deltas, columns = offsets_of(looked_up, table.device)
        room, last = table.shape[1], len(search.deltas) - 1 if mirrored else -1
        # a longer stride would leave the range of a key, unless all coordinates are 0 there
        x, y, z = [min(step, 1 << max(FIELD_BITS)) for step in search.stride]
        scale = x | y << _STRIDE_BITS | z << 2 * _STRIDE_BITS
        orders = [0 if order is None else order for order in (search.order_in, search.order_out)]
        blocks = -(-room // _THREADS) * (columns.numel() - 1)
        _launch(
            _LOOK[self.way], blocks, search.queries, deltas, columns, table, *orders, search.queries.numel(),
            room, last, scale, self.memory, *self.numbers,
        )  # fmt: skip


def match_tables(searches: Sequence[Search]) -> list[Tensor]:
    for search in searches:
        check_offset_count(len(search.deltas))
    # what nobody routes takes no time to route
    if all(search.how == "search" for search in searches):
        return searched(searches)
    ways = [way_of(search.how, _size_of(search)) for search in searches]
    routed = list(zip(ways, searches, strict=True))
    looked = iter(_looked_up([one for one in routed if one[0] != "search"]))
    stepped = iter(searched([search for way, search in routed if way == "search"]))
    return [next(stepped if way == "search" else looked) for way in ways]


def _size_of(search: Search) -> MapSize:
    n_in, n_out = search.keys.numel(), search.queries.numel()
    return MapSize.of(n_in, n_out, search.deltas, search.symmetric, search.bounds)


def _looked_up(searches: Sequence[tuple[Way, Search]]) -> list[Tensor]:
    """The tables of searches by the ways beside them, none of which is "search"."""
    places: dict[tuple[object, ...], Place] = {}
    tables = [table_of(search) for _, search in searches]
    for (way, search), table in zip(searches, tables, strict=True):
        mine = way, search.keys.data_ptr(), search.keys.numel(), search.bounds
        known = places.get(mine)
        place = places[mine] = known or Place.of(way, search)
        half = len(search.deltas) // 2 + 1
        mirrored = table[half:] if is_mirrored(search.deltas, search.symmetric) else table[:0]
        _clear(None if known else place, mirrored)
        if known is None:
            place.fill(search.keys)
        place.look(search, table)
    return tables


def _clear(place: Place | None, table: Tensor) -> None:
    """Memory of a place, and a part of a table that gets no neighbours by itself."""
    fours = 0 if place is None else place.memory.numel() // 2
    blocks = min(-(-max(fours, table.numel()) // _THREADS), _MOST_BLOCKS)
    memory, empty = (0, 0) if place is None else (place.memory, place.empty)
    _launch("clear_lookup", blocks, memory, fours, empty, table, table.numel())


def _launch(name: str, blocks: int, *args: Tensor | int) -> None:
    cuda_text.launch("lookup.cu", name, blocks, _THREADS, *args)
