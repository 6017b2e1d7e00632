"""Building of levels and kernel maps out of sorted keys.

As PointAcc does: for an offset the outputs' keys, shifted, are merged with the inputs' keys, and equal
neighbours are a hit. For a submanifold map of an odd kernel only half of the offsets is searched: the centre
is the identity and the other half is the first one mirrored. Where a layer makes a level nothing is searched:
each way to reach one of its voxels is a pair of the map.

Source: PointAcc (MICRO 2021, arXiv 2110.07600), section 4.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pcsparse.coords import build_pairs, build_tables
from pcsparse.coords.device_constant import device_constant
from pcsparse.coords.kernel_map import KernelMap
from pcsparse.coords.keys import Extent, pack, unpack
from pcsparse.coords.relation import Relation
from pcsparse.coords.sorted_keys import SortedKeys as SortedKeys
from pcsparse.errors import RangeError
from pcsparse.kernels.select import backend_of
from pcsparse.types import Triple

# coarse cells of more fine cells than this are found without the offsets, whose counters would take too much
_MOST_OFFSETS = 4096


class _Forms(Protocol):
    """Who makes maps in one form: `coords.build_pairs` and `coords.build_tables`."""

    def identity(self, relation: Relation, n: int, device: torch.device) -> KernelMap: ...

    def search(
        self, fine: SortedKeys, coarse: SortedKeys, relation: Relation, deltas: Tensor, *, mirrored: bool
    ) -> KernelMap: ...

    def partition(
        self, fine: SortedKeys, relation: Relation, bounds: Extent
    ) -> tuple[SortedKeys, KernelMap]: ...

    def floor(self, fine: SortedKeys, stride: Triple, bounds: Extent) -> Tensor: ...

    def reached(
        self, given: SortedKeys, relation: Relation, bounds: Extent, *, expand: bool = False
    ) -> tuple[SortedKeys, KernelMap | None]: ...


def _forms(of: Tensor) -> _Forms:
    """Who makes maps in the form that the device of a tensor wants."""
    return build_tables if backend_of(of).TABLES else build_pairs


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
        extent = self.keys.extent
        if extent.within(lower, upper):
            return self
        inside: Tensor | None = None
        for axis, (low, high) in enumerate(zip(lower, upper, strict=True)):
            along = self.coords[:, 1 + axis]
            here = (along >= low) & (along <= high)
            inside = here if inside is None else inside & here
        assert inside is not None
        rows = inside.nonzero().squeeze(1)
        if rows.numel() == inside.numel():
            return self
        return Level(self.coords[rows], SortedKeys(self.keys.keys[rows], None, extent.clamped(lower, upper)))


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
    deltas, forms = relation.key_deltas(), _forms(fine.keys)
    last, middle = relation.volume - 1, relation.volume // 2
    if not (same_coords and relation.is_symmetric):
        some = deltas if offsets is None else deltas[list(offsets)]
        return forms.search(fine, coarse, relation, some, mirrored=False)
    if offsets is None:
        return forms.search(fine, fine, relation, deltas[:middle], mirrored=True)
    # with its mirror image and the centre a subset is searched by halves, too
    whole = sorted({middle, *offsets, *(last - k for k in offsets)})
    half = deltas[[k for k in whole if k < middle]]
    kmap = forms.search(fine, fine, relation, half, mirrored=True)
    if len(whole) == len(offsets):
        return kmap
    kept = set(offsets)
    return kmap.keep_offsets(torch.tensor([k in kept for k in whole]))


def identity_map(relation: Relation, rows: Tensor) -> KernelMap:
    """The map of a 1^3 convolution of `rows` (n, *): every row meets itself, whatever its coordinates are."""
    # rows without values have no kernels
    forms = build_pairs if rows.is_meta else _forms(rows)
    return forms.identity(relation, len(rows), rows.device)


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
    backend, stride, steps = backend_of(fine.keys), relation.stride, relation.steps()
    counted = stride[0] * stride[1] * stride[2] <= _MOST_OFFSETS
    if coverage == "touched":
        forms, bounds = _forms(fine.keys), fine.extent.moved(stride, steps[0], steps[-1], coarser=True)
        coarse, kmap = (
            forms.partition(fine, relation, bounds)
            if relation.is_partition and counted
            else forms.reached(fine, relation, bounds)
        )
        return Level(unpack(coarse.keys), coarse, kmap)
    whole_cell = (stride[0] - 1, stride[1] - 1, stride[2] - 1)
    bounds = fine.extent.moved(stride, last=whole_cell, coarser=True)
    if counted:
        keys = _forms(fine.keys).floor(fine, stride, bounds)
    else:
        span = device_constant([1, *stride], fine.keys, torch.int32)
        cells = torch.div(unpack(fine.keys), span, rounding_mode="floor")
        keys = backend.unique_keys(pack(cells))[0]
    coarse = SortedKeys.made(keys, bounds)
    return Level(unpack(keys), coarse)


def expanded_level(coarse: SortedKeys, relation: Relation) -> Level:
    """The fine level that a generative transposed convolution writes, with the map from it to `coarse`.

    Raises:
        RangeError: a voxel leaves the range of a key, or there are more offsets or pairs than can be told
            apart.
    """
    # names an offset that is too long, or too many
    relation.key_deltas()
    stride, steps = relation.stride, relation.steps()
    # offsets are in C order, so that the first is the lowest on each axis, and the last the highest
    bounds = coarse.extent.moved(stride, steps[0], steps[-1])
    if not bounds.fits:
        # before a key is made that wraps
        bounds = coarse.exact_extent().moved(stride, steps[0], steps[-1])
        bounds.check()
    fine, kmap = _forms(coarse.keys).reached(coarse, relation, bounds, expand=True)
    return Level(unpack(fine.keys), fine, kmap)
