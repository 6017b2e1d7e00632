"""Verifies kernels and networks against their twins, then times them beside plain torch and the floor."""

import argparse
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import torch

from pcsparse.bench.cases import (
    CONV_CASES,
    GROUPING_CHANNELS,
    MAP_CASES,
    NET_CASES,
    VOXEL_SIZE,
    Tag,
    tagged,
)
from pcsparse.bench.clouds import Cloud, file_cloud, real_cloud, simulated_cloud, small_cloud
from pcsparse.bench.groupings import run_groupings
from pcsparse.bench.layers import run_conv_case, run_map_case
from pcsparse.bench.limits import Limits, measure_limits
from pcsparse.bench.nets import run_net_case
from pcsparse.bench.redundancy import run_redundancy
from pcsparse.bench.report import Report, grouping_table, redundancy_table, result_table
from pcsparse.bench.scene import Scene
from pcsparse.coords.relation import Relation
from pcsparse.errors import FormatError, RangeError
from pcsparse.timing import environment

SECTIONS = ("maps", "layers", "nets", "groupings", "redundancy")
REAL_DATA = "PCSPARSE_REAL_DATA"


@dataclass(frozen=True)
class BenchSettings:
    """What to measure.

    Attributes:
        sections: of `SECTIONS`.
        tags: cases with any of these tags run.
        train: training steps of the networks too.
        quick: the miniature cloud and the `ci` cases, whatever `tags` says.
        cloud: a point file; if None, the real sweep under `PCSPARSE_REAL_DATA`, else a simulated sweep.
        voxel_size: metres.
        runs: runs of each candidate of a map or a layer; groupings take half as many.
        net_runs: runs of each network.
        threads: torch's and the kernels' threads; torch's choice if None.
        out: the JSON file.
    """

    sections: tuple[str, ...] = SECTIONS
    tags: tuple[Tag, ...] = ("paper",)
    train: bool = False
    quick: bool = False
    cloud: Path | None = None
    voxel_size: float = VOXEL_SIZE
    runs: int = 20
    net_runs: int = 10
    threads: int | None = None
    out: Path = Path("bench-out/bench.json")


def run(settings: BenchSettings) -> int:
    """Print tables, write the JSON file; 0 if everything agreed with its twin, else 1.

    Raises:
        RangeError: an unknown section, or fewer than one run or thread.
        FormatError: the cloud cannot be read.
    """
    unknown = [section for section in settings.sections if section not in SECTIONS]
    if unknown or min(settings.runs, settings.net_runs, settings.threads or 1) < 1:
        raise RangeError(
            f"unknown sections {unknown} (known: {', '.join(SECTIONS)}), or runs={settings.runs}, "
            f"net_runs={settings.net_runs}, threads={settings.threads} below 1"
        )
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads or threads)
    try:
        report = _measure(settings)
    finally:
        torch.set_num_threads(threads)
    report.write(settings.out)
    failures = report.failures()
    print(f"\nwritten: {settings.out}")
    if failures:
        print(f"{len(failures)} checks FAILED: these results are wrong and have no times")
    return 1 if failures else 0


def _measure(settings: BenchSettings) -> Report:
    where = environment()
    print(where.header())
    scene = Scene.of(_cloud(settings), settings.voxel_size)
    n_pairs = scene.kernel_map(Relation.of(3)).n_pairs
    print(
        f"cloud: {scene.name}, {scene.n_points:,} points, {len(scene.coords):,} voxels of "
        f"{scene.voxel_size} m, {n_pairs / max(len(scene.coords), 1):.2f} of 27 neighbours a voxel"
    )
    limits = measure_limits()
    _print_limits(limits)
    report = Report(where, scene.name, scene.n_points, len(scene.coords), n_pairs, scene.voxel_size, limits)
    for section in (name for name in SECTIONS if name in settings.sections):
        report = _RUN[section](report, scene, settings)
    if report.limits != limits:
        _print_limits(report.limits)
    return report


def _print_limits(limits: Limits) -> None:
    print(
        f"limits: {limits.fma / 1e9:.0f} GFLOP/s float32 multiply-add, {limits.bandwidth / 1e9:.1f} GB/s "
        "copy; floor = the larger of operations and bytes over these",
        flush=True,
    )


def _limits_again(report: Report) -> Report:
    """Peaks are measured before and after what they are compared with: a busy moment must not hide them."""
    return replace(report, limits=report.limits.or_better(measure_limits()))


def _maps(report: Report, scene: Scene, settings: BenchSettings) -> Report:
    cases = tagged(MAP_CASES, _tags(settings))
    maps = tuple(run_map_case(case, scene, settings.runs) for case in cases)
    report = replace(_limits_again(report), maps=maps)
    _show("Kernel maps, from int coordinates to pairs", result_table(maps, report.limits))
    return report


def _layers(report: Report, scene: Scene, settings: BenchSettings) -> Report:
    cases = tagged(CONV_CASES, _tags(settings))
    layers = tuple(run_conv_case(case, scene, settings.runs) for case in cases)
    report = replace(_limits_again(report), layers=layers)
    _show("Convolutions, float32, map ready unless said", result_table(layers, report.limits))
    return report


def _nets(report: Report, scene: Scene, settings: BenchSettings) -> Report:
    cases = [case for case in tagged(NET_CASES, _tags(settings)) if settings.train or not case.training]
    nets = tuple(result for case in cases for result in run_net_case(case, scene, settings.net_runs))
    report = replace(_limits_again(report), nets=nets)
    title = "Networks, float32, maps included (plain torch uses pcsparse's maps)"
    _show(title, result_table(nets, report.limits))
    return report


def _groupings(report: Report, scene: Scene, settings: BenchSettings) -> Report:
    for channels in GROUPING_CHANNELS[:1] if settings.quick else GROUPING_CHANNELS:
        found = run_groupings(scene, channels, max(settings.runs // 2, 1))
        report = replace(_limits_again(report), groupings=report.groupings + found)
        title = f"Gather-GEMM-scatter, submanifold 3^3, C={channels}"
        _show(title, grouping_table(found, report.limits))
    return report


def _redundancy(report: Report, scene: Scene, settings: BenchSettings) -> Report:
    report = replace(report, redundancy=run_redundancy(scene))
    title = "Redundant multiply-adds of a sorted implicit GEMM, submanifold 3^3"
    _show(title, redundancy_table(report.redundancy))
    return report


_RUN: Mapping[str, Callable[[Report, Scene, BenchSettings], Report]] = MappingProxyType(
    {
        "maps": _maps,
        "layers": _layers,
        "nets": _nets,
        "groupings": _groupings,
        "redundancy": _redundancy,
    }
)


def _tags(settings: BenchSettings) -> tuple[Tag, ...]:
    return ("ci",) if settings.quick else settings.tags


def _show(title: str, text: str) -> None:
    print(f"\n{title}\n{text}", flush=True)


def _cloud(settings: BenchSettings) -> Cloud:
    if settings.cloud is not None:
        if not settings.cloud.is_file():
            raise FormatError(f"no point file at {settings.cloud}; name one with --cloud")
        return file_cloud(settings.cloud)
    if settings.quick:
        return small_cloud()
    samples = os.environ.get(REAL_DATA, "")
    return real_cloud(Path(samples)) if samples else simulated_cloud()


def main(
    arguments: Sequence[str], *, sections: Iterable[str] = SECTIONS, tags: Sequence[Tag] = ("paper",)
) -> int:
    """Parse a command line and run it.

    Args:
        arguments: without the program's name.
        sections: what runs by default.
        tags: what runs by default.
    """
    parser = argparse.ArgumentParser(description="Verify against the twins, then time.")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(sections))
    parser.add_argument("--tags", nargs="+", choices=("ci", "paper", "stress"), default=list(tags))
    parser.add_argument("--train", action="store_true", help="training steps of the networks too")
    parser.add_argument("--quick", action="store_true", help="miniature cloud, ci cases, few runs: seconds")
    parser.add_argument(
        "--cloud",
        type=Path,
        help=f"point file (default: the real sweep in ${REAL_DATA}, else a simulated one)",
    )
    parser.add_argument("--voxel-size", type=float, default=VOXEL_SIZE, help="metres")
    parser.add_argument("--runs", type=int, help="of each map and layer (default 20; quick 5)")
    parser.add_argument("--net-runs", type=int, help="of each network (default 10; quick 3)")
    parser.add_argument("--threads", type=int, help="default: torch's choice")
    parser.add_argument("--out", type=Path, default=Path("bench-out/bench.json"), help="JSON file")
    given = parser.parse_args(arguments)
    return run(
        BenchSettings(
            sections=tuple(given.sections),
            tags=tuple(given.tags),
            train=given.train,
            quick=given.quick,
            cloud=given.cloud,
            voxel_size=given.voxel_size,
            runs=given.runs if given.runs is not None else (5 if given.quick else 20),
            net_runs=given.net_runs if given.net_runs is not None else (3 if given.quick else 10),
            threads=given.threads,
            out=given.out,
        )
    )
