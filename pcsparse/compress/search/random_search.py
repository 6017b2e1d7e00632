"""Random widths that use the budget: the control for everything that claims to learn."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from pcsparse.compress.search.budget import to_budget
from pcsparse.compress.search.space import Assignment
from pcsparse.compress.search.task import Method, Task

MOST_DRAWS = 20
"""For one assignment that was not seen before; small spaces run out of them."""


@dataclass(frozen=True)
class RandomSearch(Method):
    """Uniformly drawn widths, brought to the budget."""

    name = "random"

    def reward(self, error: float, cost: float) -> float:
        """Less error is better."""
        return -error

    def run(self, task: Task) -> str:
        """Ask for all at once, so that any number of workers is busy."""
        drawn: dict[Assignment, None] = {}
        while len(drawn) < task.left:
            widths = next((w for w in islice(draws(task), MOST_DRAWS) if w not in drawn), None)
            if widths is None:
                break
            drawn[widths] = None
        task.ask(list(drawn))
        return ""


def draws(task: Task) -> Iterator[Assignment]:
    """Random widths that meet and use the budget, without end."""
    sizes = np.array(task.space.sizes)
    while True:
        yield task.space.assignment(to_budget(task.space, task.rng.integers(sizes), task.budget, task.rng))
