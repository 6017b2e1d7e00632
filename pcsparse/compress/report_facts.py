"""What became of a compressed network, as typed facts; `report` shows them."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from pcsparse.compress.chosen import Choice
from pcsparse.compress.measured import LayerPair, LayerSide, SweepPair
from pcsparse.errors import FormatError
from pcsparse.timing import Timing
from pcsparse.whole_file import write_whole

_FORMAT = 1


@dataclass(frozen=True)
class Score:
    """A metric, and where 95 % of its bootstrap lies; 0 to 1, higher is better. Or a difference of two."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """In per cent."""
        return f"{100 * self.value:.2f} ({100 * self.low:.2f} to {100 * self.high:.2f})"

    def signed(self) -> str:
        """In points, of a difference."""
        return f"{100 * self.value:+.2f} ({100 * self.low:+.2f} to {100 * self.high:+.2f})"


@dataclass(frozen=True)
class NetworkFacts:
    """A network of the headline table.

    Attributes:
        name: "dense", "control" (the dense one trained on), "pruned" or "tuned" (the pruned one trained on).
        smaller: whether it has the smaller network's layers, and so its milliseconds.
        parameters: numbers.
        file_bytes: of the file, with its header.
        file_type: of the floats in it.
        macs: multiply-adds a sweep, mean over the calibration sweeps.
        score: on the sweeps of the report.
        gain: how much higher it is than that of the dense network, on the same draws; None for that one.
        over_control: the same of the control; None without one, for it, and for the dense network.
    """

    name: str
    smaller: bool
    parameters: int
    file_bytes: int
    file_type: str
    macs: float
    score: Score
    gain: Score | None
    over_control: Score | None = None


@dataclass(frozen=True)
class Measured:
    """What was measured when all was done.

    Attributes:
        environment: lines of text: machine, versions, date; `timing.Environment.header`.
        busy: whether other work ran then.
        metric: what the scores are, on what, and what the bootstrap drew.
        networks: dense first.
        sweeps: whole networks, by ascending number of voxels.
        layers: before and after, in the order of execution.
        predicted: milliseconds of each layer after, by the cost table; None where it does not say.
    """

    environment: str
    busy: bool
    metric: str
    networks: tuple[NetworkFacts, ...]
    sweeps: tuple[SweepPair, ...]
    layers: tuple[LayerPair, ...]
    predicted: tuple[float | None, ...]

    @property
    def usual(self) -> SweepPair:
        """The sweep of middle size, whose milliseconds are the headline's."""
        return self.sweeps[len(self.sweeps) // 2]

    @property
    def n_idle(self) -> int:
        """How many layers have fewer multiply-adds and take no less time."""
        return sum(layer.idle for layer in self.layers)

    def save(self, path: Path) -> None:
        """Write JSON, whole or not at all."""
        content = {"format": _FORMAT, **asdict(self)}
        write_whole(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            FormatError: no such file, or of another format.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("format") != _FORMAT:
                raise FormatError(f"{path} is of another format; this version reads {_FORMAT}: remove it")
            return cls(
                networks=tuple(_network(entry) for entry in content.pop("networks")),
                sweeps=tuple(_sweep(entry) for entry in content.pop("sweeps")),
                layers=tuple(_layer(entry) for entry in content.pop("layers")),
                predicted=tuple(content.pop("predicted")),
                **content,
            )
        except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, FormatError):
                raise
            raise FormatError(f"{path} holds no measurements ({error}); remove it to measure anew") from error


@dataclass(frozen=True)
class ReportFacts:
    """Everything that a report says.

    Attributes:
        title: of the page.
        command: that was given.
        notes: of the fine-tuning and whatever else a reader should know.
        choice: what the search chose, and why.
        measured: see there.
    """

    title: str
    command: str
    notes: tuple[str, ...]
    choice: Choice
    measured: Measured


def _network(entry: dict[str, Any]) -> NetworkFacts:
    gain, over = entry.pop("gain"), entry.pop("over_control")
    return NetworkFacts(
        score=Score(**entry.pop("score")),
        gain=None if gain is None else Score(**gain),
        over_control=None if over is None else Score(**over),
        **entry,
    )


def _sweep(entry: dict[str, Any]) -> SweepPair:
    n_voxels = entry.pop("n_voxels")
    return SweepPair(n_voxels, **{name: Timing(**timing) for name, timing in entry.items()})


def _layer(entry: dict[str, Any]) -> LayerPair:
    after = entry.pop("after")
    before = entry.pop("before")
    return LayerPair(before=_side(before), after=None if after is None else _side(after), **entry)


def _side(entry: dict[str, Any]) -> LayerSide:
    return LayerSide(time=Timing(**entry.pop("time")), **entry)
