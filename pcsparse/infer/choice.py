"""Which of several models knows sweeps like a cloud."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pcsparse.data.input_spec import MIN_POINTS, InputSpec
from pcsparse.errors import RangeError
from pcsparse.infer.inspect import CloudReport


@dataclass(frozen=True)
class Choice:
    """A model for a cloud.

    Attributes:
        name: of the model.
        reason: why, with the values.
    """

    name: str
    reason: str


def choose(report: CloudReport, specs: Mapping[str, InputSpec]) -> Choice:
    """The model that was trained on the sweeps most like a cloud.

    What counts is what tells a sensor of 64 lasers from one of 32: points all around and points a ground
    cell, each as a ratio. Height, brightness and units, which flags mend, do not.

    Args:
        report: of the cloud.
        specs: what the models know, at least one; the first is taken where a cloud says nothing.

    Raises:
        RangeError: there are no models.
    """
    if not specs:
        raise RangeError("there are no models to choose from")
    first = next(iter(specs))
    if len(specs) == 1:
        return Choice(first, "there is no other")
    if report.facts.n_points < MIN_POINTS or not report.coverage:
        return Choice(first, f"{report.facts.n_points} points do not tell which sensor it was")
    # the first of equals
    name = min(specs, key=lambda one: _unlikeness(report, specs[one]))
    others = "; ".join(f"{one}: {_told(specs[one])}" for one in specs if one != name)
    return Choice(name, f"{_seen(report)}; its own sweeps: {_told(specs[name])}; {others}")


def _unlikeness(report: CloudReport, spec: InputSpec) -> float:
    """Sum of the absolute logarithms of the ratios."""
    ratios = [report.facts.n_points / report.coverage / max(spec.n_points, 1)]
    if report.facts.near_density is not None and spec.near_density:
        ratios.append(report.facts.near_density / spec.near_density)
    return sum(abs(math.log(ratio)) for ratio in ratios)


def _seen(report: CloudReport) -> str:
    facts, rings = report.facts, report.rings
    seen = f"{facts.n_points} points"
    if report.coverage < 1:
        seen += f" in {360 * report.coverage:.0f} degrees"
    if rings is not None:
        seen += f" of {'about ' if rings.source == 'elevations' else ''}{rings.count} lasers"
    return seen if facts.near_density is None else f"{seen}, {facts.near_density:.1f} a ground cell"


def _told(spec: InputSpec) -> str:
    told = f"{spec.n_points}"
    return told if spec.near_density is None else f"{told}, {spec.near_density:.1f} a cell"
