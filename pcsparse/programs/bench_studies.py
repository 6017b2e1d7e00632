"""Two studies beside the tables: how cost grows with size, and where the time of a network goes."""

from dataclasses import asdict, replace
from pathlib import Path

import torch

from pcsparse.allocation import keep_freed_memory
from pcsparse.bench.cases import SCALING_CHANNELS, SCALING_VOXELS, NetCase
from pcsparse.bench.limits import measure_limits
from pcsparse.bench.report import write_json
from pcsparse.bench.scaling import MAP, Growth, ScalingPoint, growth, run_scaling
from pcsparse.bench.shares import profile_case
from pcsparse.bench.tables import ms
from pcsparse.programs.bench_settings import (
    BenchSettings,
    at_threads,
    check_counts,
    check_only,
    net_cases,
    scene_of,
)
from pcsparse.timing import environment

# one sweep: below it a layer is over in a moment, starting it counts, and everything lies in the caches
_STEADY = 90_000
_MAY_GROW = 1.15


def run_scaling_study(settings: BenchSettings) -> int:
    """Measure, print, write JSON and PNG; 1 if a sampled row is wrong or a cost grows too much, else 0.

    `quick` takes two small clouds and widths. Sizes that do not fit into memory are named and left out.

    Raises:
        RangeError: fewer than one run or thread.
        FormatError: the cloud cannot be read.
        UnsupportedError: matplotlib is not installed.
    """
    check_counts(settings)
    # features of millions of voxels are larger than what is kept by default; they alone would be faulted in
    keep_freed_memory(everything=True)
    return at_threads(settings.threads, lambda: _scaling(settings))


def _scaling(settings: BenchSettings) -> int:
    where = environment()
    print(where.header())
    scene, limits = scene_of(settings), measure_limits()
    print(f"limits: {limits}", flush=True)
    sizes: tuple[int, ...] = SCALING_VOXELS
    widths: tuple[int, ...] = SCALING_CHANNELS
    if settings.quick:
        sizes, widths = (len(scene.coords) // 2, 2 * len(scene.coords)), widths[:2]
    points = []
    for point in run_scaling(scene.coords, sizes, widths, settings.runs):
        points.append(point)
        print(_line(point), flush=True)
    steady = 0 if settings.quick else _STEADY
    ways = (growth(points, c, above=steady, bandwidth=limits.bandwidth) for c in (MAP, *widths))
    verdicts = [found for found in ways if found is not None]
    for found in verdicts:
        print(_verdict(found))
    out = settings.out
    write_json(
        out,
        {
            "format": 2,
            "environment": asdict(where),
            "cloud": scene.name,
            "voxel_size": scene.voxel_size,
            "limits": asdict(limits),
            "points": [asdict(point) for point in points],
            "growth": [asdict(found) for found in verdicts],
            "may_grow": _MAY_GROW,
        },
    )
    print(f"written: {out}")
    if settings.figure:
        from pcsparse.bench.figures import scaling_figure

        title = f"Submanifold 3^3, map ready; {scene.name}, {torch.get_num_threads()} threads"
        scaling_figure(points, title, out.with_suffix(".png"))
        print(f"written: {out.with_suffix('.png')}")
    wrong = any(point.check is not None and not point.check.passed for point in points)
    grown = [_name(found.channels) for found in verdicts if found.factor > _MAY_GROW]
    if grown:
        print(f"cost GROWS faster than pairs x channels (by more than {_MAY_GROW}): {', '.join(grown)}")
    return int(wrong or bool(grown))


def _verdict(found: Growth) -> str:
    word = "GROWS" if found.factor > _MAY_GROW else "does not grow"
    first, last = found.memory_shares
    return (
        f"{_name(found.channels)}: {word}, from {found.smallest:,} to {found.largest:,} voxels by a factor "
        f"of {found.factor:.2f}; the memory floor (every byte once, at the bandwidth above) is {first:.0%} "
        f"of the time at the first, {last:.0%} at the last"
    )


def _name(channels: int) -> str:
    return "map 3^3" if channels == MAP else f"C={channels}"


def _line(point: ScalingPoint) -> str:
    start = f"{point.n_voxels:>9,} voxels {point.n_pairs:>10,} pairs  {_name(point.channels):8}"
    if point.skipped is not None:
        return f"{start} SKIPPED: {point.skipped}"
    if point.time is None or point.cost is None:
        return f"{start} FAILED: sampled rows disagree with the twin"
    unit = f"{1e9 * point.cost:.2f} ns a pair" if point.channels == MAP else f"{1e12 * point.cost:.2f} ps"
    return f"{start} {ms(point.time.median):>8} ms  {unit}"


def run_profile_study(settings: BenchSettings) -> int:
    """Print the shares of forward passes and training steps and write them to JSON; 0.

    Raises:
        RangeError: no case to profile, or fewer than one run or thread.
        FormatError: the cloud cannot be read.
    """
    check_counts(settings)
    every = replace(settings, only="")
    check_only(settings.only, [case.name for case in _profiled(every)])
    keep_freed_memory()
    return at_threads(settings.threads, lambda: _profile(settings))


def _profiled(settings: BenchSettings) -> list[NetCase]:
    cases = (*net_cases(settings, training=False), *net_cases(settings, training=True))
    return [case for case in cases if case.form == "module"]


def _profile(settings: BenchSettings) -> int:
    where = environment()
    print(where.header())
    scene = scene_of(settings)
    found = []
    for case in _profiled(settings):
        found.append(profile_case(case, scene, settings.net_runs))
        print(f"\n{found[-1]}", flush=True)
    out: Path = settings.out
    write_json(
        out,
        {
            "format": 1,
            "environment": asdict(where),
            "cloud": scene.name,
            "profiles": [asdict(profile) for profile in found],
        },
    )
    print(f"\nwritten: {out}")
    return 0
