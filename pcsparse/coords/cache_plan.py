"""What is asked of a cache of coordinates: keys of levels and maps, and all of them in their order."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

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

    def fill(self, cache: "CoordCache", given: Mapping[Token, Tensor]) -> dict[Token, Tensor]:
        """Ask a cache for all of it.

        Args:
            cache: what it has already is not made again.
            given: the coordinates (n, 4) int32 that each number of `given` stands for.

        Returns:
            The coordinates of every number of the plan.
        """
        sets = dict(given)
        for level, token in self.levels:
            source = sets[level.source]
            if level.coverage == EXPANDED:
                sets[token] = cache.expanded(source, level.relation)
            else:
                sets[token] = cache.coarser(source, level.relation, level.coverage, level.box)
        for key in self.maps:
            # what a wider map gave is in it already: wider ones were built before
            cache.kernel_map(
                sets[key.fine], sets[key.coarse], key.relation, key.offsets, searched=key.offsets
            )
        for of, around, ratio in self.corners:
            cache.corner_map(sets[of], sets[around], ratio)
        return sets
