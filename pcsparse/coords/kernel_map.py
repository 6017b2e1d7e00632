"""Kernel maps: which input row meets which output row at which kernel offset, and the forms of one map.

`coords.build` makes them.
"""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pcsparse.coords.relation import Relation
from pcsparse.errors import RangeError, ShapeError
from pcsparse.kernels.select import backend_of

NO_NEIGHBOUR = -1
"""Entry of a table where an output has no input at an offset."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """A kernel map as lists.

    Attributes:
        rows_in: (n_pairs,) int32, grouped by offset.
        rows_out: (n_pairs,) int32, ascending within an offset.
        starts: (k + 1,) int64; offset i owns [starts[i], starts[i + 1]).
    """

    rows_in: Tensor
    rows_out: Tensor
    starts: Tensor


class _Owner:
    """A weak reference that a copy or another process gets empty: no cycle keeps a dropped map alive."""

    def __init__(self, kmap: "KernelMap | None" = None) -> None:
        self._reference = None if kmap is None else weakref.ref(kmap)

    def __call__(self) -> "KernelMap | None":
        return None if self._reference is None else self._reference()

    def __reduce__(self) -> tuple[type["_Owner"], tuple[()]]:
        return _Owner, ()


@dataclass(frozen=True, eq=False)
class KernelMap:
    """Which input row meets which output row at which offset of a kernel.

    Attributes:
        relation: the equation that the pairs satisfy.
        n_in: input rows.
        n_out: output rows.
        pairs: the lists.
        symmetric: list k - 1 - i is list i with its columns swapped, and the middle list is the identity.
        reads_coarse: the map of a transposed convolution: inputs are the coarse level.
        monotone: rows_in ascends within an offset too, as it does where both coordinate sets are sorted by
            key.
        distinct: no output occurs twice at an offset. It does in a map of groups, where a kernel must not
            write the outputs of an offset all at once.
    """

    relation: Relation
    n_in: int
    n_out: int
    pairs: Pairs
    symmetric: bool = False
    reads_coarse: bool = False
    monotone: bool = False
    distinct: bool = True
    _derived: dict[str, object] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Make the header of `tensors()`, which leads a custom op back to this map."""
        if "header" in self._derived:
            return
        relation = self.relation
        fields = (*relation.kernel_size, *relation.stride, *relation.dilation, *relation.padding)
        flags = sum(
            flag << bit
            for bit, flag in enumerate((self.symmetric, self.reads_coarse, self.monotone, self.distinct))
        )
        # autograd saves the header, and it cannot save tensors of inference mode
        with torch.inference_mode(False):
            header = torch.tensor([*fields, self.n_in, self.n_out, flags])
        header.kernel_map = _Owner(self)  # type: ignore[attr-defined]
        self._derived["header"] = header

    @property
    def n_pairs(self) -> int:
        """Pairs over all offsets: multiply-adds of a convolution = n_pairs * c_in * c_out."""
        return self.pairs.rows_in.numel()

    @property
    def volume(self) -> int:
        """Number of kernel offsets, k."""
        return self.pairs.starts.numel() - 1

    @property
    def table(self) -> Tensor:
        """(k, n_out) int32 with NO_NEIGHBOUR where empty; made at the first call and kept."""
        table = self._derived.get("table")
        if not isinstance(table, Tensor):
            pairs = self.pairs
            table = backend_of(pairs.rows_in).pairs_to_table(
                pairs.rows_in, pairs.rows_out, pairs.starts, self.n_out
            )
            self._derived["table"] = table
        return table

    def tile_spans(self, tile: int) -> Tensor:
        """(ceil(n_out / tile) + 1, k) int64: where the pairs of each tile of output rows begin, an offset.

        Tile t of offset k owns the pairs [spans[t, k], spans[t + 1, k]). Made once a tile height and kept.

        Raises:
            RangeError: `tile` is not at least 1.
        """
        if tile < 1:
            raise RangeError(f"a tile holds at least 1 output row, got tile={tile}")
        spans = self._derived.get(f"tile_spans {tile}")
        if not isinstance(spans, Tensor):
            pairs = self.pairs
            # derived in inference mode, but used in training too
            with torch.inference_mode(False):
                spans = backend_of(pairs.rows_out).tile_spans(pairs.rows_out, pairs.starts, self.n_out, tile)
            self._derived[f"tile_spans {tile}"] = spans
        return spans

    def pairs_per_output(self) -> Tensor:
        """(n_out,) int64: how many pairs each output has; made at the first call and kept."""
        counts = self._derived.get("pairs_per_output")
        if not isinstance(counts, Tensor):
            with torch.inference_mode(False):
                counts = self.by_output()[1].diff()
            self._derived["pairs_per_output"] = counts
        return counts

    def by_output(self) -> tuple[Tensor, Tensor]:
        """The pairs by output row: order (n_pairs,) int32 into the pairs, starts (n_out + 1,) int64."""
        return self._grouped("by_output", self.pairs.rows_out, self.n_out)

    def by_input(self) -> tuple[Tensor, Tensor]:
        """The pairs by input row: order (n_pairs,) int32 into the pairs, starts (n_in + 1,) int64."""
        return self._grouped("by_input", self.pairs.rows_in, self.n_in)

    def _grouped(self, name: str, rows: Tensor, n: int) -> tuple[Tensor, Tensor]:
        grouped = self._derived.get(name)
        if not isinstance(grouped, tuple):
            with torch.inference_mode(False):
                grouped = backend_of(rows).group_rows(rows, n)
            self._derived[name] = grouped
        return grouped

    def transposed(self) -> "KernelMap":
        """The map of the transposed convolution: inputs and outputs swap, offsets keep their place.

        Made at the first call and kept; `kmap.transposed().transposed() is kmap`.
        """
        other = self._derived.get("transposed")
        if isinstance(other, _Owner):
            other = other()
        if not isinstance(other, KernelMap):
            with torch.inference_mode(False):
                pairs = self._swapped()
            other = KernelMap(
                self.relation,
                self.n_out,
                self.n_in,
                pairs,
                symmetric=self.symmetric,
                reads_coarse=not self.reads_coarse,
                monotone=self.monotone,
                # a convolution over either map has a pass over the other
                distinct=self.distinct,
                _derived={"transposed": _Owner(self)},
            )
            self._derived["transposed"] = other
        return other

    def _swapped(self) -> Pairs:
        pairs = self.pairs
        if self.monotone:
            return Pairs(pairs.rows_out, pairs.rows_in, pairs.starts)
        if self.symmetric:
            # a list with its columns swapped is the mirrored list, and that one ascends already
            return _selected(pairs, range(self.volume - 1, -1, -1))
        backend = backend_of(pairs.rows_in)
        rows = backend.renumber_pairs(pairs.rows_out, pairs.rows_in, pairs.starts, None, None, self.n_in)
        return Pairs(*rows, pairs.starts)

    def keep_offsets(self, mask: Tensor) -> "KernelMap":
        """The map without the offsets where `mask` (k,) bool is False; weights must be sliced alike.

        Raises:
            ShapeError: `mask` is not (k,).
        """
        if mask.shape != (self.volume,):
            raise ShapeError(f"mask must have shape ({self.volume},), got {tuple(mask.shape)}")
        smaller = _selected(self.pairs, torch.nonzero(mask).squeeze(1).tolist())
        symmetric = self.symmetric and bool(mask.equal(mask.flip(0))) and bool(mask[self.volume // 2])
        return replace(self, pairs=smaller, symmetric=symmetric, _derived={})

    def keep_outputs(self, mask: Tensor) -> "KernelMap":
        """The map without the pairs of outputs where `mask` (n_out,) bool is False; row numbers stay.

        Raises:
            ShapeError: `mask` is not (n_out,).
        """
        if mask.shape != (self.n_out,):
            raise ShapeError(f"mask must have shape ({self.n_out},), got {tuple(mask.shape)}")
        pairs = self.pairs
        kept = backend_of(pairs.rows_in).keep_outputs(
            pairs.rows_in, pairs.rows_out, pairs.starts, mask.contiguous()
        )
        return replace(self, pairs=Pairs(*kept), symmetric=False, _derived={})

    @staticmethod
    def identity(relation: Relation, n: int, device: torch.device) -> "KernelMap":
        """The map of a 1^3 convolution of `n` rows: every row meets itself."""
        rows = torch.arange(n, dtype=torch.int32, device=device)
        starts = torch.tensor([0, n], device=device)
        return KernelMap(relation, n, n, Pairs(rows, rows, starts), symmetric=True, monotone=True)

    @staticmethod
    def of_groups(group: Tensor, n_groups: int) -> "KernelMap":
        """One offset that leads every row to its group: the map of a reduction.

        Args:
            group: (n,) integer in [0, n_groups).
            n_groups: output rows.
        """
        order, _ = backend_of(group).group_rows(group.contiguous(), n_groups)
        pairs = Pairs(
            order, group[order.long()].int(), group.new_tensor([0, group.numel()], dtype=torch.int64)
        )
        return KernelMap(Relation((1, 1, 1)), group.numel(), n_groups, pairs, distinct=False)

    def tensors(self) -> list[Tensor]:
        """What a custom op takes: [header, rows_in, rows_out, starts]. `from_tensors` reads them back."""
        header = self._derived["header"]
        assert isinstance(header, Tensor)
        return [header, self.pairs.rows_in, self.pairs.rows_out, self.pairs.starts]

    @staticmethod
    def from_tensors(tensors: list[Tensor]) -> "KernelMap":
        """The map whose `tensors()` these are: that very map while it lives, with its derived forms."""
        header, rows_in, rows_out, starts = tensors
        owner = getattr(header, "kernel_map", _Owner())()
        if isinstance(owner, KernelMap) and owner.pairs.rows_in.data_ptr() == rows_in.data_ptr():
            return owner
        numbers = header.tolist()
        kernel_size, stride, dilation, padding = (tuple(numbers[i : i + 3]) for i in (0, 3, 6, 9))
        relation = Relation(kernel_size, stride, dilation, padding)
        n_in, n_out, flags = numbers[12:]
        return KernelMap(
            relation,
            n_in,
            n_out,
            Pairs(rows_in, rows_out, starts),
            symmetric=bool(flags & 1),
            reads_coarse=bool(flags & 2),
            monotone=bool(flags & 4),
            distinct=bool(flags & 8),
            _derived={"header": header},
        )


def _selected(pairs: Pairs, offsets: Sequence[int]) -> Pairs:
    """The lists of some offsets, in the given order."""
    bounds = pairs.starts.tolist()
    lists = [slice(bounds[k], bounds[k + 1]) for k in offsets]
    nothing = pairs.rows_in.new_zeros(0)
    counts = pairs.starts.diff()[list(offsets)]
    return Pairs(
        torch.cat([nothing, *(pairs.rows_in[part] for part in lists)]),
        torch.cat([nothing, *(pairs.rows_out[part] for part in lists)]),
        torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
    )
