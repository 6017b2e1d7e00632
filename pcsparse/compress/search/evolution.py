"""Regularised evolution: children of the best of a few, the oldest die."""

from collections import deque
from dataclasses import dataclass
from itertools import islice

import numpy as np

from pcsparse.compress.search.budget import to_budget
from pcsparse.compress.search.random_search import MOST_DRAWS, draws
from pcsparse.compress.search.space import Assignment
from pcsparse.compress.search.task import Method, Task
from pcsparse.compress.search.trials import Trial
from pcsparse.compress.search.uniform import uniform_widths
from pcsparse.errors import RangeError

_FARTHEST = 2
"""Places that a step moves by in one mutation."""


@dataclass(frozen=True)
class Evolution(Method):
    """Mutation at the budget: what one step gains others give.

    A child moves one or a few steps of its parent and is brought back to the budget by `budget.to_budget`.
    The first generation is the uniform assignment and random ones.

    Attributes:
        population: alive at once.
        tournament: drawn from it, the best of whom is the parent.
        moves: steps that a mutation moves, at most.
        batch: children that are asked for at once; part of the search, not of the executor, so that results
            are the same with any number of workers.

    Raises:
        RangeError: a number below 1.

    Source: Real et al., "Regularized evolution", AAAI 2019; mutation at a fixed budget as in EvoPress
        (Sieberling et al., ICML 2025).
    """

    population: int = 32
    tournament: int = 8
    moves: int = 2
    batch: int = 4
    name = "evolution"

    def __post_init__(self) -> None:
        if min(self.population, self.tournament, self.moves, self.batch) < 1:
            raise RangeError(f"population, tournament, moves and batch must be at least 1, got {self}")

    def reward(self, error: float, cost: float) -> float:
        """Less error is better."""
        return -error

    def run(self, task: Task) -> str:
        """Ask until nothing is left, or until no widths are found that were not seen before."""
        first = [uniform_widths(task.space, task.budget)]
        for widths in islice(draws(task), self.population - 1):
            first.append(widths)
        # a few may be the same
        alive = deque(task.ask(list(dict.fromkeys(first))), maxlen=self.population)
        while task.left:
            children: list[Assignment] = []
            while len(children) < min(self.batch, task.left):
                child = self._child(task, list(alive), children)
                if child is None:
                    break
                children.append(child)
            if not children:
                return f"no widths were left to find after {len(task.trials)} evaluations"
            # the oldest leave at the other end
            alive.extend(task.ask(children))
        return ""

    def _child(self, task: Task, alive: list[Trial], siblings: list[Assignment]) -> Assignment | None:
        """Widths that are new; drawn at random where mutations find none."""
        for _ in range(MOST_DRAWS):
            entrants = task.rng.choice(len(alive), min(self.tournament, len(alive)), replace=False)
            parent = max((alive[i] for i in entrants), key=lambda trial: (trial.reward, -trial.index))
            child = self._mutated(task, parent.widths)
            if not task.knows(child) and child not in siblings:
                return child
        found = islice(draws(task), MOST_DRAWS)
        return next((widths for widths in found if not task.knows(widths) and widths not in siblings), None)

    def _mutated(self, task: Task, widths: Assignment) -> Assignment:
        space, rng = task.space, task.rng
        indices = space.indices(widths)
        n_moved = int(rng.integers(1, min(self.moves, len(indices)) + 1))
        for step in rng.choice(len(indices), n_moved, replace=False):
            move = int(rng.integers(1, _FARTHEST + 1)) * int(rng.choice([-1, 1]))
            indices[step] = np.clip(indices[step] + move, 0, space.sizes[step] - 1)
        return space.assignment(to_budget(space, indices, task.budget, rng))
