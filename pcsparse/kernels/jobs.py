"""What a backend is given many of at once: levels, each made of the one before, and searches of maps."""

from dataclasses import dataclass

from torch import Tensor

from pcsparse.kernels.map_ways import MapRule, Way
from pcsparse.types import Bounds, Triple


@dataclass(frozen=True)
class LevelStep:
    """How a level is made of the one before it, as `Backend.reached_level` says, and what is left of it.

    Attributes:
        size: of the kernel, (x, y, z).
        stride: (x, y, z).
        dilation: (x, y, z).
        first: where the first offset leads, (x, y, z); every first + dilation * o is at most 256 cells.
        bounds: cells beyond them are left out; not wider than a key holds.
    """

    size: Triple
    stride: Triple
    dilation: Triple
    first: Triple
    bounds: Bounds


@dataclass(frozen=True, eq=False)
class Search:
    """One kernel map to search, from keys to a table of the rows that the keys stand for.

    Attributes:
        keys: (n_in,) int64, ascending, unique.
        queries: (n_out,) int64, ascending, unique.
        deltas: differences of keys, one an offset.
        stride: queries are this many times their coordinates, (x, y, z), in the range of a key.
        order_in: (n_in,) int32, the row of each key; None: its place.
        order_out: (n_out,) int32, each row once, the row of each query; None: its place.
        symmetric: `queries` are `keys`, with one order, and offset k - 1 - i is minus offset i.
        out: (k, room) int32, room at least n_out, to write the table to; columns beyond n_out get -1. None: a
            new table.
        bounds: no key's coordinates lie beyond them, which some ways to a map need; None: not known.
        how: by which way a GPU makes the table, or the rule that picks it. Only time depends on it.
    """

    keys: Tensor
    queries: Tensor
    deltas: tuple[int, ...]
    stride: Triple = (1, 1, 1)
    order_in: Tensor | None = None
    order_out: Tensor | None = None
    symmetric: bool = False
    out: Tensor | None = None
    bounds: Bounds | None = None
    how: Way | MapRule = "search"
