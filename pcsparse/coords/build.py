"""Building of levels and kernel maps out of sorted keys.

As PointAcc does: for an offset the outputs' keys, shifted, are merged with the inputs' keys, and equal
neighbours are a hit. For a submanifold map of an odd kernel only half of the offsets is searched: the centre
is the identity and the other half is the first one mirrored. Where every fine cell lies in one coarse cell
nothing is searched: the map falls out of making the level.

Source: PointAcc (MICRO 2021, arXiv 2110.07600), section 4.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pcsparse.coords.kernel_map import KernelMap, Pairs
from pcsparse.coords.keys import check_range, pack, pack_and_compare, unpack
from pcsparse.coords.relation import Relation
from pcsparse.errors import RangeError
from pcsparse.kernels.select import backend_of

# coarse cells of more fine cells than this are found by sorting: counters for each offset would take too much
_MOST_OFFSETS = 4096
# keys made at once for a level that a transposed convolution writes; 128 MiB, of a cloud of any size
_MOST_CANDIDATES = 1 << 24


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
        unique, _, first = backend_of(keys).unique_keys(keys)
        if unique.numel() != keys.numel():
            row = int(_first_repeat(first, keys.numel()))
            raise RangeError(
                f"{keys.numel() - unique.numel()} of {keys.numel()} coordinates are duplicates, first at row "
                f"{row}: {coords[row].tolist()}; merge them with voxelize and voxel_reduce"
            )
        return SortedKeys(unique, first.int())


@dataclass(frozen=True, eq=False)
class Level:
    """A coarser level.

    Attributes:
        coords: (m, 4) int32, ascending by key.
        keys: of `coords`.
        kmap: the map of the convolution that made the level, where it came for nothing.
    """

    coords: Tensor
    keys: SortedKeys
    kmap: KernelMap | None = None


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
        RangeError: a kernel offset or a scaled output coordinate leaves the range of a key, or there are more
            offsets or pairs than can be told apart.
    """
    backend, deltas = backend_of(fine.keys), relation.key_deltas()
    symmetric = same_coords and relation.is_symmetric
    if symmetric:
        half = deltas[: relation.volume // 2]
        pairs = Pairs(*backend.match_keys(fine.keys, fine.keys, half, True))
    else:
        pairs = Pairs(*backend.match_keys(fine.keys, _queries(coarse.keys, relation), deltas))
    return _renumbered(pairs, fine, coarse, relation, symmetric)


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
    """The coarse level that a convolution writes.

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
    if coverage == "touched" and relation.is_partition and counted:
        keys, *lists = backend.partition_keys(fine.keys, stride, first)
        coarse = SortedKeys(keys, None)
        return Level(_checked(keys), coarse, _renumbered(Pairs(*lists), fine, coarse, relation, False))
    if coverage == "touched":
        keys = backend.touched_keys(fine.keys, relation.kernel_size, stride, relation.dilation, first)
    elif counted:
        keys = backend.partition_keys(fine.keys, stride, (0, 0, 0))[0]
    else:
        coords = unpack(fine.keys)
        cells = torch.div(coords, coords.new_tensor([1, *stride]), rounding_mode="floor")
        keys = backend.distinct_keys(pack(cells))
    return Level(_checked(keys), SortedKeys(keys, None))


def expanded_level(coarse: SortedKeys, relation: Relation) -> Level:
    """The fine level that a generative transposed convolution writes.

    Raises:
        RangeError: a voxel leaves the range of a key, or there are more offsets than can be told apart.
    """
    backend, deltas = backend_of(coarse.keys), relation.key_deltas()
    parts = _queries(coarse.keys, relation).split(max(1, _MOST_CANDIDATES // deltas.numel()))
    found = [backend.distinct_keys((part[:, None] + deltas).view(-1)) for part in parts]
    keys = found[0] if len(found) == 1 else backend.distinct_keys(torch.cat(found))
    return Level(_checked(keys), SortedKeys(keys, None))


def _checked(keys: Tensor) -> Tensor:
    """Coordinates of new voxels; beyond the range but within the guard the next step could wrap silently."""
    coords = unpack(keys)
    check_range(coords)
    return coords


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
