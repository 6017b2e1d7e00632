"""Ways to the table of a kernel map on a GPU, and the rule that picks one.

Every way gives the same bits. "search" steps along the sorted keys and needs nothing else; the others make
something that a key is looked up in:

- "grid": for every 32 cells of the bounds, in the order of keys, which are voxels and the rank of the first.
- "hash": a table of cells, 32 bits, with their ranks, one slot of 64 bits a voxel.
- "runs": a table of 32 cells along z each, a key of 58 bits, which of them are voxels and the rank of the
  first: a kernel's column is one look-up, and its voxels are looked for only where the run is there.

Which is fastest depends on the device; no rule is built in. `engine.map_tuning` measures one.
"""

import functools
import itertools
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from pcsparse.errors import FormatError, RangeError
from pcsparse.kernels.key_layout import BIAS
from pcsparse.types import Bounds

Way = Literal["search", "grid", "hash", "runs"]
WAYS: tuple[Way, ...] = get_args(Way)

MOST_GRID_CELLS = 1 << 32
"""A grid of as many takes 1 GiB."""
MOST_HASH_CELLS = (1 << 32) - 1
"""Numbers of 32 bits, less the one that marks a free slot."""
# keys that a thread may pass from one offset to the next; further on a search is cheaper
_NEAR = 8
# offsets of one thread: kernels are smaller, but lists of deltas may be long
_LONGEST = 32


def columns_of(deltas: tuple[int, ...]) -> tuple[int, ...]:
    """Where the columns of `deltas` begin, and their number: runs of deltas that ascend in small steps."""
    begins: list[int] = []
    for k, delta in enumerate(deltas):
        if not begins or k - begins[-1] == _LONGEST or not 0 < delta - deltas[k - 1] <= _NEAR:
            begins.append(k)
    return (*begins, len(deltas))


@functools.lru_cache(maxsize=64)
def _n_columns(deltas: tuple[int, ...]) -> int:
    return len(columns_of(deltas)) - 1


def is_mirrored(deltas: tuple[int, ...], symmetric: bool) -> bool:
    """Whether half of the offsets are looked up and the others follow."""
    return symmetric and len(deltas) % 2 == 1


def slots_of(rows: int) -> int:
    """Slots of a hash table: a power of two, at least twice the rows, so that half of them stay free."""
    return 1 << max(2 * rows - 1, 1).bit_length()


@dataclass(frozen=True)
class MapSize:
    """What the time of a map depends on.

    Attributes:
        rows: keys to find.
        queries: outputs.
        volume: kernel offsets.
        columns: that they stand in, one offset after the other along z.
        half_volume: offsets that are looked up, where another half of them is mirrored; else all.
        half_columns: that those stand in.
        cells: within the bounds of the keys; None where these are not known.
    """

    rows: int
    queries: int
    volume: int
    columns: int
    half_volume: int
    half_columns: int
    cells: int | None

    @staticmethod
    def of(
        rows: int, queries: int, deltas: tuple[int, ...], symmetric: bool, bounds: Bounds | None
    ) -> "MapSize":
        """Of a `Search` of so many keys and queries."""
        half = deltas[: len(deltas) // 2] if is_mirrored(deltas, symmetric) else deltas
        sizes = len(deltas), _n_columns(deltas), len(half), _n_columns(half)
        return MapSize(rows, queries, *sizes, cells_in(bounds))

    @property
    def key_bits(self) -> int:
        """Of the number of a cell within the bounds, 32 or 64."""
        return 32 if self.cells is not None and self.cells <= MOST_HASH_CELLS else 64

    @property
    def is_empty(self) -> bool:
        """Whether nothing is looked up."""
        return min(self.rows, self.queries, self.half_volume) < 1

    def refuses(self, way: Way) -> str | None:
        """Why a way cannot make this map, None if it can."""
        if way == "search":
            return None
        if self.is_empty:
            return "there is nothing to look up"
        if way == "grid" and (self.cells is None or self.cells > MOST_GRID_CELLS):
            return f"a grid needs bounds of at most {MOST_GRID_CELLS} cells, not of {self.cells}"
        if way == "hash" and self.key_bits != 32:
            return f"a hash needs bounds of at most {MOST_HASH_CELLS} cells, not of {self.cells}; take runs"
        return None

    def amounts(self, way: Way) -> tuple[float, ...]:
        """What seconds are a sum over: one map, rows, cells, columns and offsets of all queries."""
        if way == "search":
            # all offsets, as a table that is written in order need not be cleared before
            return 1.0, 0.0, 0.0, float(self.queries * self.columns), float(self.queries * self.volume)
        cells = float(self.cells or 0) if way == "grid" else 0.0
        looked_up = float(self.queries * self.half_columns), float(self.queries * self.half_volume)
        return 1.0, float(self.rows), cells, *looked_up


def cells_in(bounds: Bounds | None) -> int | None:
    """Cells within bounds, as far as a key holds them; None where they are unknown or there are none."""
    if bounds is None:
        return None
    biases = (0, *BIAS)
    sides = [b - max(a, -bias) + 1 for a, b, bias in zip(*bounds, biases, strict=True)]
    return math.prod(sides) if min(sides) > 0 else None


@dataclass(frozen=True)
class MapRule:
    """Which way makes a map, by what was measured on a device.

    Attributes:
        seconds: of each measured way, for one of each of `MapSize.amounts`; none negative.
        most: rows, queries, volume and cells of the largest that were measured; larger maps are searched, and
            grids of more cells not made.
        margin: how many times faster than the search another way must be, at least 1.
    """

    seconds: Mapping[Way, tuple[float, ...]]
    most: tuple[int, int, int, int]
    margin: float = 1.0

    def __post_init__(self) -> None:
        """Check the numbers, which may come from a file.

        Raises:
            RangeError: an unknown way, or a number without a meaning.
        """
        costs = [*itertools.chain(*self.seconds.values()), *self.most]
        sizes = {len(found) for found in self.seconds.values()}
        if set(self.seconds) - set(WAYS) or sizes - {5} or len(self.most) != 4:
            raise RangeError(f"a rule has 5 costs of each of {', '.join(WAYS)} and 4 sizes, got {self}")
        if not all(math.isfinite(cost) and cost >= 0 for cost in costs) or not self.margin >= 1:
            raise RangeError(f"costs and sizes of a rule must be at least 0 and its margin 1, got {self}")

    def __hash__(self) -> int:
        """Of all three fields."""
        return hash((tuple(self.seconds.items()), self.most, self.margin))

    def taken(self, size: MapSize, way: Way) -> float:
        """Seconds that a map takes by a way, as far as the rule knows."""
        return sum(map(operator.mul, self.seconds[way], size.amounts(way)))

    def pick(self, size: MapSize) -> Way:
        """The fastest way that can make a map; "search" where none is faster by the margin."""
        best: Way = "search"
        if best not in self.seconds:
            return best
        least = self.taken(size, best) / self.margin
        for way in self.seconds:
            if way != "search" and self._knows(size, way) and self.taken(size, way) < least:
                best, least = way, self.taken(size, way)
        return best

    def _knows(self, size: MapSize, way: Way) -> bool:
        """Whether a way can make a map, and so large ones were measured."""
        cells = (size.cells or 0) if way == "grid" else 0
        amounts = size.rows, size.queries, size.volume, cells
        return size.refuses(way) is None and all(map(operator.le, amounts, self.most))

    def to_json(self) -> dict[str, Any]:
        """Numbers and texts alone; `from_json` reads them."""
        seconds = {way: list(found) for way, found in self.seconds.items()}
        return {"seconds": seconds, "most": list(self.most), "margin": self.margin}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Inverse of `to_json`.

        Raises:
            FormatError: no such fields, or numbers that make no rule.
        """
        try:
            seconds = {way: tuple(map(float, found)) for way, found in fields["seconds"].items()}
            return cls(seconds, tuple(map(int, fields["most"])), float(fields["margin"]))  # type: ignore[arg-type]
        except (AttributeError, KeyError, TypeError, ValueError, RangeError) as error:
            raise FormatError(f"{dict(fields)!r} is no rule of ways to a map: {error}") from error


def way_of(how: "Way | MapRule", size: MapSize) -> Way:
    """The way that makes a map.

    Args:
        how: a way, or a rule that picks one.
        size: of the map. An empty one is searched, which writes what there is.

    Raises:
        RangeError: `how` is a way that cannot make this map, or none; the text says why.
    """
    if isinstance(how, MapRule):
        return how.pick(size)
    if how not in WAYS:
        raise RangeError(f"no way {how!r} to a map; known: {', '.join(WAYS)}")
    if size.is_empty:
        return "search"
    reason = size.refuses(how)
    if reason is not None:
        raise RangeError(f"no map by {how!r}: {reason}")
    return how


def every_way(sizes: Sequence[MapSize]) -> tuple[Way, ...]:
    """The ways that can make at least one of these maps."""
    return tuple(way for way in WAYS if any(size.refuses(way) is None for size in sizes))
