"""What is asked of a cache of coordinates: keys of levels and maps, and all of them in their order."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from pcsparse.coords.build import Strided
from pcsparse.coords.relation import Relation
from pcsparse.types import Triple

if TYPE_CHECKING:
    from pcsparse.coords.cache import CoordCache

Token = int
"""Number of a coordinate set within one cache."""


@dataclass(frozen=True)
class MapKey:
    """Every field that shapes a map."""

    fine: Token
    coarse: Token
    relation: Relation
    offsets: tuple[int, ...] | None


@dataclass(frozen=True)
class LevelKey:
    """Every field that shapes the coordinates of a derived level."""

    source: Token
    relation: Relation
    coverage: str
    box: tuple[Triple, Triple] | None = None


EXPANDED = "expanded"
"""A coverage of its own, of levels that a transposed convolution makes."""


@dataclass(frozen=True)
class CachePlan:
    """What a network asks of a cache: the same of every cloud, whose coordinate sets have equal numbers.

    Attributes:
        levels: in the order in which they were made, each with the number of its coordinate set.
        maps: in the order in which they were made.
        corners: fine and coarse set and ratio of each `CornerMap`.
        n_sets: coordinate sets.
    """

    levels: tuple[tuple[LevelKey, Token], ...]
    maps: tuple[MapKey, ...]
    corners: tuple[tuple[Token, Token, Triple], ...]
    n_sets: int

    @property
    def given(self) -> tuple[Token, ...]:
        """Numbers of the coordinate sets that are no made levels."""
        made = {token for _, token in self.levels}
        return tuple(token for token in range(self.n_sets) if token not in made)

    def beginning_at(self, start: Token) -> "CachePlan":
        """What of it is made of one coordinate set alone, which is number 0 there."""
        number = {start: 0}
        levels = []
        for level, token in self.levels:
            if level.source in number:
                number[token] = len(number)
                levels.append((replace(level, source=number[level.source]), number[token]))
        maps = tuple(
            replace(key, fine=number[key.fine], coarse=number[key.coarse])
            for key in self.maps
            if key.fine in number and key.coarse in number
        )
        corners = tuple(
            (number[of], number[around], ratio)
            for of, around, ratio in self.corners
            if of in number and around in number
        )
        return CachePlan(tuple(levels), maps, corners, len(number))

    def fill(self, cache: "CoordCache", given: Mapping[Token, Tensor]) -> dict[Token, Tensor]:
        """Ask a cache for all of it.

        Where maps are tables, the levels of a chain of strided layers are launched one after another, and the
        host waits once for all their sizes; then all maps are searched with one launch. Not so, but one by
        one: levels of transposed layers, levels whose bounds are too wide for keys or for a grid of bits,
        maps of some offsets of a submanifold kernel that are not symmetric, and everything on a CPU.

        Args:
            cache: what it has already is not made again.
            given: the coordinates (n, 4) int32 that each number of `given` stands for.

        Returns:
            The coordinates of every number of the plan.
        """
        sets = self.fill_levels(cache, given)
        # what a wider map gave is in it already: wider ones were built before
        cache.kernel_maps(
            [(sets[key.fine], sets[key.coarse], key.relation, key.offsets) for key in self.maps]
        )
        for of, around, ratio in self.corners:
            cache.corner_map(sets[of], sets[around], ratio)
        return sets

    def fill_levels(self, cache: "CoordCache", given: Mapping[Token, Tensor]) -> dict[Token, Tensor]:
        """Ask a cache for the levels alone, arguments and result as of `fill`."""
        sets = dict(given)
        for chain in self._chains():
            source, tokens = chain[0][0].source, [token for _, token in chain]
            level = chain[0][0]
            if level.coverage == EXPANDED:
                made = [cache.expanded(sets[source], level.relation)]
            else:
                steps = [Strided(key.relation, key.coverage, key.box) for key, _ in chain]
                made = cache.coarser_all(sets[source], steps)
            sets.update(zip(tokens, made, strict=True))
        return sets

    def _chains(self) -> list[list[tuple[LevelKey, Token]]]:
        """The levels in their order, those together that strided layers make one of the other."""
        chains: list[list[tuple[LevelKey, Token]]] = []
        for level, token in self.levels:
            before = chains[-1][-1] if chains else None
            if (
                before is not None
                and before[1] == level.source
                and EXPANDED not in (before[0].coverage, level.coverage)
            ):
                chains[-1].append((level, token))
            else:
                chains.append([(level, token)])
        return chains
