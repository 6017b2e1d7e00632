"""What a device run comes to: geometric means of like cases, each beside what was to be reached."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pcsparse.bench.device.outcome import DeviceResult
from pcsparse.bench.tables import table

What = Literal["best peer / pcsparse", "torch.mm / pcsparse"]
PEER: What = "best peer / pcsparse"
PRODUCT: What = "torch.mm / pcsparse"
GOALS: Mapping[tuple[What, str, str | None], float] = {
    (PEER, "maps", "from coordinates"): 2.0,
    (PEER, "nets", None): 1.5,
    (PEER, "steps", None): 1.3,
    (PRODUCT, "dense", "C=256"): 0.6,
}
"""To be reached, by section and form; None for every form of a section."""
_ALL = "all"


@dataclass(frozen=True)
class Mean:
    """Of the cases of a section that are alike.

    Attributes:
        what: whose time over the package's.
        section: of the run.
        form: of the cases.
        precision: theirs, "all" for a mean over several, "" where numbers are ints.
        value: geometric mean; None where no case has a ratio.
        cases: with a ratio.
        without: cases without one, as no peer takes them or somebody was wrong.
        untimed: of those, the ones where the package has no time.
        goal: to be reached, if there is one.
        rehearsal: whether the times say nothing.
    """

    what: What
    section: str
    form: str
    precision: str
    value: float | None
    cases: int
    without: int
    untimed: int
    goal: float | None
    rehearsal: bool

    @property
    def name(self) -> str:
        """Of the cases."""
        return " ".join(part for part in (self.section, self.form, self.precision) if part)

    @property
    def verdict(self) -> str:
        """Whether the goal is reached: never where the package has no time in a case."""
        if self.goal is None:
            return ""
        if self.rehearsal:
            return "a rehearsal"
        if self.value is None:
            return "not known"
        return "short" if self.untimed or self.value < self.goal else "reached"


def summary(sections: Mapping[str, Sequence[DeviceResult]], *, rehearsal: bool = False) -> tuple[Mean, ...]:
    """Means by section, form and precision, and over all precisions of a form.

    Forms are never mixed: what a mean over recorded and eager networks says depends on how many there are.
    """
    return tuple(
        mean
        for section, results in sections.items()
        for form, alike in _by(results, lambda result: result.form).items()
        for precision, some in _by_precision(alike).items()
        for what in (PEER, PRODUCT)
        if (mean := _mean(what, section, form, precision, some, rehearsal)) is not None
    )


def means_lines(means: Sequence[Mean]) -> str:
    """A table with a row each."""
    columns = ("geometric means", "time of / time of", "cases", "mean", "goal", "")
    return table(columns, [_row(mean) for mean in means])


def _row(mean: Mean) -> tuple[str, ...]:
    verdict = mean.verdict + (f" ({mean.untimed} not timed)" if mean.untimed else "")
    return (
        mean.name,
        mean.what,
        f"{mean.cases} of {mean.cases + mean.without}",
        "-" if mean.value is None else f"{mean.value:.2f}",
        "-" if mean.goal is None else f"{mean.goal:g}",
        verdict.strip(),
    )


def _by(results: Iterable[DeviceResult], key: Callable[[DeviceResult], str]) -> dict[str, list[DeviceResult]]:
    found: dict[str, list[DeviceResult]] = {}
    for result in results:
        found.setdefault(key(result), []).append(result)
    return found


def _by_precision(results: Sequence[DeviceResult]) -> dict[str, list[DeviceResult]]:
    found = _by(results, lambda result: result.precision)
    return {**found, _ALL: list(results)} if len(found) > 1 else found


def _mean(
    what: What, section: str, form: str, precision: str, results: Sequence[DeviceResult], rehearsal: bool
) -> Mean | None:
    ratios = [ratio for result in results if (ratio := _ratio(what, result)) is not None]
    goal = GOALS.get((what, section, form), GOALS.get((what, section, None)))
    if not ratios and goal is None:
        return None
    value = math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else None
    untimed = sum(result.ours is None or result.ours.times is None for result in results)
    cases = len(ratios)
    return Mean(what, section, form, precision, value, cases, len(results) - cases, untimed, goal, rehearsal)


def _ratio(what: What, result: DeviceResult) -> float | None:
    return result.ratio if what == PEER else result.ratio_to_product
