"""AMC: an agent walks through the steps and chooses a width for each.

Every rollout meets the budget: a width is cut back to the widest with which the cheapest choice of the steps
to come still fits. The cost is whatever the space counts, milliseconds from a table too.

Two weaknesses come with the method. The clamp serves first steps first: an agent whose actions all end at 1
spends the budget there and may repeat that one network for many rollouts. And nothing fills up a budget that
was left over, about half of it in the warm-up, as the random control and evolution do; `spends_rest` mends
that one and is ours, no part of the method.

Source: He et al., "AMC: AutoML for model compression", ECCV 2018, section 3; there the clamp divides, here
costs are step functions and what fits is looked up.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np

from pcsparse.compress.search.amc_settings import AMCSettings
from pcsparse.compress.search.amc_state import StateMaker
from pcsparse.compress.search.budget import clamp, fitting, to_budget
from pcsparse.compress.search.ddpg import DDPG, State, Transition
from pcsparse.compress.search.exploration import truncated_normal
from pcsparse.compress.search.space import Indices
from pcsparse.compress.search.task import Method, Task
from pcsparse.errors import RangeError


@dataclass(frozen=True)
class AMC(Method):
    """The agent of AMC.

    Attributes:
        settings: `AMCSettings()`, `AMCSettings.paper()` or `AMCSettings.released_code()`, each perhaps
            `scaled_to` the evaluations at hand.
        rollouts: in flight at once: all of them are drawn by one state of the agent, which then learns from
            them in the order in which they were drawn. 1 in the paper and in the code; as many as there are
            workers keep those of an executor busy. Part of the search, not of the executor: results depend
            on it, and neither on the workers nor on which of them is done first.

    Raises:
        RangeError: no rollout.
    """

    settings: AMCSettings = field(default_factory=AMCSettings)
    rollouts: int = 1
    name = "amc"

    def __post_init__(self) -> None:
        if self.rollouts < 1:
            raise RangeError(f"rollouts in flight must be at least 1, got {self.rollouts}")

    def __repr__(self) -> str:
        """Stands in logs: without one rollout, as in those from before there could be more."""
        more = f", rollouts={self.rollouts}" if self.rollouts > 1 else ""
        return f"AMC(settings={self.settings!r}{more})"

    def fitted(self, evaluations: int) -> Method:
        """With the schedule of the settings scaled to them.

        Raises:
            RangeError: fewer than two.
        """
        if evaluations < 2:
            raise RangeError(
                f"{self.name} needs a rollout to warm up and one to act, got evaluations={evaluations}; some "
                "hundreds are usual"
            )
        return replace(self, settings=self.settings.scaled_to(evaluations))

    def reward(self, error: float, cost: float) -> float:
        """By the settings."""
        if self.settings.reward == "error":
            return -error
        return -error * math.log(cost / self.settings.cost_unit)

    def run(self, task: Task) -> str:
        """Ask as often as allowed.

        Raises:
            RangeError: no evaluations beyond the warm-up, or a cost whose logarithm is not above 0.
        """
        settings = self.settings
        if task.left <= settings.warm_up:
            raise RangeError(
                f"{task.left} evaluations end within the warm-up of {settings.warm_up}, before the agent "
                f"acts; shorten it: settings.scaled_to({task.left})"
            )
        least = task.space.cost(task.space.cheapest)
        if settings.reward == "error_log_cost" and least <= settings.cost_unit:
            raise RangeError(
                f"the cheapest network costs {least:.6g} {task.space.unit}, the logarithm needs more than "
                f"cost_unit = {settings.cost_unit:.6g}; choose a smaller one"
            )
        states = StateMaker(task.space, settings)
        n_kept = settings.replay_size * (len(task.space.steps) if settings.replay_per_step else 1)
        agent = DDPG(len(settings.features), settings.agent, replay_size=n_kept, seed=task.seed)
        for first in range(0, task.left, self.rollouts):
            episodes = range(first, first + min(self.rollouts, task.left))
            walks = [self._walked(task, agent, states, episode) for episode in episodes]
            trials = task.ask([task.space.assignment(walk.indices) for walk in walks])
            for walk, trial, episode in zip(walks, trials, episodes, strict=True):
                self._learn(agent, walk, trial.reward, episode)
        return ""

    def _walked(self, task: Task, agent: DDPG, states: StateMaker, episode: int) -> "_Walk":
        walk = _Walk(task, states, self.settings)
        for _ in task.space.steps:
            walk.step(self._draw(task, agent, walk.state, episode))
        if self.settings.spends_rest and self.settings.reward == "error":
            walk.spend_rest()
        return walk

    def _draw(self, task: Task, agent: DDPG, state: State, episode: int) -> float:
        settings = self.settings
        warm = episode < settings.warm_up
        if warm and settings.warm_up_draws == "uniform":
            return float(task.rng.random())
        sigma = settings.sigma * settings.decay ** max(0, episode - settings.warm_up)
        return truncated_normal(agent.act(state), sigma, 0.0, 1.0, task.rng)

    def _learn(self, agent: DDPG, walk: "_Walk", reward: float, episode: int) -> None:
        settings = self.settings
        learning = settings.learn_in_warm_up or episode >= settings.warm_up
        agent.end_episode(reward)
        for i, (state, action) in enumerate(zip(walk.states, walk.actions, strict=True)):
            last = i == len(walk.states) - 1
            earned = reward if last or settings.reward_on == "every" else 0.0
            # nothing follows the last state; any state of the right size will do
            following = state if last else walk.states[i + 1]
            agent.replay.add(Transition(state, action, earned, following, last))
            if learning:
                agent.update()


class _Walk:
    """One rollout under way."""

    def __init__(self, task: Task, states: StateMaker, settings: AMCSettings) -> None:
        self._task, self._makes, self._settings = task, states, settings
        self._drawn: list[float] = []
        self._begin()

    def _begin(self) -> None:
        space = self._task.space
        # the steps to come are at their cheapest, so that what is chosen now leaves them possible
        self.indices: Indices = space.indices(space.cheapest)
        self.states: list[State] = []
        self.actions: list[float] = []
        last_action = 0.0 if self._settings.action == "remove" else 1.0
        self.state = self._makes.state(0, self.indices, last_action)

    def step(self, drawn: float) -> None:
        """Take the width nearest to what was drawn that leaves the rest possible."""
        space, settings, i = self._task.space, self._settings, len(self.states)
        widths = np.array(space.steps[i].widths)
        keep = max(1.0 - drawn if settings.action == "remove" else drawn, settings.least_keep)
        fits = fitting(space, self.indices, i, self._task.budget)
        self._drawn.append(drawn)
        self._take(clamp(fits, _place(widths / widths[-1], keep, settings.rounding)))

    def spend_rest(self) -> None:
        """Widen random steps while the budget allows; then this is the walk that leads to what comes out."""
        task = self._task
        wider = to_budget(task.space, self.indices, task.budget, task.rng)
        self._begin()
        for place in wider:
            self._take(int(place))

    def _take(self, place: int) -> None:
        space, settings, i = self._task.space, self._settings, len(self.states)
        self.indices[i] = place
        kept = space.steps[i].widths[place] / space.steps[i].full
        taken = 1.0 - kept if settings.action == "remove" else kept
        self.states.append(self.state)
        self.actions.append(taken if settings.learn_from == "taken" else self._drawn[i])
        if i + 1 < len(space.steps):
            self.state = self._makes.state(i + 1, self.indices, taken)


def _place(ratios: np.ndarray, keep: float, rounding: str) -> int:
    """Which of ascending keep ratios, the last 1, a wanted one becomes; of two as near the wider."""
    if rounding == "up":
        return int((ratios < keep - 1e-9).sum())
    return len(ratios) - 1 - int(np.abs(ratios - keep)[::-1].argmin())
