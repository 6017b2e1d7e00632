"""Building of levels and kernel maps out of sorted keys.

As PointAcc does: for an offset the outputs' keys, shifted, are merged with the inputs' keys, and equal
neighbours are a hit. For a submanifold map of an odd kernel only half of the offsets is searched: the centre
is the identity and the other half is the first one mirrored. Where a layer makes a level nothing is searched:
each way to reach one of its voxels is a pair of the map.

Source: PointAcc (MICRO 2021, arXiv 2110.07600), section 4.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pcsparse.coords.kernel_map import KernelMap, Pairs
from pcsparse.coords.keys import check_extent, pack, pack_and_compare, unpack
from pcsparse.coords.relation import Relation
from pcsparse.errors import RangeError
from pcsparse.kernels.select import backend_of
from pcsparse.types import Triple

# coarse cells of more fine cells than this are found without the offsets, whose counters would take too much
_MOST_OFFSETS = 4096


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
        keys, ascending = pack_and_compare(coords)
        if ascending:
            return SortedKeys(keys, None)
        ordered, order = backend_of(keys).sort_keys(keys)
        if bool((ordered[1:] == ordered[:-1]).any()):
            unique, _, first = backend_of(keys).unique_keys(keys)
            row = int(_first_repeat(first, keys.numel()))
            raise RangeError(
                f"{keys.numel() - unique.numel()} of {keys.numel()} coordinates are duplicates, first at row "
                f"{row}: {coords[row].tolist()}; merge them with voxelize and voxel_reduce"
            )
        return SortedKeys(ordered, order)


@dataclass(frozen=True, eq=False)
class Level:
    """A level that a layer writes.

    Attributes:
        coords: (m, 4) int32, ascending by key.
        keys: of `coords`.
        kmap: the map from the fine to the coarse level that came with it, if one did.
    """

    coords: Tensor
    keys: SortedKeys
    kmap: KernelMap | None = None

    def within(self, lower: Triple, upper: Triple) -> "Level":
        """The voxels from cell `lower` to `upper`, (x, y, z) each; without the map where one is left out."""
        inside: Tensor | None = None
        for axis, (low, high) in enumerate(zip(lower, upper, strict=True)):
            along = self.coords[:, 1 + axis]
            here = (along >= low) & (along <= high)
            inside = here if inside is None else inside & here
        assert inside is not None
        rows = inside.nonzero().squeeze(1)
        if rows.numel() == inside.numel():
            return self
        return Level(self.coords[rows], SortedKeys(self.keys.keys[rows], None))


def build_kernel_map(
    fine: SortedKeys,
    coarse: SortedKeys,
    relation: Relation,
    offsets: tuple[int, ...] | None = None,
    *,
    same_coords: bool = False,
) -> KernelMap:
    """All (i, j, k) with fine[i] = stride * coarse[j] + dilation * offset[k] - padding.

    Args:
        fine: keys of the inputs.
        coarse: keys of the outputs.
        relation: the equation.
        offsets: positions of the offsets to search, ascending; all if None.
        same_coords: `fine` and `coarse` are one coordinate set, so that symmetry may halve the search.

    Returns:
        The map of a convolution that reads fine and writes coarse; `.transposed()` is the way back.

    Raises:
        RangeError: a kernel offset or a scaled output coordinate leaves the range of a key, or there are more
            offsets or pairs than can be told apart.
    """
    backend, deltas = backend_of(fine.keys), relation.key_deltas()
    wanted = tuple(range(relation.volume)) if offsets is None else offsets
    if not (same_coords and relation.is_symmetric):
        some = deltas if offsets is None else deltas[list(wanted)]
        pairs = Pairs(*backend.match_keys(fine.keys, _queries(coarse.keys, relation), some))
        return _renumbered(pairs, fine, coarse, relation, False)
    last, middle = relation.volume - 1, relation.volume // 2
    # with its mirror image and the centre a subset is searched by halves, too
    whole = sorted({middle, *wanted, *(last - k for k in wanted)})
    half = deltas[[k for k in whole if k < middle]]
    pairs = Pairs(*backend.match_keys(fine.keys, fine.keys, half, True))
    kmap = _renumbered(pairs, fine, coarse, relation, True)
    if len(whole) == len(wanted):
        return kmap
    kept = set(wanted)
    return kmap.keep_offsets(torch.tensor([k in kept for k in whole]))


def _renumbered(
    pairs: Pairs, fine: SortedKeys, coarse: SortedKeys, relation: Relation, symmetric: bool
) -> KernelMap:
    """From ranks of sorted keys to rows of the caller."""
    n_in, n_out = fine.keys.numel(), coarse.keys.numel()
    monotone = fine.order is None and coarse.order is None
    if not monotone:
        rows = backend_of(pairs.rows_in).renumber_pairs(
            pairs.rows_in, pairs.rows_out, pairs.starts, fine.order, coarse.order, n_out
        )
        pairs = Pairs(*rows, pairs.starts)
    return KernelMap(relation, n_in, n_out, pairs, symmetric, monotone=monotone, checked=True)


def strided_level(fine: SortedKeys, relation: Relation, coverage: str) -> Level:
    """The coarse level that a convolution writes, with the map to it where it is "touched".

    Args:
        fine: keys of the inputs.
        relation: the equation.
        coverage: "touched" for every coarse cell that meets a fine one (the support of the dense convolution,
            and spconv's rule), "floor" for floor(fine / stride) (MinkowskiEngine's rule).

    Raises:
        RangeError: an unknown coverage; a kernel offset is longer than the guard of the keys; there are too
            many offsets; a voxel leaves the range of a key.
    """
    if coverage not in ("touched", "floor"):
        raise RangeError(f"coverage must be 'touched' or 'floor', got {coverage!r}")
    # names a step that is beyond the guard, within which the kernels may count without a check
    relation.key_deltas()
    backend, stride, first = backend_of(fine.keys), relation.stride, relation.steps()[0]
    counted = stride[0] * stride[1] * stride[2] <= _MOST_OFFSETS
    if coverage == "touched":
        if relation.is_partition and counted:
            keys, *lists = backend.partition_keys(fine.keys, stride, first)
        else:
            keys, *lists = backend.reached_cells(
                fine.keys, relation.kernel_size, stride, relation.dilation, first
            )
        coarse = SortedKeys(keys, None)
        return Level(_checked(keys), coarse, _renumbered(Pairs(*lists), fine, coarse, relation, False))
    if counted:
        keys = backend.partition_keys(fine.keys, stride, (0, 0, 0))[0]
    else:
        coords = unpack(fine.keys)
        cells = torch.div(coords, coords.new_tensor([1, *stride]), rounding_mode="floor")
        keys = backend.unique_keys(pack(cells))[0]
    return Level(_checked(keys), SortedKeys(keys, None))


def expanded_level(coarse: SortedKeys, relation: Relation) -> Level:
    """The fine level that a generative transposed convolution writes, with the map from it to `coarse`.

    Raises:
        RangeError: a voxel leaves the range of a key, or there are more offsets or pairs than can be told
            apart.
    """
    # names an offset that is too long, or too many
    relation.key_deltas()
    backend, stride, steps = backend_of(coarse.keys), relation.stride, relation.steps()
    low, high = backend.key_extent(coarse.keys)
    # a longer stride leaves the range as this one does, and does not wrap
    scale = low.new_tensor([1, *(min(step, 1 << 40) for step in stride)])
    # offsets are in C order, so that the first is the lowest on each axis, and the last the highest
    check_extent(low * scale + low.new_tensor([0, *steps[0]]), high * scale + low.new_tensor([0, *steps[-1]]))
    keys, *lists = backend.reached_cells(
        coarse.keys, relation.kernel_size, stride, relation.dilation, steps[0], True
    )
    fine = SortedKeys(keys, None)
    return Level(unpack(keys), fine, _renumbered(Pairs(*lists), fine, coarse, relation, False))


def _checked(keys: Tensor) -> Tensor:
    """Coordinates of new voxels; beyond the range but within the guard the next step could wrap silently."""
    check_extent(*backend_of(keys).key_extent(keys))
    return unpack(keys)


def _queries(coarse: Tensor, relation: Relation) -> Tensor:
    """Keys of stride * coarse. Scaling keeps lexicographic order, so the queries ascend as `coarse` does."""
    if relation.stride == (1, 1, 1):
        return coarse
    coords = unpack(coarse)
    return pack(coords * coords.new_tensor([1, *relation.stride]))


def _first_repeat(first: Tensor, n: int) -> Tensor:
    kept = torch.zeros(n, dtype=torch.bool)
    kept[first] = True
    return torch.nonzero(~kept)[0, 0]
