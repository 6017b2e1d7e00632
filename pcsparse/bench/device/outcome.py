"""What became of a case: candidates checked one by one, then the right ones timed in turns."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from pcsparse.bench.device.clock import Times, time_candidates
from pcsparse.bench.verify import Check
from pcsparse.errors import PcsparseError

OURS = "pcsparse"
PRODUCT = "torch.mm of the same shape"
"""A dense product beside a layer: a reference, and no peer."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way to do a case.

    Attributes:
        name: of the library.
        run: one run; None where it cannot.
        checks: against the twin.
        refusal: why it cannot run, where it cannot.
        reference: whether it is only there to compare with, as a dense product is, and is no peer.
        crashed: whether the refusal is a surprise, and not one of the package's own errors.
        work: what it does beyond what all do; a ratio is of candidates whose work is the same.
    """

    name: str
    run: Callable[[], object] | None
    checks: tuple[Check, ...] = ()
    refusal: str | None = None
    reference: bool = False
    crashed: bool = False
    work: str = ""


@dataclass(frozen=True)
class DeviceOutcome:
    """A candidate's checks, and its times if they passed."""

    name: str
    checks: tuple[Check, ...]
    times: Times | None
    refusal: str | None = None
    reference: bool = False
    crashed: bool = False
    work: str = ""

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)

    def ours_is_broken(self, *, rehearsal: bool) -> bool:
        """Whether the package, by whichever way, is wrong or crashed, or its own choice could not run.

        Args:
            rehearsal: on a CPU, which refuses what only a GPU can do.
        """
        if not self.name.startswith(OURS):
            return False
        refused = self.name == OURS and self.refusal is not None and not rehearsal
        return bool(self.failed) or self.crashed or refused


@dataclass(frozen=True)
class DeviceResult:
    """One case.

    Attributes:
        case: its name.
        precision: name of it; "" where numbers are ints.
        outcomes: the package first.
        operations: useful ones: two a product of a pair and a pair of channels; 0 where none are counted.
        note: what else a reader must know.
        form: of the cases of a section that one mean may be taken of.
        judged: which of the package's candidates is held against its goal.
    """

    case: str
    precision: str
    outcomes: tuple[DeviceOutcome, ...]
    operations: float = 0.0
    note: str = ""
    form: str = ""
    judged: str = OURS

    @property
    def ours(self) -> DeviceOutcome | None:
        """The package's outcome, the judged one."""
        return next((outcome for outcome in self.outcomes if outcome.name == self.judged), None)

    def ratio_of(self, ours: DeviceOutcome | None) -> float | None:
        """How many times as long the fastest right peer takes for the same work; None where there is none."""
        if ours is None or ours.times is None:
            return None
        peers = [
            other.times.best.median
            for other in self.outcomes
            if not other.name.startswith(OURS)
            and not other.reference
            and other.times is not None
            and other.work == ours.work
        ]
        return min(peers) / ours.times.best.median if peers else None

    @property
    def ratio(self) -> float | None:
        """`ratio_of` the judged outcome."""
        return self.ratio_of(self.ours)

    @property
    def ratio_to_product(self) -> float | None:
        """The time of a dense product of the same shape over the package's; None without either."""
        product = next((o.times for o in self.outcomes if o.name == PRODUCT and o.times is not None), None)
        if product is None or self.ours is None or self.ours.times is None:
            return None
        return product.best.median / self.ours.times.best.median


def attempt(name: str, make: Callable[[], Candidate]) -> Candidate:
    """A candidate, or why it could not be made or run; the traceback of a surprise goes to stderr."""
    try:
        return make()
    except PcsparseError as error:
        return Candidate(name, None, refusal=str(error))
    # a peer may raise anything, and the other candidates go on
    except Exception as error:
        traceback.print_exc()
        refusal = f"{type(error).__name__}: {error}".partition("\n")[0]
        return Candidate(name, None, refusal=refusal, crashed=True)


def verified_then_timed(
    case: str,
    precision: str,
    candidates: Sequence[Candidate],
    device: torch.device,
    *,
    operations: float = 0.0,
    runs: int,
    seconds: float,
    events: bool,
    note: str = "",
    form: str = "",
    judged: str = OURS,
    calls: int = 1,
) -> DeviceResult:
    """Time in turns every candidate that ran and whose checks all passed; `calls` as in `time_candidates`."""
    right = {
        candidate.name: candidate.run
        for candidate in candidates
        if candidate.run is not None and all(check.passed for check in candidate.checks)
    }
    times = time_candidates(right, device, runs=runs, seconds=seconds, events=events, calls=calls)
    outcomes = tuple(
        DeviceOutcome(c.name, c.checks, times.get(c.name), c.refusal, c.reference, c.crashed, c.work)
        for c in candidates
    )
    return DeviceResult(case, precision, outcomes, operations, note, form, judged)
