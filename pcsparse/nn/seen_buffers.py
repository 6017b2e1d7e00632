"""The buffers that another form of a weight was made of, to see whether it still is one of theirs."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from pcsparse.coords.map_header import edits


def _facts(buffers: Sequence[Tensor]) -> tuple[int, ...]:
    return edits(buffers), *[each.data_ptr() for each in buffers]


@dataclass(frozen=True, eq=False)
class SeenBuffers:
    """Buffers as they once were.

    Attributes:
        facts: how often they were changed, and the address of each.
        held: their memory, so that no other tensor is given it.
    """

    facts: tuple[int, ...]
    held: tuple[Tensor, ...]

    @staticmethod
    def of(buffers: Sequence[Tensor]) -> "SeenBuffers":
        """As they are now."""
        return SeenBuffers(_facts(buffers), tuple(each.detach() for each in buffers))

    def are(self, buffers: Sequence[Tensor]) -> bool:
        """Whether nobody changed them in place, in ways that torch counts, or put others in their stead."""
        return self.facts == _facts(buffers)
