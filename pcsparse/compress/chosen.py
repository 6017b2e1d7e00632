"""What a search chose, and what is known that explains it, step by step."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from pcsparse.compress.search.space import Assignment, Space
from pcsparse.compress.search.trials import SearchResult
from pcsparse.compress.sensitivity_table import SensitivityTable
from pcsparse.errors import FormatError
from pcsparse.whole_file import write_whole

_FORMAT = 1


@dataclass(frozen=True)
class ChosenStep:
    """A step of the space, and why it may have got what it got.

    Attributes:
        name: of the step.
        places: where its parts are in the network.
        full: what it has.
        kept: what it keeps.
        share: of the whole network's cost, the terms split evenly over the steps that they depend on.
        saves: cost that goes if this step alone is cut so, the others whole.
        loses: score that goes then, by the scan, between its points on a straight line; None without a scan.
    """

    name: str
    places: str
    full: int
    kept: int
    share: float
    saves: float
    loses: float | None


@dataclass(frozen=True)
class Choice:
    """The answer of a search.

    Attributes:
        method: that gave it.
        seed: of the search.
        note: what the method says of it.
        unit: of costs.
        budget: most cost.
        full_cost: of the whole network.
        cost: of what was chosen, by the table.
        score: of it while searching; right after pruning, nothing trained.
        dense_score: of the whole network, scored alike; None without a scan.
        evaluations: that the search called.
        scanned: evaluations of the scan before it.
        steps: in the order in which the network runs.
    """

    method: str
    seed: int
    note: str
    unit: str
    budget: float
    full_cost: float
    cost: float
    score: float
    dense_score: float | None
    evaluations: int
    scanned: int
    steps: tuple[ChosenStep, ...]

    @property
    def assignment(self) -> Assignment:
        """What each step keeps."""
        return tuple(step.kept for step in self.steps)

    def save(self, path: Path) -> None:
        """Write JSON, whole or not at all."""
        content = {"format": _FORMAT, **asdict(self)}
        write_whole(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            FormatError: no such file, or of another format.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("format") != _FORMAT:
                raise FormatError(f"{path} is of another format; this version reads {_FORMAT}: search anew")
            steps = tuple(ChosenStep(**step) for step in content.pop("steps"))
            return cls(steps=steps, **content)
        except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, FormatError):
                raise
            raise FormatError(f"{path} is no result of a search ({error}); search anew") from error


def choice_of(
    result: SearchResult,
    space: Space,
    scanned: SensitivityTable | None,
    places: Callable[[str], str],
) -> Choice:
    """The best of a search, explained.

    Args:
        result: of `search` over `space`.
        space: of steps.
        scanned: the sensitivity of each step alone, scored alike; None where there was no scan.
        places: of a step, by its name.
    """
    best = result.best
    steps = []
    for i, (step, kept) in enumerate(zip(space.steps, best.widths, strict=True)):
        alone = (*space.largest[:i], kept, *space.largest[i + 1 :])
        steps.append(
            ChosenStep(
                name=step.name,
                places=places(step.name),
                full=step.full,
                kept=kept,
                share=space.shares[i],
                saves=result.full_cost - space.cost(alone),
                loses=_loss(scanned, step.name, kept),
            )
        )
    return Choice(
        method=result.method,
        seed=result.seed,
        note=result.note,
        unit=result.unit,
        budget=result.budget,
        full_cost=result.full_cost,
        cost=best.cost,
        score=best.counted_score,
        dense_score=None if scanned is None else scanned.dense.metric,
        evaluations=result.evaluations,
        scanned=0 if scanned is None else 1 + len(scanned.points),
        steps=tuple(steps),
    )


def _loss(scanned: SensitivityTable | None, name: str, kept: int) -> float | None:
    """What the score falls by where this step alone keeps that; None where that is not known."""
    score = None if scanned is None else scanned.score_at(name, kept)
    return None if scanned is None or score is None else scanned.dense.metric - score
