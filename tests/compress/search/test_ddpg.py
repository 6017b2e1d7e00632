"""The agent of AMC, its parts by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from pcsparse.compress.search.ddpg import (
    DDPG,
    Actor,
    Critic,
    DDPGSettings,
    Replay,
    Transition,
    soft_update,
)
from pcsparse.compress.search.exploration import truncated_normal
from pcsparse.errors import RangeError

SMALL = DDPGSettings(hidden=(7, 5), batch=4)


def transition(i: int, *, last: bool = False) -> Transition:
    rng = np.random.default_rng(i)
    state, following = rng.random((2, 3)).astype(np.float32)
    return Transition(state, float(rng.random()), float(rng.random()), following, last)


def agent(settings: DDPGSettings = SMALL, seed: int = 0) -> DDPG:
    made = DDPG(3, settings, replay_size=50, seed=seed)
    for i in range(20):
        made.replay.add(transition(i, last=i % 3 == 2))
    return made


@pytest.mark.parametrize(
    ("mean", "sigma"),
    [(0.5, 0.5), (0.0, 0.3), (1.0, 0.3), (0.9, 0.05), (0.2, 3.0), (0.3, 1e-9), (1.0, 1e-300)],
)
def test_draws_are_those_of_a_truncated_normal(mean, sigma):
    rng = np.random.default_rng(0)
    drawn = np.array([truncated_normal(mean, sigma, 0.0, 1.0, rng) for _ in range(1000)])
    assert ((drawn >= 0) & (drawn <= 1)).all()
    if sigma >= 1e-9:
        law = stats.truncnorm((0 - mean) / sigma, (1 - mean) / sigma, loc=mean, scale=sigma)
        assert stats.kstest(drawn, law.cdf).pvalue > 0.01
    else:
        assert (abs(drawn - mean) < 1e-9).all()


def test_other_bounds():
    rng = np.random.default_rng(0)
    drawn = np.array([truncated_normal(0.4, 0.5, 0.2, 0.6, rng) for _ in range(1000)])
    law = stats.truncnorm(-0.4, 0.4, loc=0.4, scale=0.5)
    assert stats.kstest(drawn, law.cdf).pvalue > 0.01


@pytest.mark.parametrize(
    ("mean", "sigma", "low", "high"),
    [(1.1, 0.5, 0, 1), (0.5, 0.0, 0, 1), (0.5, 1, 0.5, 0.5), (float("nan"), 1, 0, 1)],
)
def test_impossible_distributions_are_refused(mean, sigma, low, high):
    with pytest.raises(RangeError, match="no normal distribution"):
        truncated_normal(mean, sigma, low, high, np.random.default_rng(0))


def test_a_soft_update_moves_a_share_of_the_way():
    one, two = nn.Linear(3, 2), nn.Linear(3, 2)
    wanted = [0.9 * a + 0.1 * b for a, b in zip(one.parameters(), two.parameters(), strict=True)]
    soft_update(one, two, 0.1)
    for have, want in zip(one.parameters(), wanted, strict=True):
        torch.testing.assert_close(have, want)


def test_the_target_is_reward_less_baseline_plus_the_value_of_what_follows():
    made = agent(replace(SMALL, discount=0.9))
    made.baseline = 0.25
    batch = [transition(1), transition(2, last=True)]
    for target, t in zip(made.targets(batch), batch, strict=True):
        state = torch.from_numpy(t.next_state)[None]
        value = 0.0 if t.last else 0.9 * made.critic_target(state, made.actor_target(state)).item()
        assert target.item() == pytest.approx(t.reward - 0.25 + value, rel=1e-5)


def test_targets_come_from_the_slow_networks():
    made = agent()
    batch = [transition(i) for i in range(4)]
    before = made.targets(batch)
    with torch.no_grad():
        for parameter in (*made.actor.parameters(), *made.critic.parameters()):
            parameter.add_(1.0)
    assert torch.equal(made.targets(batch), before)


def test_one_update_by_hand():
    made, twin = agent(), agent()
    # the same networks and the same draw, with the formulas written out
    twin.replay.sample = lambda n, rng: batch
    batch = made.replay.sample(4, np.random.default_rng(0))
    made.replay.sample = lambda n, rng: batch
    assert made.update()

    baseline = float(np.mean([t.reward for t in batch]))
    assert made.baseline == pytest.approx(baseline)
    states = torch.from_numpy(np.stack([t.state for t in batch]))
    following = torch.from_numpy(np.stack([t.next_state for t in batch]))
    actions = torch.tensor([[t.action] for t in batch], dtype=torch.float32)
    rewards = torch.tensor([[t.reward - baseline] for t in batch], dtype=torch.float32)
    goes_on = torch.tensor([[float(not t.last)] for t in batch])
    target = (rewards + goes_on * twin.critic_target(following, twin.actor_target(following))).detach()
    critic_steps = torch.optim.Adam(twin.critic.parameters(), 1e-3)
    ((twin.critic(states, actions) - target) ** 2).mean().backward()
    critic_steps.step()
    actor_steps = torch.optim.Adam(twin.actor.parameters(), 1e-4)
    (-twin.critic(states, twin.actor(states))).mean().backward()
    actor_steps.step()
    for have, want in ((made.actor, twin.actor), (made.critic, twin.critic)):
        for a, b in zip(have.parameters(), want.parameters(), strict=True):
            torch.testing.assert_close(a, b)
    soft_update(twin.actor_target, twin.actor, 0.01)
    soft_update(twin.critic_target, twin.critic, 0.01)
    for have, want in ((made.actor_target, twin.actor_target), (made.critic_target, twin.critic_target)):
        for a, b in zip(have.parameters(), want.parameters(), strict=True):
            torch.testing.assert_close(a, b)


def test_the_baseline_moves_half_of_the_way():
    by_episode = agent(replace(SMALL, baseline="episodes"))
    for reward, wanted in ((-0.4, -0.4), (-0.2, -0.3), (-0.1, -0.2)):
        by_episode.end_episode(reward)
        assert by_episode.baseline == pytest.approx(wanted)
    by_episode.update()
    assert by_episode.baseline == pytest.approx(-0.2)
    by_batch = agent()
    by_batch.end_episode(-0.4)
    assert by_batch.baseline is None
    by_batch.update()
    first = by_batch.baseline
    by_batch.replay.sample = lambda n, rng: [transition(0)] * n
    by_batch.update()
    assert by_batch.baseline == pytest.approx((first + transition(0).reward) / 2)


def test_too_few_transitions_teach_nothing():
    made = DDPG(3, SMALL, replay_size=50, seed=0)
    before = [parameter.clone() for parameter in made.actor.parameters()]
    for i in range(3):
        made.replay.add(transition(i))
        assert not made.update()
    assert made.baseline is None
    assert all(torch.equal(a, b) for a, b in zip(before, made.actor.parameters(), strict=True))
    made.replay.add(transition(3))
    assert made.update()
    assert not all(torch.equal(a, b) for a, b in zip(before, made.actor.parameters(), strict=True))


def test_the_ring_forgets_the_oldest():
    ring = Replay(4)
    for i in range(6):
        ring.add(transition(i))
    assert len(ring) == 4
    kept = {t.action for t in ring.sample(4, np.random.default_rng(0))}
    assert kept == {transition(i).action for i in range(2, 6)}


def test_both_critics_are_what_they_say():
    generator = torch.Generator().manual_seed(0)
    state, action = torch.rand(6, 3), torch.rand(6, 1)
    summed = Critic(3, SMALL, generator)
    hidden = torch.relu(summed.of_state(state) + summed.of_action(action))
    assert torch.equal(summed(state, action), summed.rest[1:](hidden))
    joined = Critic(3, replace(SMALL, critic="concatenated"), generator)
    hidden = torch.relu(joined.of_state(torch.cat([state, action], dim=1)))
    assert torch.equal(joined(state, action), joined.rest[1:](hidden))
    widths = [layer.out_features for layer in joined.modules() if isinstance(layer, nn.Linear)]
    assert widths == [7, 5, 1]
    inside = Actor(3, (300, 300), generator)(100 * torch.randn(50, 3))
    assert ((inside >= 0) & (inside <= 1)).all()


def test_an_agent_learns_which_action_is_good():
    # one step, reward highest at 0.8
    made = DDPG(2, DDPGSettings(), replay_size=500, seed=0)
    rng = np.random.default_rng(0)
    state = np.ones(2, np.float32)
    for _ in range(200):
        action = float(rng.random())
        made.replay.add(Transition(state, action, -((action - 0.8) ** 2), state, True))
    for _ in range(400):
        made.update()
    assert made.act(state) == pytest.approx(0.8, abs=0.05)


def test_bits_depend_on_the_seed_and_not_on_threads_or_other_random_numbers():
    torch.manual_seed(1)
    threads = torch.get_num_threads()

    def run(seed: int) -> list[torch.Tensor]:
        made = agent(DDPGSettings(batch=16), seed)
        made.actor.register_forward_hook(lambda *_: used.append(torch.get_num_threads()))
        for _ in range(5):
            made.update()
        made.act(np.ones(3, np.float32))
        return [parameter.clone() for parameter in made.actor.parameters()]

    used: list[int] = []
    torch.set_num_threads(4)
    try:
        first = run(0)
        assert torch.get_num_threads() == 4
        # sums of several threads could be others
        assert set(used) == {1}
        torch.set_num_threads(1)
        torch.rand(100)
        again = run(0)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, run(1), strict=True))
    # nobody else's numbers were drawn
    before = torch.get_rng_state()
    run(0)
    assert torch.equal(torch.get_rng_state(), before)
