"""What a whole compression can prune, behind one interface: measure, scan, search and prune know no more.

Another axis, such as kernel offsets, is a pair of classes as these and a file in `configs/compress`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from pcsparse.compress.channel_scores import Losses, Score, channel_scores
from pcsparse.compress.channels import MULTIPLE, choose_channels
from pcsparse.compress.cost import CostTable, Unit
from pcsparse.compress.cost_measure import measure_cost
from pcsparse.compress.finetune import Fit, Rounds, tune_channels
from pcsparse.compress.graph import ChannelGraph
from pcsparse.compress.reconstruction import Refit, reconstruct
from pcsparse.compress.search.space import Assignment, Space
from pcsparse.compress.sensitivity import RATIOS, Axis, ChannelsAxis
from pcsparse.compress.space_of import kept_of, network_of, space_of
from pcsparse.compress.weights import check_ratio
from pcsparse.engine.tune_cache import TuneTable
from pcsparse.errors import RangeError
from pcsparse.sparse_tensor import SparseTensor

Networks = Callable[[Assignment], nn.Module]
"""The smaller network of an assignment. Can be sent to other processes."""
Step = Literal["cost", "scan", "search"]
"""Of a compression; those after the search take its results."""
Batches = Callable[[], Iterable[Any]]
"""Makes inputs on which batch norms are measured anew."""


class Prunable(Protocol):
    """A network and one way to make it smaller."""

    def measure(
        self, sweeps: Sequence[SparseTensor], *, step: int, runs: int, tuned: TuneTable | None
    ) -> CostTable:
        """What it costs, by what is kept."""

    def scan_axis(self, cost: CostTable) -> Axis:
        """For `sensitivity.scan`."""

    def space(self, cost: CostTable, unit: Unit) -> Space:
        """What a search chooses from."""

    def networks(self, space: Space) -> Networks:
        """From assignments to networks."""

    def refit(
        self, sliced: nn.Module, space: Space, assignment: Assignment, sweeps: Sequence[SparseTensor]
    ) -> tuple[Refit, ...]:
        """Least squares for what lost inputs, in place in `sliced`."""

    def tune(
        self,
        space: Space,
        assignment: Assignment,
        fit: Fit,
        rounds: Rounds,
        batches: Batches | None,
    ) -> nn.Module:
        """Prune and train in rounds, from the whole network."""

    def places(self, step: str) -> str:
        """Where in the network the parts of a step are, for a reader."""


class Pruning(Protocol):
    """Settings of one way to make networks smaller."""

    @property
    def name(self) -> str:
        """For logs and reports."""

    def of(self, model: nn.Module, losses: Losses | None) -> Prunable:
        """For one network; `losses` are of calibration batches."""

    def facts(self, step: Step = "search") -> dict[str, Any]:
        """What of it shapes the results of a step, as JSON values; all of it that of the search."""


@dataclass(frozen=True)
class ChannelPruning:
    """Fewer channels, group by group of the channel graph.

    Attributes:
        ratios: shares that a group may lose, each in [0, 1); the search chooses among them.
        multiple: kept widths are multiples of it.
        score: which channels go first, see `channel_scores.channel_scores`.

    Raises:
        RangeError: no ratios, ratios outside [0, 1), or a multiple below 1.
    """

    ratios: Sequence[float] = RATIOS
    multiple: int = MULTIPLE
    score: Score = "magnitude"
    name = "channels"

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratios", tuple(self.ratios))
        for ratio in self.ratios:
            check_ratio(ratio, "compress.ratios")
        if not self.ratios or self.multiple < 1:
            raise RangeError(
                f"compress.ratios must not be empty and compress.multiple at least 1, got {self.ratios} and "
                f"{self.multiple}"
            )

    def of(self, model: nn.Module, losses: Losses | None) -> "PrunableChannels":
        """For one network.

        Raises:
            UnsupportedError: an operator that the channel graph does not know; the text names it and where.
            RangeError: see `channel_scores`.
        """
        return PrunableChannels(model, self, losses)

    def facts(self, step: Step = "search") -> dict[str, Any]:
        """The settings that matter: which channels go first is nothing to their cost."""
        cost = {"axis": self.name, "multiple": self.multiple}
        scan = {**cost, "score": self.score}
        return {"cost": cost, "scan": scan, "search": {**scan, "ratios": list(self.ratios)}}[step]


@dataclass(frozen=True, eq=False)
class ChannelNetworks:
    """From assignments of a space of channels to sliced networks; see `space_of.network_of`."""

    model: nn.Module
    graph: ChannelGraph
    scores: Mapping[str, Tensor]
    space: Space

    def __call__(self, assignment: Assignment) -> nn.Module:
        """The sliced network."""
        return network_of(self.model, self.graph, self.scores, self.space, assignment)


class PrunableChannels:
    """A network whose channels can be removed; see `Prunable`.

    Args:
        model: trained; it is not changed.
        settings: how.
        losses: for the Taylor score.

    Attributes:
        graph: of `model`.
        scores: of its channels, made once.
    """

    def __init__(self, model: nn.Module, settings: ChannelPruning, losses: Losses | None = None) -> None:
        self.graph = ChannelGraph.of(model)
        self.scores = channel_scores(model, self.graph, settings.score, losses)
        self._model, self._settings, self._losses = model, settings, losses

    def measure(
        self, sweeps: Sequence[SparseTensor], *, step: int, runs: int, tuned: TuneTable | None = None
    ) -> CostTable:
        """See `measure_cost`."""
        multiple = self._settings.multiple
        return measure_cost(
            self._model, sweeps, graph=self.graph, multiple=multiple, step=step, runs=runs, tuned=tuned
        )

    def scan_axis(self, cost: CostTable) -> ChannelsAxis:
        """Groups of the graph."""
        settings = self._settings
        return ChannelsAxis(
            self._model, graph=self.graph, score=settings.score, losses=self._losses,
            multiple=settings.multiple, cost=cost,
        )  # fmt: skip

    def space(self, cost: CostTable, unit: Unit) -> Space:
        """See `space_of`."""
        settings = self._settings
        return space_of(self.graph, cost, unit, ratios=settings.ratios, multiple=settings.multiple)

    def networks(self, space: Space) -> ChannelNetworks:
        """See `ChannelNetworks`."""
        return ChannelNetworks(self._model, self.graph, self.scores, space)

    def refit(
        self, sliced: nn.Module, space: Space, assignment: Assignment, sweeps: Sequence[SparseTensor]
    ) -> tuple[Refit, ...]:
        """See `reconstruct`."""
        chosen = choose_channels(self.scores, kept_of(space, assignment))
        return reconstruct(self._model, sliced, self.graph, chosen, sweeps)

    def tune(
        self, space: Space, assignment: Assignment, fit: Fit, rounds: Rounds, batches: Batches | None
    ) -> nn.Module:
        """See `tune_channels`."""
        settings = self._settings
        return tune_channels(
            self._model, kept_of(space, assignment), fit, rounds, score=settings.score,
            multiple=settings.multiple, losses=self._losses, batches=batches,
        )  # fmt: skip

    def places(self, step: str) -> str:
        """The layers that write the channels of a group, then those that read them."""
        group = self.graph.group(step)
        return f"{', '.join(group.layers('out'))} → {', '.join(group.layers('in'))}"
