"""AMC: its states, its clamp, its rewards, its schedules, and what it finds."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from pcsparse.compress.search import amc as amc_module
from pcsparse.compress.search.amc import AMC, _place
from pcsparse.compress.search.amc_settings import AMCSettings
from pcsparse.compress.search.amc_state import StateMaker
from pcsparse.compress.search.ddpg import DDPG, DDPGSettings
from pcsparse.compress.search.executor import timed
from pcsparse.compress.search.interface import search
from pcsparse.compress.search.space import CostTerm, Space, Step
from pcsparse.compress.search.uniform import Uniform
from pcsparse.errors import RangeError
from tests.compress.search.spaces import additive, chain, steps, unet

TINY = AMCSettings(warm_up=5, episodes=20, agent=DDPGSettings(hidden=(16, 16), batch=8))


@pytest.fixture
def agents(monkeypatch):
    """Every agent that is made, with its transitions in the order in which they were kept."""
    made = []

    class Watched(DDPG):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.kept, self.updates, self.rewards = [], 0, []
            add = self.replay.add
            self.replay.add = lambda t: (self.kept.append(t), add(t))
            made.append(self)

        def update(self):
            self.updates += 1
            return super().update()

        def end_episode(self, reward):
            self.rewards.append(reward)
            super().end_episode(reward)

    monkeypatch.setattr(amc_module, "DDPG", Watched)
    return made


# ---- settings


def test_the_presets_are_those_of_the_paper_and_of_the_code():
    paper, code = AMCSettings.paper(), AMCSettings.released_code()
    assert (len(paper.features), len(code.features), len(AMCSettings().features)) == (11, 10, 12)
    assert code.features[-3:] == paper.features[-3:] == ("reduced", "rest", "last_action")
    assert (paper.warm_up, paper.episodes, paper.sigma, paper.replay_size) == (100, 400, 0.5, 2000)
    assert (code.warm_up, code.episodes, code.sigma, code.decay) == (101, 800, 0.5, 0.95)
    assert (code.replay_size, code.replay_per_step, paper.replay_per_step) == (100, True, False)
    assert (paper.warm_up_draws, code.warm_up_draws) == ("actor", "uniform")
    assert (paper.action, code.action, code.least_keep, code.rounding) == ("remove", "keep", 0.2, "up")
    assert (paper.agent.baseline, code.agent.baseline) == ("episodes", "batches")
    assert (paper.agent.critic, code.agent.critic) == ("concatenated", "summed")
    assert code.first_rest_from_weights
    assert code.reduced_counts_rest
    for settings in (paper, code):
        agent = settings.agent
        assert (agent.hidden, agent.actor_rate, agent.critic_rate) == ((300, 300), 1e-4, 1e-3)
        assert (agent.discount, agent.tau, agent.batch, agent.baseline_rate) == (1.0, 0.01, 64, 0.5)
        assert settings.reward_on == "every"
        assert not settings.spends_rest


@pytest.mark.parametrize("settings", [AMCSettings(), AMCSettings.paper(), AMCSettings.released_code()])
def test_a_schedule_can_be_shortened(settings):
    short = settings.scaled_to(50)
    assert (short.episodes, short.warm_up) == (50, round(settings.warm_up * 50 / settings.episodes))
    # sigma ends where it ended
    end = settings.decay ** (settings.episodes - settings.warm_up)
    assert short.decay ** (50 - short.warm_up) == pytest.approx(end, rel=0.2)
    assert (
        replace(short, warm_up=settings.warm_up, decay=settings.decay, episodes=settings.episodes) == settings
    )
    assert settings.scaled_to(2).warm_up == 1
    with pytest.raises(RangeError, match="need two evaluations, got 1"):
        settings.scaled_to(1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"least_keep": 1.0}, "least_keep"),
        ({"sigma": 0.0}, "sigma"),
        ({"decay": 1.1}, "decay"),
        ({"cost_unit": 0.0}, "cost_unit"),
        ({"warm_up": 200}, "more than the warm-up"),
        ({"replay_size": 0}, "replay_size"),
        ({"features": ()}, "each once"),
        ({"features": ("rest", "rest")}, "each once"),
        ({"features": ("rest", "colour")}, "colour"),
    ],
)
def test_wrong_settings_are_refused(change, said):
    with pytest.raises(RangeError, match=said):
        replace(AMCSettings(), **change)


# ---- states


def test_a_state_by_hand():
    made = [
        Step("a", (8, 16), 0, c_in=4, c_out=16, stride=1, kernel=27, voxels=100, pairs=900),
        Step("b", (16, 32), 0, c_in=16, c_out=32, stride=2, kernel=8, voxels=40, pairs=100),
        Step("c", (8, 16), 1, c_in=32, c_out=16, stride=1, kernel=1, voxels=20, pairs=20),
    ]
    terms = [
        CostTerm(name, (name,), cost) for name, cost in (("a", [30, 50]), ("b", [10, 30]), ("c", [5, 20]))
    ]
    space = Space(tuple(made), tuple(terms))
    indices = np.array([0, 0, 0])
    state = StateMaker(space, AMCSettings()).state(1, indices, 0.5)
    # index, kind, c_in, c_out, stride, kernel, voxels, pairs, share, reduced, rest, last
    wanted = [0.5, 0, 12 / 28, 1, 1, 7 / 26, 0.25, 80 / 880, 10 / 30, 0.2, 0.2, 0.5]
    assert state == pytest.approx(wanted, rel=1e-6)
    assert state.dtype == np.float32
    code = StateMaker(space, AMCSettings.released_code())
    weights = [4 * 16 * 27, 16 * 32 * 8, 32 * 16]
    scaled = (weights[1] - 512) / (weights[1] - 512)
    assert code.state(1, indices, 0.5) == pytest.approx(
        [0.5, 0, 12 / 28, 1, 1, 7 / 26, scaled, 0.55, 0.2, 0.5], rel=1e-6
    )
    # the first one: rest of the weights, nothing reduced yet
    assert code.state(0, indices, 1.0)[-3:] == pytest.approx(
        [0, sum(weights[1:]) / sum(weights), 1], rel=1e-6
    )
    assert StateMaker(space, AMCSettings()).state(0, indices, 1.0)[-3:] == pytest.approx([0, 0.5, 1])


def test_states_of_equal_steps_have_no_division_by_zero():
    space = Space(steps(2), ())
    states = StateMaker(space, replace(AMCSettings(), first_rest_from_weights=True))
    assert np.isfinite(states.state(1, np.array([0, 0]), 1.0)).all()


# ---- the walk


@pytest.mark.parametrize(
    ("keep", "up", "nearest"),
    [(0.0, 0, 0), (0.25, 0, 0), (0.26, 1, 0), (0.4, 1, 1), (0.375, 1, 1), (1.0, 3, 3)],
)
def test_from_a_ratio_to_a_width(keep, up, nearest):
    ratios = np.array([0.25, 0.5, 0.75, 1.0])
    assert (_place(ratios, keep, "up"), _place(ratios, keep, "nearest")) == (up, nearest)


@pytest.mark.parametrize(
    "settings",
    [
        TINY,
        replace(AMCSettings.paper().scaled_to(12), agent=DDPGSettings(hidden=(16, 16), batch=8)),
        replace(AMCSettings.released_code().scaled_to(12), agent=DDPGSettings(hidden=(16, 16), batch=8)),
        replace(TINY, reward="error_log_cost"),
    ],
    ids=["ours", "paper", "code", "log"],
)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_every_rollout_meets_the_budget(settings, share):
    rng = np.random.default_rng(0)
    rugged = Space(
        steps(4),
        tuple(CostTerm(f"t{i}", (f"g{i}", f"g{(i + 1) % 4}"), rng.random((4, 4)) + 1) for i in range(4)),
        "ms",
    )
    for space in (unet(), rugged):
        least = space.cost(space.cheapest)
        budget = least + share * max(0.0, space.cost(space.largest) - least)
        result = search(space, additive(space, [0.1] * len(space.steps)), budget, 12, method=AMC(settings))
        assert len(result.trials) == 12
        assert max(trial.cost for trial in result.trials) <= budget
        if share == 0.0:
            assert {trial.cost for trial in result.trials} == {least}


def test_the_clamp_takes_the_widest_that_leaves_the_rest_possible(monkeypatch):
    # every action is to keep all
    monkeypatch.setattr(AMC, "_draw", lambda *_: 1.0)
    space = Space(
        steps(3), tuple(CostTerm(f"t{i}", (f"g{i}",), [1.0, 2.0, 4.0, 8.0]) for i in range(3)), "ms"
    )
    result = search(space, additive(space, [0.1] * 3), 11.0, 6, method=AMC(TINY.scaled_to(6)))
    # 8 + 1 + 1, then 8 + 2 + 1 = 11, then nothing is left
    assert {trial.widths for trial in result.trials} == {(32, 16, 8)}


def test_what_is_remembered(agents):
    space = chain(4)
    score = additive(space, [0.1, 0.2, 0.1, 0.1])
    half = space.cost(space.largest) / 2
    result = search(space, score, half, 8, method=AMC(TINY.scaled_to(8)))
    (agent,) = agents
    assert len(agent.kept) == 8 * 4
    assert agent.rewards == [trial.reward for trial in result.trials]
    for i, trial in enumerate(result.trials):
        mine = agent.kept[4 * i : 4 * i + 4]
        assert [t.last for t in mine] == [False, False, False, True]
        assert [t.action for t in mine] == [width / 32 for width in trial.widths]
        assert [t.reward for t in mine] == [trial.reward] * 4
        for one, two in pairwise(mine):
            assert np.array_equal(one.next_state, two.state)
            # the last feature is the action before
            assert two.state[-1] == np.float32(one.action)
    # one update a step, after the warm-up
    assert agent.updates == 4 * (8 - TINY.scaled_to(8).warm_up)


def test_other_ways_to_remember(agents):
    space = chain(4)
    score = additive(space, [0.1, 0.2, 0.1, 0.1])
    budget = space.cost(space.smallest)
    settings = replace(TINY, reward_on="last", learn_from="asked", action="remove", learn_in_warm_up=True)
    search(space, score, budget, 6, method=AMC(settings.scaled_to(6)))
    (agent,) = agents
    assert [t.reward == 0 for t in agent.kept[:4]] == [True, True, True, False]
    # as drawn, while all that was taken is the smallest width
    assert len({t.action for t in agent.kept}) == len(agent.kept)
    assert all(t.state[-1] == np.float32(0.75) for t in agent.kept[1:4])
    assert agent.kept[0].state[-1] == 0.0
    assert agent.updates == 4 * 6


def test_sigma_falls_after_the_warm_up(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        amc_module, "truncated_normal", lambda mean, sigma, low, high, rng: drawn.append(sigma) or mean
    )
    space = chain(1)
    score, budget = additive(space, [0.1]), space.cost(space.largest)
    settings = replace(TINY, warm_up=3, decay=0.5, episodes=6)
    search(space, score, budget, 6, method=AMC(settings))
    assert drawn == [0.5, 0.25, 0.125]
    drawn.clear()
    search(space, score, budget, 6, method=AMC(replace(settings, warm_up_draws="actor")))
    assert drawn == [0.5, 0.5, 0.5, 0.5, 0.25, 0.125]


def test_least_keep_yields_to_the_budget(monkeypatch):
    monkeypatch.setattr(AMC, "_draw", lambda *_: 0.0)
    space = chain(3)
    score = additive(space, [0.1] * 3)
    settings = replace(TINY, least_keep=0.5, spends_rest=False).scaled_to(4)
    free = search(space, score, space.cost(space.largest), 4, method=AMC(settings))
    assert free.best.widths == (16, 16, 16)
    tight = search(space, score, space.cost(space.smallest), 4, method=AMC(settings))
    assert tight.best.widths == space.smallest


@pytest.mark.parametrize("action", ["keep", "remove"])
def test_what_was_left_over_is_spent_and_remembered(agents, action):
    space = chain(4)
    score, half = additive(space, [0.1, 0.2, 0.1, 0.1]), space.cost(space.largest) / 2
    settings = replace(TINY.scaled_to(12), action=action)
    made = {
        spends: search(space, score, half, 12, method=AMC(replace(settings, spends_rest=spends))).trials
        for spends in (True, False)
    }

    def could_grow(widths):
        wider = ([*widths[:i], w + 8, *widths[i + 1 :]] for i, w in enumerate(widths) if w < 32)
        return any(space.cost(tuple(one)) <= half for one in wider)

    assert not any(could_grow(trial.widths) for trial in made[True])
    assert any(could_grow(trial.widths) for trial in made[False])
    # the first walk draws the same actions; the widened one is at least as wide everywhere
    assert all(a >= b for a, b in zip(made[True][0].widths, made[False][0].widths, strict=True))
    states = StateMaker(space, settings)
    kept = iter(agents[0].kept)
    for trial in made[True]:
        taken, last = np.zeros(4, np.int64), 0.0 if action == "remove" else 1.0
        for i, width in enumerate(trial.widths):
            seen = next(kept)
            assert np.array_equal(seen.state, states.state(i, taken, last))
            last = 1 - width / 32 if action == "remove" else width / 32
            taken[i] = width // 8 - 1
            assert seen.action == last


def test_where_the_cost_counts_nothing_is_spent_for_its_own_sake(monkeypatch):
    monkeypatch.setattr(AMC, "_draw", lambda *_: 0.0)
    space = chain(3)
    method = AMC(replace(TINY.scaled_to(4), reward="error_log_cost"))
    result = search(space, additive(space, [0.1] * 3), space.cost(space.largest), 4, method=method)
    assert {trial.widths for trial in result.trials} == {space.smallest}


def test_too_few_evaluations_are_refused():
    space = chain(2)
    with pytest.raises(RangeError, match=r"end within the warm-up of 50.*scaled_to\(30\)"):
        search(space, additive(space, [0.1, 0.1]), 1e6, 30, method=AMC())


# ---- rewards


def test_both_rewards():
    assert AMC().reward(0.25, 1e6) == -0.25
    log = AMC(replace(AMCSettings(), reward="error_log_cost", cost_unit=10.0))
    assert log.reward(0.25, 1e6) == pytest.approx(-0.25 * math.log(1e5))


def test_the_best_is_the_one_with_the_highest_reward():
    # the error is the same everywhere but at full width: with the logarithm the cheap one wins
    space = chain(2)

    def evaluate(widths):
        return 0.5 + 0.001 * (widths == space.largest)

    settings = replace(TINY, reward="error_log_cost").scaled_to(12)
    result = search(space, evaluate, space.cost(space.largest), 12, method=AMC(settings))
    assert result.best.cost == min(trial.cost for trial in result.trials)
    with pytest.raises(RangeError, match=r"cheapest network costs .* choose a smaller one"):
        search(space, evaluate, 1e6, 12, method=AMC(replace(settings, cost_unit=1e9)))


# ---- what it finds


def uneven() -> tuple[Space, object]:
    """Cheap steps that matter and dear ones that do not."""
    space = chain(4, tuple(range(8, 72, 8)), pairs=[1, 2, 4, 1, 1])
    return space, additive(space, [0.1, 0.02, 0.02, 0.6], power=1.5)


def test_amc_beats_uniform_where_layers_differ():
    space, score = uneven()
    budget = space.cost(space.largest) / 2
    uniform = search(space, score, budget, 1, method=Uniform()).best.score
    settings = replace(AMCSettings(), agent=DDPGSettings(hidden=(64, 64))).scaled_to(60)
    found = [search(space, score, budget, 60, seed, method=AMC(settings)).best.score for seed in (0, 1)]
    assert min(found) > uniform + 0.03


@pytest.mark.slow
@pytest.mark.parametrize("preset", [AMCSettings(), AMCSettings.paper(), AMCSettings.released_code()])
def test_the_agent_itself_learns(preset):
    space, score = uneven()
    budget = space.cost(space.largest) / 2
    settings = preset.scaled_to(200)
    early, late = [], []
    for seed in range(3):
        rewards = [t.reward for t in search(space, score, budget, 200, seed, method=AMC(settings)).trials]
        early.append(np.mean(rewards[: settings.warm_up]))
        late.append(np.mean(rewards[-20:]))
    # on average: of the paper's settings one seed of three ends at a bound of the action and stays there
    assert np.mean(np.subtract(late, early)) > 0.02


def test_the_same_result_with_any_number_of_threads():
    space, score = uneven()
    budget = space.cost(space.largest) / 2

    def run():
        settings = replace(AMCSettings(), agent=DDPGSettings(batch=16)).scaled_to(12)
        return [trial.widths for trial in search(space, score, budget, 12, 7, method=AMC(settings)).trials]

    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        first = run()
        torch.set_num_threads(1)
        assert run() == first
    finally:
        torch.set_num_threads(before)


def test_rollouts_in_flight_are_drawn_by_one_agent_which_learns_from_all_in_their_order(agents, monkeypatch):
    space, score = uneven()
    budget = space.cost(space.largest) / 2
    acted = []
    walked = AMC._walked

    def watched(self, task, agent, *more):
        acted.append(agent.updates)
        return walked(self, task, agent, *more)

    monkeypatch.setattr(AMC, "_walked", watched)
    # at rates of its own it would come to the same widths, so short
    quick = replace(TINY.agent, actor_rate=0.1, critic_rate=0.1)
    settings = replace(TINY, warm_up=4, episodes=14, agent=quick)

    class Backwards:
        """The last that was asked for is done first."""

        def run(self, evaluate, items):
            for position in reversed(range(len(items))):
                yield timed(evaluate, position, items[position])

    def run(method, executor=None):
        acted.clear()
        found = search(space, score, budget, 14, 3, method=method, executor=executor)
        return [(trial.index, trial.widths, trial.reward) for trial in found.trials]

    four = run(AMC(settings, rollouts=4))
    n = len(space.steps)
    # the warm-up teaches nothing; of fourteen the last batch has two
    assert acted == [0] * 8 + [4 * n] * 4 + [8 * n] * 2
    assert agents[-1].rewards == [reward for *_, reward in four]
    assert len(agents[-1].kept) == 14 * n
    assert run(AMC(settings, rollouts=4), Backwards()) == four
    # with one, each is drawn by what the one before taught
    one = run(AMC(settings))
    assert acted == [0] * 5 + [k * n for k in range(1, 10)]
    assert four[:5] == one[:5]
    assert four != one


def test_an_agent_without_rollouts_is_refused_and_one_of_them_is_called_as_ever():
    with pytest.raises(RangeError, match="at least 1, got 0"):
        AMC(rollouts=0)
    assert repr(AMC()) == f"AMC(settings={AMCSettings()!r})"
    assert repr(AMC(rollouts=4)) == f"AMC(settings={AMCSettings()!r}, rollouts=4)"
