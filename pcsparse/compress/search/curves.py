"""Sensitivity curves: what the score loses when one step alone is made narrower."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pcsparse.compress.search.space import Space
from pcsparse.compress.search.task import Task
from pcsparse.errors import PcsparseError, RangeError, ShapeError


@dataclass(frozen=True)
class SensitivityCurves:
    """Scores of networks with one narrower step.

    Attributes:
        base: of the whole network.
        scores: a tuple a step, as long as its grid: the score when that step alone has that width, None where
            it was not measured. The full width may be None: it is the base.
    """

    base: float
    scores: tuple[tuple[float | None, ...], ...]

    def losses(self, space: Space) -> list[npt.NDArray[np.float64]]:
        """How much each width of each step loses, at least 0 and never less where a step is narrower.

        Between measured widths the line between them holds; below the narrowest measured one all of the base
        is lost, so that nothing is chosen there that was not looked at.

        Raises:
            ShapeError: not a score for each width of each step.
        """
        have = tuple(len(scores) for scores in self.scores)
        if have != space.sizes:
            raise ShapeError(f"curves of {have} widths for steps of {space.sizes}; scan this space")
        found = []
        for step, scores in zip(space.steps, self.scores, strict=True):
            known = [place for place, score in enumerate(scores[:-1]) if score is not None]
            at = [step.widths[place] for place in known]
            lost = [self.base - float(scores[place] or 0.0) for place in known]
            line = np.interp(step.widths, [*at, step.full], [*lost, 0.0], left=self.base)
            # from the full width downwards
            found.append(np.maximum.accumulate(np.maximum(line, 0.0)[::-1])[::-1])
        return found


def measure_curves(task: Task, *, reserve: int) -> SensitivityCurves:
    """Measure by probes, evenly spread over the grids, the narrowest width first.

    Args:
        task: to ask.
        reserve: evaluations to leave for the answer.

    Raises:
        RangeError: fewer evaluations than one a step, one for the whole network and the reserve.
        PcsparseError: the whole network has no score.
    """
    steps = task.space.steps
    each = (task.left - reserve - 1) // len(steps)
    if each < 1:
        raise RangeError(
            f"{task.left} evaluations cannot measure the curves of {len(steps)} steps: at least "
            f"{len(steps) + 1 + reserve} are needed; allow more or pass curves of a scan"
        )
    places = [_spread(size - 1, each) for size in task.space.sizes]
    probes = [task.space.largest]
    for i, (step, chosen) in enumerate(zip(steps, places, strict=True)):
        probes += [_with(task.space.largest, i, step.widths[place]) for place in chosen]
    whole, *narrow = task.ask(probes, probe=True)
    if whole.score is None:
        raise PcsparseError("the whole network has no finite score; mend evaluate before a search")
    scores = iter(trial.counted_score for trial in narrow)
    curves: list[tuple[float | None, ...]] = []
    for size, chosen in zip(task.space.sizes, places, strict=True):
        measured = {place: next(scores) for place in chosen}
        curves.append(tuple(measured.get(place) for place in range(size)))
    return SensitivityCurves(whole.score, tuple(curves))


def _spread(n: int, most: int) -> list[int]:
    """At most `most` of the numbers below n, 0 first."""
    return sorted({int(place) for place in np.linspace(0, n - 1, min(most, n)).round()})


def _with(widths: Sequence[int], step: int, width: int) -> tuple[int, ...]:
    return (*widths[:step], width, *widths[step + 1 :])
