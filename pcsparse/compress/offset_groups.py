"""Convolutions whose kernel offsets are chosen together, and which of their offsets go together."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pcsparse.coords.relation import Relation
from pcsparse.errors import RangeError

Offsets = tuple[int, ...]
"""Positions in the whole kernel, ascending; `coords.relation` has their order."""


@dataclass(frozen=True)
class Reader:
    """A convolution that reads a map.

    Attributes:
        name: of the module.
        offsets: that it has.
        c_in: channels that each of its outputs reads.
        c_out: channels that it writes.
        calls: how often a run calls it.
    """

    name: str
    offsets: Offsets
    c_in: int
    c_out: int
    calls: int = 1

    @property
    def weights(self) -> int:
        """Weights of each offset."""
        return self.c_in * self.c_out

    @property
    def pair_macs(self) -> int:
        """Multiply-adds a pair."""
        return self.weights * self.calls


@dataclass(frozen=True)
class OffsetGroup:
    """Convolutions that keep the same kernel offsets: all readers of a map, or one of them.

    Attributes:
        name: of its first reader.
        map_name: of the first of all readers of the map.
        relation: geometry of the kernel.
        readers: in the order of execution.
        mirrored: whether the map is its own mirror image, so that an offset goes with its opposite.
        offsets: that at least one reader has.
        pairs: of each of `offsets`, means over the sweeps.
        n_out: rows of the coarse level, mean.
    """

    name: str
    map_name: str
    relation: Relation
    readers: tuple[Reader, ...]
    mirrored: bool
    offsets: Offsets
    pairs: tuple[float, ...]
    n_out: float

    @property
    def centre(self) -> int | None:
        """The offset of a mirrored map that leads each row to itself; it is never dropped."""
        middle = self.relation.volume // 2
        return middle if self.mirrored and middle in self.offsets else None

    @property
    def units(self) -> tuple[Offsets, ...]:
        """Offsets that only go together, ascending, without the centre."""
        if not self.mirrored:
            return tuple((k,) for k in self.offsets)
        last = self.relation.volume - 1
        pairs = {min(k, last - k): tuple(sorted({k, last - k} & set(self.offsets))) for k in self.offsets}
        return tuple(pairs[k] for k in sorted(pairs) if pairs[k] != (self.centre,))

    @property
    def free(self) -> bool:
        """Whether a share of all groups counts for it: whether it keeps the stride.

        Where a kernel changes the stride, each row of the fine level may have one pair only: without it a
        voxel is not read on the way down, and gets nothing but the bias on the way up.
        """
        return self.relation.stride == (1, 1, 1)

    def pairs_of(self, offsets: Iterable[int]) -> float:
        """Pairs of some offsets, mean over the sweeps."""
        wanted = set(offsets)
        return sum(n for k, n in zip(self.offsets, self.pairs, strict=True) if k in wanted)

    def checked(self, chosen: Sequence[int]) -> Offsets:
        """A choice as a tuple.

        Raises:
            RangeError: offsets that it does not have or that do not ascend, none, without the centre, or one
                without its opposite.
        """
        kept = tuple(chosen)
        if not kept or list(kept) != sorted(set(kept)) or not set(kept) <= set(self.offsets):
            raise RangeError(
                f"the offsets of {self.name!r} must ascend, each one of {self.offsets}; got {kept}"
            )
        if self.centre is not None and self.centre not in kept:
            raise RangeError(
                f"offset {self.centre} of {self.name!r} is its centre, where every row meets itself: it "
                f"must stay, got {kept}"
            )
        for unit in self.units:
            if 0 < len(set(unit) & set(kept)) < len(unit):
                raise RangeError(
                    f"offsets {unit} of {self.name!r} mirror each other: keep both or none, got {kept}"
                )
        return kept
