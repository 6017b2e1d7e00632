"""Whether simulated sweeps lie among real ones: a band a figure, and what of it holds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pcsparse.data.synthetic.arrays import Floats
from pcsparse.data.synthetic.figures import Figure
from pcsparse.errors import RangeError

WIDENED = 0.1
"""By this share of its own value each end of the band is moved outwards."""
LEAST_SHARE = 0.6
"""Of the simulated sweeps that must lie inside."""


@dataclass(frozen=True)
class Verdict:
    """One figure of the simulated sweeps against the band of the real ones.

    Args:
        figure: which.
        low: the lower end of the band; a beam's figure has what it must be here and in `high`.
        high: the upper end.
        real: values of the real sweeps, in their order.
        simulated: values of the simulated ones.
    """

    figure: Figure
    low: float
    high: float
    real: tuple[float, ...]
    simulated: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Of the simulated sweeps in which it was measured; NaN if in none."""
        known = [value for value in self.simulated if not np.isnan(value)]
        return float(np.mean(known)) if known else float("nan")

    @property
    def share(self) -> float:
        """Of the simulated sweeps that lie inside the band, 0 to 1."""
        values = np.array(self.simulated)
        if np.isnan(self.low):
            # nothing to measure in any real sweep, so there should be nothing in a simulated one
            return float(np.isnan(values).mean())
        return float(((values >= self.low) & (values <= self.high)).mean())

    @property
    def holds(self) -> bool:
        """Beams: all sweeps inside, real ones too. Else: the simulated ones' mean, and 60 % of them."""
        if self.figure.group == "beams":
            return self.share == 1.0 and self._real_too
        if np.isnan(self.low):
            return self.share >= LEAST_SHARE
        return self.low <= self.mean <= self.high and self.share >= LEAST_SHARE

    @property
    def _real_too(self) -> bool:
        return all(self.low <= value <= self.high for value in self.real)

    @property
    def reason(self) -> str:
        """What fails, in a word or two; empty where it holds."""
        if self.holds:
            return ""
        if np.isnan(self.mean) or np.isnan(self.low):
            return "not measured"
        if self.figure.group == "beams" and self.share == 1.0:
            return "real ones differ"
        if self.mean < self.low:
            return "mean too low"
        return "mean too high" if self.mean > self.high else "too few sweeps"


def band(values: Sequence[float]) -> tuple[float, float]:
    """The least and the most of `values`, each moved outwards by `WIDENED` of itself; NaN if all are NaN."""
    known = [value for value in values if not np.isnan(value)]
    if not known:
        return float("nan"), float("nan")
    low, high = min(known), max(known)
    return low - WIDENED * abs(low), high + WIDENED * abs(high)


def judge(figures: Sequence[Figure], real: Floats, simulated: Floats) -> list[Verdict]:
    """A verdict a figure.

    Args:
        figures: f of them.
        real: (r, f) values, r at least 1.
        simulated: (s, f) values, s at least 1.

    Raises:
        RangeError: no sweeps on one side, or another number of columns than figures.
    """
    f = len(figures)
    if real.shape[1:] != (f,) or simulated.shape[1:] != (f,) or not len(real) or not len(simulated):
        raise RangeError(
            f"need at least one real and one simulated sweep of {f} figures, got arrays of shape "
            f"{real.shape} and {simulated.shape}"
        )
    verdicts = []
    for column, figure in enumerate(figures):
        low, high = band(real[:, column].tolist())
        if figure.group == "beams":
            low, high = _exact(figure, simulated[0, column])
        row = tuple(real[:, column].tolist()), tuple(simulated[:, column].tolist())
        verdicts.append(Verdict(figure, low, high, *row))
    return verdicts


def _exact(figure: Figure, found: float) -> tuple[float, float]:
    # beams were counted when the sweep was read; here they are the preset's own
    return (found, found) if figure.unit == "" else (0.0, figure.tolerance)
