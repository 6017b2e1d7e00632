"""Small spaces whose best assignment is known, and scores that are sums over the steps."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pcsparse.compress.search.curves import SensitivityCurves
from pcsparse.compress.search.space import Assignment, CostTerm, Space, Step


def steps(n: int, widths: Sequence[int] = (8, 16, 24, 32)) -> tuple[Step, ...]:
    full = widths[-1]
    return tuple(
        Step(f"g{i}", tuple(widths), c_in=full, c_out=full, kernel=27, voxels=1000 * (i + 1), pairs=9000.0)
        for i in range(n)
    )


def products(rows: Sequence[int], columns: Sequence[int], pairs: float) -> np.ndarray:
    return pairs * np.multiply.outer(np.array(rows, float), np.array(columns, float))


def chain(n: int, widths: Sequence[int] = (8, 16, 24, 32), pairs: Sequence[float] | None = None) -> Space:
    """Layers in a row, multiply-adds: 3 channels, g0, g1, ..., 19 classes."""
    weight = [1.0] * (n + 1) if pairs is None else list(pairs)
    terms = [CostTerm.of_layer("first", None, "g0", products([3], widths, weight[0]))]
    terms += [
        CostTerm.of_layer(f"layer{i}", f"g{i - 1}", f"g{i}", products(widths, widths, weight[i]))
        for i in range(1, n)
    ]
    terms.append(CostTerm.of_layer("last", f"g{n - 1}", None, products(widths, [19], weight[n])))
    return Space(steps(n, widths), tuple(terms))


def unet(widths: Sequence[int] = (8, 16, 32)) -> Space:
    """Two levels down and up: a tied residual block, and a layer after a concatenation of g0 and g3."""
    joined = np.add.outer(np.array(widths, float), np.array(widths, float))
    terms = (
        CostTerm.of_layer("stem", None, "g0", products([4], widths, 9.0)),
        CostTerm.of_layer("down", "g0", "g1", products(widths, widths, 3.0)),
        CostTerm.of_layer("tied", "g1", "g1", products(widths, widths, 5.0)),
        CostTerm.of_layer("inner", "g1", "g2", products(widths, widths, 5.0)),
        CostTerm.of_layer("outer", "g2", "g1", products(widths, widths, 5.0)),
        CostTerm.of_layer("up", "g1", "g3", products(widths, widths, 3.0)),
        CostTerm("joined", ("g0", "g3", "g4"), 9.0 * joined[:, :, None] * np.array(widths, float)),
        CostTerm.of_layer("classes", "g4", None, products(widths, [19], 1.0)),
        CostTerm("map", (), np.array(1234.0)),
    )
    return Space(steps(5, widths), terms)


@dataclass(frozen=True)
class Additive:
    """1 minus a sum over the steps of weight * removed share ^ power: concave in each width."""

    fulls: tuple[int, ...]
    weights: tuple[float, ...]
    power: float = 2.0

    def __call__(self, widths: Assignment) -> float:
        lost = (
            weight * (1 - width / full) ** self.power
            for weight, width, full in zip(self.weights, widths, self.fulls, strict=True)
        )
        return max(0.0, 1.0 - sum(lost))


def additive(space: Space, weights: Sequence[float], power: float = 2.0) -> Additive:
    return Additive(space.largest, tuple(weights), power)


@dataclass
class Counted:
    """An evaluation that remembers what it was asked."""

    score: Additive

    def __post_init__(self) -> None:
        self.asked: list[Assignment] = []

    def __call__(self, widths: Assignment) -> float:
        self.asked.append(widths)
        return self.score(widths)


def everything(space: Space) -> list[Assignment]:
    return list(itertools.product(*(step.widths for step in space.steps)))


def best_of_all(space: Space, evaluate: Additive, budget: float) -> float:
    return max(evaluate(widths) for widths in everything(space) if space.cost(widths) <= budget)


def curves_of(space: Space, evaluate) -> SensitivityCurves:
    largest = space.largest
    return SensitivityCurves(
        evaluate(largest),
        tuple(
            tuple(evaluate((*largest[:i], width, *largest[i + 1 :])) for width in step.widths)
            for i, step in enumerate(space.steps)
        ),
    )
