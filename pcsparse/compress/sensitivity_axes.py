"""The axes of a sensitivity scan: the ways in which a network can get smaller."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import nn

from pcsparse.compress.channel_scores import Losses, Score, channel_scores
from pcsparse.compress.channels import MULTIPLE, choose_channels, kept_widths, mask_channels
from pcsparse.compress.cost import CostTable
from pcsparse.compress.graph import ChannelGraph
from pcsparse.compress.sensitivity_offsets import OffsetsAxis
from pcsparse.compress.sensitivity_voxels import VoxelsAxis
from pcsparse.compress.shared_weights import keep_largest
from pcsparse.compress.weights import WeightMasks, all_weight_layers, weight_layers
from pcsparse.errors import UnsupportedError


class Axis(Protocol):
    """What is pruned, and how: one of the ways in which a network can get smaller.

    For a scan in other processes it must bear to be pickled.
    """

    name: str

    def sizes(self) -> Mapping[str, int]:
        """What can be pruned one by one, with the number of its parts (weights, channels)."""

    def labels(self) -> Mapping[str, str]:
        """What a figure calls those of them whose names say too little."""

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

    def labels(self) -> Mapping[str, str]:
        """Names say it all."""
        return {}

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

    def labels(self) -> Mapping[str, str]:
        """Names say it all."""
        return {}

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


def axis_of(axis: str | Axis, model: nn.Module) -> Axis:
    """An axis by its name, or as it is.

    Raises:
        UnsupportedError: no such axis, or a network that it does not know.
    """
    if not isinstance(axis, str):
        return axis
    match axis:
        case "weights":
            return WeightsAxis(model)
        case "channels":
            return ChannelsAxis(model)
        case "offsets":
            return OffsetsAxis(model)
        case "voxels":
            return VoxelsAxis(model)
        case _:
            raise UnsupportedError(f"no axis {axis!r}; there are weights, channels, offsets and voxels")
