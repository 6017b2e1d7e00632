"""What the agent of AMC sees before it chooses a width."""

import numpy as np

from pcsparse.compress.search.amc_settings import AMCSettings, Feature
from pcsparse.compress.search.ddpg import State
from pcsparse.compress.search.space import Indices, Space, Step


class StateMaker:
    """Makes states of a space.

    What is known of a step beforehand is scaled to 0 ... 1 over the steps, a feature that is the same
    everywhere is 0. "reduced" and "rest" are shares of the whole network's cost: what the choices so far
    saved, and what the steps to come cost as they are. "last_action" is the one before, as it was taken.
    """

    def __init__(self, space: Space, settings: AMCSettings) -> None:
        self._space, self._settings = space, settings
        self._full = space.cost(space.largest)
        known = {
            name: np.array([_known(space, i, name) for i in range(len(space.steps))])
            for name in settings.features
        }
        self._scaled = {name: _scaled(column) for name, column in known.items()}
        weights = np.array([step.weights for step in space.steps])
        self._first_rest = float(weights[1:].sum() / weights.sum()) if weights.sum() > 0 else 0.0

    def state(self, step: int, indices: Indices, last_action: float) -> State:
        """The state before a step, (n_features,) float32.

        Args:
            step: about to be chosen.
            indices: (n_steps,) chosen places before `step`, the cheapest from there on.
            last_action: as taken; that of a whole layer before the first step.
        """
        return np.array(
            [self._value(name, step, indices, last_action) for name in self._settings.features], np.float32
        )

    def _value(self, name: Feature, step: int, indices: Indices, last_action: float) -> float:
        match name:
            case "reduced":
                return self._reduced(step, indices)
            case "rest":
                if step == 0 and self._settings.first_rest_from_weights:
                    return self._first_rest
                return sum(self._space.shares[step + 1 :])
            case "last_action":
                return last_action
            case _:
                return float(self._scaled[name][step])

    def _reduced(self, step: int, indices: Indices) -> float:
        if self._full == 0:
            return 0.0
        if not self._settings.reduced_counts_rest:
            indices = np.concatenate([indices[:step], np.array(self._space.sizes[step:]) - 1])
        elif step == 0:
            # the released code starts from 0 all the same
            return 0.0
        return 1.0 - float(self._space.costs(indices[None])[0]) / self._full


def _known(space: Space, i: int, name: Feature) -> float:
    step: Step = space.steps[i]
    match name:
        case "index":
            return float(i)
        case "share":
            return space.shares[i]
        case "kind" | "c_in" | "c_out" | "stride" | "kernel" | "voxels" | "pairs" | "weights":
            return float(getattr(step, name))
        case _:
            return 0.0


def _scaled(column: np.ndarray) -> np.ndarray:
    span = column.max() - column.min()
    return (column - column.min()) / span if span > 0 else np.zeros(len(column))
