"""The cheapest choices of a group: what each takes, and what they share, which is paid once.

An assignment of options with shared parts is a small facility location problem, solved by branch and bound:
exactly, but for a group of so many alike choices that the search is cut off, which then has the best so far.
Groups of a network have some 30 layers and passes, and some 30 parts.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Part = TypeVar("Part", bound=Hashable)

# some seconds; made-up groups of 30 layers and 26 forms took 1,000 at most, networks a few
_MOST_VISITS = 2000
# of handing out costs; more of them tighten the bound little
_ROUNDS = 3


@dataclass(frozen=True)
class Option(Generic[Part]):
    """One way to run a member of a group.

    Attributes:
        seconds: that it takes, with its parts there.
        parts: what it needs.
    """

    seconds: float
    parts: frozenset[Part]


def total(
    options: Sequence[Sequence[Option[Part]]], picks: Sequence[int], costs: Mapping[Part, float]
) -> float:
    """Seconds of all picked options and of their parts, each part once."""
    picked = [given[pick] for given, pick in zip(options, picks, strict=True)]
    parts = frozenset[Part]().union(*(option.parts for option in picked))
    return sum(option.seconds for option in picked) + sum(costs[part] for part in parts)


def cheapest(options: Sequence[Sequence[Option[Part]]], costs: Mapping[Part, float]) -> tuple[int, ...]:
    """An option of each member so that `total` is least; the first ones where nothing is cheaper.

    Args:
        options: of each member, at least one.
        costs: seconds of every part, not negative.
    """
    search = _Search(options, costs)
    search.below(frozenset(), frozenset())
    return search.best


class _Search(Generic[Part]):
    """Decides part by part whether it is paid."""

    def __init__(self, options: Sequence[Sequence[Option[Part]]], costs: Mapping[Part, float]) -> None:
        self._options, self._costs = options, costs
        self._useful = [_undominated(given) for given in options]
        self.best = tuple(0 for _ in options)
        self._least = total(options, self.best, costs)
        self.visited = 0

    def below(self, paid: frozenset[Part], banned: frozenset[Part]) -> None:
        """Look at all choices that may use `paid` freely and use none of `banned`."""
        self.visited += 1
        allowed = [
            [n for n in useful if not given[n].parts & banned]
            for given, useful in zip(self._options, self._useful, strict=True)
        ]
        if self.visited > _MOST_VISITS or not all(allowed):
            return
        found = [
            [(given[n].seconds, given[n].parts - paid) for n in numbers]
            for given, numbers in zip(self._options, allowed, strict=True)
        ]
        bound, picked = _bound(found, self._costs)
        # one that differs by rounding alone promises nothing
        if bound + sum(self._costs[part] for part in paid) >= self._least * (1 - 1e-12):
            return
        picks = tuple(numbers[pick] for numbers, pick in zip(allowed, picked, strict=True))
        reached = total(self._options, picks, self._costs)
        if reached < self._least:
            self.best, self._least = picks, reached
        used = frozenset[Part]().union(*(some[pick][1] for some, pick in zip(found, picked, strict=True)))
        undecided = sorted(used, key=lambda part: (-self._costs[part], str(part)))
        if undecided:
            self.below(paid | {undecided[0]}, banned)
            self.below(paid, banned | {undecided[0]})


def _bound(
    options: Sequence[Sequence[tuple[float, frozenset[Part]]]], costs: Mapping[Part, float]
) -> tuple[float, list[int]]:
    """Seconds that no choice can be below, and an option of each member that is cheapest by that count.

    Each part's cost is handed out to the members, never more than there is of it: a member pays its share
    where it uses the part. Handed out where it makes a member's cheapest option dearer (dual ascent, as for
    facility location).
    """
    left = {part: costs[part] for given in options for _, parts in given for part in parts}
    values = [[seconds for seconds, _ in given] for given in options]
    for _ in range(_ROUNDS):
        for given, value in zip(options, values, strict=True):
            least = min(value)
            target = min((v for v in value if v > least), default=float("inf"))
            for n, (_, parts) in enumerate(given):
                for part in sorted(parts, key=lambda part: (-left[part], str(part))):
                    share = min(target - value[n], left[part])
                    if share <= 0.0:
                        break
                    left[part] -= share
                    for other, (_, theirs) in enumerate(given):
                        value[other] += share if part in theirs else 0.0
    return sum(min(value) for value in values), [value.index(min(value)) for value in values]


def _undominated(given: Sequence[Option[Part]]) -> list[int]:
    """Numbers of the options that no other beats with fewer parts."""
    kept: list[int] = []
    for n in sorted(range(len(given)), key=lambda n: (given[n].seconds, len(given[n].parts), n)):
        if not any(given[k].parts <= given[n].parts for k in kept):
            kept.append(n)
    return sorted(kept)
