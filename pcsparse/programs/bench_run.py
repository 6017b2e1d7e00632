"""Verifies kernels and networks against their twins, then times them beside peers, floor and goal."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import torch

from pcsparse.allocation import keep_freed_memory
from pcsparse.bench.ablation_tables import grouping_table, redundancy_table
from pcsparse.bench.cases import (
    CONV_CASES,
    GROUPING_CHANNELS,
    MAP_CASES,
    NET_CASES,
    VOXEL_SIZE,
    NetCase,
    Tag,
    tagged,
)
from pcsparse.bench.clouds import Cloud, file_cloud, real_cloud, simulated_cloud, small_cloud
from pcsparse.bench.groupings import run_groupings
from pcsparse.bench.layers import run_conv_case, run_map_case
from pcsparse.bench.limits import measure_limits
from pcsparse.bench.memory import run_memory_case
from pcsparse.bench.nets import run_net_case
from pcsparse.bench.outcome import Result
from pcsparse.bench.peers import Peers, find_peers
from pcsparse.bench.redundancy import run_redundancy
from pcsparse.bench.report import Report
from pcsparse.bench.scene import Scene
from pcsparse.bench.tables import peer_table, result_table
from pcsparse.coords.relation import Relation
from pcsparse.errors import FormatError, RangeError
from pcsparse.timing import environment

SECTIONS = ("maps", "layers", "nets", "steps", "memory", "groupings", "redundancy")
REAL_DATA = "PCSPARSE_REAL_DATA"
Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class BenchSettings:
    """What to measure.

    Attributes:
        sections: of `SECTIONS`.
        tags: cases with any of these tags run.
        only: cases whose name has this text in it.
        quick: the miniature cloud and the `ci` cases, whatever `tags` says.
        cloud: a point file; if None, a real sweep under `PCSPARSE_REAL_DATA`, else a simulated sweep.
        voxel_size: metres.
        runs: runs of each candidate of a map or a layer; groupings take half as many.
        net_runs: runs of each network.
        threads: torch's and the kernels' threads; torch's choice if None.
        out: the JSON file; the figure of the roofline lies beside it.
        figure: whether to draw it.
    """

    sections: tuple[str, ...] = SECTIONS
    tags: tuple[Tag, ...] = ("paper",)
    only: str = ""
    quick: bool = False
    cloud: Path | None = None
    voxel_size: float = VOXEL_SIZE
    runs: int = 20
    net_runs: int = 20
    threads: int | None = None
    out: Path = Path("bench-out/bench.json")
    figure: bool = True


def run(settings: BenchSettings) -> int:
    """Print tables, write the JSON file and the roofline; 0 if the package agreed with the twins, else 1.

    Raises:
        RangeError: an unknown section, or fewer than one run or thread.
        FormatError: the cloud cannot be read.
        UnsupportedError: the figure is wanted and matplotlib is not installed.
    """
    keep_freed_memory()
    unknown = [section for section in settings.sections if section not in SECTIONS]
    if unknown or min(settings.runs, settings.net_runs, settings.threads or 1) < 1:
        raise RangeError(
            f"unknown sections {unknown} (known: {', '.join(SECTIONS)}), or runs={settings.runs}, "
            f"net_runs={settings.net_runs}, threads={settings.threads} below 1"
        )
    report = at_threads(settings.threads, lambda: _measure(settings))
    report.write(settings.out)
    print(f"\nwritten: {settings.out}")
    if settings.figure and (report.layers or report.nets or report.steps):
        from pcsparse.bench.figures import roofline

        path = settings.out.with_name(f"{settings.out.stem}-roofline.png")
        roofline(report, path)
        print(f"written: {path}")
    failures = report.failures()
    if failures:
        print(f"{len(failures)} checks FAILED: these results are wrong and have no times")
    return 1 if failures else 0


def at_threads(threads: int | None, call: Callable[[], Outcome]) -> Outcome:
    """Call with that many threads, or as many as there are if None; afterwards all is as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        return call()
    finally:
        torch.set_num_threads(before)


def scene_of(settings: BenchSettings) -> Scene:
    """The voxelised cloud of a run; says which one.

    Raises:
        FormatError: a named cloud cannot be read.
    """
    scene = Scene.of(_cloud(settings), settings.voxel_size)
    n_pairs = scene.kernel_map(Relation.of(3)).n_pairs
    print(
        f"cloud: {scene.name}, {scene.n_points:,} points, {len(scene.coords):,} voxels of "
        f"{scene.voxel_size} m, {n_pairs:,} pairs of the submanifold 3^3 map, "
        f"{n_pairs / max(len(scene.coords), 1):.2f} of 27 neighbours a voxel",
        flush=True,
    )
    return scene


def _measure(settings: BenchSettings) -> Report:
    where = environment()
    print(where.header())
    scene, peers = scene_of(settings), find_peers()
    for peer in peers.libraries:
        print(f"peer: {peer.name}" + (f"; {peer.remark}" if peer.remark else ""))
    for name, why in peers.absent:
        print(f"peer not here: {name} ({why})")
    limits = measure_limits()
    print(f"limits: {limits}; floor = the larger of operations and bytes over these", flush=True)
    report = Report(
        where,
        scene.name,
        scene.n_points,
        len(scene.coords),
        scene.kernel_map(Relation.of(3)).n_pairs,
        scene.voxel_size,
        limits,
        tuple((peer.name, peer.remark) for peer in peers.libraries),
        peers.absent,
    )
    for section in (name for name in SECTIONS if name in settings.sections):
        report = _RUN[section](report, scene, peers, settings)
    if report.limits != limits:
        print(f"limits: {report.limits}")
    return report


def _limits_again(report: Report) -> Report:
    """Peaks are measured before and after what they are compared with: a busy moment must not hide them."""
    return replace(report, limits=report.limits.or_better(measure_limits()))


def _maps(report: Report, scene: Scene, peers: Peers, settings: BenchSettings) -> Report:
    cases = tagged(MAP_CASES, _tags(settings))
    maps = tuple(
        run_map_case(case, scene, peers.libraries, settings.runs)
        for case in cases
        if settings.only in case.name
    )
    report = replace(_limits_again(report), maps=maps)
    _show_results("Kernel maps, from int coordinates to pairs", maps, report)
    return report


def _layers(report: Report, scene: Scene, peers: Peers, settings: BenchSettings) -> Report:
    layers: tuple[Result, ...] = ()
    for case in tagged(CONV_CASES, _tags(settings)):
        if settings.only in case.name:
            layers = (*layers, run_conv_case(case, scene, peers.libraries, settings.runs))
    report = replace(_limits_again(report), layers=layers)
    _show_results("Convolutions, float32 unless said, map ready unless said", layers, report)
    return report


def _nets(report: Report, scene: Scene, peers: Peers, settings: BenchSettings) -> Report:
    nets = _networks(scene, peers, settings, training=False)
    report = replace(_limits_again(report), nets=nets)
    _show_results("Networks, forward, each library with its own maps included", nets, report)
    return report


def _steps(report: Report, scene: Scene, peers: Peers, settings: BenchSettings) -> Report:
    steps = _networks(scene, peers, settings, training=True)
    report = replace(_limits_again(report), steps=steps)
    _show_results("Networks, training step (forward, loss, backward, SGD), maps included", steps, report)
    return report


def net_cases(settings: BenchSettings, *, training: bool) -> tuple[NetCase, ...]:
    """The networks that a run measures."""
    cases = tagged(NET_CASES, _tags(settings))
    return tuple(case for case in cases if case.training == training and settings.only in case.name)


def _networks(scene: Scene, peers: Peers, settings: BenchSettings, *, training: bool) -> tuple[Result, ...]:
    found: list[Result] = []
    for case in net_cases(settings, training=training):
        found += run_net_case(case, scene, peers.libraries, settings.net_runs)
    return tuple(found)


def _memory(report: Report, scene: Scene, peers: Peers, settings: BenchSettings) -> Report:
    memory = tuple(run_memory_case(case, scene) for case in net_cases(settings, training=True))
    _show("Peak memory of a training step, in a fresh process", "\n".join(map(str, memory)))
    return replace(report, memory=memory)


def _groupings(report: Report, scene: Scene, peers: Peers, settings: BenchSettings) -> Report:
    for channels in GROUPING_CHANNELS[:1] if settings.quick else GROUPING_CHANNELS:
        found = run_groupings(scene, channels, max(settings.runs // 2, 1))
        report = replace(_limits_again(report), groupings=report.groupings + found)
        title = f"Gather-GEMM-scatter, submanifold 3^3, C={channels}"
        _show(title, grouping_table(found, report.limits))
    return report


def _redundancy(report: Report, scene: Scene, peers: Peers, settings: BenchSettings) -> Report:
    report = replace(report, redundancy=run_redundancy(scene))
    title = "Redundant multiply-adds of a sorted implicit GEMM, submanifold 3^3"
    _show(title, redundancy_table(report.redundancy))
    return report


_RUN: Mapping[str, Callable[[Report, Scene, Peers, BenchSettings], Report]] = MappingProxyType(
    {
        "maps": _maps,
        "layers": _layers,
        "nets": _nets,
        "steps": _steps,
        "memory": _memory,
        "groupings": _groupings,
        "redundancy": _redundancy,
    }
)


def _tags(settings: BenchSettings) -> tuple[Tag, ...]:
    return ("ci",) if settings.quick else settings.tags


def _show(title: str, text: str) -> None:
    print(f"\n{title}\n{text}", flush=True)


def _show_results(title: str, results: tuple[Result, ...], report: Report) -> None:
    _show(title, result_table(results, report.limits))
    if any(result.peers for result in results):
        _show(f"{title}: ms (times pcsparse)", peer_table(results))


def _cloud(settings: BenchSettings) -> Cloud:
    if settings.cloud is not None:
        if not settings.cloud.is_file():
            raise FormatError(f"no point file at {settings.cloud}; name one with --cloud")
        return file_cloud(settings.cloud)
    if settings.quick:
        return small_cloud()
    samples = os.environ.get(REAL_DATA, "")
    if samples:
        try:
            return real_cloud(Path(samples))
        except FormatError as error:
            print(f"NO REAL SWEEP: {error}; going on with a SIMULATED one")
    return simulated_cloud()
