"""Sensitivity: how much worse a network gets when one layer or one group alone is pruned, ratio by ratio.

Each curve should be flat at first, then fall; one that falls at once says that its layer must stay, or that
pruning is implemented wrong. That layers act on each other is ignored.

Source: Han et al., NeurIPS 2015 (arXiv 1506.02626), section 3.1 and Fig. 6, for weights.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pcsparse.compress.channel_scores import Losses, Score, channel_scores
from pcsparse.compress.channels import MULTIPLE, choose_channels, kept_widths, mask_channels
from pcsparse.compress.cost import CostTable
from pcsparse.compress.graph import ChannelGraph
from pcsparse.compress.sensitivity_log import PointLog
from pcsparse.compress.sensitivity_offsets import OffsetsAxis
from pcsparse.compress.sensitivity_table import Evaluation, Point, SensitivityTable
from pcsparse.compress.shared_weights import keep_largest
from pcsparse.compress.weights import WeightMasks, all_weight_layers, check_ratio, weight_layers
from pcsparse.errors import RangeError, UnsupportedError

Evaluate = Callable[[nn.Module], Evaluation | float]
"""Scores a network, higher is better: a number, or an `Evaluation` with values by sweep."""
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


class Axis(Protocol):
    """What is pruned, and how: one of the ways in which a network can get smaller."""

    name: str

    def sizes(self) -> Mapping[str, int]:
        """What can be pruned one by one, with the number of its parts (weights, channels)."""

    def kept(self, name: str, ratio: float) -> int:
        """How many parts stay at a ratio."""

    def cut(self, model: nn.Module, name: str, kept: int) -> None:
        """Prune in place, keeping the shapes of all parameters."""

    def facts(self) -> Mapping[str, Any]:
        """Settings that change the results, as JSON values."""

    def macs(self, name: str, kept: int) -> float | None:
        """Multiply-adds of a network that is pruned like that; None where they are not known."""

    def milliseconds(self, name: str, kept: int) -> float | None:
        """Milliseconds of it."""


class WeightsAxis:
    """Single weights, layer by layer, by magnitude. A dense engine gets no faster by it.

    Args:
        model: whose layers.
    """

    name = "weights"

    def __init__(self, model: nn.Module) -> None:
        self._sizes = {name: weight.numel() for name, weight in all_weight_layers(model).items()}

    def sizes(self) -> Mapping[str, int]:
        """Weights of each layer."""
        return self._sizes

    def kept(self, name: str, ratio: float) -> int:
        """Weights that stay."""
        return round((1.0 - ratio) * self._sizes[name])

    def cut(self, model: nn.Module, name: str, kept: int) -> None:
        """Zero the smallest weights of a layer."""
        weight = weight_layers(model)[name]
        WeightMasks({name: keep_largest(weight, kept / weight.numel())}).apply(model)

    def facts(self) -> Mapping[str, Any]:
        """None."""
        return {}

    def macs(self, name: str, kept: int) -> float | None:
        """None: the engine multiplies by zeros."""
        return None

    def milliseconds(self, name: str, kept: int) -> float | None:
        """None: the engine multiplies by zeros."""
        return None


class ChannelsAxis:
    """Channels, group by group of the channel graph.

    A group is masked, which gives what slicing gives, at full width.

    Args:
        model: whose channels.
        graph: of `model`; read from it if None.
        score: which channels go first, see `channel_scores`.
        losses: for score="taylor".
        multiple: kept widths are multiples of it.
        cost: where multiply-adds and milliseconds come from.
    """

    name = "channels"

    def __init__(
        self,
        model: nn.Module,
        *,
        graph: ChannelGraph | None = None,
        score: Score = "magnitude",
        losses: Losses | None = None,
        multiple: int = MULTIPLE,
        cost: CostTable | None = None,
    ) -> None:
        self._graph = ChannelGraph.of(model) if graph is None else graph
        self._scores = channel_scores(model, self._graph, score, losses)
        self._score, self._multiple, self._cost = score, multiple, cost

    def sizes(self) -> Mapping[str, int]:
        """Channels of each group that may become narrower."""
        return {group.name: group.width for group in self._graph.free}

    def kept(self, name: str, ratio: float) -> int:
        """Channels that stay, rounded up to the multiple."""
        return kept_widths(self._graph, {name: 1.0 - ratio}, self._multiple)[name]

    def cut(self, model: nn.Module, name: str, kept: int) -> None:
        """Zero the least channels of a group wherever they are written."""
        chosen = choose_channels({name: self._scores[name]}, {name: kept})
        mask_channels(model, self._graph, chosen)

    def facts(self) -> Mapping[str, Any]:
        """How channels are chosen."""
        return {"score": self._score, "multiple": self._multiple}

    def macs(self, name: str, kept: int) -> float | None:
        """Of the sliced network, from the cost table."""
        return None if self._cost is None else self._cost.total("MACs", self._graph.widths({name: kept}))

    def milliseconds(self, name: str, kept: int) -> float | None:
        """Of the sliced network, from the cost table."""
        return None if self._cost is None else self._cost.total("ms", self._graph.widths({name: kept}))


def scan(
    model: nn.Module,
    evaluate: Evaluate,
    *,
    axis: str | Axis = "weights",
    ratios: Sequence[float] = RATIOS,
    names: Sequence[str] | None = None,
    log: Path | None = None,
    stop_after: float | None = None,
    worst: float = 0.0,
    tag: str = "",
    on_point: Callable[[Point], object] | None = None,
) -> SensitivityTable:
    """Prune every layer or group alone at every ratio, and evaluate; nothing is trained.

    The model is pruned in place and comes back bit for bit after each evaluation, also where that raises.

    Args:
        model: trained.
        evaluate: scores it, the same for the same weights. A score that is not finite is logged as failed and
            counts as `worst`.
        axis: "weights", "channels", "offsets", or an axis with settings of its own, as `ChannelsAxis` with a
            cost, or `OffsetsAxis` with sweeps: by its name alone it goes by the sizes of weights, as if all
            offsets had as many pairs, and knows no costs.
        ratios: shares to remove, each in [0, 1). Where rounding makes two the same, it is evaluated once, and
            points tell the ratio that came out.
        names: which layers or groups; all if None.
        log: a file of JSON lines, made or resumed: what it holds is not evaluated again. A kill loses the
            evaluation that was running.
        stop_after: leave out the larger ratios of a layer once its metric fell by more than this.
        worst: what a failed evaluation counts as.
        tag: says what `evaluate` does, its sweeps above all; a log with another tag is refused.
        on_point: called with each point as it is there.

    Raises:
        RangeError: ratios outside [0, 1), an unknown name, or a dense network whose metric is not finite.
        UnsupportedError: no such axis, or an operator that the channel graph does not know.
        FormatError: `log` belongs to another scan.
    """
    _check_ratios(ratios)
    how = _axis(axis, model)
    sizes = how.sizes()
    chosen = list(sizes) if names is None else list(names)
    unknown = [name for name in chosen if name not in sizes]
    if unknown:
        raise RangeError(
            f"nothing is called {unknown[0]!r} on the axis {how.name}; there are {', '.join(sizes)}"
        )
    facts = {"axis": how.name, "model": fingerprint(model), "worst": worst, "tag": tag, **how.facts()}
    with PointLog(log, facts) as known, _restoring(model) as restore:
        dense = known.dense()
        if dense is None:
            dense = _evaluated(evaluate, model)
            restore()
            if not math.isfinite(dense.metric):
                raise RangeError(
                    f"the metric of the network as it is, is {dense.metric}; there is nothing to scan"
                )
            known.write_dense(dense)
        points: list[Point] = []
        for name in chosen:
            keeps = sorted({how.kept(name, ratio) for ratio in ratios}, reverse=True)
            for kept in keeps:
                point = known.point(name, kept)
                if point is None:
                    began = time.perf_counter()
                    how.cut(model, name, kept)
                    found = _evaluated(evaluate, model)
                    restore()
                    facts_of = sizes[name], how.macs(name, kept), how.milliseconds(name, kept)
                    point = Point.of(name, kept, *facts_of, found, time.perf_counter() - began)
                    known.write(point)
                else:
                    # the log may be of a time when the cost was not measured yet
                    point = replace(point, macs=how.macs(name, kept), ms=how.milliseconds(name, kept))
                points.append(point)
                if on_point is not None:
                    on_point(point)
                fallen = dense.metric - (worst if point.metric is None else point.metric)
                if stop_after is not None and fallen > stop_after:
                    break
    return SensitivityTable(how.name, dense, tuple(points), worst)


def fingerprint(model: nn.Module) -> str:
    """A short hash of all parameters and buffers: equal for equal bits."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _check_ratios(ratios: Sequence[float]) -> None:
    if not ratios:
        raise RangeError("a scan needs at least one ratio, got none")
    for ratio in ratios:
        check_ratio(ratio, "a scan")


def _axis(axis: str | Axis, model: nn.Module) -> Axis:
    if not isinstance(axis, str):
        return axis
    match axis:
        case "weights":
            return WeightsAxis(model)
        case "channels":
            return ChannelsAxis(model)
        case "offsets":
            return OffsetsAxis(model)
        case _:
            raise UnsupportedError(f"no axis {axis!r}; there are weights, channels and offsets")


def _evaluated(evaluate: Evaluate, model: nn.Module) -> Evaluation:
    found = evaluate(model)
    if not isinstance(found, Evaluation):
        return Evaluation(float(found))
    # a sweep without a value leaves no pairs to compare
    whole = all(math.isfinite(value) for value in found.per_sweep)
    return found if whole else replace(found, per_sweep=())


@contextmanager
def _restoring(model: nn.Module) -> Iterator[Callable[[], None]]:
    """Yields a function that brings back all parameters, buffers and modes as they were; it also ends so."""
    saved = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    modes = [(part, part.training) for part in model.modules()]

    def restore() -> None:
        with torch.no_grad():
            now: Mapping[str, Tensor] = model.state_dict()
            for name, tensor in saved.items():
                now[name].copy_(tensor)
        for part, training in modes:
            part.training = training

    try:
        yield restore
    finally:
        restore()
