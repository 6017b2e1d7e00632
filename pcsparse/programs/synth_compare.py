"""Holds simulated sweeps against real ones: is the simulator calibrated?"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from pcsparse.data.synthetic.caster import CASTERS
from pcsparse.data.synthetic.sensor import SENSORS
from pcsparse.programs.synth_compare_files import write_comparison
from pcsparse.programs.synth_compare_measure import CompareSettings, compare
from pcsparse.programs.synth_compare_table import comparison_text


def run_compare(settings: CompareSettings, report: Callable[[str], None] = print) -> int:
    """Measure, simulate, judge, tell; 0 where every figure holds, else 1.

    Raises:
        FormatError, RangeError, UnsupportedError: as `compare`.
    """
    comparison = compare(settings, report)
    report(comparison_text(comparison))
    if settings.out is not None:
        for path in write_comparison(comparison, settings.out):
            report(f"wrote {path}")
    return 0 if comparison.holds else 1


def main(arguments: Sequence[str]) -> int:
    """Parse `compare REAL... [options]`, without its first word, and run it."""
    parser = argparse.ArgumentParser(
        prog="pcsparse synth compare",
        description="Hold simulated sweeps against real ones; exits with 1 unless every figure holds.",
    )
    parser.add_argument("real", nargs="+", type=Path, help="real sweeps: files, or folders of them")
    parser.add_argument("--sweeps", type=int, default=50, help="to simulate, each in a town of its own")
    parser.add_argument("--seed", type=int, default=0, help="of the first town; town k has seed + k")
    parser.add_argument("--sensor", choices=SENSORS, default="hdl64e", help="of the real sweeps too")
    parser.add_argument("--caster", choices=("auto", *CASTERS), default="auto")
    parser.add_argument("--jobs", type=int, default=1, help="processes that simulate")
    parser.add_argument("--out", type=Path, help="folder for compare.txt, .json, .csv and two .png")
    given = parser.parse_args(arguments)
    return run_compare(
        CompareSettings(
            tuple(given.real), given.sweeps, given.seed, given.sensor, given.caster, given.jobs, given.out
        )
    )
