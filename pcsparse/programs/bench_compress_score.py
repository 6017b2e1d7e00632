"""How good a network of given widths is right after pruning: by sweep, so that intervals can be drawn."""

from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pcsparse.compress.channel_scores import channel_scores
from pcsparse.compress.finetune import recalibrate
from pcsparse.compress.graph import ChannelGraph
from pcsparse.compress.search.space import Assignment, Space
from pcsparse.compress.space_of import network_of
from pcsparse.data.collate import VoxelBatch
from pcsparse.nn import fuse, prepare
from pcsparse.programs.bench_compress_score_steps import take_steps
from pcsparse.programs.bench_compress_streets import Streets
from pcsparse.sparse_tensor import SparseTensor
from pcsparse.train.evaluation import evaluating
from pcsparse.train.metrics import ConfusionMatrix
from pcsparse.train.model_file import load_model
from pcsparse.train.sweep_counts import SweepCounts

_LOADED = ("_dense", "_search", "_lessons", "_held")


class Sweeps:
    """Sweeps with their maps built once, for many networks of one shape.

    Args:
        batches: one sweep each, with labels.
        model: any network that asks for the same maps.
    """

    def __init__(self, batches: list[VoxelBatch], model: nn.Module) -> None:
        self._batches = batches
        self._inputs = [prepare(model, batch.tensor()) for batch in batches]

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def inputs(self) -> list[SparseTensor]:
        """Of the network."""
        return self._inputs

    def counts(self, model: nn.Module, n_classes: int) -> SweepCounts:
        """Run a network over all of them."""
        found = []
        with evaluating(model):
            for batch, x in zip(self._batches, self._inputs, strict=True):
                assert batch.point_targets is not None  # every simulated sweep has labels
                confusion = ConfusionMatrix(n_classes)
                logits: Tensor = model(x).feats
                confusion.update(batch.to_points(logits.argmax(dim=1))[0], batch.point_targets)
                found.append(confusion)
        return SweepCounts.of(found)


class PrunedScore:
    """The score of widths: cut, train some steps or none, measure batch norms anew, look at search sweeps.

    Without the batch norms a U-Net cut by half tells noise, and every search would look for it. What a
    process has loaded stays in it; what is sent to another process is paths and the space alone.

    Args:
        checkpoint: of the dense network.
        streets: its data.
        space: of its channel graph.
        n_calibration: sweeps to measure batch norms on, of training towns.
        steps: of training before a network is scored.
    """

    def __init__(
        self, checkpoint: Path, streets: Streets, space: Space, n_calibration: int = 2, steps: int = 0
    ) -> None:
        self._checkpoint, self._streets, self._n_calibration = checkpoint, streets, n_calibration
        self._steps = steps
        self.space = space

    def __getstate__(self) -> dict[str, Any]:
        """Without what was loaded."""
        return {name: value for name, value in self.__dict__.items() if name not in _LOADED}

    @cached_property
    def _dense(self) -> tuple[nn.Module, ChannelGraph, dict[str, Tensor]]:
        model, _ = load_model(self._checkpoint)
        graph = ChannelGraph.of(model)
        # of the scores it leaves most to begin with (docs/log.md)
        return model, graph, channel_scores(model, graph, "max_response")

    @cached_property
    def _search(self) -> tuple[list[SparseTensor], Sweeps]:
        """Sweeps to calibrate on, and to look at."""
        streets = self._streets
        calibration = streets.calibration(self._n_calibration, cropped=True)
        return self._prepared(calibration, streets.batches(streets.search, cropped=True))

    @cached_property
    def _lessons(self) -> tuple[list[SparseTensor], list[Tensor]]:
        """Sweeps to train on, and their targets: one of a town, as many as there are steps and towns."""
        batches = self._streets.calibration(self._steps, cropped=True)
        targets = [batch.targets for batch in batches if batch.targets is not None]
        return Sweeps(batches, self._dense[0]).inputs, targets

    @cached_property
    def _held(self) -> tuple[list[SparseTensor], Sweeps]:
        streets = self._streets
        calibration = streets.calibration(2 * self._n_calibration)
        return self._prepared(calibration, streets.batches(streets.held))

    def _prepared(
        self, calibration: list[VoxelBatch], looked_at: list[VoxelBatch]
    ) -> tuple[list[SparseTensor], Sweeps]:
        model = self._dense[0]
        return Sweeps(calibration, model).inputs, Sweeps(looked_at, model)

    @property
    def n_classes(self) -> int:
        """Of the network."""
        return int(self._dense[0].spec.n_classes)  # type: ignore[union-attr, arg-type]

    def network(self, widths: Assignment) -> nn.Module:
        """The pruned network; its batch norms are still those of the dense one."""
        model, graph, scores = self._dense
        return network_of(model, graph, scores, self.space, widths).eval()

    def __call__(self, widths: Assignment) -> float:
        """Mean IoU over the classes that occur in the search sweeps, which are cropped."""
        calibration, sweeps = self._search
        pruned = self.network(widths)
        if self._steps:
            recalibrate(pruned, calibration)
            take_steps(pruned, *self._lessons, self._steps)
        return float(self._judged(pruned, calibration, sweeps).miou()[0])

    def held_counts(self, widths: Assignment) -> SweepCounts:
        """What the network does on the held-out sweeps, which are whole; not trained."""
        return self._judged(self.network(widths), *self._held)

    def _judged(self, pruned: nn.Module, calibration: list[SparseTensor], sweeps: Sweeps) -> SweepCounts:
        recalibrate(pruned, calibration)
        return sweeps.counts(fuse(pruned), self.n_classes)
