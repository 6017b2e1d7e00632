"""What a search did: every rollout, the best of them, and the front of cost and score."""

from dataclasses import dataclass

from pcsparse.compress.search.space import Assignment
from pcsparse.errors import PcsparseError

WORST_SCORE = 0.0
"""What an evaluation that failed counts as."""


@dataclass(frozen=True)
class Trial:
    """One rollout.

    Attributes:
        index: from 0, in the order of asking.
        widths: one a step.
        cost: in the unit of the space.
        score: what `evaluate` returned, 0 to 1, higher is better; None where it was not finite.
        reward: what the method makes of it, higher is better.
        seconds: of the evaluation; 0 where the same widths had been evaluated before.
        probe: one step alone made narrow, to learn what it does: above the budget as a rule, never the best.
        cached: answered without an evaluation.
    """

    index: int
    widths: Assignment
    cost: float
    score: float | None
    reward: float
    seconds: float
    probe: bool = False
    cached: bool = False

    @property
    def counted_score(self) -> float:
        """The score, the worst where the evaluation failed."""
        return WORST_SCORE if self.score is None else self.score


@dataclass(frozen=True)
class SearchResult:
    """All rollouts of one search.

    Attributes:
        method: its name.
        seed: of the search.
        budget: in `unit`.
        full_cost: of the whole network.
        unit: of costs.
        trials: in the order of asking.
        note: what the method says of its answer, for example whether it is exact for what it knew.
    """

    method: str
    seed: int
    budget: float
    full_cost: float
    unit: str
    trials: tuple[Trial, ...]
    note: str = ""

    @property
    def best(self) -> Trial:
        """The highest reward within the budget; of equal ones the cheapest, then the first.

        Raises:
            PcsparseError: nothing within the budget was evaluated without failing.
        """
        able = [trial for trial in self.trials if trial.score is not None and not trial.probe]
        if not able:
            raise PcsparseError(
                f"none of {len(self.trials)} evaluations of {self.method} within the budget returned a "
                "score; look at the log for where the first one failed"
            )
        return max(able, key=lambda trial: (trial.reward, -trial.cost, -trial.index))

    @property
    def evaluations(self) -> int:
        """How many rollouts called `evaluate`."""
        return sum(not trial.cached for trial in self.trials)

    def pareto(self) -> tuple[Trial, ...]:
        """Trials that no other beats in cost and score both, by ascending cost; probes may be among them."""
        able = [trial for trial in self.trials if trial.score is not None]
        able.sort(key=lambda trial: (trial.cost, -trial.counted_score, trial.index))
        front: list[Trial] = []
        for trial in able:
            if not front or trial.counted_score > front[-1].counted_score:
                front.append(trial)
        return tuple(front)
