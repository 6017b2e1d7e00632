"""Autotuner: for the layers of a network that share a map, the choices that a new cloud pays least for.

A choice costs what its pass takes, once a layer, and what it derives of the map (its transpose, an order of
rows, spans of tiles, places in a buffer), once a map, however many layers and passes read it. Both are
measured: the pass with everything there, what is derived made anew. A group's choices are the least sum.

Correct before fast: a choice that disagrees with the twin is never timed. What is timed is what runs: the
dataflow's own method with the config that the plan will name. Device-neutral. Nothing tunes by itself: who
trains on several devices tunes before, alone (docs/adr/0024-groups-are-tuned.md).

Source: TorchSparse++ (MICRO 2023, arXiv 2311.12862, utils/tune.py) for groups of layers that share a map;
requirements of its tuner and of WarpConvNet's.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from pcsparse.coords.kernel_map import KernelMap
from pcsparse.coords.watched_map import remade
from pcsparse.engine.assign import Option, cheapest
from pcsparse.engine.choice import DATAFLOWS, PASSES, Choice, Pass, choices
from pcsparse.engine.conv_call import ConvCall
from pcsparse.engine.dataflow import Dataflow
from pcsparse.engine.guard import Operands, Trial
from pcsparse.engine.tune_cache import Bucket, TuneTable
from pcsparse.engine.tuning import GroupTuning, Part, Tuning, Which
from pcsparse.errors import RangeError, UnsupportedError
from pcsparse.timing import Timing, time_in_turns

# after a glance, a choice that takes this much longer than another with all it derives is timed no more
_HOPELESS = 1.5
# the least gain, of the median and of the lower quartile; below it is noise, and the rule stays, and its bits
_WORTHWHILE = 1.05


def tune(
    calls: Sequence[ConvCall],
    *,
    passes: Sequence[Pass] = PASSES,
    runs: int = 10,
    dataflows: Mapping[str, Dataflow] = DATAFLOWS,
    most: int | None = None,
) -> GroupTuning:
    """Find the choices of a group of layers, on random features and weights.

    Each pass of each layer gets a choice of its own, but what is derived of a map is paid for once, by all
    passes that are tuned: choices for training may differ from those for inference. Tune for what will run.

    Args:
        calls: one of `groups_of`; or any layers, which are then tuned without a look at the others.
        passes: a step of training, or "forward" alone.
        runs: of each choice that is not hopeless.
        dataflows: where the choices come from; in the order of preference.
        most: choices of each dataflow for a pass, the rule's and some evenly among the others; all if None.

    Raises:
        RangeError: `passes` is empty, or `runs` or `most` below 1.
        UnsupportedError: every choice for a pass refuses, fails or disagrees with the twin; the text gives
            each reason.
    """
    if not passes or runs < 1:
        raise RangeError(f"need a pass and runs >= 1, got passes={tuple(passes)} and runs={runs}")
    if most is not None and most < 1:
        raise RangeError(f"at least one choice is to be tried, got most={most}")
    built = list({id(call.built): call.built for call in calls}.values())
    makers: dict[Part, Callable[[], object]] = {}
    members = [
        _Member.tried(bucket, of, of_bucket, [id(kmap) for kmap in built], dataflows, makers, most)
        for bucket, of_bucket in _by_bucket(calls).items()
        for of in passes
        if any(call.times(of) for call in of_bucket)
    ]
    derived = _seconds(makers, runs, calls)
    makers.clear()
    for member in members:
        member.search(derived, runs)
    race = _picked(members, derived)
    for member, best in zip(members, race, strict=True):
        # once more, few alone: the fastest of many has been lucky, too
        member.settle(best, 2 * runs)
    picked = _picked(members, derived)
    tunings = tuple(member.outcome(best) for member, best in zip(members, picked, strict=True))
    needed = frozenset[Part]().union(*(parts for t in tunings for parts in t.parts.values()))
    return GroupTuning(tuple(calls), tunings, {part: derived[part] for part in derived if part in needed})


def table_of(groups: Iterable[GroupTuning], device: torch.device | str, which: Which = "best") -> TuneTable:
    """What `plan_for` reads. Choices of a group belong together, so that the rule's are among them.

    Args:
        groups: tuned on `device`.
        device: of this machine.
        which: of the choices that were measured.

    Raises:
        DeviceError: torch sees no such device here.
    """
    entries = {(t.bucket, t.of): getattr(t, which) for group in groups for t in group.passes}
    return TuneTable.here(device, entries)


def _few(found: Sequence[Choice], most: int | None) -> Sequence[Choice]:
    """The first, and evenly some of the others."""
    if most is None or len(found) <= most:
        return found
    step = (len(found) - 1) / max(most - 1, 1)
    return [found[round(i * step)] for i in range(most)]


def _by_bucket(calls: Sequence[ConvCall]) -> dict[Bucket, list[ConvCall]]:
    found: dict[Bucket, list[ConvCall]] = {}
    for call in calls:
        found.setdefault(Bucket.of(call.problem), []).append(call)
    return found


def _seconds(
    makers: Mapping[Part, Callable[[], object]], runs: int, calls: Sequence[ConvCall]
) -> dict[Part, Timing]:
    """What it takes to make each part, with what it is made of there."""
    order = list(makers)
    device = calls[0].built.device if calls else "cpu"
    found = time_in_turns(
        {str(n): (lambda part=part: remade(makers[part])) for n, part in enumerate(order)},  # type: ignore[misc]
        runs=runs,
        warmup=1,
        device=device,
    )
    return {part: found[str(n)] for n, part in enumerate(order)}


def _picked(members: "Sequence[_Member]", derived: Mapping[Part, Timing]) -> list[Choice]:
    costs = {part: taken.median for part, taken in derived.items()}
    picks = cheapest([list(member.options().values()) for member in members], costs)
    return [list(member.options())[pick] for member, pick in zip(members, picks, strict=True)]


@dataclass(eq=False)
class _Member:
    """One pass of the layers of a bucket, while it is tuned."""

    bucket: Bucket
    of: Pass
    calls: list[ConvCall]
    dataflows: Mapping[str, Dataflow]
    rule: Choice
    trials: tuple[Trial, ...]
    parts: dict[Choice, frozenset[Part]]
    times: dict[Choice, Timing]

    @staticmethod
    def tried(
        bucket: Bucket,
        of: Pass,
        calls: Sequence[ConvCall],
        maps: Sequence[int],
        dataflows: Mapping[str, Dataflow],
        makers: dict[Part, Callable[[], object]],
        most: int | None,
    ) -> "_Member":
        """All choices of the dataflows, less those that are refused or wrong for one of the calls."""
        calls = [call for call in calls if call.times(of)]
        reasons = {
            name: [reason for call in calls if (reason := flow.refuses(call.problem)) is not None]
            for name, flow in dataflows.items()
        }
        able = [flow for name, flow in dataflows.items() if not reasons[name]]
        tried = [choice for flow in able for choice in _few(choices(flow, calls[0].problem, of), most)]
        trials: list[Trial] = []
        parts = {choice: frozenset[Part]() for choice in tried}
        for call in calls:
            number = maps.index(id(call.built))
            for trial, made in Operands.draw(call).tried(tried, of, dataflows):
                trials.append(trial)
                if trial.rejected is not None:
                    parts.pop(trial.choice, None)
                elif trial.choice in parts:
                    parts[trial.choice] |= {(number, derived) for derived in made}
                    makers.update(
                        {(number, d): make for d, make in made.items() if (number, d) not in makers}
                    )
                # not to live on while the next choice is tried
                made.clear()
        if not parts:
            said = [f"{name}: {given[0]}" for name, given in reasons.items() if given]
            said += [f"{trial.choice.encode()}: {trial.rejected}" for trial in trials if trial.rejected]
            raise UnsupportedError(f"nothing runs {of} of {calls[0].problem}: {'; '.join(said)}")
        return _Member(bucket, of, calls, dataflows, tried[0], tuple(trials), parts, {})

    def search(self, derived: Mapping[Part, Timing], runs: int) -> None:
        """Time all choices, those that cannot be in the least sum only at a glance."""
        glance = self._timed(list(self.parts), 2)
        # a layer can always take this choice and pay for all of its parts
        enough = min(
            taken.q1 + sum(derived[part].median for part in self.parts[choice])
            for choice, taken in glance.items()
        )
        near = [c for c, taken in glance.items() if taken.q1 <= _HOPELESS * enough or c == self.rule]
        self.times = self._timed(near, runs)

    def settle(self, best: Choice, runs: int) -> None:
        """Time three choices again: the rule's, the group's and the fastest by itself."""
        few = dict.fromkeys((self.rule, best, self._alone()))
        self.times = self._timed([choice for choice in few if choice in self.times], runs)

    def options(self) -> dict[Choice, Option[Part]]:
        """What can be taken, the rule first, at what it is judged to take."""
        order = sorted(self.times, key=lambda choice: choice != self.rule)
        return {choice: Option(self._judged(choice), self.parts[choice]) for choice in order}

    def outcome(self, best: Choice) -> Tuning:
        """With times of the settled choices."""
        parts = {choice: self.parts[choice] for choice in self.times}
        fixed = self.bucket, self.of, tuple(self.calls), self.rule, self._alone(), best
        return Tuning(*fixed, self.times, parts, self.trials)

    def _alone(self) -> Choice:
        return min(self.options(), key=self._judged)

    def _judged(self, choice: Choice) -> float:
        """Seconds; of a choice that is not the rule's, its worst quantile beside the rule's, and a margin."""
        new, old = self.times[choice], self.times.get(self.rule)
        if old is None or choice == self.rule:
            return new.median
        return old.median * max(new.median / old.median, new.q1 / old.q1) * _WORTHWHILE

    def _timed(self, which: Sequence[Choice], runs: int) -> dict[Choice, Timing]:
        sums = dict.fromkeys(which, Timing(0.0, 0.0, 0.0, runs))
        for call in self.calls:
            # a map of their own: what other choices derive is not to stay with the network's
            runners = self._runners(which, Operands.draw(call), call.built.bare())
            found = time_in_turns(runners, runs=runs, warmup=1, device=call.built.device)
            for choice in which:
                sums[choice] = _added(sums[choice], found[choice.encode()], call.times(self.of))
        return sums

    def _runners(
        self, which: Sequence[Choice], operands: Operands, built: KernelMap
    ) -> dict[str, Callable[[], object]]:
        return {c.encode(): (lambda c=c: operands.run(c, self.of, built, self.dataflows)) for c in which}  # type: ignore[misc]


def _added(timing: Timing, other: Timing, times: int) -> Timing:
    """Seconds of a timing and of another that runs `times` times."""
    return Timing(
        timing.median + times * other.median,
        timing.q1 + times * other.q1,
        timing.q3 + times * other.q3,
        timing.runs,
    )
