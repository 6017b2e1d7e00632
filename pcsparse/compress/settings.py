"""What a person chooses for a compression. Frozen, checked when built, free of any config library."""

import math
from dataclasses import dataclass

from pcsparse.compress.cost import Unit
from pcsparse.errors import RangeError

_UNITS: dict[str, Unit] = {"ms": "ms", "macs": "MACs", "bytes": "bytes"}


@dataclass(frozen=True)
class BudgetSettings:
    """The most that the smaller network may cost; exactly one of `share`, `ms`, `macs` and `bytes` is given.

    Attributes:
        share: of what the whole network costs, in (0, 1].
        of: what the share is of: ms, macs or bytes.
        ms: milliseconds a sweep on this machine, maps included.
        macs: multiply-adds a sweep.
        bytes: of the parameters as float32, those of batch norms too; a file holds their statistics besides.
    """

    share: float | None = None
    of: str = "ms"
    ms: float | None = None
    macs: float | None = None
    bytes: float | None = None

    def check(self) -> None:
        """Raise RangeError unless this is one budget; not when built, so that a config can be looked at."""
        given = {name: value for name, value in self._values().items() if value is not None}
        if len(given) != 1:
            raise RangeError(
                "a budget is one of budget.share (of milliseconds, unless budget.of says macs or bytes), "
                f"budget.ms, budget.macs and budget.bytes; got {given or 'none of them'}"
                + ("; set the others to null" if given else "")
            )
        ((name, value),) = given.items()
        if not (math.isfinite(value) and value > 0) or (name == "share" and value > 1):
            raise RangeError(
                f"budget.{name} must be above 0{' and at most 1' if name == 'share' else ''}, got {value}"
            )
        if self.of not in _UNITS:
            raise RangeError(f"budget.of must be one of {', '.join(_UNITS)}, got {self.of!r}")

    def _values(self) -> dict[str, float | None]:
        return {"share": self.share, "ms": self.ms, "macs": self.macs, "bytes": self.bytes}

    @property
    def unit(self) -> Unit:
        """What is counted."""
        absolute = [name for name in _UNITS if self._values()[name] is not None]
        return _UNITS[absolute[0] if absolute else self.of]

    def within(self, full: float) -> float:
        """The budget in its unit, for a whole network that costs `full`."""
        if self.share is not None:
            return self.share * full
        return next(value for value in (self.ms, self.macs, self.bytes) if value is not None)


@dataclass(frozen=True)
class CostSettings:
    """How the cost table is measured; see `cost_measure.measure_cost`.

    Attributes:
        sweeps: calibration sweeps, evenly spread over the split that is searched on, never cropped.
        step: widths between the smallest and the full one are timed at multiples of it.
        runs: of each width.
    """

    sweeps: int = 4
    step: int = 16
    runs: int = 7

    def __post_init__(self) -> None:
        if min(self.sweeps, self.step, self.runs) < 1:
            raise RangeError(f"cost.sweeps, cost.step and cost.runs must be at least 1, got {self}")


@dataclass(frozen=True)
class EvaluationSettings:
    """How a network is scored while scan and search run: mean IoU over present classes, voxel by voxel.

    Attributes:
        split: train, val or test; whose sweeps. What the report quotes is on another one, see
            `MeasureSettings`.
        sweeps: how many, evenly spread over the split.
        crop: as in `VoxelSettings`, of these sweeps alone, to score faster; null for the model's own.
        calibration: training sweeps, evenly spread: batch norms are measured anew on them, and Taylor scores
            and reconstruction are made from them.
        recalibrate: measure batch norms anew before each score. It costs a forward pass on each calibration
            sweep. Without it next to nothing is left of a sliced U-Net, and all that a search could compare
            is how broken candidates are, not how good they would become.
    """

    split: str = "train"
    sweeps: int = 8
    crop: list[float] | None = None
    calibration: int = 4
    recalibrate: bool = True

    def __post_init__(self) -> None:
        if self.split not in ("train", "val", "test"):
            raise RangeError(f"evaluation.split must be train, val or test, got {self.split!r}")
        if min(self.sweeps, self.calibration) < 1:
            raise RangeError(
                f"evaluation.sweeps and evaluation.calibration must be at least 1, got {self.sweeps} and "
                f"{self.calibration}"
            )


@dataclass(frozen=True)
class ScanSettings:
    """The sensitivity scan.

    Attributes:
        run: whether there is one. Methods that need curves then measure them within their evaluations.
        ratios: shares to remove, each in [0, 1).
        weights: shares of single weights to remove in a scan before it, layer by layer, each in [0, 1); none
            leaves it out. It says which layers matter, and the search does not look at it.
        stop_after: leave out the larger ratios of a group once the score fell by more; null for never.
    """

    run: bool = True
    ratios: tuple[float, ...] = (0.25, 0.5, 0.75)
    weights: tuple[float, ...] = ()
    stop_after: float | None = None

    def __post_init__(self) -> None:
        if self.run and not self.ratios:
            raise RangeError("a scan needs at least one of scan.ratios; set scan.run=false to leave it out")
        if self.stop_after is not None and not 0 <= self.stop_after < math.inf:
            raise RangeError(
                f"scan.stop_after is how far a score may fall, 0 or more, or null, got {self.stop_after}"
            )


@dataclass(frozen=True)
class MeasureSettings:
    """What the report measures when all is done.

    Attributes:
        split: train, val or test; the labelled sweeps that dense, pruned and tuned networks are scored on.
        runs: of each layer and network, in turns.
        maps: sweeps that networks are timed on: the emptiest, the fullest, and others evenly between, of the
            calibration sweeps of the cost.
    """

    split: str = "val"
    runs: int = 20
    maps: int = 3

    def __post_init__(self) -> None:
        if self.split not in ("train", "val", "test"):
            raise RangeError(f"measure.split must be train, val or test, got {self.split!r}")
        if min(self.runs, self.maps) < 1:
            raise RangeError(
                f"measure.runs and measure.maps must be at least 1, got {self.runs}, {self.maps}"
            )
