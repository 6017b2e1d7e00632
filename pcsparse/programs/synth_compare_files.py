"""The comparison of simulated and real sweeps as files: text, JSON, CSV, pictures."""

import csv
import io
import json
import math
from pathlib import Path

import numpy as np

from pcsparse.data.synthetic.band import Verdict
from pcsparse.data.synthetic.published import published
from pcsparse.programs.synth_compare_measure import Comparison, ring_offsets
from pcsparse.programs.synth_compare_picture import draw_bands, draw_sweeps
from pcsparse.programs.synth_compare_table import comparison_text
from pcsparse.whole_file import write_whole

FORMAT = 1


def write_comparison(comparison: Comparison, folder: Path) -> list[Path]:
    """Write compare.txt (the table), .json (verdicts), .csv (a row a sweep), .png and compare_sweeps.png.

    Returns:
        what was written.

    Raises:
        UnsupportedError: matplotlib is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in ("compare.txt", "compare.json", "compare.csv", "compare.png")]
    write_whole(paths[0], (comparison_text(comparison) + "\n").encode())
    write_whole(paths[1], (json.dumps(_record(comparison), indent=1) + "\n").encode())
    write_whole(paths[2], _rows(comparison).encode())
    draw_bands(comparison, paths[3])
    paths.append(folder / "compare_sweeps.png")
    draw_sweeps(comparison, paths[4])
    return paths


def _record(comparison: Comparison) -> dict[str, object]:
    settings = comparison.settings
    return {
        "format": FORMAT,
        "sensor": comparison.sensor.name,
        "caster": comparison.caster,
        "seed": settings.seed,
        "sweeps": len(comparison.simulated),
        "real": [sweep.name for sweep in comparison.real],
        "notes": list(comparison.notes),
        "holds": comparison.holds,
        "rings": _beams(comparison),
        "figures": [
            _verdict(verdict, published(verdict.figure.name, comparison.sensor))
            for verdict in comparison.verdicts
        ],
    }


def _beams(comparison: Comparison) -> list[dict[str, float | None]]:
    """A row a beam, from the top: degrees of the preset, and how far above it sweeps lie, by their median."""
    preset = np.sort(comparison.sensor.elevations)[::-1].tolist()
    columns = (ring_offsets(comparison.real).tolist(), ring_offsets(comparison.simulated).tolist())
    return [
        {"preset": angle, "real": _number(real), "simulated": _number(ours)}
        for angle, real, ours in zip(preset, *columns, strict=True)
    ]


def _verdict(verdict: Verdict, known: float | None) -> dict[str, object]:
    return {
        "name": verdict.figure.name,
        "unit": verdict.figure.unit,
        "group": verdict.figure.group,
        "band": [_number(verdict.low), _number(verdict.high)],
        "real": [_number(value) for value in verdict.real],
        "published": known,
        "mean": _number(verdict.mean),
        "share_inside": verdict.share,
        "holds": verdict.holds,
        "reason": verdict.reason,
    }


def _number(value: float) -> float | None:
    # JSON has no NaN
    return None if math.isnan(value) else value


def _rows(comparison: Comparison) -> str:
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    figures = comparison.real[0].figures
    out.writerow(["sweep", "kind", *(f"{f.name} ({f.unit})" if f.unit else f.name for f in figures)])
    for kind, sweeps in (("real", comparison.real), ("simulated", comparison.simulated)):
        out.writerows([sweep.name, kind, *(f"{v:.6g}" for v in sweep.values)] for sweep in sweeps)
    return text.getvalue()
