"""Two studies beside the tables: how cost grows with size, and where the time of a network goes."""

from dataclasses import asdict
from pathlib import Path

import torch

from pcsparse.allocation import keep_freed_memory
from pcsparse.bench.cases import SCALING_CHANNELS, SCALING_VOXELS
from pcsparse.bench.report import write_json
from pcsparse.bench.scaling import MAP, ScalingPoint, growth, run_scaling
from pcsparse.bench.shares import profile_case
from pcsparse.bench.tables import ms
from pcsparse.programs.bench_run import BenchSettings, at_threads, net_cases, scene_of
from pcsparse.timing import environment

# one sweep: below it a layer is over in a moment, starting it counts, and everything lies in the caches
_STEADY = 90_000
_MAY_GROW = 1.15


def run_scaling_study(settings: BenchSettings) -> int:
    """Measure, print, write JSON and PNG; 1 if a sampled row is wrong, else 0.

    `quick` takes two small clouds and widths. Sizes that do not fit into memory are named and left out.

    Raises:
        FormatError: the cloud cannot be read.
        UnsupportedError: matplotlib is not installed.
    """
    keep_freed_memory()
    return at_threads(settings.threads, lambda: _scaling(settings))


def _scaling(settings: BenchSettings) -> int:
    where = environment()
    print(where.header())
    scene = scene_of(settings)
    sizes: tuple[int, ...] = SCALING_VOXELS
    widths: tuple[int, ...] = SCALING_CHANNELS
    if settings.quick:
        sizes, widths = (len(scene.coords) // 2, 2 * len(scene.coords)), widths[:2]
    points = []
    for point in run_scaling(scene.coords, sizes, widths, settings.runs):
        points.append(point)
        print(_line(point), flush=True)
    steady = 0 if settings.quick else _STEADY
    verdicts = {c: growth(points, c, above=steady) for c in (MAP, *widths)}
    for channels, grown in verdicts.items():
        name = "map 3^3" if channels == MAP else f"C={channels}"
        if grown is not None:
            word = "GROWS" if grown > _MAY_GROW else "does not grow"
            print(f"{name}: {word}, from {steady:,} voxels on by a factor of {grown:.2f}")
    out = settings.out
    write_json(
        out,
        {
            "format": 1,
            "environment": asdict(where),
            "cloud": scene.name,
            "voxel_size": scene.voxel_size,
            "points": [asdict(point) for point in points],
            "growth": {str(channels): grown for channels, grown in verdicts.items()},
        },
    )
    print(f"written: {out}")
    if settings.figure:
        from pcsparse.bench.figures import scaling_figure

        title = f"Submanifold 3^3, map ready; {scene.name}, {torch.get_num_threads()} threads"
        scaling_figure(points, title, out.with_suffix(".png"))
        print(f"written: {out.with_suffix('.png')}")
    return int(any(point.check is not None and not point.check.passed for point in points))


def _line(point: ScalingPoint) -> str:
    name = "map 3^3" if point.channels == MAP else f"C={point.channels}"
    start = f"{point.n_voxels:>9,} voxels {point.n_pairs:>10,} pairs  {name:8}"
    if point.skipped is not None:
        return f"{start} SKIPPED: {point.skipped}"
    if point.time is None or point.cost is None:
        return f"{start} FAILED: sampled rows disagree with the twin"
    unit = f"{1e9 * point.cost:.2f} ns a pair" if point.channels == MAP else f"{1e12 * point.cost:.2f} ps"
    return f"{start} {ms(point.time.median):>8} ms  {unit}"


def run_profile_study(settings: BenchSettings) -> int:
    """Print the shares of forward passes and training steps and write them to JSON; 0.

    Raises:
        FormatError: the cloud cannot be read.
    """
    keep_freed_memory()
    return at_threads(settings.threads, lambda: _profile(settings))


def _profile(settings: BenchSettings) -> int:
    where = environment()
    print(where.header())
    scene = scene_of(settings)
    found = []
    for training in (False, True):
        for case in net_cases(settings, training=training):
            if case.form == "module":
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
