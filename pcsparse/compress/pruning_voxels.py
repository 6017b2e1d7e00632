"""Voxels of a whole compression, see `pruning`: which share of its rows each layer convolves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from pcsparse.compress.channel_scores import Losses
from pcsparse.compress.cost import Unit
from pcsparse.compress.finetune import Fit, Rounds, recalibrate
from pcsparse.compress.measured import LayerPair
from pcsparse.compress.pruning import Batches, Costed, CostSummary, Step
from pcsparse.compress.reconstruction import Refit
from pcsparse.compress.search.dominated import without_dominated
from pcsparse.compress.search.space import Assignment, CostTerm, Space
from pcsparse.compress.search.space import Step as SpaceStep
from pcsparse.compress.sensitivity import RATIOS
from pcsparse.compress.sensitivity_voxels import VoxelsAxis
from pcsparse.compress.voxel_cost import VoxelCost
from pcsparse.compress.voxel_importance import PARTS
from pcsparse.compress.voxel_measure import measure_voxel_cost
from pcsparse.compress.voxels import REST, check_rest, prune_voxels, voxel_layers
from pcsparse.compress.weights import check_ratio
from pcsparse.engine.tune_cache import TuneTable
from pcsparse.errors import FormatError, RangeError, UnsupportedError
from pcsparse.nn.conv import Rest
from pcsparse.sparse_tensor import SparseTensor

NO_REFIT = "least squares bring nothing back where rows are left out (docs/log.md); set reconstruct=false"
"""Why there is no `PrunableVoxels.refit`."""


@dataclass(frozen=True)
class VoxelPruning:
    """Rows with small features are left out of convolutions, layer by layer; all voxels stay.

    Attributes:
        ratios: shares of rows that a layer may leave out, each in [0, 1), in thousandths; the search chooses
            among them.
        rest: what becomes of these rows: "centre" multiplies them by the centre's weights, "pass" hands them
            on.

    Raises:
        RangeError: no ratios, or ratios outside [0, 1); no such `rest`.
    """

    ratios: Sequence[float] = RATIOS
    rest: Rest = REST
    name = "voxels"
    counts_pairs = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratios", tuple(self.ratios))
        for ratio in self.ratios:
            check_ratio(ratio, "compress.ratios")
        if not self.ratios:
            raise RangeError("compress.ratios must not be empty")
        check_rest(self.rest)

    @property
    def kept(self) -> tuple[int, ...]:
        """The thousandths that the ratios leave, ascending, all rows among them."""
        return tuple(sorted({max(1, round((1.0 - ratio) * PARTS)) for ratio in (*self.ratios, 0.0)}))

    def of(self, model: nn.Module, losses: Losses | None) -> "PrunableVoxels":
        """For one network.

        Raises:
            UnsupportedError: all layers must convolve all rows.
            RangeError: a layer leaves rows out already.
        """
        return PrunableVoxels(model, self)

    def facts(self, step: Step = "search") -> dict[str, Any]:
        """The settings that matter: the scan has ratios of its own."""
        # files from before there was a choice are of rows that pass
        facts: dict[str, Any] = {"axis": self.name} | ({} if self.rest == "pass" else {"rest": self.rest})
        return facts if step == "scan" else facts | {"ratios": list(self.ratios)}


@dataclass(frozen=True, eq=False)
class VoxelNetworks:
    """From assignments of a space of shares to networks whose layers convolve them."""

    model: nn.Module
    space: Space
    rest: Rest

    def __call__(self, assignment: Assignment) -> nn.Module:
        """The network, with weights of its own."""
        shares = {
            step.name: kept / PARTS
            for step, kept in zip(self.space.steps, assignment, strict=True)
            if kept < PARTS
        }
        return prune_voxels(self.model, shares, self.rest)


class CostedVoxelsAxis(VoxelsAxis):
    """The axis of a scan with costs that were measured, choosing and filtering included.

    Args:
        model: see `VoxelsAxis`.
        measured: of it.
        rest: what becomes of the rows that are not convolved.
    """

    def __init__(self, model: nn.Module, measured: VoxelCost, rest: Rest) -> None:
        super().__init__(model, rest=rest)
        self._measured = measured

    def macs(self, name: str, kept: int) -> float:
        """See `VoxelCost.total`."""
        return self._measured.total("MACs", {name: kept})

    def milliseconds(self, name: str, kept: int) -> float:
        """See `VoxelCost.total`."""
        return self._measured.total("ms", {name: kept})


class PrunableVoxels(Costed[VoxelCost]):
    """A network whose layers can do with some rows; see `Prunable`.

    Args:
        model: trained; it is not changed.
        settings: how.
    """

    def __init__(self, model: nn.Module, settings: VoxelPruning) -> None:
        if not voxel_layers(model, settings.rest):
            equal = ", with as many channels out as in" if settings.rest == "pass" else ""
            raise UnsupportedError(
                f"{type(model).__name__} has no layer that need not convolve all rows: submanifold, larger "
                f"than 1^3{equal}"
            )
        # refuses a network that leaves rows out already
        VoxelsAxis(model, rest=settings.rest)
        # and one that could not be made again
        prune_voxels(model, {}, settings.rest)
        self._model, self._settings = model, settings

    def measure(
        self, sweeps: Sequence[SparseTensor], *, step: int, runs: int, tuned: TuneTable | None = None
    ) -> None:
        """See `measure_voxel_cost`; `step` is of widths, and means nothing here."""
        points = [kept for kept in self._settings.kept if kept < PARTS]
        self._cost = measure_voxel_cost(
            self._model, sweeps, points, rest=self._settings.rest, runs=runs, tuned=tuned
        )

    def save_cost(self, path: Path) -> None:
        """See `VoxelCost.save`."""
        self.cost.save(path)

    def load_cost(self, path: Path, sweeps: Sequence[SparseTensor]) -> None:
        """Of any machine: whoever resumes knows where it was measured."""
        cost = VoxelCost.load(path)
        rest = self._settings.rest
        known = {layer.name for layer in cost.layers if layer.rest == rest}
        if known != voxel_layers(self._model, rest).keys():
            raise FormatError(f"{path} is no cost of this network's voxels")
        self._cost = cost

    def summary(self) -> CostSummary:
        """Of the cost."""
        cost = self.cost
        return CostSummary(cost.total("ms"), cost.map_ms, cost.total("MACs"), float(cost.bytes), cost.busy)

    def scan_axis(self) -> CostedVoxelsAxis:
        """Layer by layer."""
        return CostedVoxelsAxis(self._model, self.cost, self._settings.rest)

    def space(self, unit: Unit) -> Space:
        """Thousandths of rows as widths, a term a layer: what one saves changes nothing for another.

        Shares at which choosing rows costs more than a larger share does are left out; of layers with few
        rows or channels all may be. Of bytes nothing can be saved.
        """
        cost, kept = self.cost, self._settings.kept
        steps = tuple(
            SpaceStep(
                layer.name, kept, c_in=layer.c_in, c_out=layer.c_out, stride=layer.stride,
                kernel=layer.k, voxels=layer.rows, pairs=layer.pairs,
            )
            for layer in cost.layers
        )  # fmt: skip
        terms = [CostTerm("all else", (), np.array(cost.fixed(unit)))]
        for layer in cost.layers:
            costs = np.array([cost.of_layer(layer, unit, point) for point in kept])
            terms.append(CostTerm(layer.name, (layer.name,), costs))
        return without_dominated(Space(steps, tuple(terms), unit))

    def networks(self, space: Space) -> VoxelNetworks:
        """See `VoxelNetworks`."""
        return VoxelNetworks(self._model, space, self._settings.rest)

    def refit(
        self, sliced: nn.Module, space: Space, assignment: Assignment, sweeps: Sequence[SparseTensor]
    ) -> tuple[Refit, ...]:
        """There is none.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(NO_REFIT)

    def tune(
        self, space: Space, assignment: Assignment, fit: Fit, rounds: Rounds, batches: Batches | None
    ) -> nn.Module:
        """Fewer rows in each round; the last one comes to the assignment itself."""
        model = self._model
        for share in rounds.shares():
            kept: Mapping[str, int] = {
                step.name: round(step.full - share * (step.full - last))
                for step, last in zip(space.steps, assignment, strict=True)
            }
            shares = {name: n / PARTS for name, n in kept.items() if n < PARTS}
            model = prune_voxels(model, shares, self._settings.rest)
            if batches is not None:
                recalibrate(model, batches())
            fit(model, rounds.lr * rounds.lr_factor)
        return model

    def places(self, step: str) -> str:
        """The layer, and how its rows are counted."""
        return f"{step}, rows in thousandths"

    def predicted(self, layer: LayerPair) -> float | None:
        """By the layer's times, at its share of the pairs."""
        known = next((one for one in self.cost.layers if one.name == layer.name), None)
        if known is None or layer.kind != "conv" or layer.after is None or not layer.before.macs:
            return None
        share = layer.after.macs / layer.before.macs
        return known.whole_ms if share == 1.0 or not known.kept else known.of_pairs(share)
