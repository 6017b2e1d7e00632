"""Deep deterministic policy gradients for one action between 0 and 1.

Source: Lillicrap et al., ICLR 2016, with the changes of AMC (He et al., ECCV 2018, section 3.2): rewards less
a moving average, no discount, one action.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

State = npt.NDArray[np.float32]


@dataclass(frozen=True)
class DDPGSettings:
    """Settings of the agent.

    Attributes:
        hidden: widths of the two hidden layers of actor and critic.
        critic: "concatenated": state and action enter the first layer together; "summed": each through a
            linear layer of its own, with a bias of its own.
        actor_rate: learning rate, Adam.
        critic_rate: the same of the critic.
        discount: of the value of the next state.
        tau: share of the way that the targets move towards the networks in an update.
        batch: transitions of an update.
        baseline: what is taken off the rewards: "batches": a moving average of the means of the batches;
            "episodes": one of the rewards of the episodes.
        baseline_rate: share of the way that it moves towards a new value; the first value sets it.
    """

    hidden: tuple[int, int] = (300, 300)
    critic: Literal["concatenated", "summed"] = "summed"
    actor_rate: float = 1e-4
    critic_rate: float = 1e-3
    discount: float = 1.0
    tau: float = 0.01
    batch: int = 64
    baseline: Literal["batches", "episodes"] = "batches"
    baseline_rate: float = 0.5


class Transition(NamedTuple):
    """One step of an episode; `last` where no state follows."""

    state: State
    action: float
    reward: float
    next_state: State
    last: bool


class Replay:
    """The last transitions, a ring.

    Args:
        size: most that are kept.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: list[Transition] = []
        self._next = 0

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, transition: Transition) -> None:
        """Keep it, in the place of the oldest where the ring is full."""
        if len(self._kept) < self._size:
            self._kept.append(transition)
        else:
            self._kept[self._next] = transition
        self._next = (self._next + 1) % self._size

    def sample(self, n: int, rng: np.random.Generator) -> list[Transition]:
        """Draw n different ones."""
        return [self._kept[i] for i in rng.choice(len(self._kept), n, replace=False)]


class Actor(nn.Module):
    """(n, n_state) -> (n, 1) in (0, 1)."""

    def __init__(self, n_state: int, hidden: tuple[int, int], generator: torch.Generator) -> None:
        super().__init__()
        first, second = hidden
        self.net = nn.Sequential(
            _linear(n_state, first, generator), nn.ReLU(),
            _linear(first, second, generator), nn.ReLU(),
            _linear(second, 1, generator), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, state: Tensor) -> Tensor:
        """The keep ratio, or the sparsity, that the actor thinks best."""
        return self.net(state)


class Critic(nn.Module):
    """(n, n_state), (n, 1) -> (n, 1)."""

    def __init__(self, n_state: int, settings: DDPGSettings, generator: torch.Generator) -> None:
        super().__init__()
        first, second = settings.hidden
        self.joint = settings.critic == "concatenated"
        self.of_state = _linear(n_state + self.joint, first, generator)
        self.of_action = None if self.joint else _linear(1, first, generator)
        self.rest = nn.Sequential(
            nn.ReLU(), _linear(first, second, generator), nn.ReLU(), _linear(second, 1, generator)
        )

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """The sum of the rewards that are still to come, less the baselines."""
        if self.of_action is None:
            return self.rest(self.of_state(torch.cat([state, action], dim=1)))
        return self.rest(self.of_state(state) + self.of_action(action))


class DDPG:
    """The agent. Its bits depend on its arguments and on what it was shown, not on the number of threads.

    Args:
        n_state: features of a state.
        settings: of the agent.
        replay_size: transitions that are kept.
        seed: of the first weights and of the batches.
    """

    def __init__(self, n_state: int, settings: DDPGSettings, *, replay_size: int, seed: int) -> None:
        self.settings = settings
        self.replay = Replay(replay_size)
        self.baseline: float | None = None
        generator = torch.Generator().manual_seed(seed)
        self._rng = np.random.default_rng(seed)
        self.actor = Actor(n_state, settings.hidden, generator)
        self.critic = Critic(n_state, settings, generator)
        self.actor_target, self.critic_target = deepcopy(self.actor), deepcopy(self.critic)
        self._actor_steps = torch.optim.Adam(self.actor.parameters(), settings.actor_rate, fused=True)
        self._critic_steps = torch.optim.Adam(self.critic.parameters(), settings.critic_rate, fused=True)

    def act(self, state: State) -> float:
        """What the actor thinks best, 0 to 1."""
        with _one_thread(), torch.no_grad():
            return float(self.actor(torch.from_numpy(state)[None]))

    def end_episode(self, reward: float) -> None:
        """Tell the agent the reward of a whole episode."""
        if self.settings.baseline == "episodes":
            self._move_baseline(reward)

    def update(self) -> bool:
        """Learn from one batch; False while there are fewer transitions than that."""
        if len(self.replay) < self.settings.batch:
            return False
        batch = self.replay.sample(self.settings.batch, self._rng)
        if self.settings.baseline == "batches":
            self._move_baseline(float(np.mean([t.reward for t in batch])))
        with _one_thread():
            self._learn(batch)
        return True

    def targets(self, batch: Sequence[Transition]) -> Tensor:
        """What the critic should say, (n, 1): reward - baseline + discount * value of the next state."""
        rewards = torch.tensor(
            [t.reward - (self.baseline or 0.0) for t in batch], dtype=torch.float32, device="cpu"
        )
        follows = torch.tensor([0.0 if t.last else 1.0 for t in batch], device="cpu")
        states = torch.from_numpy(np.stack([t.next_state for t in batch]))
        with torch.no_grad():
            values = self.critic_target(states, self.actor_target(states))
        return rewards[:, None] + self.settings.discount * follows[:, None] * values

    def _learn(self, batch: Sequence[Transition]) -> None:
        states = torch.from_numpy(np.stack([t.state for t in batch]))
        actions = torch.tensor([[t.action] for t in batch], dtype=torch.float32, device="cpu")
        wanted = self.targets(batch)
        _step(self._critic_steps, nn.functional.mse_loss(self.critic(states, actions), wanted))
        _step(self._actor_steps, -self.critic(states, self.actor(states)).mean())
        soft_update(self.actor_target, self.actor, self.settings.tau)
        soft_update(self.critic_target, self.critic, self.settings.tau)

    def _move_baseline(self, value: float) -> None:
        if self.baseline is None:
            self.baseline = value
        else:
            self.baseline += self.settings.baseline_rate * (value - self.baseline)


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Go down the loss; no other parameter that it depends on gets a gradient."""
    parameters = optimizer.param_groups[0]["params"]
    for parameter, grad in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = grad
    optimizer.step()


@torch.no_grad()
def soft_update(target: nn.Module, source: nn.Module, tau: float) -> None:
    """Move the parameters of `target` by the share `tau` towards those of `source`."""
    for to, of in zip(target.parameters(), source.parameters(), strict=True):
        to.lerp_(of, tau)


def _linear(n_in: int, n_out: int, generator: torch.Generator) -> nn.Linear:
    """As torch makes it, but from a generator of its own: nobody's other random numbers change."""
    linear = nn.utils.skip_init(nn.Linear, n_in, n_out)
    bound = n_in**-0.5
    nn.init.uniform_(linear.weight, -bound, bound, generator=generator)
    nn.init.uniform_(linear.bias, -bound, bound, generator=generator)
    return linear


@contextmanager
def _one_thread() -> Iterator[None]:
    """Products this small gain nothing from threads, and could add up in another order with more of them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
