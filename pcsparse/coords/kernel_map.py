"""Kernel maps: which input row meets which output row at which kernel offset, and the forms of one map.

`coords.build` makes them.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from weakref import ref

import torch
from torch import Tensor

from pcsparse.checks import check_dtype, check_same_device, check_shape
from pcsparse.coords.device_constant import device_constant
from pcsparse.coords.map_check import check_map
from pcsparse.coords.map_forms import NO_NEIGHBOUR as NO_NEIGHBOUR
from pcsparse.coords.map_forms import Pairs as Pairs
from pcsparse.coords.map_forms import (
    kept_pairs,
    kept_table,
    neighbours_by_output,
    pairs_of,
    table_of,
    transposed_pairs,
    transposed_table,
)
from pcsparse.coords.map_header import Owner, edits, make_header, read_header
from pcsparse.coords.relation import Relation
from pcsparse.coords.tracing import apart, refuse_tracing
from pcsparse.errors import RangeError, ShapeError
from pcsparse.kernels.select import backend_of

_NOBODY = Owner()
# in the order of `map_header`
_FLAGS = ("symmetric", "reads_coarse", "monotone", "distinct")
Form = TypeVar("Form")

# forms that pooling asks for: made by kernels that no graph can hold
_COUNTED = ("by_output", "inputs_by_output", "pairs_per_output")


@dataclass(frozen=True, eq=False, init=False)
class KernelMap:
    """Which input row meets which output row at which offset of a kernel.

    A map is born as lists or as a table, whichever its device makes and reads best; the other form is made
    when somebody asks for it, and kept. Lists or a table from outside are read when the map is made, once:
    kernels follow them without looking. The tensors of a map are not to be changed in place; an operator that
    meets changed ones reads them again.

    Attributes:
        relation: the equation that the pairs satisfy.
        n_in: input rows.
        n_out: output rows.
        born: the form that the map was made of.
        symmetric: list k - 1 - i is list i with its columns swapped, and the middle list is the identity.
        reads_coarse: the map of a transposed convolution: inputs are the coarse level.
        monotone: rows_in ascends within an offset too, as it does where both coordinate sets are sorted by
            key.
        distinct: no input and no output occurs twice at an offset. Outputs do in a map of groups, where a
            kernel must not write the outputs of an offset all at once; such a map is born as lists.

    Args:
        pairs: the lists, or None.
        table: (k, n_out) int32, the input row of each output at each offset or NO_NEIGHBOUR (-1); or None.
            One of the two is given.
        checked: the form need not be read, as a kernel wrote it. A wrong one that is said to be checked
            corrupts memory.

    Raises:
        ShapeError, DtypeError, DeviceError, RangeError: see `map_check.check_map`.
    """

    relation: Relation
    n_in: int
    n_out: int
    born: Pairs | Tensor
    symmetric: bool
    reads_coarse: bool
    monotone: bool
    distinct: bool
    _derived: dict[Hashable, object] = field(repr=False)

    def __init__(
        self,
        relation: Relation,
        n_in: int,
        n_out: int,
        pairs: Pairs | None = None,
        table: Tensor | None = None,
        *,
        symmetric: bool = False,
        reads_coarse: bool = False,
        monotone: bool = False,
        distinct: bool = True,
        checked: bool = False,
    ) -> None:
        """Check, and make the header of `tensors()`, which leads a custom op back to this map."""
        if (pairs is None) == (table is None):
            given = "both" if table is not None else "neither"
            raise ShapeError(f"a map is made of pairs or of a table, got {given}; give one of them")
        self.__dict__.update(
            relation=relation,
            n_in=n_in,
            n_out=n_out,
            born=table if pairs is None else pairs,
            symmetric=symmetric,
            reads_coarse=reads_coarse,
            monotone=monotone,
            distinct=distinct,
            _derived={},
        )
        if not checked:
            check_map(self)
        self._derived["header"] = make_header(self)
        self._own_header()

    def _own_header(self) -> None:
        tensors = self.tensors()
        tensors[0].owner = Owner(self, edits(tensors))  # type: ignore[attr-defined]

    def __getstate__(self) -> dict[str, Any]:
        """What a copy gets; lists that were changed in place are read before."""
        state = KernelMap.from_tensors(self.tensors()).__dict__
        # a weak reference, which is of this map alone
        derived = {name: form for name, form in state["_derived"].items() if name != "lasting"}
        return state | {"_derived": derived}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy, or one from another process, is as right as its original."""
        self.__dict__.update(state)
        # a shallow copy must not take the header, and with it the way back, from its original
        derived = dict(self._derived) | {"header": make_header(self)}
        # problems that were checked with this map, which is now perhaps on another device
        derived.pop("problems", None)
        self.__dict__["_derived"] = derived
        self._own_header()

    @property
    def device(self) -> torch.device:
        """Where its tensors live."""
        return self.born.rows_in.device if isinstance(self.born, Pairs) else self.born.device

    @property
    def of_table(self) -> bool:
        """Whether it was born as a table; nobody has counted the pairs of such a map."""
        return not isinstance(self.born, Pairs)

    @property
    def n_pairs(self) -> int:
        """Pairs over all offsets: multiply-adds of a convolution = n_pairs * c_in * c_out.

        A map that was born as a table makes its lists for that, and the host waits for the device.
        """
        return self.pairs.rows_in.numel()

    @property
    def volume(self) -> int:
        """Number of kernel offsets, k."""
        return self.born.starts.numel() - 1 if isinstance(self.born, Pairs) else self.born.shape[0]

    @property
    def pairs(self) -> Pairs:
        """The lists. Of a map born as a table they are made at the first call: the host waits for a count."""
        born = self.born
        return born if isinstance(born, Pairs) else self.kept("pairs", lambda: pairs_of(born, self.n_in))

    @property
    def table(self) -> Tensor:
        """(k, n_out) int32 with NO_NEIGHBOUR where empty. Of a map born as lists, made at the first call."""
        born = self.born
        return self.kept("table", lambda: table_of(born, self.n_out)) if isinstance(born, Pairs) else born

    def kept(self, name: Hashable, make: Callable[[], Form]) -> Form:
        """What `make` makes of this map, once; `name` is its own among all that is kept with a map."""
        if name not in self._derived:
            # derived in inference mode, but used in training too
            with torch.inference_mode(False):
                if name in _COUNTED:
                    refuse_tracing("a form of a map")
                    self._derived[name] = apart(make)
                else:
                    self._derived[name] = make()
        form: Any = self._derived[name]
        return form  # type: ignore[no-any-return]

    def layout(self, splits: int, tile: int) -> list[Tensor]:
        """What `implicit_gemm` of this device reads; made once for these two numbers, and kept.

        Args:
            splits: chunks of the offsets whose rows are ordered apart, see `Backend.gemm_layout`.
            tile: output rows a tile.
        """
        table, name = self.table, f"layout {splits} {tile}"
        return self.kept(name, lambda: backend_of(table).gemm_layout(table, splits, tile))

    def fetch_layout(self) -> list[Tensor]:
        """What `fetch_on_demand` of this device reads: the pairs of each output; made once and kept."""
        table = self.table
        return self.kept("fetch_layout", lambda: backend_of(table).fetch_layout(table))

    def tile_spans(self, tile: int) -> Tensor:
        """(ceil(n_out / tile) + 1, k) int64: where the pairs of each tile of output rows begin, an offset.

        Tile t of offset k owns the pairs [spans[t, k], spans[t + 1, k]). Made once a tile height and kept.

        Raises:
            RangeError: `tile` is not at least 1.
        """
        if tile < 1:
            raise RangeError(f"a tile holds at least 1 output row, got tile={tile}")
        pairs = self.pairs
        return self.kept(
            f"tile_spans {tile}",
            lambda: backend_of(pairs.rows_out).tile_spans(pairs.rows_out, pairs.starts, self.n_out, tile),
        )

    def pairs_per_output(self) -> Tensor:
        """(n_out,) int64: how many pairs each output has; made at the first call and kept."""
        return self.kept("pairs_per_output", lambda: self.inputs_by_output()[1].diff())

    def offset_counts(self) -> tuple[int, ...]:
        """(k,): how many pairs each offset has. The host waits for the device once, and keeps them."""
        return self.kept("offset_counts", lambda: tuple(self.pairs.starts.diff().tolist()))

    def grad_weight_layout(self) -> list[Tensor]:
        """What the kernel of `implicit_gemm_grad_weight` keeps with a map; the host does not wait for it."""
        table = self.table
        return self.kept("grad_weight_layout", lambda: backend_of(table).grad_weight_layout(table))

    def sizes(self) -> tuple[int, ...]:
        """`pairs_per_output` on the host, which waits for the device at the first call: of a few groups."""
        return self.kept("sizes", lambda: tuple(self.pairs_per_output().tolist()))

    def inputs_by_output(self) -> tuple[Tensor, Tensor]:
        """The inputs of each output, in the order of offsets; made at the first call and kept.

        Returns:
            rows (m,) int32; starts (n_out + 1,) int64; output j owns rows[starts[j]:starts[j + 1]]. There may
            be more rows than the last of `starts`; those beyond it stand for nothing.
        """
        return self.kept("inputs_by_output", self._inputs_by_output)

    def _inputs_by_output(self) -> tuple[Tensor, Tensor]:
        if not isinstance(self.born, Pairs):
            return neighbours_by_output(self.born)
        order, starts = self.by_output()
        return self.born.rows_in[order.long()], starts

    def outputs_by_input(self) -> tuple[Tensor, Tensor]:
        """The outputs of each input, in the order of offsets, as `inputs_by_output` gives inputs."""
        return self.kept("outputs_by_input", self._outputs_by_input)

    def _outputs_by_input(self) -> tuple[Tensor, Tensor]:
        if not isinstance(self.born, Pairs):
            return self.transposed().inputs_by_output()
        order, starts = self.by_input()
        return self.born.rows_out[order.long()], starts

    def by_output(self) -> tuple[Tensor, Tensor]:
        """The pairs by output row: order (n_pairs,) int32 into the pairs, starts (n_out + 1,) int64."""
        rows = self.pairs.rows_out
        return self.kept("by_output", lambda: backend_of(rows).group_rows(rows, self.n_out))

    def by_input(self) -> tuple[Tensor, Tensor]:
        """The pairs by input row: order (n_pairs,) int32 into the pairs, starts (n_in + 1,) int64."""
        rows = self.pairs.rows_in
        return self.kept("by_input", lambda: backend_of(rows).group_rows(rows, self.n_in))

    def transposed(self) -> "KernelMap":
        """The map of the transposed convolution: inputs and outputs swap, offsets keep their place.

        Made at the first call and kept; `kmap.transposed().transposed() is kmap`.
        """
        other = self._derived.get("transposed")
        if isinstance(other, Owner):
            other = other.kernel_map()
        if not isinstance(other, KernelMap):
            other = self._swapped()
            other._derived["transposed"] = Owner(self)
            self._derived["transposed"] = other
        return other

    def _swapped(self) -> "KernelMap":
        born, n_in, symmetric = self.born, self.n_in, self.symmetric
        with torch.inference_mode(False):
            form = (
                transposed_pairs(born, n_in, symmetric=symmetric, monotone=self.monotone)
                if isinstance(born, Pairs)
                else transposed_table(born, n_in, symmetric=symmetric)
            )
        # still distinct: a convolution over either map has a pass over the other
        return self._like(form, n_in=self.n_out, n_out=n_in, reads_coarse=not self.reads_coarse)

    def bare(self) -> "KernelMap":
        """The same map with nothing derived from it yet, as it is when a cloud is new."""
        return self._like(self.born)

    def _like(self, form: Pairs | Tensor, **changes: int) -> "KernelMap":
        """A map of another form that a kernel wrote, with the fields of this one but for `changes`."""
        names = ("relation", "n_in", "n_out", *_FLAGS)
        fields: dict[str, Any] = {name: getattr(self, name) for name in names}
        fields["pairs" if isinstance(form, Pairs) else "table"] = form
        return KernelMap(**{**fields, **changes}, checked=True)

    def keep_offsets(self, mask: Tensor) -> "KernelMap":
        """The map without the offsets where `mask` (k,) bool is False; weights must be sliced alike.

        Raises:
            ShapeError: `mask` is not (k,).
            DtypeError: `mask` is not bool.
        """
        check_dtype("mask", mask, torch.bool)
        if mask.shape != (self.volume,):
            raise ShapeError(f"mask must have shape ({self.volume},), got {tuple(mask.shape)}")
        # (k,): on the host, where the lists are cut
        wanted = mask.tolist()
        kept = [k for k, keep in enumerate(wanted) if keep]
        symmetric = self.symmetric and wanted == wanted[::-1] and wanted[self.volume // 2]
        born = self.born
        some = kept_pairs(born, kept) if isinstance(born, Pairs) else kept_table(born, kept)
        return self._like(some, symmetric=symmetric)

    def keep_outputs(self, mask: Tensor, whole: int | None = None) -> "KernelMap":
        """The map without the pairs of outputs where `mask` (n_out,) bool is False; row numbers stay.

        Args:
            mask: (n_out,) bool.
            whole: an offset whose pairs all stay, or None.

        Raises:
            ShapeError: `mask` is not (n_out,).
            DtypeError: `mask` is not bool.
            DeviceError: `mask` is not where the map is.
            RangeError: there is no offset `whole`.
        """
        # kernels add its bytes up, which must be 0 or 1
        check_dtype("mask", mask, torch.bool)
        check_same_device(mask=mask, kernel_map=self.tensors()[1])
        if whole is not None and not 0 <= whole < self.volume:
            raise RangeError(f"whole must be an offset in 0 ... {self.volume - 1}, got {whole}")
        if mask.shape != (self.n_out,):
            raise ShapeError(f"mask must have shape ({self.n_out},), got {tuple(mask.shape)}")
        born, mask = self.born, mask.contiguous()
        if isinstance(born, Pairs):
            kept = backend_of(born.rows_in).keep_outputs(
                born.rows_in, born.rows_out, born.starts, mask, whole
            )
            return self._like(Pairs(*kept), symmetric=False)
        return self._like(backend_of(born).mask_table_outputs(born, mask, whole), symmetric=False)

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
            low, high = torch.stack(group.aminmax()).tolist()
            if low < 0 or high >= n_groups:
                raise RangeError(
                    f"rows are in groups {low} to {high}, but there are {n_groups} groups, numbered from 0; "
                    "renumber the groups, or give a larger n_groups"
                )
        order, _ = backend_of(group).group_rows(group.contiguous(), n_groups)
        starts = device_constant([0, group.numel()], group, torch.int64)
        pairs = Pairs(order, group[order.long()].int(), starts)
        return KernelMap(Relation((1, 1, 1)), group.numel(), n_groups, pairs, distinct=False, checked=True)

    def tensors(self) -> list[Tensor]:
        """What a custom op takes: [header, rows_in, rows_out, starts], or [header, table] as it was born.

        `from_tensors` reads them back.
        """
        header = self._derived["header"]
        assert isinstance(header, Tensor)
        born = self.born
        if isinstance(born, Pairs):
            return [header, born.rows_in, born.rows_out, born.starts]
        return [header, born]

    def as_it_is(self) -> "KernelMap":
        """This map; or, where its tensors were changed in place, what `from_tensors` reads in them now."""
        tensors = self.tensors()
        # what `from_tensors` would find, for those who ask at every call
        owner: Owner = tensors[0].owner  # type: ignore[attr-defined]
        if owner.edits == edits(tensors) and owner.kernel_map() is self:
            return self
        return KernelMap.from_tensors(tensors)

    def lasting_tensors(self) -> list[Tensor]:
        """As `tensors()`, but they keep the map and its derived forms alive; a map must not keep them."""
        header, *form = self.tensors()
        last = self._derived.get("lasting")
        lasting: Tensor | None = last() if isinstance(last, ref) else None
        if lasting is None:
            lasting = header.detach()
            # edits since the map was made still count
            lasting.owner = Owner(self, header.owner.edits, keep=True)  # type: ignore[attr-defined]
            # the layers of a map share it; as long as one of their graphs has it, and no longer
            self._derived["lasting"] = ref(lasting)
        return [lasting, *form]

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
        form = (None, tensors[1]) if len(tensors) == 2 else (Pairs(*tensors[1:]), None)
        named: dict[str, Any] = dict(zip(_FLAGS, flags, strict=True))
        kmap = KernelMap(relation, n_in, n_out, *form, **named)
        # the map has a header of its own, so there is no cycle
        tensors[0].owner = Owner(kmap, edits(tensors), keep=True)  # type: ignore[attr-defined]
        return kmap


def _same(own: Sequence[Tensor], given: Sequence[Tensor]) -> bool:
    if len(given) != len(own):
        return False
    # a graph may hand on another tensor of the same memory
    for a, b in zip(own, given, strict=True):
        if a is not b and not ((a.dtype, a.device) == (b.dtype, b.device) and a.is_set_to(b)):
            return False
    return True
