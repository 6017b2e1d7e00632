"""Kernel offsets of a whole compression, see `pruning`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pcsparse.compress.channel_scores import Losses
from pcsparse.compress.cost import Unit
from pcsparse.compress.finetune import Fit, Rounds, recalibrate
from pcsparse.compress.graph import ChannelGraph
from pcsparse.compress.measured import LayerPair
from pcsparse.compress.offset_cost import Line, OffsetCost
from pcsparse.compress.offset_measure import measure_offset_cost
from pcsparse.compress.offset_scores import OffsetScore, offset_scores
from pcsparse.compress.offset_space import offset_space, offsets_of
from pcsparse.compress.offsets import counts_between, prune_offsets, slice_offsets
from pcsparse.compress.pruning import Batches, Costed, CostSummary, Step
from pcsparse.compress.reconstruction import Refit, reconstruct
from pcsparse.compress.search.space import Assignment, Space
from pcsparse.compress.sensitivity import RATIOS
from pcsparse.compress.sensitivity_offsets import OffsetsAxis
from pcsparse.compress.shared_maps import Scope, SharedMaps
from pcsparse.compress.weights import check_ratio
from pcsparse.engine.tune_cache import TuneTable
from pcsparse.errors import FormatError, RangeError
from pcsparse.sparse_tensor import SparseTensor
from pcsparse.whole_file import write_whole

_FORMAT = 1


@dataclass(frozen=True)
class OffsetPruning:
    """Fewer kernel offsets, of the convolutions that keep the stride.

    Attributes:
        ratios: shares of offsets that a group may lose, each in [0, 1), rounded to whole pairs of opposite
            ones; the search chooses among them.
        scope: "map": all convolutions on one map keep the same offsets, and the map is searched for no
            others; "layer": each has its own.
        score: which offsets go first, see `offset_scores.offset_scores`.

    Raises:
        RangeError: no ratios, or ratios outside [0, 1).
    """

    ratios: Sequence[float] = RATIOS
    scope: Scope = "map"
    score: OffsetScore = "magnitude"
    name = "offsets"
    counts_pairs = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratios", tuple(self.ratios))
        for ratio in self.ratios:
            check_ratio(ratio, "compress.ratios")
        if not self.ratios:
            raise RangeError("compress.ratios must not be empty")

    def of(self, model: nn.Module, losses: Losses | None) -> "PrunableOffsets":
        """For one network."""
        return PrunableOffsets(model, self, losses)

    def facts(self, step: Step = "search") -> dict[str, Any]:
        """The settings that matter: what some offsets cost hangs on which they are."""
        shared = {"axis": self.name, "scope": self.scope, "score": self.score}
        return {**shared, "ratios": list(self.ratios)} if step == "search" else shared


@dataclass(frozen=True, eq=False)
class OffsetNetworks:
    """From assignments of a space of offsets to sliced networks; see `offset_space.offsets_of`."""

    model: nn.Module
    maps: SharedMaps
    scores: Mapping[str, Tensor]
    space: Space

    def __call__(self, assignment: Assignment) -> nn.Module:
        """The sliced network."""
        chosen = offsets_of(self.space, assignment, self.maps, self.scores)
        return slice_offsets(self.model, self.maps, chosen)


class PrunableOffsets(Costed[OffsetCost]):
    """A network whose kernel offsets can be removed; see `Prunable`.

    Args:
        model: trained; it is not changed.
        settings: how.
        losses: for the Taylor score.
    """

    def __init__(self, model: nn.Module, settings: OffsetPruning, losses: Losses | None = None) -> None:
        self._model, self._settings, self._losses = model, settings, losses
        self._scores: Mapping[str, Tensor] = {}
        self._sweeps: Sequence[SparseTensor] = ()

    def measure(
        self, sweeps: Sequence[SparseTensor], *, step: int, runs: int, tuned: TuneTable | None = None
    ) -> None:
        """See `measure_offset_cost`; `step` is of widths, and means nothing here."""
        maps = self._look(sweeps)
        self._cost = measure_offset_cost(self._model, sweeps, maps, self._scores, runs=runs, tuned=tuned)

    def save_cost(self, path: Path) -> None:
        """The times; maps are counted anew when they are loaded."""
        cost = self.cost
        content = {
            "format": _FORMAT,
            "products": {name: _points(line) for name, line in cost.products.items()},
            "network": _points(cost.network),
            "building": _points(cost.building),
            "bytes": cost.bytes,
            "itemsize": cost.itemsize,
            "machine": cost.machine,
            "busy": cost.busy,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())

    def load_cost(self, path: Path, sweeps: Sequence[SparseTensor]) -> None:
        """Of any machine: whoever resumes knows where it was measured."""
        maps = self._look(sweeps)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("format") != _FORMAT:
                raise FormatError(f"{path} is of another format; this version reads {_FORMAT}: measure anew")
            products = {name: _line(points) for name, points in content.pop("products").items()}
            network, building = _line(content.pop("network")), _line(content.pop("building"))
            cost = OffsetCost(maps=maps, products=products, network=network, building=building, **content)
            # names every reader
            cost.total("ms")
        except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, FormatError):
                raise
            raise FormatError(f"{path} is no cost of this network's offsets ({error})") from error
        self._cost = cost

    def summary(self) -> CostSummary:
        """Of the cost."""
        cost = self.cost
        return CostSummary(
            cost.total("ms"), cost.maps_ms(), cost.total("MACs"), cost.total("bytes"), cost.busy
        )

    def scan_axis(self) -> OffsetsAxis:
        """Groups of the maps."""
        settings = self._settings
        return OffsetsAxis(
            self._model, scope=settings.scope, score=settings.score, losses=self._losses, cost=self.cost
        )

    def space(self, unit: Unit) -> Space:
        """See `offset_space`."""
        return offset_space(self.cost, self._scores, unit, ratios=self._settings.ratios)

    def networks(self, space: Space) -> OffsetNetworks:
        """See `OffsetNetworks`."""
        return OffsetNetworks(self._model, self.cost.maps, self._scores, space)

    def refit(
        self, sliced: nn.Module, space: Space, assignment: Assignment, sweeps: Sequence[SparseTensor]
    ) -> tuple[Refit, ...]:
        """See `reconstruct`.

        Raises:
            UnsupportedError: an operator that the channel graph does not know, in whose order layers go.
        """
        return reconstruct(self._model, sliced, ChannelGraph.of(self._model), {}, sweeps)

    def tune(
        self, space: Space, assignment: Assignment, fit: Fit, rounds: Rounds, batches: Batches | None
    ) -> nn.Module:
        """Offsets are scored anew in each round."""
        settings, model, maps = self._settings, self._model, self.cost.maps
        counts = {step.name: kept for step, kept in zip(space.steps, assignment, strict=True)}
        for share in rounds.shares():
            keep = counts_between(maps, counts, share)
            model = prune_offsets(
                model, keep, sweeps=self._sweeps, scope=settings.scope, score=settings.score,
                losses=self._losses,
            )  # fmt: skip
            if batches is not None:
                recalibrate(model, batches())
            fit(model, rounds.lr * rounds.lr_factor)
        return model

    def places(self, step: str) -> str:
        """The convolutions that read a map."""
        return ", ".join(reader.name for reader in self.cost.maps.group(step).readers)

    def predicted(self, layer: LayerPair) -> float | None:
        """On the line of the layer, at its share of the pairs."""
        line = self.cost.products.get(layer.name)
        if line is None or layer.after is None or not layer.before.macs:
            return None
        group = next(
            group for group in self.cost.maps.groups if layer.name in {r.name for r in group.readers}
        )
        return line.of(sum(group.pairs) * layer.after.macs / layer.before.macs)

    def _look(self, sweeps: Sequence[SparseTensor]) -> SharedMaps:
        settings = self._settings
        self._sweeps = sweeps
        maps = SharedMaps.of(self._model, sweeps, scope=settings.scope)
        self._scores = offset_scores(self._model, maps, settings.score, self._losses)
        return maps


def _points(line: Line) -> dict[str, tuple[float, ...]]:
    return {"at": line.at, "ms": line.ms}


def _line(points: Mapping[str, Sequence[float]]) -> Line:
    return Line(tuple(map(float, points["at"])), tuple(map(float, points["ms"])))
