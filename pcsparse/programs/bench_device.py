"""Command line of the benchmarks on an accelerator; needs neither hydra nor open3d nor a network."""

import argparse
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from pcsparse.bench.device.cases import (
    CUBE_SIDE,
    DENSE,
    HEADS,
    LAUNCH_SIDE,
    LAUNCHES,
    LAYERS,
    MAPS,
    NETS,
    SEARCHES,
    STEPS,
    DeviceHead,
    DeviceLayer,
    DeviceMap,
    DeviceNet,
    DeviceSearch,
    DeviceTwoFour,
)
from pcsparse.bench.device.heads import run_head, run_search, run_two_four
from pcsparse.bench.device.layers import run_layer
from pcsparse.bench.device.limits import measure_device
from pcsparse.bench.device.maps import run_map
from pcsparse.bench.device.nets import run_net
from pcsparse.bench.device.outcome import DeviceResult
from pcsparse.bench.device.peer import DevicePeer
from pcsparse.bench.device.peers import PEERS, device_peers
from pcsparse.bench.device.precision import PRECISIONS
from pcsparse.bench.device.report import DeviceReport, result_lines, short_line, summary_lines
from pcsparse.bench.device.scene import (
    SECOND_CORNER,
    SECOND_VOXEL,
    DeviceScene,
    cloud_of,
    cube,
)
from pcsparse.errors import PcsparseError, RangeError, UnsupportedError
from pcsparse.models import SecondSpec
from pcsparse.programs.bench_settings import check_only
from pcsparse.programs.output_file import output_file
from pcsparse.timing import environment

_Case = DeviceMap | DeviceLayer | DeviceNet | DeviceHead | DeviceTwoFour | DeviceSearch
Measure = Callable[[], DeviceResult | tuple[DeviceResult, ...]]
# in the order in which they run: first what there is a goal for, as a budget may end before the last one
SECTIONS = ("maps", "dense", "launch", "nets", "steps", "layers", "heads", "neighbours")
UNFINISHED = 3
_OUT = Path("bench-out")
_REHEARSED_SIDE = 4
# seconds of a case, checks and compiling included, that are worth a word
_LONG = 10.0


@dataclass(frozen=True)
class DeviceSettings:
    """What to measure.

    Attributes:
        device: where.
        sections: of `SECTIONS`.
        quick: the cases tagged so, few runs.
        only: cases whose name has this text in it.
        precisions: names of those that run.
        cloud: a 64-beam sweep; the simulated one if None.
        sweeps: ten sweeps as (n, 5): x, y, z in metres, intensity, seconds; simulated ones if None.
        peers: packages to compare with.
        runs: of each candidate at most.
        seconds: for each case, after its warm-up.
        budget: seconds after which no case is started.
        out: the JSON file.
    """

    device: torch.device
    sections: tuple[str, ...]
    quick: bool
    only: str
    precisions: tuple[str, ...]
    cloud: Path | None
    sweeps: Path | None
    peers: tuple[str, ...]
    runs: int
    seconds: float
    budget: float
    out: Path


def main(
    arguments: Sequence[str],
    *,
    sections: Iterable[str] = SECTIONS,
    name: str = "device",
    program: str | None = None,
) -> int:
    """Parse a command line and run it; see `run` for what it returns."""
    parser = argparse.ArgumentParser(
        prog=program, description="Verify against the twins, then time, on an accelerator."
    )
    parser.add_argument("--device", default="cuda", help="cuda, or cpu for a rehearsal")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(sections))
    parser.add_argument("--quick", action="store_true", help="the fewest cases, few runs")
    parser.add_argument("--only", default="", help="cases with this text in their names")
    parser.add_argument("--dtypes", nargs="+", choices=tuple(PRECISIONS), default=list(PRECISIONS))
    parser.add_argument("--cloud", type=Path, help="a 64-beam sweep (default: a simulated one)")
    parser.add_argument("--sweeps", type=Path, help="ten sweeps for CenterPoint (default: simulated ones)")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument(
        "--runs", type=int, help="of each candidate at most (default 30; quick 7); 1 is for the checks alone"
    )
    parser.add_argument("--seconds", type=float, help="for each case (default 3; quick 0.5)")
    parser.add_argument("--budget", type=float, default=1e9, help="seconds after which no case is started")
    parser.add_argument("--out", type=output_file, help=f"JSON file (default: in {_OUT})")
    given = parser.parse_args(arguments)
    return run(
        DeviceSettings(
            torch.device(given.device),
            tuple(given.sections),
            given.quick,
            given.only,
            tuple(given.dtypes),
            given.cloud,
            given.sweeps,
            tuple(given.peers),
            given.runs if given.runs is not None else (7 if given.quick else 30),
            given.seconds if given.seconds is not None else (0.5 if given.quick else 3.0),
            given.budget,
            given.out or _OUT / f"{name}.json",
        )
    )


def run(settings: DeviceSettings) -> int:
    """Print tables and write the JSON file.

    Returns:
        0; 1 if the package is wrong somewhere or a case broke off; `UNFINISHED` if all is right as far as it
        came, but no time was left for some cases.

    Raises:
        RangeError: fewer than one run, or no case to run.
        UnsupportedError: there is no such device.
        FormatError: a cloud cannot be read.
    """
    begin = time.perf_counter()
    if settings.runs < 1:
        raise RangeError(f"runs must be at least 1, got {settings.runs}")
    check_only(
        settings.only, [case.name for section in settings.sections for case in _able(section, settings)]
    )
    if settings.device.type == "cuda" and not torch.cuda.is_available():
        raise UnsupportedError(f"torch {torch.__version__} sees no CUDA device; --device cpu is a rehearsal")
    where = environment()
    print(where.header(), flush=True)
    scenes = _Scenes(settings)
    peers, absent = device_peers(settings.peers, settings.device)
    late = 0
    report = DeviceReport(
        where,
        (),
        tuple((peer.name, peer.remark) for peer in peers),
        tuple(absent),
        rehearsal=settings.device.type != "cuda",
    )
    for name, remark in (*report.peers, *report.absent):
        print(f"peer: {name}" + (f"; {remark}" if remark else ""))
    # one run is for the checks, and for caches of compiled kernels: its times are nothing to go by
    if settings.runs > 1:
        _attempt("limits", report, lambda: _limits(report, settings))
    for section in (name for name in SECTIONS if name in settings.sections):
        for case, measure in _cases(section, settings, scenes, peers):
            if time.perf_counter() - begin > settings.budget:
                report.broken.append((case, f"not started: {settings.budget:g} s were over"))
                late += 1
                continue
            _attempt(case, report, partial(_add, report, section, measure))
            report.clouds = tuple(map(str, scenes.made.values()))
            report.write(settings.out)
        print(f"\n{section}\n{result_lines(report.sections.get(section, []), report.limits)}", flush=True)
    for line in report.clouds:
        print(f"cloud: {line}")
    print(summary_lines(report))
    report.write(settings.out)
    print(f"written: {settings.out}, {time.perf_counter() - begin:.0f} s", flush=True)
    wrong = any(
        outcome.ours_is_broken(rehearsal=report.rehearsal)
        for result in report.results()
        for outcome in result.outcomes
    )
    if wrong or len(report.broken) > late:
        return 1
    return UNFINISHED if late else 0


def _limits(report: DeviceReport, settings: DeviceSettings) -> None:
    report.limits = measure_device(settings.device, quick=settings.quick)
    print(f"limits: {report.limits}", flush=True)


def _attempt(case: str, report: DeviceReport, measure: Callable[[], object]) -> None:
    """A case that ends in an error is named, and the others go on."""
    begin = time.perf_counter()
    try:
        measure()
    except PcsparseError as error:
        report.broken.append((case, str(error)))
    # whatever a new device and foreign libraries raise
    except Exception as error:
        traceback.print_exc()
        report.broken.append((case, f"{type(error).__name__}: {error}".partition("\n")[0]))
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    taken = time.perf_counter() - begin
    if taken > _LONG:
        print(f"  {case}: took {taken:.0f} s in all", flush=True)


def _add(report: DeviceReport, section: str, measure: Measure) -> None:
    found = measure()
    added = found if isinstance(found, tuple) else (found,)
    report.sections.setdefault(section, []).extend(added)
    # at once: what is measured must be seen even if a later case never ends
    for result in added:
        print(f"  {short_line(result)}", flush=True)


class _Scenes:
    """Clouds, made at their first use."""

    def __init__(self, settings: DeviceSettings) -> None:
        self._settings = settings
        self.made: dict[tuple[str, int], DeviceScene] = {}

    def unet(self, batch: int = 1) -> DeviceScene:
        if ("unet", batch) not in self.made:
            cloud = cloud_of(self._settings.cloud, quick=self._quick)
            self.made["unet", batch] = DeviceScene.of(cloud, self._settings.device, batch=batch)
        return self.made["unet", batch]

    def second(self, spec: SecondSpec, batch: int) -> DeviceScene:
        if ("second", batch) not in self.made:
            self.made["second", batch] = DeviceScene.of(
                cloud_of(self._settings.sweeps, quick=self._quick, several=True),
                self._settings.device,
                voxel=SECOND_VOXEL,
                batch=batch,
                corner=SECOND_CORNER,
                grid=spec.grid,
                channels=spec.stem.c_in,
            )
        return self.made["second", batch]

    def points(self) -> Tensor:
        cloud = cloud_of(self._settings.cloud, quick=self._quick)
        return cloud.points.float().contiguous().to(self._settings.device)

    @property
    def _quick(self) -> bool:
        return self._settings.quick

    def cube(self, side: int) -> DeviceScene:
        return cube(side, self._settings.device, 1)


def _able(section: str, settings: DeviceSettings) -> list[_Case]:
    """Cases of a section in the precisions that are asked for, whatever their names are."""
    every: dict[str, Sequence[_Case]] = {
        "maps": MAPS, "layers": LAYERS, "dense": DENSE, "launch": LAUNCHES, "nets": NETS, "steps": STEPS,
        "heads": HEADS, "neighbours": SEARCHES,
    }  # fmt: skip
    return [
        case
        for case in every[section]
        if (not settings.quick or "quick" in case.tags)
        and (
            isinstance(case, DeviceMap | DeviceHead | DeviceSearch)
            or case.precision.name in settings.precisions
        )
    ]


def _cases(
    section: str, settings: DeviceSettings, scenes: _Scenes, peers: list[DevicePeer]
) -> Iterator[tuple[str, Measure]]:
    """Name of each case of a section, and what measures it."""
    for case in _able(section, settings):
        if settings.only not in case.name:
            continue
        if isinstance(case, DeviceMap):
            yield case.name, partial(_map, case, settings, scenes, peers)
        elif isinstance(case, DeviceHead | DeviceSearch):
            yield case.name, partial(_head, case, settings, scenes)
        elif isinstance(case, DeviceTwoFour):
            yield f"{case.name} {case.precision.name}", partial(_head, case, settings, scenes)
        else:
            measure = _layer if isinstance(case, DeviceLayer) else _net
            name = f"{case.name} {case.precision.name}"
            yield name, partial(measure, case, section, settings, scenes, peers)  # type: ignore[arg-type]


def _map(
    case: DeviceMap, settings: DeviceSettings, scenes: _Scenes, peers: list[DevicePeer]
) -> tuple[DeviceResult, DeviceResult]:
    return run_map(case, scenes.unet(), peers, runs=settings.runs, seconds=settings.seconds)


def _head(
    case: DeviceHead | DeviceTwoFour | DeviceSearch, settings: DeviceSettings, scenes: _Scenes
) -> DeviceResult:
    runs, seconds = settings.runs, settings.seconds
    if isinstance(case, DeviceSearch):
        return run_search(case, scenes.points(), runs=runs, seconds=seconds)
    if isinstance(case, DeviceHead):
        return run_head(case, settings.device, runs=runs, seconds=seconds)
    return run_two_four(case, settings.device, runs=runs, seconds=seconds)


def _layer(
    case: DeviceLayer, section: str, settings: DeviceSettings, scenes: _Scenes, peers: list[DevicePeer]
) -> DeviceResult:
    # off an accelerator a product over the whole cube would take minutes
    sides = {"dense": _REHEARSED_SIDE if settings.device.type == "cpu" else CUBE_SIDE, "launch": LAUNCH_SIDE}
    scene = scenes.cube(sides[section]) if section in sides else scenes.unet()
    return run_layer(
        case, scene, peers, runs=settings.runs, seconds=settings.seconds, dense=section == "dense"
    )


def _net(
    case: DeviceNet, section: str, settings: DeviceSettings, scenes: _Scenes, peers: list[DevicePeer]
) -> DeviceResult:
    on_grid = isinstance(case.spec, SecondSpec)
    scene = scenes.second(case.spec, case.batch) if on_grid else scenes.unet(case.batch)  # type: ignore[arg-type]
    return run_net(case, scene, peers, runs=settings.runs, seconds=settings.seconds)
