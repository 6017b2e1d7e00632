"""EIE on its nine benchmark layers: a table beside the published figures, sweeps, a verdict on each bound."""

from dataclasses import asdict, dataclass
from pathlib import Path

from pcsparse.bench.report import write_json
from pcsparse.checks import require_extra
from pcsparse.errors import RangeError
from pcsparse.hardware.eie_chip import EIEChip
from pcsparse.hardware.eie_layers import EIE_LAYERS, EIELayer
from pcsparse.hardware.eie_report import (
    Verdict,
    curve_verdicts,
    layer_verdicts,
    remarks,
    table_head,
    table_line,
)
from pcsparse.hardware.eie_study import DEPTHS, PES, WIDTHS, LayerCurves, LayerResult, run_layers
from pcsparse.timing import environment

FORMAT = 1
# the share of a layer's columns that a quick run takes
_QUICK = 1 / 16


@dataclass(frozen=True)
class EIESettings:
    """What to simulate.

    Attributes:
        out: the JSON file; the picture lies beside it.
        seed: of the random layers.
        quick: a sixteenth of the columns of each layer; the published times shrink with them.
        curves: whether to sweep queues, SRAM width and PEs.
        figure: whether to draw the sweeps.
    """

    out: Path = Path("bench-out/eie.json")
    seed: int = 0
    quick: bool = False
    curves: bool = True
    figure: bool = True


def run(settings: EIESettings) -> int:
    """Simulate, print the table and the verdicts, write JSON and PNG; 1 if a bound does not hold, else 0.

    Raises:
        RangeError: a negative seed.
        UnsupportedError: the picture is wanted and matplotlib is not installed.
    """
    if settings.seed < 0:
        raise RangeError(f"the seed must be 0 or more, got {settings.seed}")
    draws = settings.curves and settings.figure
    if draws:
        # before minutes of work, not after
        require_extra("matplotlib", "view")
    where, chip = environment(), EIEChip()
    print(where.header())
    results, curves = _measure(settings, chip)
    verdicts = _tell(results, curves)
    content = {
        "format": FORMAT,
        "environment": asdict(where),
        "seed": settings.seed,
        "quick": settings.quick,
        "chip": asdict(chip),
        "layers": [asdict(result) for result in results],
        "axes": {"depths": DEPTHS, "widths": WIDTHS, "pes": PES},
        "curves": [asdict(curve) for curve in curves],
        "verdicts": [asdict(verdict) for verdict in verdicts],
    }
    write_json(settings.out, content)
    print(f"\nwritten: {settings.out}")
    if draws:
        from pcsparse.hardware.eie_figure import eie_figure

        path = settings.out.with_suffix(".png")
        eie_figure(results, curves, path)
        print(f"written: {path}")
    return 0 if all(verdict.passed for verdict in verdicts) else 1


def _measure(settings: EIESettings, chip: EIEChip) -> tuple[list[LayerResult], list[LayerCurves]]:
    part = ", a sixteenth of the columns" if settings.quick else ""
    print(
        f"EIE: {chip.n_pe} PEs at {chip.clock / 1e6:g} MHz, queues of {chip.fifo_depth}; random weights at "
        f"the published densities{part}, seed {settings.seed}\n"
        "microseconds; dev in %; uJ by published energies of an access, and by published power times time\n"
    )
    print(table_head())
    results: list[LayerResult] = []
    curves: list[LayerCurves] = []
    for result, swept in run_layers(_layers(settings), chip, settings.seed, curves=settings.curves):
        print(table_line(result), flush=True)
        results.append(result)
        curves += [swept] if swept is not None else []
    return results, curves


def _layers(settings: EIESettings) -> tuple[EIELayer, ...]:
    return tuple(layer.scaled(_QUICK) for layer in EIE_LAYERS) if settings.quick else EIE_LAYERS


def _tell(results: list[LayerResult], curves: list[LayerCurves]) -> list[Verdict]:
    for remark in remarks(results):
        print(f"  {remark}")
    verdicts = layer_verdicts(results) + (curve_verdicts(curves) if curves else [])
    print()
    for verdict in verdicts:
        print(verdict)
    failed = sum(not verdict.passed for verdict in verdicts)
    print(f"{len(verdicts) - failed} of {len(verdicts)} bounds hold")
    return verdicts
