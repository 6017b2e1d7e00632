"""The comparison of simulated and real sweeps as text."""

import numpy as np

from pcsparse.bench.tables import table
from pcsparse.data.synthetic.band import LEAST_SHARE, WIDENED, Verdict
from pcsparse.data.synthetic.figures import ANGLE_TOLERANCE, RMS_TOLERANCE, Figure
from pcsparse.data.synthetic.published import CLASS_INTENSITY, published
from pcsparse.data.synthetic.sensor import Sensor
from pcsparse.data.synthetic.stats import GROUPS
from pcsparse.programs.synth_compare_measure import Comparison, ring_offsets

_TITLES = {"beams": "beams", "figures": "the sweep", "profiles": "profiles"}


def comparison_text(comparison: Comparison) -> str:
    """What was compared, a table a group of figures, the classes of the simulated sweeps, and the verdict."""
    settings, seed = comparison.settings, comparison.settings.seed
    last = seed + len(comparison.simulated) - 1
    lines = [
        f"{len(comparison.simulated)} simulated {comparison.sensor.name} sweeps (towns {seed} to {last}, "
        f"caster {comparison.caster}) against {len(comparison.real)} real:",
        *(f"  {sweep.name}" for sweep in comparison.real),
        *(f"note: {note}" for note in comparison.notes),
    ]
    for group, title in _TITLES.items():
        rows = [_row(v, comparison.sensor) for v in comparison.verdicts if v.figure.group == group]
        columns = (title, "unit", "real", "published", "simulated", "mean", "inside", "verdict")
        lines += ["", table(columns, rows)]
    lines += ["", *_rings(comparison), "", _classes(comparison), ""]
    lines += [_legend(settings.sensor), _summary(comparison)]
    return "\n".join(lines)


def _span(figure: Figure, values: tuple[float, ...]) -> str:
    low, high = figure.text(float(np.min(values))), figure.text(float(np.max(values)))
    return low if low == high else f"{low} .. {high}"


def _row(verdict: Verdict, sensor: Sensor) -> tuple[str, ...]:
    figure = verdict.figure
    known = published(figure.name, sensor)
    return (
        figure.name,
        figure.unit,
        _span(figure, verdict.real),
        "" if known is None else figure.text(known),
        _span(figure, verdict.simulated),
        figure.text(verdict.mean),
        f"{verdict.share:.0%}",
        verdict.reason or "holds",
    )


def _rings(comparison: Comparison) -> list[str]:
    """How far beams' angles, fitted to the points ahead, lie from the preset's: a line a kind of sweep."""
    lines = []
    for kind, sweeps in (("real", comparison.real), ("simulated", comparison.simulated)):
        middle = ring_offsets(sweeps)
        known = np.flatnonzero(np.isfinite(middle))
        if not len(known):
            lines.append(f"ring angles of the {kind} sweeps: no beam has enough points ahead")
            continue
        root = float(np.sqrt((middle[known] ** 2).mean()))
        worst = int(known[np.abs(middle[known]).argmax()])
        lines.append(
            f"ring angles of the {kind} sweeps, their median, off the preset: {root:.4f} deg rms, "
            f"{abs(middle[worst]):.4f} deg at most (beam {worst} from the top); {len(known)} of "
            f"{len(middle)} beams have points ahead"
        )
    return lines


def _classes(comparison: Comparison) -> str:
    """Mean share and intensity of each class over the simulated sweeps, beside a labelled real sweep's."""
    found = np.stack([sweep.classes for sweep in comparison.simulated if sweep.classes is not None])
    known = CLASS_INTENSITY if comparison.sensor.name == "hdl64e" else {}
    rows = []
    for row, name in enumerate(GROUPS):
        shares, light = found[:, row, 0], found[:, row, 1]
        bright = f"{np.nanmean(light):.2f}" if np.isfinite(light).any() else "-"
        real = "{:.2f} +- {:.2f}".format(*known[name]) if name in known else ""
        there = f"{(shares > 0).mean():.0%}"
        rows.append((name, f"{100 * shares.mean():.2f} %", there, bright, real))
    return table(("class, simulated", "points", "in sweeps", "intensity", "published"), rows)


def _legend(sensor: str) -> str:
    text = (
        "holds: the mean lies within the least and the most of the real sweeps, each widened by "
        f"{WIDENED:.0%} of itself, and so do at least {LEAST_SHARE:.0%} of the simulated sweeps; beams must "
        f"be exact, within {ANGLE_TOLERANCE:g} deg ({RMS_TOLERANCE:g} rms), in real and simulated ones."
    )
    if sensor == "hdl64e":
        text += "\npublished: one labelled sweep (mit-han-lab/spvnas assets/), not part of the band."
    return text


def _summary(comparison: Comparison) -> str:
    told = []
    for group, title in _TITLES.items():
        mine = [verdict for verdict in comparison.verdicts if verdict.figure.group == group]
        told.append(f"{title}: {sum(v.holds for v in mine)} of {len(mine)} hold")
    return "; ".join(told)
