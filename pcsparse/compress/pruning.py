"""What a whole compression can prune, behind one interface: measure, scan, search and prune know no more.

Another axis is a pair of classes as those of `pruning_channels`, and a file in `configs/compress`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

from torch import nn

from pcsparse.compress.channel_scores import Losses
from pcsparse.compress.cost import Unit
from pcsparse.compress.finetune import Fit, Rounds
from pcsparse.compress.measured import LayerPair
from pcsparse.compress.reconstruction import Refit
from pcsparse.compress.search.space import Assignment, Space
from pcsparse.compress.sensitivity import Axis
from pcsparse.engine.tune_cache import TuneTable
from pcsparse.errors import RangeError
from pcsparse.sparse_tensor import SparseTensor

Networks = Callable[[Assignment], nn.Module]
"""The smaller network of an assignment. Can be sent to other processes."""
Step = Literal["cost", "scan", "search"]
"""Of a compression; those after the search take its results."""
_Cost = TypeVar("_Cost")
Batches = Callable[[], Iterable[Any]]
"""Makes inputs on which batch norms are measured anew."""


@dataclass(frozen=True)
class CostSummary:
    """What the whole network costs.

    Attributes:
        ms: a sweep, maps included.
        map_ms: of it, to build levels and maps.
        macs: multiply-adds a sweep.
        bytes: of the weights, as float32.
        busy: whether the machine was too busy for times to mean anything.
    """

    ms: float
    map_ms: float
    macs: float
    bytes: float
    busy: bool


class Costed(Generic[_Cost]):
    """What knows its cost, in a form of its own, once it was measured or loaded."""

    _cost: _Cost | None = None

    @property
    def cost(self) -> _Cost:
        """What was measured.

        Raises:
            RangeError: it was neither measured nor loaded.
        """
        if self._cost is None:
            raise RangeError("the cost is not known yet; measure it first, or load it")
        return self._cost


class Prunable(Protocol):
    """A network and one way to make it smaller. Its cost is measured or loaded before anything else."""

    def measure(
        self, sweeps: Sequence[SparseTensor], *, step: int, runs: int, tuned: TuneTable | None
    ) -> None:
        """Measure what it costs, by what is kept; see `settings.CostSettings`."""

    def save_cost(self, path: Path) -> None:
        """Write what was measured, whole or not at all."""

    def load_cost(self, path: Path, sweeps: Sequence[SparseTensor]) -> None:
        """Take what was measured before, on the same sweeps.

        Raises:
            FormatError: the file holds no cost of this network.
        """

    def summary(self) -> CostSummary:
        """Of the cost."""

    def scan_axis(self) -> Axis:
        """For `sensitivity.scan`."""

    def space(self, unit: Unit) -> Space:
        """What a search chooses from."""

    def networks(self, space: Space) -> Networks:
        """From assignments to networks."""

    def refit(
        self, sliced: nn.Module, space: Space, assignment: Assignment, sweeps: Sequence[SparseTensor]
    ) -> tuple[Refit, ...]:
        """Least squares for what lost inputs, in place in `sliced`, see `reconstruction.reconstruct`.

        Raises:
            UnsupportedError: there is no such thing for this axis.
        """

    def tune(
        self, space: Space, assignment: Assignment, fit: Fit, rounds: Rounds, batches: Batches | None
    ) -> nn.Module:
        """Prune and train in rounds, from the whole network."""

    def places(self, step: str) -> str:
        """Where in the network the parts of a step are, for a reader."""

    def predicted(self, layer: LayerPair) -> float | None:
        """Milliseconds of a layer after, by the cost; None where it does not say."""


class Pruning(Protocol):
    """Settings of one way to make networks smaller."""

    @property
    def name(self) -> str:
        """For logs and reports."""

    @property
    def counts_pairs(self) -> bool:
        """Whether a scan hangs on the pairs of the sweeps that costs are measured on."""

    def of(self, model: nn.Module, losses: Losses | None) -> Prunable:
        """For one network; `losses` are of calibration batches."""

    def facts(self, step: Step = "search") -> dict[str, Any]:
        """What of it shapes the results of a step, as JSON values; all of it that of the search."""
