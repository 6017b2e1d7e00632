"""Channels and kernel offsets in one sensitivity scan, each step alone."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from pcsparse.compress.cost import Unit
from pcsparse.compress.graph import ChannelGraph
from pcsparse.compress.joint_cost import JointCost
from pcsparse.compress.joint_space import CHANNELS, OFFSETS, axis_of_step
from pcsparse.compress.offsets import choose_offsets
from pcsparse.compress.sensitivity_axes import ChannelsAxis
from pcsparse.compress.sensitivity_offsets import OffsetsAxis


class JointAxis:
    """Both axes, with the names that `joint_space` gives to steps.

    Args:
        channels: of a network.
        offsets: of the same.
        cost: of it.
        graph: of it.
        scores: of its offsets.
    """

    name = "channels and offsets"

    def __init__(
        self,
        channels: ChannelsAxis,
        offsets: OffsetsAxis,
        cost: JointCost,
        graph: ChannelGraph,
        scores: Mapping[str, Tensor],
    ) -> None:
        self._axes: dict[str, ChannelsAxis | OffsetsAxis] = {CHANNELS: channels, OFFSETS: offsets}
        self._cost, self._graph, self._scores = cost, graph, scores

    def sizes(self) -> Mapping[str, int]:
        """Channels of each group, then offsets of each map."""
        return {start + name: n for start, axis in self._axes.items() for name, n in axis.sizes().items()}

    def labels(self) -> Mapping[str, str]:
        """Those of both axes, by the names that steps have here."""
        return {
            start + name: text for start, axis in self._axes.items() for name, text in axis.labels().items()
        }

    def kept(self, name: str, ratio: float) -> int:
        """Parts that stay, as the axis rounds them."""
        start, group = axis_of_step(name)
        return self._axes[start].kept(group, ratio)

    def cut(self, model: nn.Module, name: str, kept: int) -> None:
        """Zero the least channels of a group, or the least offsets of a map."""
        start, group = axis_of_step(name)
        self._axes[start].cut(model, group, kept)

    def facts(self) -> Mapping[str, Any]:
        """Of both axes."""
        return {start.split()[0]: dict(axis.facts()) for start, axis in self._axes.items()}

    def macs(self, name: str, kept: int) -> float | None:
        """Of the sliced network, exact for the sweeps."""
        return self._total("MACs", name, kept)

    def milliseconds(self, name: str, kept: int) -> float | None:
        """Of the sliced network, by the cost."""
        return self._total("ms", name, kept)

    def _total(self, unit: Unit, name: str, kept: int) -> float:
        start, group = axis_of_step(name)
        if start == CHANNELS:
            return self._cost.total(unit, self._graph.widths({group: kept}))
        chosen = choose_offsets(self._cost.maps, self._scores, {group: kept})
        return self._cost.total(unit, chosen=chosen)
