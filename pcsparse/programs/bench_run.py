"""Verifies kernels and networks against their twins, then times them beside peers, floor and goal."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from pcsparse.allocation import keep_freed_memory
from pcsparse.bench.ablation_tables import grouping_table, redundancy_table
from pcsparse.bench.cases import (
    CONV_CASES,
    DATAFLOW_CASES,
    DATAFLOW_VOXELS,
    GROUPING_CHANNELS,
    MAP_CASES,
    tagged,
)
from pcsparse.bench.dataflows import run_dataflows
from pcsparse.bench.groupings import run_groupings
from pcsparse.bench.layers import run_conv_case
from pcsparse.bench.limits import measure_limits
from pcsparse.bench.maps import run_map_case
from pcsparse.bench.memory import run_memory_case
from pcsparse.bench.neighbours import CASES as NEIGHBOUR_CASES
from pcsparse.bench.neighbours import neighbour_table, run_neighbours
from pcsparse.bench.nets import run_net_case
from pcsparse.bench.outcome import Result
from pcsparse.bench.peers import Peers, find_peers
from pcsparse.bench.redundancy import run_redundancy
from pcsparse.bench.report import Report
from pcsparse.bench.scene import Scene
from pcsparse.bench.tables import peer_table, result_table
from pcsparse.coords.relation import Relation
from pcsparse.errors import RangeError
from pcsparse.programs.bench_settings import (
    SECTIONS,
    BenchSettings,
    at_threads,
    check_cases,
    check_counts,
    net_cases,
    scene_of,
    tags_of,
)
from pcsparse.timing import environment


def run(settings: BenchSettings) -> int:
    """Print tables, write the JSON file and the roofline; 0 if the package agreed with the twins, else 1.

    Raises:
        RangeError: an unknown section, no case to run, fewer than one run or thread, or a negative `settle`.
        FormatError: the cloud cannot be read.
        UnsupportedError: the figure is wanted and matplotlib is not installed.
    """
    keep_freed_memory()
    unknown = [section for section in settings.sections if section not in SECTIONS]
    if unknown:
        raise RangeError(f"unknown sections {unknown} (known: {', '.join(SECTIONS)})")
    check_counts(settings)
    check_cases(settings)
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


def _measure(settings: BenchSettings) -> Report:
    where = environment()
    print(where.header())
    scene, peers = scene_of(settings), find_peers()
    for peer in peers.libraries:
        print(f"peer: {peer.name}" + (f"; {peer.remark}" if peer.remark else ""))
    for name, why in peers.absent:
        print(f"peer not here: {name} ({why})")
    limits = measure_limits()
    print(f"limits: {limits}; floor = the larger of operations and bytes over these")
    print(
        f"caches: {settings.settle} untimed run(s) of the same candidate right before each timed one of a "
        "map or layer, none before a network or training step",
        flush=True,
    )
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
        settle=settings.settle,
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
    cases = tagged(MAP_CASES, tags_of(settings))
    maps = tuple(
        run_map_case(case, scene, peers.libraries, settings.runs, settle=settings.settle)
        for case in cases
        if settings.only in case.name
    )
    report = replace(_limits_again(report), maps=maps)
    title = "Kernel maps, from int coordinates, sorted by key unless said, to pairs"
    _show_results(f"{title}; {_caches(settings)}", maps, report)
    return report


def _layers(report: Report, scene: Scene, peers: Peers, settings: BenchSettings) -> Report:
    layers: tuple[Result, ...] = ()
    for case in tagged(CONV_CASES, tags_of(settings)):
        if settings.only in case.name:
            done = run_conv_case(case, scene, peers.libraries, settings.runs, settle=settings.settle)
            layers = (*layers, done)
    report = replace(_limits_again(report), layers=layers)
    title = "Convolutions, float32 unless said, map ready unless said"
    _show_results(f"{title}; {_caches(settings)}", layers, report)
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


def _dataflows(report: Report, scene: Scene, peers: Peers, settings: BenchSettings) -> Report:
    cases = [case for case in tagged(DATAFLOW_CASES, tags_of(settings)) if settings.only in case.name]
    for n in DATAFLOW_VOXELS[:1] if settings.quick else DATAFLOW_VOXELS:
        found = run_dataflows(cases, scene, n, settings.runs, settle=settings.settle)
        report = replace(report, dataflows=report.dataflows + found)
    report = _limits_again(report)
    title = "Dataflows, submanifold, float32, map ready; pcsparse is what the rule takes"
    _show_results(f"{title}; {_caches(settings)}", report.dataflows, report)
    return report


def _neighbours(report: Report, scene: Scene, peers: Peers, settings: BenchSettings) -> Report:
    found = tuple(
        run_neighbours(case, scene, settings.runs, settle=settings.settle)
        for case in NEIGHBOUR_CASES
        if settings.only in case.name
    )
    title = "Neighbours among the first points of the voxels, cells and trees made in each run"
    _show(f"{title}; {_caches(settings)}", neighbour_table(found))
    return replace(report, neighbours=found)


_RUN: Mapping[str, Callable[[Report, Scene, Peers, BenchSettings], Report]] = MappingProxyType(
    {
        "maps": _maps,
        "layers": _layers,
        "nets": _nets,
        "steps": _steps,
        "memory": _memory,
        "groupings": _groupings,
        "redundancy": _redundancy,
        "dataflows": _dataflows,
        "neighbours": _neighbours,
    }
)


def _caches(settings: BenchSettings) -> str:
    return (
        f"caches warm (settle {settings.settle})"
        if settings.settle
        else "caches as the others left them (settle 0)"
    )


def _show(title: str, text: str) -> None:
    print(f"\n{title}\n{text}", flush=True)


def _show_results(title: str, results: tuple[Result, ...], report: Report) -> None:
    _show(title, result_table(results, report.limits))
    if any(result.peers for result in results):
        _show(f"{title}: ms (times pcsparse)", peer_table(results))
