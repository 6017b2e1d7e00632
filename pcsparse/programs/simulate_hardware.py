"""Command line of the cycle models: one verb an accelerator."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from pcsparse.programs.output_file import output_file
from pcsparse.programs.simulate_hardware_eie import EIESettings
from pcsparse.programs.simulate_hardware_eie import run as run_eie
from pcsparse.programs.simulate_hardware_pointacc import PointAccSettings
from pcsparse.programs.simulate_hardware_pointacc import run as run_pointacc


def main(arguments: Sequence[str]) -> int:
    """Parse a command line, without the program's name, and run it."""
    parser = argparse.ArgumentParser(
        prog="simulate_hardware.py",
        description="Cycle models of published accelerators beside their figures.",
    )
    chips = parser.add_subparsers(dest="chip", required=True)
    _add_eie(chips.add_parser("eie", help="sparse matrix-vector products: Han et al., ISCA 2016"))
    _add_pointacc(chips.add_parser("pointacc", help="networks on point clouds: Lin et al., MICRO 2021"))
    given = vars(parser.parse_args(arguments))
    settings = given.pop("settings")
    start = given.pop("start")
    del given["chip"]
    return int(start(settings(**given)))


def _add_eie(parser: argparse.ArgumentParser) -> None:
    default = EIESettings()
    parser.set_defaults(settings=EIESettings, start=run_eie)
    parser.add_argument(
        "--out", type=output_file, default=default.out, help="JSON file; a picture lies beside it"
    )
    parser.add_argument("--seed", type=int, default=default.seed, help="of the random layers")
    parser.add_argument(
        "--quick", action="store_true", help="a sixteenth of the columns: seconds; bounds may break"
    )
    parser.add_argument("--no-curves", dest="curves", action="store_false", help="the table alone")
    parser.add_argument("--no-figure", dest="figure", action="store_false", help="no PNG beside the JSON")


def _add_pointacc(parser: argparse.ArgumentParser) -> None:
    default = PointAccSettings()
    parser.set_defaults(settings=PointAccSettings, start=run_pointacc)
    parser.add_argument(
        "--out", type=output_file, default=default.out, help="JSON file; a picture lies beside it"
    )
    parser.add_argument(
        "--points", type=Path, default=default.points, help="a point file, not a simulated sweep"
    )
    parser.add_argument("--voxel-size", type=float, default=default.voxel_size, help="metres")
    parser.add_argument(
        "--quick", action="store_true", help="a street in miniature and a narrow network: seconds"
    )
    parser.add_argument("--no-figure", dest="figure", action="store_false", help="no PNG beside the JSON")
