"""CoordCache: coordinates and maps that the layers of a network share.

A map is found by every field that shapes it: both coordinate sets, by identity and version, and the relation.
So two clouds of equal size never share a map by accident, and an in-place edit of coordinates is noticed
in eager mode. A compiled network does not notice it, as no versions are read while a graph is traced: it goes
on with the maps of before.

Coordinate sets are numbered in the order in which they were first seen. So the caches of two clouds that went
through one network have equal keys, and a compiled graph that found its maps in one finds them in the other.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pcsparse.coords.build import (
    Level,
    Strided,
    build_kernel_map,
    expanded_level,
    first_levels,
    first_map,
    has_first,
    identity_map,
    is_searched,
    search_all,
    strided_levels,
    to_search,
)
from pcsparse.coords.cache_plan import EXPANDED, CachePlan, Token
from pcsparse.coords.cache_plan import LevelKey as LevelKey
from pcsparse.coords.cache_plan import MapKey as MapKey
from pcsparse.coords.clouds import Claims
from pcsparse.coords.corner_map import CUBE, CornerMap, build_corner_map
from pcsparse.coords.kernel_map import KernelMap
from pcsparse.coords.relation import Relation
from pcsparse.coords.sorted_keys import SortedKeys
from pcsparse.coords.tracing import apart, refuse_tracing
from pcsparse.kernels.map_ways import MapRule, Way
from pcsparse.lack_of_memory import NamesSizes
from pcsparse.types import Triple

_EDITED = -1


def _version(coords: Tensor) -> int:
    # tensors of inference mode have none
    return 0 if coords.is_inference() else coords._version


_AS_IT_IS: AbstractContextManager[None] = nullcontext()


def _kept() -> AbstractContextManager[None]:
    # what is built during inference may serve training later, and autograd cannot save inference tensors;
    # entering a mode takes as long as making a tensor
    return torch.inference_mode(False) if torch.is_inference_mode_enabled() else _AS_IT_IS


def _map_sizes(fine: Tensor, coarse: Tensor, relation: Relation) -> str:
    return f"the kernel map of {relation.volume} offsets between {len(fine)} and {len(coarse)} voxels"


def _level_sizes(given: Tensor, relation: Relation) -> str:
    kernel, stride = relation.kernel_size, relation.stride
    return f"the level that a kernel {kernel} with stride {stride} makes of {len(given)} voxels"


@dataclass(frozen=True, eq=False)
class _Asked:
    """What a layer asked with, and the map that it got.

    It keeps all of it alive, so that no other object gets an identity of these.
    """

    given: tuple[Tensor, Tensor, Relation, tuple[int, ...] | None]
    versions: tuple[int, int]
    kmap: KernelMap


# relations that nobody keeps would pile up
_MOST_ASKED = 1024


@dataclass(eq=False)
class CoordCache:
    """Shared by a tensor and all tensors computed from it; not shared between clouds.

    It has no lock: several Python threads may run one network at once, but each on a tensor of its own.

    Attributes:
        how: by which way a GPU makes the tables of maps that are asked for without one, or the rule that
            picks one for each map; see `kernels.map_ways`. Maps are the same by all of them.
    """

    _sorted: dict[Token, SortedKeys] = field(default_factory=dict)
    _maps: dict[MapKey, KernelMap] = field(default_factory=dict)
    _clouds: dict[tuple[Token, int], KernelMap] = field(default_factory=dict)
    _corners: dict[tuple[Token, Token, Triple], CornerMap] = field(default_factory=dict)
    # maps that came with their levels; they count as maps once they are asked for
    _ready: dict[MapKey, KernelMap] = field(default_factory=dict)
    _levels: dict[LevelKey, Tensor] = field(default_factory=dict)
    _finer: dict[tuple[Token, Relation], Tensor] = field(default_factory=dict)
    # coordinate sets and their versions, by token
    _sets: list[tuple[Tensor, int]] = field(default_factory=list)
    _claims: Claims = field(default_factory=Claims)
    # how many rows of a set count, where it has room for more
    _real: dict[Token, Tensor] = field(default_factory=dict)
    # maps by the identity of all that a layer asks with
    _asked: dict[tuple[int, int, int, int], _Asked] = field(default_factory=dict)
    how: Way | MapRule = "search"
    # of the last map or level that was asked for with one
    _asked_how: Way | MapRule | None = None

    def __len__(self) -> int:
        """Number of maps."""
        return len(self._maps)

    def set(self, token: Token) -> Tensor:
        """The coordinates (n, 4) int32 of a number, as the keys of maps name them."""
        return self._sets[token][0]

    def maps(self) -> dict[MapKey, KernelMap]:
        """A copy of the table of maps, to look at."""
        return dict(self._maps)

    def __getstate__(self) -> dict[str, object]:
        """The tables; a copy's tensors count their versions anew, so only edited ones are marked."""
        sets = [(known, 0 if version == _version(known) else _EDITED) for known, version in self._sets]
        return self.__dict__ | {"_sets": sets, "_asked": {}}

    def __setstate__(self, state: dict[str, object]) -> None:
        """From a copy or another process, such as a loader worker: maps are found again."""
        self.__dict__.update(state)
        self._sets = [(known, version or _version(known)) for known, version in self._sets]

    def rebuilt(self) -> "CoordCache":
        """All levels and maps of this cache, built anew from the coordinates that were given; to time it.

        All by one way: that which the last of them was asked for with, as a tuned network asks for all.
        """
        new, plan = CoordCache(how=self._asked_how or self.how), self.plan()
        plan.fill(new, {token: coords for token, (coords, _) in enumerate(self._sets)})
        new.how, new._asked_how = self.how, self._asked_how
        return new

    def plan(self) -> "CachePlan":
        """What was asked of this cache, to ask it of others."""
        # a level that was changed in place gets a new number, and what was made of the old one goes
        for coords in list(self._levels.values()):
            self._token(coords)
        return CachePlan(
            levels=tuple((key, self._token(coords)) for key, coords in self._levels.items()),
            maps=tuple(self._maps),
            corners=tuple(self._corners),
            n_sets=len(self._sets),
        )

    @staticmethod
    def standing_in(
        plan: CachePlan,
        sets: Sequence[Tensor],
        maps: Mapping[MapKey, KernelMap],
        real: Mapping[Token, Tensor],
    ) -> "CoordCache":
        """A cache that answers as those of a plan do, with other coordinates and maps.

        Args:
            plan: without corners.
            sets: coordinates (n, 4) int32 of every number; nobody needs to be able to read them.
            maps: of every key of the plan.
            real: how many first rows of a set count, () int64 by number; all where it has none.
        """
        cache = CoordCache(_maps={key: maps[key] for key in plan.maps}, _real=dict(real))
        cache._sets = [(coords, _version(coords)) for coords in sets]
        for key, token in plan.levels:
            cache._levels[key] = sets[token]
            if key.coverage != EXPANDED:
                cache._finer[token, key.relation] = sets[key.source]
        return cache

    def real_rows(self, coords: Tensor) -> Tensor | None:
        """How many first rows of these coordinates count, () int64 on their device; None: all do."""
        return self._real.get(self._token(coords)) if self._real else None

    def _token(self, coords: Tensor) -> Token:
        tracing = torch.compiler.is_compiling()
        version = 0 if tracing else _version(coords)
        for token in reversed(range(len(self._sets))):
            known, known_version = self._sets[token]
            if known is coords and (tracing or known_version == version):
                return token
        if not tracing:
            self._forget_older(coords)
        self._sets.append((coords, version))
        return len(self._sets) - 1

    def _forget_older(self, coords: Tensor) -> None:
        """Drop what was made of `coords` before they were changed in place: nobody can ask for it again.

        Numbers of sets stay, and so does the way back from levels that were made of them. So do maps within
        and between those levels: somebody may hold a tensor there.
        """
        older = {token for token, (known, _) in enumerate(self._sets) if known is coords}
        if not older:
            return
        for tables in (self._maps, self._ready):
            for key in [key for key in tables if key.fine in older or key.coarse in older]:
                del tables[key]
        for level in [key for key in self._levels if key.source in older]:
            del self._levels[level]
        for token in older:
            self._sorted.pop(token, None)
        for cloud in [key for key in self._clouds if key[0] in older]:
            del self._clouds[cloud]
        for corner in [key for key in self._corners if key[0] in older or key[1] in older]:
            del self._corners[corner]
        for at in [at for at, asked in self._asked.items() if any(one is coords for one in asked.given[:2])]:
            del self._asked[at]

    def sorted_keys(self, coords: Tensor) -> SortedKeys:
        """The sorted keys of `coords` (n, 4) int32.

        Raises:
            RangeError: a coordinate leaves the range of a key, two rows are equal, or the batch column is not
                what `expect_clouds` was told.
        """
        token = self._token(coords)
        known = self._sorted.get(token)
        if known is None:
            with _kept():
                known = self._sorted[token] = apart(self._claims.keys_of, coords, token)
        return known

    def expect_clouds(self, coords: Tensor, n_clouds: int) -> None:
        """Check the batch column of `coords` (n, 4) int32 when their keys are made, which look at it anyway.

        Raises:
            RangeError: `n_clouds` is negative; or keys that are there say that it is too small.
        """
        token = self._token(coords)
        self._claims.add(coords, token, n_clouds, self._sorted.get(token))

    def check_clouds(self, coords: Tensor) -> None:
        """Check now what `expect_clouds` has put off, if anything.

        Raises:
            RangeError: a batch index is negative or not below the number of clouds.
        """
        self._claims.settle(coords, self._token(coords))

    def kernel_map(
        self,
        fine: Tensor,
        coarse: Tensor,
        relation: Relation,
        offsets: tuple[int, ...] | None = None,
        *,
        searched: tuple[int, ...] | None = None,
        how: Way | MapRule | None = None,
    ) -> KernelMap:
        """The map of a convolution from `fine` to `coarse`, both (n, 4) int32; built once.

        Args:
            fine: coordinates of the inputs.
            coarse: coordinates of the outputs.
            relation: geometry of the kernel.
            offsets: positions of the kernel offsets to keep; all if None.
            searched: positions that all layers of the map together keep, where that is known: they are
                searched at once, and no others. Without it the whole kernel is, so that a layer with other
                offsets finds its map there.
            how: by which way it is made where it is not there yet; that of the cache if None.
        """
        if torch.compiler.is_compiling():
            return self._map(fine, coarse, relation, offsets, searched, how)
        at, versions = (id(fine), id(coarse), id(relation), id(offsets)), (_version(fine), _version(coarse))
        asked = self._asked.get(at)
        if asked is None or asked.versions != versions:
            kmap = self._map(fine, coarse, relation, offsets, searched, how)
            if len(self._asked) >= _MOST_ASKED:
                self._asked.clear()
            asked = self._asked[at] = _Asked((fine, coarse, relation, offsets), versions, kmap)
        return asked.kmap

    def _map(
        self,
        fine: Tensor,
        coarse: Tensor,
        relation: Relation,
        offsets: tuple[int, ...] | None,
        searched: tuple[int, ...] | None,
        how: Way | MapRule | None,
    ) -> KernelMap:
        token = self._token(fine)
        key = MapKey(token, token if coarse is fine else self._token(coarse), relation, offsets)
        kmap = self._maps.get(key)
        if kmap is None:
            refuse_tracing("a kernel map")
            with _kept(), NamesSizes(lambda: _map_sizes(fine, coarse, relation)):
                kmap = self._ready.pop(key, None) or apart(self._build, fine, coarse, key, searched, how)
            self._maps[key] = kmap
        return kmap

    def _build(
        self,
        fine: Tensor,
        coarse: Tensor,
        key: MapKey,
        searched: tuple[int, ...] | None,
        how: Way | MapRule | None,
    ) -> KernelMap:
        if key.offsets is not None:
            wider = self._wider(key)
            if wider is None and key.offsets != searched:
                among = searched if searched is not None and set(key.offsets) <= set(searched) else None
                self.kernel_map(fine, coarse, key.relation, among, searched=among, how=how)
                wider = self._wider(key)
            if wider is not None:
                have, kmap = wider
                kept = set(key.offsets)
                return kmap.keep_offsets(torch.tensor([k in kept for k in have], device="cpu"))
        by, same = self._way(how), fine is coarse
        if same and key.relation.is_symmetric and key.relation.volume == 1:
            # a row meets itself, whatever its coordinates are
            return identity_map(key.relation, fine)
        if (
            same
            and key.fine not in self._sorted
            and has_first(fine)
            and is_searched(fine, key.relation, key.offsets, by)
        ):
            return self._first(fine, key)
        fine_keys = self.sorted_keys(fine)
        coarse_keys = fine_keys if same else self.sorted_keys(coarse)
        return build_kernel_map(fine_keys, coarse_keys, key.relation, key.offsets, same_coords=same, how=by)

    def _way(self, how: Way | MapRule | None) -> Way | MapRule:
        if how is None:
            return self.how
        self._asked_how = how
        return how

    def _first(self, coords: Tensor, key: MapKey) -> KernelMap:
        """The map to itself of a cloud whose keys nobody has asked for; they come with it."""
        made: list[KernelMap] = []

        def keys_of(coords: Tensor) -> SortedKeys:
            keys, kmap = first_map(coords, key.relation, key.offsets)
            made.append(kmap)
            return keys

        self._sorted[key.fine] = self._claims.keys_of(coords, key.fine, keys_of)
        return made[0]

    def _wider(self, key: MapKey) -> tuple[Sequence[int], KernelMap] | None:
        """A map that has all offsets of a key, and which offsets it has."""
        for known, kmap in (*self._ready.items(), *self._maps.items()):
            have = range(key.relation.volume) if known.offsets is None else known.offsets
            same = replace(known, offsets=None) == replace(key, offsets=None)
            if same and set(key.offsets or ()) <= set(have):
                return have, kmap
        return None

    def cloud_map(self, coords: Tensor, n_clouds: int) -> KernelMap:
        """The map that leads every row of `coords` (n, 4) int32 to its cloud, of `n_clouds`; built once."""
        key = self._token(coords), n_clouds
        if key not in self._clouds:
            refuse_tracing("the map of a pool of whole clouds")
            self.check_clouds(coords)
            with _kept():
                self._clouds[key] = apart(KernelMap.of_groups, coords[:, 0], n_clouds)
        return self._clouds[key]

    def corner_map(self, fine: Tensor, coarse: Tensor, ratio: Triple) -> CornerMap:
        """The voxels of `coarse` (m, 4) int32 around each of `fine` (n, 4) int32; built once.

        Args:
            fine: coordinates.
            coarse: coordinates of a level made of them.
            ratio: fine cells that a coarse one spans, (x, y, z).

        Raises:
            RangeError: a fine voxel lies in no coarse one.
        """
        key = self._token(fine), self._token(coarse), ratio
        if key not in self._corners:
            refuse_tracing("a map of corners")
            cube = self.kernel_map(coarse, coarse, CUBE)
            with _kept():
                keys = self.sorted_keys(coarse)
                self._corners[key] = apart(build_corner_map, fine, keys, cube, ratio)
        return self._corners[key]

    def coarser(
        self,
        fine: Tensor,
        relation: Relation,
        coverage: str = "touched",
        box: tuple[Triple, Triple] | None = None,
        *,
        how: Way | MapRule | None = None,
    ) -> Tensor:
        """Coordinates that a strided convolution of `fine` writes; the way back is remembered for `finer`.

        Args:
            fine: (n, 4) int32.
            relation: geometry of the kernel.
            coverage: see `build.Strided`.
            box: first and last coarse cell to write, (x, y, z) each; no end if None.
            how: by which way the map is made that comes with the level; that of the cache if None.
        """
        token = self._token(fine)
        known = self._levels.get(LevelKey(token, relation, coverage, box))
        return self._made(fine, token, [Strided(relation, coverage, box)], how)[0] if known is None else known

    def coarser_all(self, fine: Tensor, chain: Sequence[Strided]) -> list[Tensor]:
        """`coarser` of `fine` (n, 4) int32, then of that level, and so on: levels not known yet at once."""
        made: list[Tensor] = []
        for step in chain:
            level = self._levels.get(LevelKey(self._token(fine), step.relation, step.coverage, step.box))
            if level is None:
                break
            made.append(level)
            fine = level
        rest = chain[len(made) :]
        return made + self._made(fine, self._token(fine), rest) if rest else made

    def _made(
        self, fine: Tensor, token: Token, chain: Sequence[Strided], how: Way | MapRule | None = None
    ) -> list[Tensor]:
        """The levels of a chain of which none is known."""
        refuse_tracing("a level")
        made: list[Tensor] = []
        with _kept(), NamesSizes(lambda: _level_sizes(fine, chain[0].relation)):
            levels = apart(self._first_levels, fine, token, chain, how)
            if len(levels) < len(chain):
                keys = levels[-1].keys if levels else self.sorted_keys(fine)
                levels += apart(strided_levels, keys, chain[len(levels) :])
        for step, found in zip(chain, levels, strict=True):
            key = LevelKey(token, step.relation, step.coverage, step.box)
            token = self._keep(key, found)
            self._finer[token, step.relation] = made[-1] if made else fine
            if found.kmap is not None:
                self._ready[MapKey(key.source, token, step.relation, None)] = found.kmap
            made.append(found.coords)
        return made

    def _first_levels(
        self, coords: Tensor, token: Token, chain: Sequence[Strided], how: Way | MapRule | None
    ) -> list[Level]:
        """Levels of a cloud whose keys nobody has asked for, which come with them; else an empty list."""
        made: list[Level] = []
        if token in self._sorted or not has_first(coords):
            return made
        by = self._way(how)

        def keys_of(coords: Tensor) -> SortedKeys:
            keys, levels = first_levels(coords, chain, by)
            made.extend(levels)
            return keys

        self._sorted[token] = self._claims.keys_of(coords, token, keys_of)
        return made

    def kernel_maps(self, asked: Sequence[tuple[Tensor, Tensor, Relation, tuple[int, ...] | None]]) -> None:
        """Build the maps that `kernel_map` is asked for with these arguments, in this order.

        Where maps are tables, they are searched at once, except for those that are part of a map that is
        there, and those that are searched with more offsets than asked for.

        Raises:
            RangeError: see `build.build_kernel_map`.
        """
        # a coordinate set is looked up once, and not with each of its maps
        sets = {id(coords): (coords, self._token(coords)) for one in asked for coords in one[:2]}
        keys = [
            MapKey(sets[id(fine)][1], sets[id(coarse)][1], relation, offsets)
            for fine, coarse, relation, offsets in asked
        ]
        with _kept(), NamesSizes(lambda: f"the {len(asked)} kernel maps of a network"):
            found = self._searched(asked, keys)
        for one, key in zip(asked, keys, strict=True):
            if key in found:
                self._maps[key] = found[key]
            elif key not in self._maps:
                self.kernel_map(*one, searched=key.offsets)

    def _searched(
        self,
        asked: Sequence[tuple[Tensor, Tensor, Relation, tuple[int, ...] | None]],
        keys: Sequence[MapKey],
    ) -> dict[MapKey, KernelMap]:
        """Those of `kernel_maps` that can be searched together."""
        wanted = {}
        for (fine, coarse, relation, offsets), key in zip(asked, keys, strict=True):
            have = key in self._maps or key in self._ready
            if have or (offsets is not None and self._wider(key) is not None):
                continue
            of_fine = self._sorted.get(key.fine) or self.sorted_keys(fine)
            of_coarse = self._sorted.get(key.coarse) or self.sorted_keys(coarse)
            one = to_search(of_fine, of_coarse, relation, offsets, same=fine is coarse, how=self.how)
            if one is not None:
                wanted[key] = one
        return dict(zip(wanted, search_all(list(wanted.values())), strict=True)) if wanted else {}

    def _keep(self, key: LevelKey, level: Level) -> Token:
        self._levels[key] = level.coords
        token = self._token(level.coords)
        self._sorted[token] = level.keys
        return token

    def finer(self, coarse: Tensor, relation: Relation) -> Tensor | None:
        """The coordinates from which `coarser(., relation)` made `coarse`, or None."""
        return self._finer.get((self._token(coarse), relation))

    def expanded(self, coarse: Tensor, relation: Relation) -> Tensor:
        """Coordinates that a generative transposed convolution of `coarse` writes."""
        key = LevelKey(self._token(coarse), relation, EXPANDED)
        if key not in self._levels:
            refuse_tracing("a level")
            with _kept(), NamesSizes(lambda: _level_sizes(coarse, relation)):
                level = apart(expanded_level, self.sorted_keys(coarse), relation)
            token = self._keep(key, level)
            if level.kmap is not None:
                self._ready[MapKey(token, key.source, relation, None)] = level.kmap
        return self._levels[key]
