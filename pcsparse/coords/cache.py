"""CoordCache: coordinates and maps that the layers of a network share.

A map is found by every field that shapes it: both coordinate sets, by identity and version, and the relation.
So two clouds of equal size never share a map by accident, and an in-place edit of coordinates is noticed.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pcsparse.coords.kernel_map import KernelMap, SortedKeys, build_kernel_map, expanded_keys, strided_keys
from pcsparse.coords.keys import unpack
from pcsparse.coords.relation import Relation

Token = tuple[int, int]
"""Identity and version of a coordinate tensor."""


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


@dataclass(eq=False)
class CoordCache:
    """Shared by a tensor and all tensors computed from it; not shared between clouds."""

    _sorted: dict[Token, SortedKeys] = field(default_factory=dict)
    _maps: dict[MapKey, KernelMap] = field(default_factory=dict)
    _levels: dict[LevelKey, Tensor] = field(default_factory=dict)
    _finer: dict[tuple[Token, Relation], Tensor] = field(default_factory=dict)
    # a token holds an id, which is only unique while the tensor lives
    _alive: dict[Token, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of maps."""
        return len(self._maps)

    def maps(self) -> dict[MapKey, KernelMap]:
        """A copy of the table of maps, to look at."""
        return dict(self._maps)

    def _token(self, coords: Tensor) -> Token:
        token = (id(coords), coords._version)
        self._alive[token] = coords
        return token

    def sorted_keys(self, coords: Tensor) -> SortedKeys:
        """The sorted keys of `coords` (n, 4) int32.

        Raises:
            RangeError: a coordinate leaves the range of a key, or two rows are equal.
        """
        token = self._token(coords)
        if token not in self._sorted:
            self._sorted[token] = SortedKeys.of(coords)
        return self._sorted[token]

    def kernel_map(
        self, fine: Tensor, coarse: Tensor, relation: Relation, offsets: tuple[int, ...] | None = None
    ) -> KernelMap:
        """The map of a convolution from `fine` to `coarse`, both (n, 4) int32; built once.

        Args:
            fine: coordinates of the inputs.
            coarse: coordinates of the outputs.
            relation: geometry of the kernel.
            offsets: positions of the kernel offsets to keep; all if None.
        """
        key = MapKey(self._token(fine), self._token(coarse), relation, offsets)
        if key not in self._maps:
            if offsets is not None:
                mask = torch.zeros(relation.volume, dtype=torch.bool)
                mask[list(offsets)] = True
                kmap = self.kernel_map(fine, coarse, relation).keep_offsets(mask)
            else:
                same = fine is coarse
                fine_keys = self.sorted_keys(fine)
                coarse_keys = fine_keys if same else self.sorted_keys(coarse)
                kmap = build_kernel_map(fine_keys, coarse_keys, relation, same_coords=same)
            self._maps[key] = kmap
        return self._maps[key]

    def coarser(self, fine: Tensor, relation: Relation, coverage: str = "touched") -> Tensor:
        """Coordinates that a strided convolution of `fine` writes; the way back is remembered for `finer`."""
        key = LevelKey(self._token(fine), relation, coverage)
        if key not in self._levels:
            keys = strided_keys(self.sorted_keys(fine).keys, relation, coverage)
            coarse = unpack(keys)
            self._levels[key] = coarse
            token = self._token(coarse)
            self._sorted[token] = SortedKeys(keys, None)
            self._finer[token, relation] = fine
        return self._levels[key]

    def finer(self, coarse: Tensor, relation: Relation) -> Tensor | None:
        """The coordinates from which `coarser(., relation)` made `coarse`, or None."""
        return self._finer.get((self._token(coarse), relation))

    def expanded(self, coarse: Tensor, relation: Relation) -> Tensor:
        """Coordinates that a generative transposed convolution of `coarse` writes."""
        key = LevelKey(self._token(coarse), relation, "expanded")
        if key not in self._levels:
            keys = expanded_keys(self.sorted_keys(coarse).keys, relation)
            self._levels[key] = unpack(keys)
            self._sorted[self._token(self._levels[key])] = SortedKeys(keys, None)
        return self._levels[key]
