"""Makes synthetic data, and compares its figures with those of real sweeps."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pcsparse.data.synthetic.caster import CASTERS
from pcsparse.data.synthetic.sensor import SENSORS, sensor_named
from pcsparse.data.synthetic.stats import PERCENTILES, VOXEL_SIZES, SweepStats, read_sweep, sweep_stats
from pcsparse.data.synthetic.writer import LAYOUTS, write_towns
from pcsparse.errors import FormatError, RangeError
from pcsparse.programs import synth_compare, synth_merged


@dataclass(frozen=True)
class SynthSettings:
    """What to make.

    Args:
        out: the folder that will hold the layout's own.
        towns: how many sequences, one town each.
        sweeps: sweeps a town.
        seed: of the first town; town k has seed + k.
        caster: "auto", "embree" or "bvh".
        sensor: name of a preset; None: what the layout's data set has, hdl32e for nuScenes, else hdl64e.
        stride_metres: metres between two sweeps.
        sequences: names of the sequences; 00, 01, … if empty.
        existing: "refuse", "resume" or "replace" a folder that is not empty.
        layout: one of `writer.LAYOUTS`.
    """

    out: Path
    towns: int = 4
    sweeps: int = 8
    seed: int = 0
    caster: str = "auto"
    sensor: str | None = None
    stride_metres: float = 10.0
    sequences: tuple[str, ...] = ()
    existing: Literal["refuse", "resume", "replace"] = "refuse"
    layout: str = "semantickitti"


@dataclass(frozen=True)
class StatsSettings:
    """What to measure.

    Args:
        sources: sweeps (.bin) or folders; of a folder, every `velodyne/*.bin` below it.
        sensor: the preset whose pulses a turn the missing share is taken from.
    """

    sources: tuple[Path, ...]
    sensor: str = "hdl64e"


def run(settings: SynthSettings) -> int:
    """Write the towns; 0 when all is written.

    Raises:
        RangeError: the number of sequences named is not the number of towns.
    """
    names = settings.sequences or tuple(f"{town:02d}" for town in range(settings.towns))
    if len(names) != settings.towns or len(set(names)) != len(names):
        raise RangeError(
            f"{settings.towns} towns need as many different sequence names, got {names}; set --towns"
        )
    seeds = {name: settings.seed + town for town, name in enumerate(names)}
    sensor = sensor_named(settings.sensor or ("hdl32e" if settings.layout == "nuscenes" else "hdl64e"))
    write_towns(
        settings.out,
        seeds,
        settings.sweeps,
        sensor,
        settings.caster,
        settings.stride_metres,
        settings.existing,
        print,
        settings.layout,
    )
    print(f"{settings.out}: {len(names)} sequences of {settings.sweeps} {sensor.name} sweeps")
    return 0


def _find(sources: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for source in sources:
        inside = sorted(source.glob("**/velodyne/*.bin")) if source.is_dir() else [source]
        if not inside or not inside[0].is_file():
            raise FormatError(
                f"no sweep at {source}; name a .bin file or a folder with velodyne/*.bin below it"
            )
        found += inside
    return found


def run_stats(settings: StatsSettings) -> int:
    """Print one line of figures a sweep, their mean and range, and the mean per class over labelled sweeps.

    Raises:
        FormatError: nothing there, or a file that is no sweep.
    """
    sensor = sensor_named(settings.sensor)
    pulses = sensor.rings * sensor.columns
    ranges = " ".join(f"{f'p{p}':>6}" for p in PERCENTILES)
    voxels = " ".join(f"{f'{size} m':>8}" for size in VOXEL_SIZES)
    print(f"{'sweep':>28} {'points':>8} {'rings':>5} {'lost':>5} {ranges} {voxels} {'of 27':>5} intensity")
    rows: list[SweepStats] = []
    for path in _find(settings.sources):
        stats = sweep_stats(*read_sweep(path))
        rows.append(stats)
        print(_line("/".join(path.parts[-3:])[-28:], stats, pulses))
    if len(rows) > 1:
        for word, fold in (("mean", np.mean), ("least", np.min), ("most", np.max)):
            print(_line(word, _folded(rows, fold), pulses))
    labelled = [row for row in rows if row.shares]
    for name in labelled[0].shares if labelled else ():
        shares = np.array([row.shares[name] for row in labelled])
        bright = [row.brightness[name] for row in labelled if row.shares[name] > 0]
        light = f"{np.mean(bright):.2f}" if bright else "-"
        spread = f"{shares.min():.1%} to {shares.max():.1%}"
        print(f"{name:>16} {shares.mean():7.2%}  ({spread})  intensity {light}")
    return 0


def _folded(rows: list[SweepStats], fold: Callable[..., Any]) -> SweepStats:
    """The figures of many sweeps folded column by column (mean, least, most); class shares apart."""

    def column(values: list[tuple[float, ...]]) -> tuple[float, ...]:
        return tuple(float(value) for value in fold(np.array(values), axis=0))

    intensity = column([row.intensity for row in rows])
    return SweepStats(
        int(fold([row.points for row in rows])),
        int(fold([row.rings for row in rows])),
        column([row.ranges for row in rows]),
        tuple(int(count) for count in column([row.voxels for row in rows])),
        float(fold([row.neighbours for row in rows])),
        (intensity[0], intensity[1]),
        {},
        {},
    )


def _line(name: str, stats: SweepStats, pulses: int) -> str:
    ranges = " ".join(f"{value:6.2f}" for value in stats.ranges)
    voxels = " ".join(f"{count:8,}" for count in stats.voxels)
    light = f"{stats.intensity[0]:.2f} +- {stats.intensity[1]:.2f}"
    lost = 1 - stats.points / pulses
    counts = f"{stats.points:8,} {stats.rings:5d} {lost:5.1%}"
    return f"{name:>28} {counts} {ranges} {voxels} {stats.neighbours:5.2f} {light}"


def main(arguments: Sequence[str]) -> int:
    """Parse a command line and run it: `OUT [options]`, or `stats`, `compare` or `merged` with their own."""
    if arguments and arguments[0] == "compare":
        return synth_compare.main(arguments[1:])
    if arguments and arguments[0] == "merged":
        return synth_merged.main(arguments[1:])
    if arguments and arguments[0] == "stats":
        parser = argparse.ArgumentParser(prog="pcsparse synth stats", description="Print figures of sweeps.")
        parser.add_argument(
            "sources", nargs="+", type=Path, help="sweeps (.bin), or folders with velodyne/*.bin"
        )
        parser.add_argument("--sensor", choices=SENSORS, default="hdl64e")
        given = parser.parse_args(arguments[1:])
        return run_stats(StatsSettings(tuple(given.sources), given.sensor))
    parser = argparse.ArgumentParser(prog="pcsparse synth", description="Make synthetic LiDAR sweeps.")
    parser.add_argument(
        "out",
        type=Path,
        help="folder to write to ('stats' and 'compare' tell figures instead, 'merged' writes one cloud)",
    )
    parser.add_argument(
        "--towns", type=int, help="number of sequences (default: as many as --sequences, or 4)"
    )
    parser.add_argument("--sweeps", type=int, default=8, help="sweeps a town")
    parser.add_argument("--seed", type=int, default=0, help="of the first town; town k has seed + k")
    parser.add_argument(
        "--layout", choices=LAYOUTS, default="semantickitti", help="kitti and nuscenes have boxes"
    )
    parser.add_argument("--caster", choices=("auto", *CASTERS), default="auto")
    parser.add_argument("--sensor", choices=SENSORS, help="default: hdl32e for nuscenes, else hdl64e")
    parser.add_argument("--stride-metres", type=float, default=10.0, help="metres between two sweeps")
    parser.add_argument(
        "--sequences", nargs="+", default=[], help="names, e.g. 00 01 08 (default: 00, 01, ...)"
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--force", dest="existing", action="store_const", const="replace", default="refuse")
    group.add_argument("--resume", dest="existing", action="store_const", const="resume")
    given = parser.parse_args(arguments)
    towns = given.towns if given.towns is not None else len(given.sequences) or 4
    return run(
        SynthSettings(
            given.out,
            towns,
            given.sweeps,
            given.seed,
            given.caster,
            given.sensor,
            given.stride_metres,
            tuple(given.sequences),
            given.existing,
            given.layout,
        )
    )
