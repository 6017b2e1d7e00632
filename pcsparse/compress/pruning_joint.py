"""Channels and kernel offsets of a whole compression searched together, see `pruning`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pcsparse.compress.channel_scores import Losses
from pcsparse.compress.channels import choose_channels
from pcsparse.compress.cost import CostTable, Unit
from pcsparse.compress.cost_measure import measure_cost
from pcsparse.compress.finetune import Fit, Rounds, narrowed, recalibrate
from pcsparse.compress.graph import ChannelGraph
from pcsparse.compress.joint_cost import JointCost
from pcsparse.compress.joint_space import CHANNELS, axis_of_step, joint_choice, joint_network, joint_space
from pcsparse.compress.measured import LayerPair
from pcsparse.compress.offset_groups import Offsets
from pcsparse.compress.offset_scores import offset_scores
from pcsparse.compress.offsets import (
    choose_offsets,
    counts_between,
    kept_counts,
    prune_offsets,
    slice_offsets,
)
from pcsparse.compress.pruning import Batches, Costed, CostSummary, Step
from pcsparse.compress.pruning_channels import ChannelPruning, PrunableChannels
from pcsparse.compress.pruning_offsets import OffsetPruning
from pcsparse.compress.reconstruction import Refit, reconstruct
from pcsparse.compress.search.space import Assignment, Space
from pcsparse.compress.sensitivity_joint import JointAxis
from pcsparse.compress.sensitivity_offsets import OffsetsAxis
from pcsparse.compress.shared_maps import SharedMaps
from pcsparse.engine.tune_cache import TuneTable
from pcsparse.errors import FormatError, UnsupportedError
from pcsparse.sparse_tensor import SparseTensor

OFFSETS_FILE = "cost-offsets.json"
"""Beside the file of the cost with all offsets."""
_SOME = 0.25
"""Of the offsets, with which layers are timed besides all: 7 of 27 have half of the pairs of a sweep."""


@dataclass(frozen=True)
class JointPruning:
    """Fewer channels and fewer kernel offsets, in one search.

    Attributes:
        channels: how those are removed.
        offsets: how these are.
    """

    channels: ChannelPruning = field(default_factory=ChannelPruning)
    offsets: OffsetPruning = field(default_factory=OffsetPruning)
    name = "channels and offsets"
    counts_pairs = True

    def of(self, model: nn.Module, losses: Losses | None) -> "PrunableJoint":
        """For one network.

        Raises:
            UnsupportedError: an operator that the channel graph does not know; the text names it and where.
                Or no Spec with `with_offsets`, before anything is measured.
            RangeError: see `channel_scores`.
        """
        if not hasattr(getattr(model, "spec", None), "with_offsets"):
            raise UnsupportedError(
                f"{type(model).__name__} has no Spec with a method with_offsets; use compress=channels"
            )
        return PrunableJoint(model, self, losses)

    def facts(self, step: Step = "search") -> dict[str, Any]:
        """Those of both."""
        return {
            "axis": self.name, "channels": self.channels.facts(step), "offsets": self.offsets.facts(step),
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class JointNetworks:
    """From assignments of a joint space to sliced networks; see `joint_space.joint_network`."""

    model: nn.Module
    graph: ChannelGraph
    channel_scores: Mapping[str, Tensor]
    maps: SharedMaps
    offset_scores: Mapping[str, Tensor]
    space: Space

    def __call__(self, assignment: Assignment) -> nn.Module:
        """The sliced network."""
        return joint_network(
            self.model, self.graph, self.channel_scores, self.maps, self.offset_scores, self.space, assignment
        )


class PrunableJoint(Costed[JointCost]):
    """A network whose channels and kernel offsets can be removed; see `Prunable`.

    Args:
        model: trained; it is not changed.
        settings: how.
        losses: for Taylor scores.

    Attributes:
        channels: of `model`.
        scores: of its offsets, made once the sweeps are known.
    """

    def __init__(self, model: nn.Module, settings: JointPruning, losses: Losses | None = None) -> None:
        self.channels: PrunableChannels = settings.channels.of(model, losses)
        self.scores: Mapping[str, Tensor] = {}
        self._model, self._settings, self._losses = model, settings, losses
        self._sweeps: Sequence[SparseTensor] = ()

    def measure(
        self, sweeps: Sequence[SparseTensor], *, step: int, runs: int, tuned: TuneTable | None = None
    ) -> None:
        """See `measure_cost`, which runs on the network with all offsets and with some."""
        maps, graph, multiple = self._look(sweeps), self.channels.graph, self._settings.channels.multiple
        self.channels.measure(sweeps, step=step, runs=runs, tuned=tuned)
        kept = self._some(maps)
        some = measure_cost(
            slice_offsets(self._model, maps, kept), sweeps, graph=graph, multiple=multiple, step=step,
            runs=runs, tuned=tuned,
        )  # fmt: skip
        self._cost = JointCost(maps, self.channels.cost, some, kept)

    def save_cost(self, path: Path) -> None:
        """With all offsets at `path`, which is written last, with some beside it."""
        self.cost.some.save(path.with_name(OFFSETS_FILE))
        self.channels.save_cost(path)

    def load_cost(self, path: Path, sweeps: Sequence[SparseTensor]) -> None:
        """Of any machine: whoever resumes knows where it was measured."""
        maps = self._look(sweeps)
        self.channels.load_cost(path, sweeps)
        beside = path.with_name(OFFSETS_FILE)
        if not beside.is_file():
            raise FormatError(
                f"{beside} is gone, which belongs to {path.name}; remove that too to measure both anew"
            )
        some = CostTable.load(beside, any_machine=True)
        self._cost = JointCost(maps, self.channels.cost, some, self._some(maps))

    def summary(self) -> CostSummary:
        """With all offsets."""
        return replace(self.channels.summary(), busy=self.cost.whole.busy or self.cost.some.busy)

    def scan_axis(self) -> JointAxis:
        """Groups of the graph, and of the maps."""
        offsets = self._settings.offsets
        axis = OffsetsAxis(
            self._model, self._sweeps, scope=offsets.scope, score=offsets.score, losses=self._losses
        )
        return JointAxis(self.channels.scan_axis(), axis, self.cost, self.channels.graph, self.scores)

    def space(self, unit: Unit) -> Space:
        """See `joint_space`."""
        channels, offsets = self._settings.channels, self._settings.offsets
        return joint_space(
            self.cost, self.channels.graph, self.scores, unit, ratios=channels.ratios,
            multiple=channels.multiple, offset_ratios=offsets.ratios,
        )  # fmt: skip

    def networks(self, space: Space) -> JointNetworks:
        """See `JointNetworks`."""
        return JointNetworks(
            self._model, self.channels.graph, self.channels.scores, self.cost.maps, self.scores, space
        )  # fmt: skip

    def refit(
        self, sliced: nn.Module, space: Space, assignment: Assignment, sweeps: Sequence[SparseTensor]
    ) -> tuple[Refit, ...]:
        """See `reconstruct`: layers that lost channels, offsets or both."""
        chosen = choose_channels(self.channels.scores, joint_choice(space, assignment).widths)
        return reconstruct(self._model, sliced, self.channels.graph, chosen, sweeps)

    def tune(
        self, space: Space, assignment: Assignment, fit: Fit, rounds: Rounds, batches: Batches | None
    ) -> nn.Module:
        """Channels and offsets are scored anew in each round, the offsets of what is left of the channels."""
        chosen, model = joint_choice(space, assignment), self._model
        channels, offsets = self._settings.channels, self._settings.offsets
        full = {group.name: group.width for group in self.channels.graph.groups}
        for share in rounds.shares():
            model = narrowed(
                model, chosen.widths, full, share, score=channels.score, multiple=channels.multiple,
                losses=self._losses,
            )  # fmt: skip
            counts = counts_between(self.cost.maps, chosen.counts, share)
            model = prune_offsets(
                model, counts, sweeps=self._sweeps, scope=offsets.scope, score=offsets.score,
                losses=self._losses,
            )  # fmt: skip
            if batches is not None:
                recalibrate(model, batches())
            fit(model, rounds.lr * rounds.lr_factor)
        return model

    def places(self, step: str) -> str:
        """The layers that write and read a group of channels, or the convolutions that read a map."""
        axis, group = axis_of_step(step)
        if axis == CHANNELS:
            return self.channels.places(group)
        return ", ".join(reader.name for reader in self.cost.maps.group(group).readers)

    def predicted(self, layer: LayerPair) -> float | None:
        """From both tables, at the widths and the share of the pairs after."""
        ms, before, after = self.channels.predicted(layer), layer.before, layer.after
        if ms is None or after is None or not before.macs:
            return ms
        part = after.macs * before.c_in * before.c_out / (after.c_in * after.c_out * before.macs)
        key = layer.name, layer.kind
        found = next(one for one in self.cost.whole.layers if (one.name, one.kind) == key)
        return self.cost.milliseconds(found, after.c_in, after.c_out, part)

    def _look(self, sweeps: Sequence[SparseTensor]) -> SharedMaps:
        offsets, self._sweeps = self._settings.offsets, sweeps
        maps = SharedMaps.of(self._model, sweeps, scope=offsets.scope)
        self.scores = offset_scores(self._model, maps, offsets.score, self._losses)
        return maps

    def _some(self, maps: SharedMaps) -> dict[str, Offsets]:
        """The offsets of the second table, by the weights alone: scores may hang on the sweeps of today."""
        return choose_offsets(maps, offset_scores(self._model, maps), kept_counts(maps, _SOME))
