"""ConvCall: a convolution that a network runs on a cloud; and which of them are tuned together."""

from collections.abc import Sequence
from dataclasses import dataclass

from pcsparse.coords.kernel_map import KernelMap
from pcsparse.engine.choice import Pass
from pcsparse.engine.problem import ConvProblem
from pcsparse.engine.tune_cache import Bucket


@dataclass(frozen=True, eq=False)
class ConvCall:
    """The convolutions of a network that are one problem on one map.

    Attributes:
        names: of the modules that run it, in the order of their calls; more than once for a grouped layer,
            which runs a convolution for each bundle of groups.
        problem: sizes.
        built: the map that the network has built for it.
        turned: whether they go over the transpose of `built`.
        first: how many of them read the cloud's own features, and these want no gradient, so that nobody asks
            for their grad_feats.
    """

    names: tuple[str, ...]
    problem: ConvProblem
    built: KernelMap
    turned: bool = False
    first: int = 0

    @property
    def kmap(self) -> KernelMap:
        """The map that they go over."""
        return self.built.transposed() if self.turned else self.built

    def times(self, of: Pass) -> int:
        """How often a step runs this pass."""
        return len(self.names) - (self.first if of == "grad_feats" else 0)


def groups_of(calls: Sequence[ConvCall]) -> tuple[tuple[ConvCall, ...], ...]:
    """The calls that must be tuned together, each group in the order of its calls.

    Calls on one map share what is derived from it. Calls of one bucket share their choices; where these lie
    on several maps, the layers of all of them are one group.
    """
    # marks that join calls, and the numbers of the calls that they have joined
    groups: list[tuple[set[object], list[int]]] = []
    for number, call in enumerate(calls):
        marks: set[object] = {id(call.built), Bucket.of(call.problem)}
        members = [number]
        for group in [group for group in groups if group[0] & marks]:
            groups.remove(group)
            marks, members = marks | group[0], group[1] + members
        groups.append((marks, sorted(members)))
    return tuple(tuple(calls[n] for n in members) for members in sorted(members for _, members in groups))
