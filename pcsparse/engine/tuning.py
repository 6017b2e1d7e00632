"""What a tuning of a group of layers has found: choices, their times, and what is paid once a map."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pcsparse.coords.watched_map import Derived
from pcsparse.engine.choice import PASSES, Choice, Pass
from pcsparse.engine.conv_call import ConvCall
from pcsparse.engine.guard import Trial
from pcsparse.engine.tune_cache import Bucket
from pcsparse.timing import Timing

Part = tuple[int, Derived]
"""The number of a map in its group, and what is made of it."""
Which = Literal["rule", "alone", "best"]


@dataclass(frozen=True)
class Tuning:
    """The outcome for one pass of the layers of a group that are one problem.

    Attributes:
        bucket: what they share.
        of: the pass.
        calls: the layers; on several maps where these are alike.
        rule: what `plan_for` takes without a table.
        alone: the fastest once everything is derived, or the rule where nothing is faster by more than noise:
            what a tuner would take that looks at one layer only.
        best: what it takes for the least sum over the group.
        times: of these choices, in turns, after the search: seconds of all layers together, with everything
            derived. The rule is missing if it disagreed with the twin.
        parts: what each of these choices derives of the group's maps.
        trials: every choice, also the rejected ones, of each call.
    """

    bucket: Bucket
    of: Pass
    calls: tuple[ConvCall, ...]
    rule: Choice
    alone: Choice
    best: Choice
    times: Mapping[Choice, Timing]
    parts: Mapping[Choice, frozenset[Part]]
    trials: tuple[Trial, ...]

    @property
    def layers(self) -> int:
        """How many convolutions of the network these are."""
        return sum(call.times(self.of) for call in self.calls)


@dataclass(frozen=True)
class Cost:
    """Seconds of a new cloud: of all layers of a group, and of what they derive of its maps."""

    layers: float
    derived: float

    @property
    def total(self) -> float:
        """Both."""
        return self.layers + self.derived


@dataclass(frozen=True)
class GroupTuning:
    """The outcome for layers that share what is derived of their maps.

    Attributes:
        calls: the layers.
        passes: one for each bucket and pass.
        derived: what it takes to make each part that one of the choices derives, once.
    """

    calls: tuple[ConvCall, ...]
    passes: tuple[Tuning, ...]
    derived: Mapping[Part, Timing]

    def parts(self, which: Which, of: Sequence[Pass] = PASSES) -> frozenset[Part]:
        """What the choices derive, all of them together."""
        picked = (t.parts[getattr(t, which)] for t in self.passes if t.of in of)
        return frozenset[Part]().union(*picked)

    def cost(self, which: Which, of: Sequence[Pass] = PASSES) -> Cost | None:
        """What choices cost: medians, each part once; None for the rule where it is wrong."""
        tunings = [tuning for tuning in self.passes if tuning.of in of]
        if any(getattr(tuning, which) not in tuning.times for tuning in tunings):
            return None
        layers = sum(tuning.times[getattr(tuning, which)].median for tuning in tunings)
        return Cost(layers, sum(self.derived[part].median for part in self.parts(which, of)))

    @property
    def gain(self) -> float:
        """How many times faster than the rule a new cloud is; 1 if there is no comparison."""
        rule, best = self.cost("rule"), self.cost("best")
        return 1.0 if rule is None or best is None or not best.total else rule.total / best.total
