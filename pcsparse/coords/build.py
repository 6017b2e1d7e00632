"""Building of levels and kernel maps out of sorted keys.

As PointAcc does: for an offset the outputs' keys, shifted, are merged with the inputs' keys, and equal
neighbours are a hit. For a submanifold map of an odd kernel only half of the offsets is searched: the centre
is the identity and the other half is the first one mirrored; on a GPU the whole is, as every place of a table
is written once then, and by one thread. Where a layer makes a level nothing is searched:
each way to reach one of its voxels is a pair of the map.

Source: PointAcc (MICRO 2021, arXiv 2110.07600), section 4.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from pcsparse.coords import build_pairs, build_tables
from pcsparse.coords.device_constant import device_constant
from pcsparse.coords.kernel_map import KernelMap
from pcsparse.coords.keys import WHOLE, Extent, pack, unpack
from pcsparse.coords.relation import Relation
from pcsparse.coords.sorted_keys import SortedKeys as SortedKeys
from pcsparse.errors import RangeError
from pcsparse.kernels.jobs import LevelStep
from pcsparse.kernels.map_ways import MapRule, MapSize, Way
from pcsparse.kernels.select import backend_of
from pcsparse.types import Triple

# coarse cells of more fine cells than this are found without the offsets, whose counters would take too much
_MOST_OFFSETS = 4096


class _Forms(Protocol):
    """Who makes maps in one form: `coords.build_pairs` and `coords.build_tables`."""

    def identity(self, relation: Relation, n: int, device: torch.device) -> KernelMap: ...

    def search(
        self,
        fine: SortedKeys,
        coarse: SortedKeys,
        relation: Relation,
        deltas: Sequence[int],
        *,
        symmetric: bool,
        how: Way | MapRule = "search",
    ) -> KernelMap: ...

    def expanded(
        self, coarse: SortedKeys, relation: Relation, bounds: Extent
    ) -> tuple[SortedKeys, KernelMap | None]: ...


def _forms(of: Tensor) -> _Forms:
    """Who makes maps in the form that the device of a tensor wants."""
    return build_tables if makes_tables(of) else build_pairs


def makes_tables(of: Tensor) -> bool:
    """Whether maps are born as tables on the device of a tensor, which there are several ways to."""
    return backend_of(of).TABLES


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
    how: Way | MapRule = "search",
) -> KernelMap:
    """All (i, j, k) with fine[i] = stride * coarse[j] + dilation * offset[k] - padding.

    Args:
        fine: keys of the inputs.
        coarse: keys of the outputs.
        relation: the equation.
        offsets: positions of the offsets to search, ascending; all if None.
        same_coords: `fine` and `coarse` are one coordinate set, so that symmetry may halve the search.
        how: by which way a table is made, or the rule that picks it; see `kernels.map_ways`.

    Returns:
        The map of a convolution that reads fine and writes coarse; `.transposed()` is the way back.

    Raises:
        RangeError: a kernel offset or a scaled output coordinate leaves the range of a key, there are more
            offsets or pairs than can be told apart, or `how` is a way that cannot make this map.
    """
    deltas, symmetric, kept = map_deltas(relation, offsets, same_coords=same_coords)
    kmap = _forms(fine.keys).search(fine, coarse, relation, deltas, symmetric=symmetric, how=how)
    return kmap if kept is None else kmap.keep_offsets(torch.tensor(kept, device="cpu"))


def first_map(
    coords: Tensor, relation: Relation, offsets: tuple[int, ...] | None = None
) -> tuple[SortedKeys, KernelMap]:
    """The keys of a cloud of which nothing is known yet, and its map to itself.

    Args:
        coords: (n, 4) int32, contiguous, where maps are tables.
        relation: of a submanifold map.
        offsets: as in `build_kernel_map`.

    Raises:
        RangeError: see `SortedKeys.of` and `build_kernel_map`.
    """
    deltas, symmetric, kept = map_deltas(relation, offsets, same_coords=True)
    keys, kmap = build_tables.first(coords, relation, deltas, symmetric=symmetric)
    return keys, kmap if kept is None else kmap.keep_offsets(torch.tensor(kept, device="cpu"))


def has_first(coords: Tensor) -> bool:
    """Whether `first_map` and `first_levels` take `coords`."""
    return coords.dtype == torch.int32 and backend_of(coords).TABLES and coords.is_contiguous()


def is_searched(
    coords: Tensor, relation: Relation, offsets: tuple[int, ...] | None, how: Way | MapRule
) -> bool:
    """Whether the map of a cloud to itself is searched whatever its bounds are: `first_map` knows none.

    Args:
        coords: (n, 4).
        relation: of a submanifold map.
        offsets: as in `build_kernel_map`.
        how: as there.
    """
    if not isinstance(how, MapRule):
        return how == "search"
    deltas, symmetric, _ = map_deltas(relation, offsets, same_coords=True)
    # bounds hold as many cells as rows, and no way is faster where they hold more
    size = MapSize.of(len(coords), len(coords), deltas, symmetric, None)
    return how.pick(replace(size, cells=len(coords))) == "search"


def map_deltas(
    relation: Relation, offsets: tuple[int, ...] | None, *, same_coords: bool
) -> tuple[tuple[int, ...], bool, list[bool] | None]:
    """What is searched for a map.

    Args:
        relation: the equation.
        offsets: as in `build_kernel_map`.
        same_coords: as there.

    Returns:
        differences of keys; whether they are symmetric; and which of them are wanted, if not all.

    Raises:
        RangeError: a kernel offset leaves the range of a key, or there are too many.
    """
    deltas = relation.key_steps()
    if not (same_coords and relation.is_symmetric):
        return (deltas if offsets is None else tuple([deltas[k] for k in offsets])), False, None
    if offsets is None:
        return deltas, True, None
    # with its mirror image and the centre a subset is searched by halves, too
    last, middle = relation.volume - 1, relation.volume // 2
    whole = sorted({middle, *offsets, *(last - k for k in offsets)})
    kept = None if len(whole) == len(offsets) else [k in set(offsets) for k in whole]
    return tuple([deltas[k] for k in whole]), True, kept


def to_search(
    fine: SortedKeys,
    coarse: SortedKeys,
    relation: Relation,
    offsets: tuple[int, ...] | None,
    *,
    same: bool,
    how: Way | MapRule = "search",
) -> build_tables.Wanted | None:
    """What `search_all` takes for a map; None where it must be built by itself.

    Args:
        fine: keys of the inputs.
        coarse: keys of the outputs.
        relation: the equation.
        offsets: as in `build_kernel_map`.
        same: `same_coords` there.
        how: as there.

    Raises:
        RangeError: a kernel offset leaves the range of a key, or there are too many.
    """
    if not backend_of(fine.keys).TABLES or (same and relation.is_symmetric and relation.volume == 1):
        return None
    deltas, symmetric, kept = map_deltas(relation, offsets, same_coords=same)
    return build_tables.Wanted(fine, coarse, relation, deltas, symmetric, how) if kept is None else None


def search_all(wanted: Sequence[build_tables.Wanted]) -> list[KernelMap]:
    """The maps that `to_search` names, at once: see `build_tables.search_all`."""
    return build_tables.search_all(wanted)


def identity_map(relation: Relation, rows: Tensor) -> KernelMap:
    """The map of a 1^3 convolution of `rows` (n, *): every row meets itself, whatever its coordinates are."""
    # rows without values have no kernels
    forms = build_pairs if rows.is_meta else _forms(rows)
    return forms.identity(relation, len(rows), rows.device)


@dataclass(frozen=True)
class Strided:
    """How a strided convolution makes a level of the one before.

    Attributes:
        relation: the equation.
        coverage: "touched" for every coarse cell that meets a fine one (the support of the dense convolution,
            and spconv's rule), "floor" for floor(fine / stride) (MinkowskiEngine's rule).
        box: first and last coarse cell to write, (x, y, z) each; no end if None.
    """

    relation: Relation
    coverage: str = "touched"
    box: tuple[Triple, Triple] | None = None

    def check(self) -> None:
        """Raise RangeError for an unknown coverage, an offset longer than the guard, or too many of them."""
        if self.coverage not in ("touched", "floor"):
            raise RangeError(f"coverage must be 'touched' or 'floor', got {self.coverage!r}")
        # names a step that is beyond the guard, within which the kernels may count without a check
        self.relation.key_steps()

    @property
    def counted(self) -> bool:
        """Whether a coarse cell has so few fine ones that kernels may count them."""
        stride = self.relation.stride
        return stride[0] * stride[1] * stride[2] <= _MOST_OFFSETS

    def step(self, extent: Extent) -> LevelStep:
        """What kernels are told of it; `extent` holds the cells that are kept."""
        relation = self.relation
        stride, first = relation.stride, relation.steps()[0]
        if self.coverage == "touched":
            return LevelStep(
                relation.kernel_size, stride, relation.dilation, first, (extent.low, extent.high)
            )
        # of a kernel as long as the stride every fine cell touches the one that it lies in
        return LevelStep(stride, stride, (1, 1, 1), (0, 0, 0), (extent.low, extent.high))

    def bounds(self, fine: Extent) -> Extent:
        """Of the coarse cells, the box aside."""
        stride, steps = self.relation.stride, self.relation.steps()
        if self.coverage == "touched":
            return fine.moved(stride, steps[0], steps[-1], coarser=True)
        return fine.moved(stride, last=(stride[0] - 1, stride[1] - 1, stride[2] - 1), coarser=True)


def strided_level(fine: SortedKeys, relation: Relation, coverage: str) -> Level:
    """The coarse level that a convolution writes, maybe with the map to it, see `strided_levels`."""
    return strided_levels(fine, [Strided(relation, coverage)])[0]


def strided_levels(fine: SortedKeys, chain: Sequence[Strided]) -> list[Level]:
    """The levels that strided convolutions write, each made of the one before.

    Where maps are tables, all levels whose bounds fit keys are launched one after another, and the host waits
    once for the sizes of all; where they are lists, a level that is "touched" comes with the map to it.

    Args:
        fine: where the chain begins.
        chain: how each level is made.

    Raises:
        RangeError: see `Strided.check`; or a voxel leaves the range of a key.
    """
    levels: list[Level] = []
    at_once = backend_of(fine.keys).TABLES
    while len(levels) < len(chain):
        rest = chain[len(levels) :]
        steps = _bounded(fine, rest) if at_once else []
        if steps:
            levels += [Level(coords, keys) for keys, coords in build_tables.levels(fine, steps)]
        else:
            levels.append(_strided_level(fine, rest[0]))
        fine = levels[-1].keys
    return levels


def _bounded(fine: SortedKeys, chain: Sequence[Strided]) -> list[LevelStep]:
    """The first levels of a chain, as far as arithmetic says that their voxels fit keys."""
    steps, extent = [], fine.extent
    for level in chain:
        level.check()
        extent = level.bounds(extent)
        if not (extent.fits and level.counted):
            break
        extent = extent if level.box is None else extent.clamped(*level.box)
        steps.append(level.step(extent))
    return steps


@functools.lru_cache(maxsize=64)
def _open_steps(chain: tuple[Strided, ...]) -> tuple[LevelStep, ...]:
    """The first levels of a chain that starts from anywhere.

    Raises:
        RangeError: see `Strided.check`.
    """
    steps = []
    for level in chain:
        level.check()
        if not level.counted:
            break
        steps.append(level.step(WHOLE if level.box is None else WHOLE.clamped(*level.box)))
    return tuple(steps)


def first_levels(
    coords: Tensor, chain: Sequence[Strided], how: Way | MapRule = "search"
) -> tuple[SortedKeys, list[Level]]:
    """The keys of a cloud of which nothing is known yet, and levels that strided convolutions make of it.

    A level that is alone comes with the map to it, if that is searched.

    Args:
        coords: (n, 4) int32, contiguous, where maps are tables.
        chain: how each level is made of the one before.
        how: maps are made, see `build_kernel_map`.

    Returns:
        keys; the first levels of the chain, as far as one launch after another makes them.

    Raises:
        RangeError: see `SortedKeys.of` and `Strided.check`.
    """
    alone = chain[0].relation if len(chain) == 1 and how == "search" else None
    steps = _open_steps(tuple(chain))
    keys, made, table = build_tables.first_levels(coords, steps, alone)
    levels, extent = [], keys.extent
    for level, (level_keys, level_coords) in zip(chain, made, strict=False):
        extent = level.bounds(extent)
        if not extent.fits:
            # who makes it by itself says what is wrong
            break
        extent = extent if level.box is None else extent.clamped(*level.box)
        found = SortedKeys(level_keys, None, extent)
        kmap = None
        if table is not None and alone is not None:
            kmap = build_tables.first_level_map(keys, found, alone, table)
        levels.append(Level(level_coords, found, kmap))
    return keys, levels


def _strided_level(fine: SortedKeys, level: Strided) -> Level:
    """One level, by itself."""
    level.check()
    backend, relation, stride = backend_of(fine.keys), level.relation, level.relation.stride
    bounds, kmap = level.bounds(fine.extent), None
    if level.coverage == "touched" and not backend.TABLES:
        partition = relation.is_partition and level.counted
        coarse, kmap = (build_pairs.partition if partition else build_pairs.reached)(fine, relation, bounds)
    elif level.coverage == "touched":
        kernel = relation.kernel_size, stride, relation.dilation, relation.steps()[0]
        coarse = SortedKeys.made(backend.reached_level(fine.keys, *kernel), bounds)
    elif level.counted:
        coarse = SortedKeys.made(backend.partition_keys(fine.keys, stride, (0, 0, 0))[0], bounds)
    else:
        span = device_constant([1, *stride], fine.keys, torch.int32)
        cells = torch.div(unpack(fine.keys), span, rounding_mode="floor")
        coarse = SortedKeys.made(backend.unique_keys(pack(cells))[0], bounds)
    made = Level(unpack(coarse.keys), coarse, kmap)
    return made if level.box is None else made.within(*level.box)


def expanded_level(coarse: SortedKeys, relation: Relation) -> Level:
    """The fine level that a generative transposed convolution writes, with the map from it to `coarse`.

    Raises:
        RangeError: a voxel leaves the range of a key, or there are more offsets or pairs than can be told
            apart.
    """
    # names an offset that is too long, or too many
    relation.key_steps()
    stride, steps = relation.stride, relation.steps()
    # offsets are in C order, so that the first is the lowest on each axis, and the last the highest
    bounds = coarse.extent.moved(stride, steps[0], steps[-1])
    if not bounds.fits:
        # before a key is made that wraps
        bounds = coarse.exact_extent().moved(stride, steps[0], steps[-1])
        bounds.check()
    fine, kmap = _forms(coarse.keys).expanded(coarse, relation, bounds)
    return Level(unpack(fine.keys), fine, kmap)
