"""Channels of a whole compression, see `pruning`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pcsparse.compress.channel_scores import Losses, Score, channel_scores
from pcsparse.compress.channels import MULTIPLE, choose_channels
from pcsparse.compress.cost import CostTable, Unit
from pcsparse.compress.cost_measure import measure_cost
from pcsparse.compress.finetune import Fit, Rounds, tune_channels
from pcsparse.compress.graph import ChannelGraph
from pcsparse.compress.measured import LayerPair
from pcsparse.compress.pruning import Batches, Costed, CostSummary, Step
from pcsparse.compress.reconstruction import Refit, reconstruct
from pcsparse.compress.search.space import Assignment, Space
from pcsparse.compress.sensitivity import RATIOS, ChannelsAxis
from pcsparse.compress.space_of import kept_of, network_of, space_of
from pcsparse.compress.weights import check_ratio
from pcsparse.engine.tune_cache import TuneTable
from pcsparse.errors import RangeError
from pcsparse.sparse_tensor import SparseTensor


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
    counts_pairs = False

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


class PrunableChannels(Costed[CostTable]):
    """A network whose channels can be removed; see `Prunable`.

    Args:
        model: trained; it is not changed.
        settings: how.
        losses: for the Taylor score.
        graph_of: see `tune_channels`.

    Attributes:
        graph: of `model`.
        scores: of its channels, made once.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: ChannelPruning,
        losses: Losses | None = None,
        *,
        graph_of: Callable[[nn.Module], ChannelGraph] = ChannelGraph.of,
    ) -> None:
        self.graph, self._graph_of = graph_of(model), graph_of
        self.scores = channel_scores(model, self.graph, settings.score, losses)
        self._model, self._settings, self._losses = model, settings, losses

    def measure(
        self, sweeps: Sequence[SparseTensor], *, step: int, runs: int, tuned: TuneTable | None = None
    ) -> None:
        """See `measure_cost`."""
        multiple = self._settings.multiple
        self._cost = measure_cost(
            self._model, sweeps, graph=self.graph, multiple=multiple, step=step, runs=runs, tuned=tuned
        )

    def save_cost(self, path: Path) -> None:
        """See `CostTable.save`."""
        self.cost.save(path)

    def load_cost(self, path: Path, sweeps: Sequence[SparseTensor]) -> None:
        """Of any machine: whoever resumes knows where it was measured."""
        self._cost = CostTable.load(path, any_machine=True)

    def summary(self) -> CostSummary:
        """Of the table."""
        cost = self.cost
        return CostSummary(cost.total("ms"), cost.map_ms, cost.total("MACs"), cost.total("bytes"), cost.busy)

    def scan_axis(self) -> ChannelsAxis:
        """Groups of the graph."""
        settings = self._settings
        return ChannelsAxis(
            self._model, graph=self.graph, score=settings.score, losses=self._losses,
            multiple=settings.multiple, cost=self.cost,
        )  # fmt: skip

    def space(self, unit: Unit) -> Space:
        """See `space_of`."""
        settings = self._settings
        return space_of(self.graph, self.cost, unit, ratios=settings.ratios, multiple=settings.multiple)

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
            graph_of=self._graph_of,
        )  # fmt: skip

    def places(self, step: str) -> str:
        """The layers that write the channels of a group, then those that read them."""
        group = self.graph.group(step)
        return f"{', '.join(group.layers('out'))} → {', '.join(group.layers('in'))}"

    def predicted(self, layer: LayerPair) -> float | None:
        """From the table, at the widths after."""
        key = layer.name, layer.kind
        found = next((one for one in self.cost.layers if (one.name, one.kind) == key), None)
        if found is None or layer.after is None:
            return None
        return found.milliseconds(layer.after.c_in, layer.after.c_out)
