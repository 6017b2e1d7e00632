"""The buffers that another form of a weight was made of, to see whether it still is one of theirs."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor


def _facts(buffers: Iterable[Tensor]) -> tuple[tuple[int, int], ...]:
    # tensors of inference mode count no versions
    return tuple((0 if each.is_inference() else each._version, each.data_ptr()) for each in buffers)


@dataclass(frozen=True, eq=False)
class SeenBuffers:
    """Buffers as they once were.

    Attributes:
        facts: version and address of each.
        held: their memory, so that no other tensor is given it.
    """

    facts: tuple[tuple[int, int], ...]
    held: tuple[Tensor, ...]

    @staticmethod
    def of(buffers: list[Tensor]) -> "SeenBuffers":
        """As they are now."""
        return SeenBuffers(_facts(buffers), tuple(each.detach() for each in buffers))

    def are(self, buffers: Iterable[Tensor]) -> bool:
        """Whether nobody changed them in place, in ways that torch counts, or put others in their stead."""
        return self.facts == _facts(buffers)
