"""Kernel maps: which input row meets which output row at which kernel offset, and the forms of one map.

`coords.build` makes them.
"""

from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from pcsparse.checks import check_dtype, check_shape
from pcsparse.coords.map_check import check_map
from pcsparse.coords.map_header import Owner, edits, make_header, read_header
from pcsparse.coords.relation import Relation
from pcsparse.errors import RangeError, ShapeError
from pcsparse.kernels.select import backend_of

NO_NEIGHBOUR = -1
"""Entry of a table where an output has no input at an offset."""
_NOBODY = Owner()


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


@dataclass(frozen=True, eq=False)
class KernelMap:
    """Which input row meets which output row at which offset of a kernel.

    Lists from outside are read when the map is made, once: kernels follow them without looking. The tensors
    of a map are not to be changed in place; an operator that meets changed ones reads them again.

    Attributes:
        relation: the equation that the pairs satisfy.
        n_in: input rows.
        n_out: output rows.
        pairs: the lists.
        symmetric: list k - 1 - i is list i with its columns swapped, and the middle list is the identity.
        reads_coarse: the map of a transposed convolution: inputs are the coarse level.
        monotone: rows_in ascends within an offset too, as it does where both coordinate sets are sorted by
            key.
        distinct: no input and no output occurs twice at an offset. Outputs do in a map of groups, where a
            kernel must not write the outputs of an offset all at once.

    Args:
        checked: the lists need not be read, as a kernel wrote them. A wrong list that is said to be checked
            corrupts memory.

    Raises:
        ShapeError, DtypeError, DeviceError, RangeError: see `map_check.check_map`.
    """

    relation: Relation
    n_in: int
    n_out: int
    pairs: Pairs
    symmetric: bool = False
    reads_coarse: bool = False
    monotone: bool = False
    distinct: bool = True
    checked: InitVar[bool] = False
    _derived: dict[str, object] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self, checked: bool) -> None:
        """Check, and make the header of `tensors()`, which leads a custom op back to this map."""
        if not checked:
            check_map(self)
        self._derived["header"] = make_header(self)
        self._own_header()

    def _own_header(self) -> None:
        tensors = self.tensors()
        tensors[0].owner = Owner(self, edits(tensors))  # type: ignore[attr-defined]

    def __getstate__(self) -> dict[str, Any]:
        """What a copy gets; lists that were changed in place are read before."""
        return KernelMap.from_tensors(self.tensors()).__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy, or one from another process, is as right as its original."""
        self.__dict__.update(state)
        # a shallow copy must not take the header, and with it the way back, from its original
        self.__dict__["_derived"] = dict(self._derived) | {"header": make_header(self)}
        self._own_header()

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
            # derived in inference mode, but used in training too
            with torch.inference_mode(False):
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
        if isinstance(other, Owner):
            other = other.kernel_map()
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
                checked=True,
            )
            other._derived["transposed"] = Owner(self)
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
        return replace(self, pairs=smaller, symmetric=symmetric, checked=True)

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
        return replace(self, pairs=Pairs(*kept), symmetric=False, checked=True)

    @staticmethod
    def identity(relation: Relation, n: int, device: torch.device) -> "KernelMap":
        """The map of a 1^3 convolution of `n` rows: every row meets itself."""
        rows = torch.arange(n, dtype=torch.int32, device=device)
        starts = torch.tensor([0, n], device=device)
        pairs = Pairs(rows, rows, starts)
        return KernelMap(relation, n, n, pairs, symmetric=True, monotone=True, checked=True)

    @staticmethod
    def of_groups(group: Tensor, n_groups: int) -> "KernelMap":
        """One offset that leads every row to its group: the map of a reduction.

        Args:
            group: (n,) integer in [0, n_groups).
            n_groups: output rows.

        Raises:
            ShapeError: `group` is not (n,).
            DtypeError: `group` is not int32 or int64.
            RangeError: a group is not in [0, n_groups).
        """
        check_shape("group", group, (None,))
        check_dtype("group", group, torch.int32, torch.int64)
        if group.numel():
            low, high = (int(end) for end in group.aminmax())
            if low < 0 or high >= n_groups:
                raise RangeError(
                    f"rows are in groups {low} to {high}, but there are {n_groups} groups, numbered from 0; "
                    "renumber the groups, or give a larger n_groups"
                )
        order, _ = backend_of(group).group_rows(group.contiguous(), n_groups)
        pairs = Pairs(
            order, group[order.long()].int(), group.new_tensor([0, group.numel()], dtype=torch.int64)
        )
        return KernelMap(Relation((1, 1, 1)), group.numel(), n_groups, pairs, distinct=False, checked=True)

    def tensors(self) -> list[Tensor]:
        """What a custom op takes: [header, rows_in, rows_out, starts]. `from_tensors` reads them back."""
        header = self._derived["header"]
        assert isinstance(header, Tensor)
        return [header, self.pairs.rows_in, self.pairs.rows_out, self.pairs.starts]

    @staticmethod
    def from_tensors(tensors: list[Tensor]) -> "KernelMap":
        """The map whose `tensors()` these are: that very map while it lives, with its derived forms.

        Tensors without a map, or changed in place, are read and checked, and their header keeps what comes
        of them for the next time.

        Raises:
            ShapeError, DtypeError, DeviceError, RangeError: these are no `tensors()` of a map.
        """
        owner: Owner = getattr(tensors[0], "owner", _NOBODY) if tensors else _NOBODY
        known = owner.kernel_map()
        if known is not None and owner.edits == edits(tensors) and _same(known.tensors()[1:], tensors[1:]):
            return known
        relation, n_in, n_out, flags = read_header(tensors)
        kmap = KernelMap(relation, n_in, n_out, Pairs(*tensors[1:]), *flags)
        # the map has a header of its own, so there is no cycle
        tensors[0].owner = Owner(kmap, edits(tensors), keep=True)  # type: ignore[attr-defined]
        return kmap


def _same(own: Sequence[Tensor], given: Sequence[Tensor]) -> bool:
    if len(given) != len(own):
        return False
    # a graph may hand on another tensor of the same memory
    for a, b in zip(own, given, strict=True):
        if a is not b and not (a.dtype == b.dtype and a.is_set_to(b)):
            return False
    return True


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
