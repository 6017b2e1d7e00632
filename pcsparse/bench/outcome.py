"""What became of the candidates of a case: checked one by one, then the right ones timed in turns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pcsparse.bench.cases import Goal
from pcsparse.bench.limits import REFERENCE_LIMITS, Limits, Work, floor_of
from pcsparse.bench.verify import Check
from pcsparse.timing import Timing, time_in_turns


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way to do a case.

    Attributes:
        name: of the library.
        run: one run; None where it cannot.
        checks: against the twin.
        refusal: why it cannot run, where it cannot.
    """

    name: str
    run: Callable[[], object] | None
    checks: tuple[Check, ...] = ()
    refusal: str | None = None


@dataclass(frozen=True)
class Outcome:
    """A candidate's checks, and its time if they passed.

    Attributes:
        name: of the library.
        checks: against the twin.
        time: seconds; None where a check failed or it refuses.
        refusal: why it did not run.
    """

    name: str
    checks: tuple[Check, ...]
    time: Timing | None
    refusal: str | None = None

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)


@dataclass(frozen=True)
class Result:
    """One case.

    Attributes:
        case: its name.
        ours: the package.
        peers: the others; none is timed where the package itself is wrong.
        works: what cannot be done without, one piece after the other; empty where no floor is known.
        goal: seconds to reach on the reference sweep, if there is one.
        scaled_goal: the same for the work of this cloud.
    """

    case: str
    ours: Outcome
    peers: tuple[Outcome, ...] = ()
    works: tuple[Work, ...] = ()
    goal: float | None = None
    scaled_goal: float | None = None

    @property
    def passed(self) -> bool:
        """Whether the package agreed with the twin."""
        return not self.ours.failed

    def peer(self, name: str) -> Outcome | None:
        """The outcome of one peer."""
        return next((peer for peer in self.peers if peer.name == name), None)

    def goal_at(self, limits: Limits) -> float | None:
        """The scaled goal, grown as the floor does from `REFERENCE_LIMITS` to `limits`; None without either.

        Harsher than `scaled_goal` on a machine faster than the one where goals were set, milder on a slower.
        """
        there = floor_of(self.works, REFERENCE_LIMITS)
        if self.scaled_goal is None or not there:
            return None
        return self.scaled_goal * floor_of(self.works, limits) / there


def verified_then_timed(
    case: str,
    candidates: Sequence[Candidate],
    works: tuple[Work, ...],
    runs: int,
    goal: tuple[Goal, float] | None = None,
    *,
    settle: int = 0,
) -> Result:
    """Time in turns every candidate whose checks all passed.

    Args:
        case: its name.
        candidates: ours first.
        works: see `Result`.
        runs: of each candidate.
        goal: and the amount of work of this cloud.
        settle: untimed runs of the same candidate right before each timed one.
    """
    ours = candidates[0]
    right = {
        candidate.name: candidate.run
        for candidate in candidates
        if candidate.run is not None and all(check.passed for check in candidate.checks)
    }
    timings = time_in_turns(right, runs=runs, settle=settle) if ours.name in right else {}
    outcomes = [
        Outcome(candidate.name, candidate.checks, timings.get(candidate.name), candidate.refusal)
        for candidate in candidates
    ]
    seconds, scaled = (None, None) if goal is None else (goal[0].seconds, goal[0].scaled(goal[1]))
    return Result(case, outcomes[0], tuple(outcomes[1:]), works, seconds, scaled)
