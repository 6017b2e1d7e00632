"""Kernel maps: which input row meets which output row at which kernel offset.

Built as PointAcc does: coordinates are sorted keys; for an offset the outputs' keys, shifted, are merged with
the inputs' keys, and equal neighbours are a hit. For a submanifold map of an odd kernel only half of the
offsets is searched: the centre is the identity and the other half is the first one mirrored.

Source: PointAcc (MICRO 2021, arXiv 2110.07600), section 4.
"""

import weakref
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor

from pcsparse.coords.keys import check_range, pack, unpack
from pcsparse.coords.relation import Relation
from pcsparse.errors import RangeError, ShapeError
from pcsparse.kernels.select import backend_of
from pcsparse.types import Triple

NO_NEIGHBOUR = -1
"""Entry of a table where an output has no input at an offset."""

_MOST_PAIRS = 2**31 - 1


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
    """

    relation: Relation
    n_in: int
    n_out: int
    pairs: Pairs
    symmetric: bool = False
    reads_coarse: bool = False
    monotone: bool = False
    _derived: dict[str, object] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Make the header of `tensors()`, which leads a custom op back to this map."""
        if "header" in self._derived:
            return
        relation = self.relation
        fields = (*relation.kernel_size, *relation.stride, *relation.dilation, *relation.padding)
        flags = (self.symmetric, self.reads_coarse, self.monotone)
        # autograd saves the header, and it cannot save tensors of inference mode
        with torch.inference_mode(False):
            header = torch.tensor([*fields, self.n_in, self.n_out, *flags])
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

    def by_output(self) -> tuple[Tensor, Tensor]:
        """The pairs by output row: order (n_pairs,) int32 into the pairs, starts (n_out + 1,) int64."""
        return self._grouped("by_output", self.pairs.rows_out, self.n_out)

    def by_input(self) -> tuple[Tensor, Tensor]:
        """The pairs by input row: order (n_pairs,) int32 into the pairs, starts (n_in + 1,) int64."""
        return self._grouped("by_input", self.pairs.rows_in, self.n_in)

    def _grouped(self, name: str, rows: Tensor, n: int) -> tuple[Tensor, Tensor]:
        grouped = self._derived.get(name)
        if not isinstance(grouped, tuple):
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
            pairs = Pairs(self.pairs.rows_out, self.pairs.rows_in, self.pairs.starts)
            if not self.monotone:
                with torch.inference_mode(False):
                    pairs = _ascending(pairs, self.n_in)
            other = KernelMap(
                self.relation,
                self.n_out,
                self.n_in,
                pairs,
                symmetric=self.symmetric,
                reads_coarse=not self.reads_coarse,
                monotone=self.monotone,
                _derived={"transposed": _Owner(self)},
            )
            self._derived["transposed"] = other
        return other

    def keep_offsets(self, mask: Tensor) -> "KernelMap":
        """The map without the offsets where `mask` (k,) bool is False; weights must be sliced alike.

        Raises:
            ShapeError: `mask` is not (k,).
        """
        if mask.shape != (self.volume,):
            raise ShapeError(f"mask must have shape ({self.volume},), got {tuple(mask.shape)}")
        counts = self.pairs.starts.diff()
        kept = torch.repeat_interleave(mask, counts)
        pairs = self.pairs
        smaller = Pairs(pairs.rows_in[kept], pairs.rows_out[kept], _starts(counts[mask]))
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
        kept = mask[pairs.rows_out.long()]
        offset = torch.repeat_interleave(torch.arange(self.volume), pairs.starts.diff())
        counts = torch.bincount(offset[kept], minlength=self.volume)
        smaller = Pairs(pairs.rows_in[kept], pairs.rows_out[kept], _starts(counts))
        return replace(self, pairs=smaller, symmetric=False, _derived={})

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
        return KernelMap(Relation((1, 1, 1)), group.numel(), n_groups, pairs)

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
        n_in, n_out, symmetric, reads_coarse, monotone = numbers[12:]
        return KernelMap(
            relation,
            n_in,
            n_out,
            Pairs(rows_in, rows_out, starts),
            symmetric=bool(symmetric),
            reads_coarse=bool(reads_coarse),
            monotone=bool(monotone),
            _derived={"header": header},
        )


@dataclass(frozen=True, eq=False)
class SortedKeys:
    """The keys of one coordinate set in ascending order, and where each one's row is.

    Attributes:
        keys: (n,) int64, ascending, unique.
        order: (n,) int32 rows, or None where the rows already ascend.
    """

    keys: Tensor
    order: Tensor | None

    @staticmethod
    def of(coords: Tensor) -> "SortedKeys":
        """Sort the keys of `coords` (n, 4) int32.

        Raises:
            RangeError: a coordinate leaves the range of a key, or two rows are equal.
        """
        keys = pack(coords)
        if keys.numel() < 2 or bool((keys[1:] > keys[:-1]).all()):
            return SortedKeys(keys, None)
        unique, _, first = backend_of(keys).unique_keys(keys)
        if unique.numel() != keys.numel():
            row = int(_first_repeat(first, keys.numel()))
            raise RangeError(
                f"{keys.numel() - unique.numel()} of {keys.numel()} coordinates are duplicates, first at row "
                f"{row}: {coords[row].tolist()}; merge them with voxelize and voxel_reduce"
            )
        return SortedKeys(unique, first.int())


def build_kernel_map(
    fine: SortedKeys, coarse: SortedKeys, relation: Relation, *, same_coords: bool = False
) -> KernelMap:
    """All (i, j, k) with fine[i] = stride * coarse[j] + dilation * offset[k] - padding.

    Args:
        fine: keys of the inputs.
        coarse: keys of the outputs.
        relation: the equation.
        same_coords: `fine` and `coarse` are one coordinate set, so that symmetry may halve the search.

    Returns:
        The map of a convolution that reads fine and writes coarse; `.transposed()` is the way back.

    Raises:
        RangeError: a kernel offset or a scaled output coordinate leaves the range of a key.
    """
    backend, deltas = backend_of(fine.keys), relation.key_deltas()
    if same_coords and relation.is_symmetric:
        half = backend.match_keys(fine.keys, fine.keys, deltas[: relation.volume // 2])
        pairs = _mirrored(*half, fine.keys.numel())
    else:
        pairs = Pairs(*backend.match_keys(fine.keys, _queries(coarse.keys, relation), deltas))
    n_in, n_out = fine.keys.numel(), coarse.keys.numel()
    if pairs.rows_in.numel() > _MOST_PAIRS:
        raise RangeError(
            f"{pairs.rows_in.numel()} pairs of {n_in} and {n_out} voxels at {relation.volume} offsets are "
            f"more than 32-bit positions can tell apart ({_MOST_PAIRS}); use a smaller kernel or batch"
        )
    monotone = fine.order is None and coarse.order is None
    if not monotone:
        pairs = _renumbered(pairs, fine.order, coarse.order, n_out)
    return KernelMap(relation, n_in, n_out, pairs, same_coords and relation.is_symmetric, monotone=monotone)


def strided_keys(fine: Tensor, relation: Relation, coverage: str) -> Tensor:
    """Keys of the coarse level that a convolution writes, (m,) int64 ascending.

    Args:
        fine: (n,) int64 keys.
        relation: the equation.
        coverage: "touched" for every coarse cell that meets a fine one (the support of the dense convolution,
            and spconv's rule), "floor" for floor(fine / stride) (MinkowskiEngine's rule).

    Raises:
        RangeError: an unknown coverage.
    """
    coords = unpack(fine)
    if coverage == "floor":
        candidates = _floor_divided(coords, relation.stride)
    elif coverage != "touched":
        raise RangeError(f"coverage must be 'touched' or 'floor', got {coverage!r}")
    elif relation.is_partition:
        # every fine cell meets one coarse cell, at the offset that is its remainder
        candidates = _floor_divided(coords - coords.new_tensor([0, *relation.steps()[0]]), relation.stride)
    else:
        stride, found = coords.new_tensor([1, *relation.stride]), []
        for step in relation.steps():
            shifted = coords - coords.new_tensor([0, *step])
            found.append((shifted // stride)[(shifted % stride == 0).all(dim=1)])
        candidates = torch.cat(found)
    return backend_of(fine).unique_keys(pack(candidates))[0]


def _floor_divided(coords: Tensor, stride: Triple) -> Tensor:
    if all(step & (step - 1) == 0 for step in stride):
        # an arithmetic shift is a floor division, and many times faster
        return coords >> coords.new_tensor([0, *(step.bit_length() - 1 for step in stride)])
    return torch.div(coords, coords.new_tensor([1, *stride]), rounding_mode="floor")


def expanded_keys(coarse: Tensor, relation: Relation) -> Tensor:
    """Keys of the fine level that a generative transposed convolution writes, (m,) int64 ascending.

    Raises:
        RangeError: a voxel leaves the range of a key; within the guard the next step could wrap silently.
    """
    queries = _queries(coarse, relation)
    keys = backend_of(coarse).unique_keys((queries[:, None] + relation.key_deltas()).view(-1))[0]
    check_range(unpack(keys))
    return keys


def _queries(coarse: Tensor, relation: Relation) -> Tensor:
    """Keys of stride * coarse. Scaling keeps lexicographic order, so the queries ascend as `coarse` does."""
    if relation.stride == (1, 1, 1):
        return coarse
    coords = unpack(coarse)
    return pack(coords * coords.new_tensor([1, *relation.stride]))


def _mirrored(rows_in: Tensor, rows_out: Tensor, starts: Tensor, n: int) -> Pairs:
    """The whole map from its first half: half, identity, half with columns swapped in reverse order."""
    identity = torch.arange(n, dtype=torch.int32)
    bounds = starts.tolist()
    lists = [slice(a, b) for a, b in pairwise(bounds)][::-1]
    counts = starts.diff()
    return Pairs(
        torch.cat([rows_in, identity, *(rows_out[part] for part in lists)]),
        torch.cat([rows_out, identity, *(rows_in[part] for part in lists)]),
        _starts(torch.cat([counts, counts.new_tensor([n]), counts.flip(0)])),
    )


def _renumbered(pairs: Pairs, order_in: Tensor | None, order_out: Tensor | None, n_out: int) -> Pairs:
    """From ranks of sorted keys to rows of the caller, and ascending in rows_out again."""
    rows_in = pairs.rows_in if order_in is None else order_in[pairs.rows_in.long()]
    if order_out is None:
        return Pairs(rows_in, pairs.rows_out, pairs.starts)
    return _ascending(Pairs(rows_in, order_out[pairs.rows_out.long()], pairs.starts), n_out)


def _ascending(pairs: Pairs, n_out: int) -> Pairs:
    """Sort every list by rows_out."""
    offset = torch.repeat_interleave(torch.arange(pairs.starts.numel() - 1), pairs.starts.diff())
    order = torch.argsort(offset * max(n_out, 1) + pairs.rows_out)
    return Pairs(pairs.rows_in[order].contiguous(), pairs.rows_out[order].contiguous(), pairs.starts)


def _starts(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _first_repeat(first: Tensor, n: int) -> Tensor:
    kept = torch.zeros(n, dtype=torch.bool)
    kept[first] = True
    return torch.nonzero(~kept)[0, 0]
