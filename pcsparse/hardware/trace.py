"""What a network did, as cycle models take it: layers with their maps, and how the maps came to be.

A trace holds sizes, maps, keys and points, and no feature or weight. `trace_sparse` makes one by running a
network of sparse convolutions; others are written down by hand, a step after the other.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pcsparse.checks import check_dtype, check_shape
from pcsparse.coords.kernel_map import KernelMap, Pairs
from pcsparse.errors import RangeError
from pcsparse.types import Triple


@dataclass(frozen=True, eq=False)
class LayerTrace:
    """One layer: a convolution over a map, or a linear layer on rows as they are or gathered.

    Attributes:
        name: in tables.
        map: of a convolution; None for a linear layer.
        c_in: input channels.
        c_out: output channels.
        itemsize: bytes of a feature and of a weight.
        n_in: input rows of a linear layer; those of the map otherwise.
        gather: (rows * summed,) int32, the input rows that each row of a linear layer reads; None for each
            its own.
        summed: gathered rows that are weighted and added up to one before it is multiplied, as interpolation
            does; 1 for none.
        beside: of the input channels, the last ones that are not gathered but lie row by row beside those.
        follows: whether a linear layer reads, row by row, what the layer before it in the trace wrote.
        pooled: rows of the output that are reduced to one before they are written, 1 for none.

    Raises:
        RangeError: channels or bytes below 1; no rows; a map and gathered rows; rows that are not there, or
            that `pooled` or `summed` does not divide; rows summed, or channels beside them, where none is
            gathered.
        ShapeError, DtypeError: `gather` is not (rows * summed,) int32.
    """

    name: str
    map: KernelMap | None
    c_in: int
    c_out: int
    itemsize: int
    n_in: int = 0
    gather: Tensor | None = None
    follows: bool = False
    pooled: int = 1
    summed: int = 1
    beside: int = 0

    def __post_init__(self) -> None:
        """Refuse what is no layer."""
        for name in ("c_in", "c_out", "itemsize", "pooled", "summed"):
            if getattr(self, name) < 1:
                raise RangeError(f"{self.name}: {name} must be at least 1, got {getattr(self, name)}")
        if self.map is not None:
            if self.gather is not None or self.follows:
                raise RangeError(f"{self.name}: gather and follows are of linear layers; leave out the map")
            object.__setattr__(self, "n_in", self.map.n_in)
        if self.gather is not None:
            check_shape("gather", self.gather, (None,))
            check_dtype("gather", self.gather, torch.int32)
            if self.gather.numel() and not 0 <= int(self.gather.min()) <= int(self.gather.max()) < self.n_in:
                raise RangeError(
                    f"{self.name}: rows must be in 0 to {self.n_in - 1}, gather has "
                    f"{int(self.gather.min())} to {int(self.gather.max())}"
                )
        self._check_sums()
        if self.n_rows < 1:
            raise RangeError(f"{self.name} has no output row; leave empty clouds out of a trace")
        if self.n_rows % self.pooled:
            raise RangeError(f"{self.name}: {self.n_rows} rows are no multiple of pooled={self.pooled}")

    def _check_sums(self) -> None:
        gathered = 0 if self.gather is None else self.gather.numel()
        if self.gather is None and (self.summed > 1 or self.beside):
            raise RangeError(
                f"{self.name}: summed={self.summed} and beside={self.beside} are of gathered rows; give them"
            )
        if gathered % self.summed:
            raise RangeError(f"{self.name}: {gathered} gathered rows are no multiple of summed={self.summed}")
        if not 0 <= self.beside < self.c_in:
            raise RangeError(
                f"{self.name}: beside must leave some of {self.c_in} channels to gather, got {self.beside}"
            )

    @property
    def is_linear(self) -> bool:
        """Whether the layer reads rows as they stand: no map and nothing gathered."""
        return self.map is None and self.gather is None

    @property
    def n_rows(self) -> int:
        """Rows computed."""
        if self.map is not None:
            return self.map.n_out
        return self.n_in if self.gather is None else self.gather.numel() // self.summed

    @property
    def n_pairs(self) -> int:
        """Rows multiplied, each with one offset's weights."""
        return self.n_rows if self.map is None else self.map.n_pairs

    @property
    def n_fetches(self) -> int:
        """Input rows asked for, by offset and output row."""
        return self.n_pairs * self.summed

    @property
    def c_fetched(self) -> int:
        """Channels of each of them."""
        return self.c_in - self.beside

    @property
    def volume(self) -> int:
        """Offsets, 1 for a linear layer."""
        return 1 if self.map is None else self.map.volume

    @property
    def macs(self) -> int:
        """Multiply-adds."""
        return self.n_pairs * self.c_in * self.c_out

    def accesses(self, tile: int) -> tuple[Tensor, Tensor]:
        """Input rows in the order of use, and where those of each tile of output rows begin, an offset.

        Args:
            tile: output rows of a tile.

        Returns:
            (n_fetches,) int32, and (tiles + 1, k) int64 as `KernelMap.tile_spans`.
        """
        if self.map is not None:
            return self.map.pairs.rows_in, self.map.tile_spans(tile)
        n = self.n_rows
        rows = torch.arange(n, dtype=torch.int32, device="cpu") if self.gather is None else self.gather
        edges = torch.arange(-(-n // tile) + 1, device="cpu") * tile
        return rows, self.summed * edges.clamp(max=n)[:, None]


@dataclass(frozen=True, eq=False)
class MapStep:
    """A kernel map is searched.

    Attributes:
        name: in tables.
        inputs: (n,) int64, ascending keys.
        queries: (m,) int64, ascending keys of stride * coarse; the same tensor where both are one set.
        deltas: (k,) int64, differences of keys of the offsets.
        expected: the engine's pairs.
    """

    name: str
    inputs: Tensor
    queries: Tensor
    deltas: Tensor
    expected: Pairs


@dataclass(frozen=True, eq=False)
class CoarsenStep:
    """A coarser level is made.

    Attributes:
        name: in tables.
        keys: (n,) int64, ascending, of the finer level.
        stride: cells of it.
        expected: (m,) int64, the engine's: ascending keys of stride * coarse.
    """

    name: str
    keys: Tensor
    stride: Triple
    expected: Tensor


@dataclass(frozen=True, eq=False)
class NearestStep:
    """Neighbours are searched: kNN, or a ball query.

    Attributes:
        name: in tables.
        points: (n, 3) float32, metres.
        queries: (m, 3) float32, metres.
        k: neighbours a query.
        radius: metres; None for kNN.
        expected: (m, k) int32, the engine's rows, -1 where there are fewer; None where nothing is compared.
    """

    name: str
    points: Tensor
    queries: Tensor
    k: int
    radius: float | None = None
    expected: Tensor | None = None


@dataclass(frozen=True, eq=False)
class SampleStep:
    """Farthest points are sampled.

    Attributes:
        name: in tables.
        points: (n, 3) float32, metres.
        n_samples: of them.
        expected: (n_samples,) int32, the engine's rows; None where nothing is compared.
    """

    name: str
    points: Tensor
    n_samples: int
    expected: Tensor | None = None


MappingStep = MapStep | CoarsenStep | NearestStep | SampleStep
"""Work of a mapping unit."""


@dataclass(frozen=True, eq=False)
class NetworkTrace:
    """One run of a network.

    Attributes:
        name: in tables.
        steps: in order; a map is made before the first layer that reads it. No two have one name: results are
            found by it.

    Raises:
        RangeError: two steps have the same name.
    """

    name: str
    steps: tuple[LayerTrace | MappingStep, ...]

    def __post_init__(self) -> None:
        """Refuse names that say two things."""
        seen: set[str] = set()
        for step in self.steps:
            if step.name in seen:
                raise RangeError(
                    f"two steps of {self.name!r} have the name {step.name!r}; give each a name of its own"
                )
            seen.add(step.name)

    @property
    def layers(self) -> tuple[LayerTrace, ...]:
        """The layers alone."""
        return tuple(step for step in self.steps if isinstance(step, LayerTrace))
