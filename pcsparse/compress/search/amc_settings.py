"""Settings of AMC: ours, those of the paper, and those of the released code.

Source: He et al., "AMC: AutoML for model compression", ECCV 2018; github.com/mit-han-lab/amc at 65363c8.
"""

from dataclasses import dataclass, field, replace
from typing import Literal, Self

from pcsparse.compress.search.ddpg import DDPGSettings
from pcsparse.errors import RangeError

Feature = Literal[
    "index", "kind", "c_in", "c_out", "stride", "kernel", "voxels", "pairs", "weights", "share", "reduced",
    "rest", "last_action",
]  # fmt: skip
FEATURES: tuple[Feature, ...] = Feature.__args__  # type: ignore[attr-defined]


@dataclass(frozen=True)
class AMCSettings:
    """Settings of a search by AMC.

    Attributes:
        features: of a state, in order; those of a step are scaled to 0 ... 1 over the steps.
        action: what the actor's number means: the share to keep, or the share to remove.
        least_keep: lower bound of the keep ratio, before the budget has its say.
        rounding: from a ratio to a width of the grid: "up" to the next wider one, or to the nearest.
        reward: "error": minus the error, for searches at a budget; "error_log_cost": minus the error times
            the logarithm of the cost, which keeps accuracy and takes what cost it can.
        cost_unit: of the logarithm: log(cost / cost_unit), which must stay above 0.
        reward_on: which transitions get the reward of the episode. "every": all of them; with a discount of 1
            the value of a state then grows with the steps that follow, to about (steps left) * (reward -
            baseline), so that the critic spends itself on counting. "last": the last alone.
        spends_rest: whether, after the last step, random steps widen while the budget allows, as in the
            random control; the walk that would have led there is remembered. Not where the logarithm of the
            cost is in the reward.
        learn_from: the action that is remembered: "taken", after the budget and the grid had their say, or
            "asked", as it was drawn.
        warm_up: episodes of exploration at full width.
        warm_up_draws: "uniform" random actions in the warm-up, or the "actor" with its noise.
        learn_in_warm_up: whether updates begin before its end.
        sigma: of the noise in the warm-up, and at its end.
        decay: of sigma, an episode, after the warm-up.
        episodes: that the schedule above is made for, see `scaled_to`.
        replay_size: transitions that are kept.
        replay_per_step: whether that is meant for each step of the space.
        reduced_counts_rest: whether the steps that are still to be chosen count as cut to the cheapest in
            "reduced", or as whole.
        first_rest_from_weights: whether "rest" of the first state is a share of the weights, not of the cost.
        agent: its networks and how they learn.

    Raises:
        RangeError: a setting out of its range.
    """

    features: tuple[Feature, ...] = (
        "index", "kind", "c_in", "c_out", "stride", "kernel", "voxels", "pairs", "share", "reduced", "rest",
        "last_action",
    )  # fmt: skip
    action: Literal["keep", "remove"] = "keep"
    least_keep: float = 0.0
    rounding: Literal["up", "nearest"] = "nearest"
    reward: Literal["error", "error_log_cost"] = "error"
    cost_unit: float = 1.0
    reward_on: Literal["every", "last"] = "every"
    spends_rest: bool = True
    learn_from: Literal["taken", "asked"] = "taken"
    warm_up: int = 50
    warm_up_draws: Literal["uniform", "actor"] = "uniform"
    learn_in_warm_up: bool = False
    sigma: float = 0.5
    decay: float = 0.97
    episodes: int = 200
    replay_size: int = 100
    replay_per_step: bool = True
    reduced_counts_rest: bool = False
    first_rest_from_weights: bool = False
    agent: DDPGSettings = field(default_factory=DDPGSettings)

    def __post_init__(self) -> None:
        if not self.features or len(set(self.features)) < len(self.features):
            raise RangeError(f"features must be given, each once; got {self.features}")
        if set(self.features) - set(FEATURES):
            raise RangeError(f"no features {set(self.features) - set(FEATURES)}; there are {FEATURES}")
        if not (
            0.0 <= self.least_keep < 1.0 and self.sigma > 0 and 0 < self.decay <= 1 and self.cost_unit > 0
        ):
            raise RangeError(
                f"least_keep must be in [0, 1), sigma and cost_unit above 0, decay in (0, 1]; got {self}"
            )
        if self.warm_up < 0 or self.replay_size < 1 or self.episodes <= self.warm_up:
            raise RangeError(
                f"warm_up must be at least 0, replay_size at least 1, episodes more than the warm-up; "
                f"got {self}"
            )

    @classmethod
    def paper(cls) -> Self:
        """As the paper has it, as far as it says.

        Eleven features; height and width of a feature map become voxels and pairs, its index stands for the
        layer type too. The action is a sparsity. The rates of decay and of the baseline are not given there:
        they are those of the released code. So is the choice that updates begin with the first full batch.
        """
        return cls(
            features=(
                "index", "c_out", "c_in", "voxels", "pairs", "stride", "kernel", "share", "reduced", "rest",
                "last_action",
            ),
            action="remove",
            warm_up=100,
            warm_up_draws="actor",
            learn_in_warm_up=True,
            decay=0.95,
            episodes=400,
            replay_size=2000,
            replay_per_step=False,
            spends_rest=False,
            agent=DDPGSettings(critic="concatenated", baseline="episodes"),
        )  # fmt: skip

    @classmethod
    def released_code(cls) -> Self:
        """As the released code has it, with its weaknesses.

        Ten features without any cost; every transition gets the final reward; "rest" of the first state is
        taken from weights, later ones from the cost; the action is remembered as drawn, not as the budget
        left it. 101 episodes of warm-up, since it compares with <=. Not kept: an action there sets the input
        channels of a layer, here the width of a group; the lower bound there also holds for the layers to
        come, here the grid says how narrow they can be, and wins over the bound where the budget needs it.
        """
        return cls(
            features=(
                "index", "kind", "c_in", "c_out", "stride", "kernel", "weights", "reduced", "rest",
                "last_action",
            ),
            least_keep=0.2,
            rounding="up",
            spends_rest=False,
            learn_from="asked",
            warm_up=101,
            decay=0.95,
            episodes=800,
            reduced_counts_rest=True,
            first_rest_from_weights=True,
        )  # fmt: skip

    def scaled_to(self, evaluations: int) -> Self:
        """The same schedule over another number of episodes: a shorter warm-up, a faster decay.

        Raises:
            RangeError: fewer than two evaluations.
        """
        if evaluations < 2:
            raise RangeError(f"a warm-up and something after it need two evaluations, got {evaluations}")
        scale = evaluations / self.episodes
        warm_up = min(max(round(self.warm_up * scale), 1), evaluations - 1) if self.warm_up else 0
        return replace(self, warm_up=warm_up, decay=self.decay ** (1.0 / scale), episodes=evaluations)
