"""Command line of the benchmarks: what `pcsparse bench` and the two bench scripts share."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from pcsparse.bench.cases import SETTLE, VOXEL_SIZE, Tag
from pcsparse.programs import bench_device
from pcsparse.programs.bench_run import run
from pcsparse.programs.bench_settings import REAL_DATA, SECTIONS, BenchSettings
from pcsparse.programs.bench_studies import run_profile_study, run_scaling_study
from pcsparse.programs.output_file import output_file

_OUT = Path("bench-out")
_ON_DEVICE = {"kernels": ("maps", "layers", "dense", "launch"), "models": ("nets", "steps")}


def main(
    arguments: Sequence[str],
    *,
    sections: Iterable[str] = SECTIONS,
    tags: Sequence[Tag] = ("paper",),
    name: str = "bench",
    program: str | None = None,
) -> int:
    """Parse a command line and run it.

    Args:
        arguments: without the program's name.
        sections: what runs by default.
        tags: what runs by default.
        name: of the JSON file by default.
        program: what the help calls itself; the script's name if None.
    """
    if any(argument.partition("=")[0] == "--device" for argument in arguments):
        asked = _ON_DEVICE.get(name, bench_device.SECTIONS)
        return bench_device.main(arguments, sections=asked, name=f"{name}-device", program=program)
    parser = argparse.ArgumentParser(prog=program, description="Verify against the twins, then time.")
    parser.add_argument(
        "--device", help="instead: the benchmark of accelerators; --device cuda --help says what it takes"
    )
    study = parser.add_mutually_exclusive_group()
    study.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(sections))
    study.add_argument(
        "--scaling", action="store_true", help="instead: cost over 10^4 to 10^6.5 voxels and C = 16 to 256"
    )
    study.add_argument(
        "--profile", action="store_true", help="instead: shares of a forward pass and of a training step"
    )
    parser.add_argument("--tags", nargs="+", choices=("ci", "paper", "stress"), default=list(tags))
    parser.add_argument("--only", default="", help="cases with this text in their names")
    parser.add_argument("--quick", action="store_true", help="miniature cloud, ci cases, few runs: seconds")
    parser.add_argument(
        "--cloud",
        type=Path,
        help=f"point file (default: a real sweep in ${REAL_DATA}, else a simulated one)",
    )
    parser.add_argument("--voxel-size", type=float, default=VOXEL_SIZE, help="metres")
    parser.add_argument("--runs", type=int, help="of each map and layer (default 20; quick 5)")
    parser.add_argument("--net-runs", type=int, help="of each network (default 20; quick 3; profile 5)")
    parser.add_argument(
        "--settle",
        type=int,
        default=SETTLE,
        help="untimed runs of the same candidate before each timed one of a map or layer (default: "
        f"{SETTLE}; 0: caches as the others left them)",
    )
    parser.add_argument("--threads", type=int, help="default: torch's choice")
    parser.add_argument("--out", type=output_file, help=f"JSON file (default: in {_OUT})")
    parser.add_argument("--no-figure", dest="figure", action="store_false", help="no PNG beside it")
    given = parser.parse_args(arguments)
    study_name = "scaling" if given.scaling else "profile" if given.profile else name
    net_runs = 3 if given.quick else 5 if given.profile else 20
    settings = BenchSettings(
        sections=tuple(given.sections),
        tags=tuple(given.tags),
        only=given.only,
        quick=given.quick,
        cloud=given.cloud,
        voxel_size=given.voxel_size,
        runs=given.runs if given.runs is not None else (5 if given.quick else 20),
        net_runs=given.net_runs if given.net_runs is not None else net_runs,
        settle=given.settle,
        threads=given.threads,
        out=given.out if given.out is not None else _OUT / f"{study_name}.json",
        figure=given.figure,
    )
    if given.scaling:
        return run_scaling_study(settings)
    return run_profile_study(settings) if given.profile else run(settings)
