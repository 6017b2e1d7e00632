"""What a benchmark run is asked for: its settings, and the cloud, the cases and the threads that follow."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from pcsparse.bench.cases import (
    CONV_CASES,
    DATAFLOW_CASES,
    MAP_CASES,
    NET_CASES,
    SETTLE,
    VOXEL_SIZE,
    NetCase,
    Tag,
    tagged,
)  # fmt: skip
from pcsparse.bench.clouds import Cloud, file_cloud, real_cloud, simulated_cloud, small_cloud
from pcsparse.bench.neighbours import CASES as NEIGHBOUR_CASES
from pcsparse.bench.scene import Scene
from pcsparse.coords.relation import Relation
from pcsparse.errors import FormatError, RangeError

SECTIONS = ("maps", "layers", "nets", "steps", "memory", "groupings", "redundancy", "dataflows", "neighbours")
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
        settle: untimed runs of a candidate right before each timed one of a map, layer or dataflow, so that
            each finds its own data in the caches; 0 leaves them as the other candidates did. Networks and
            training steps have none.
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
    settle: int = SETTLE
    threads: int | None = None
    out: Path = Path("bench-out/bench.json")
    figure: bool = True


def at_threads(threads: int | None, call: Callable[[], Outcome]) -> Outcome:
    """Call with that many threads, or as many as there are if None; afterwards all is as before.

    Raises:
        RangeError: fewer than one thread.
    """
    if threads is not None and threads < 1:
        raise RangeError(f"threads must be at least 1, got threads={threads}")
    before = torch.get_num_threads()
    torch.set_num_threads(before if threads is None else threads)
    try:
        return call()
    finally:
        torch.set_num_threads(before)


def check_counts(settings: BenchSettings) -> None:
    """Raise RangeError for fewer than one run, or a negative `settle`."""
    if min(settings.runs, settings.net_runs) < 1 or settings.settle < 0:
        raise RangeError(
            f"runs={settings.runs} or net_runs={settings.net_runs} below 1, or settle={settings.settle} "
            "below 0"
        )


def check_only(only: str, names: Sequence[str], kind: str = "case") -> None:
    """Raise RangeError, which names what there is, if none of `names` has the text `only` in it."""
    if not any(only in name for name in names):
        known = ", ".join(dict.fromkeys(names)) or "none"
        raise RangeError(
            f"no {kind} has {only!r} in its name, so that nothing would be measured; there are {known}"
        )


def check_cases(settings: BenchSettings) -> None:
    """Raise RangeError if no case of the sections is to run, so that nothing would be measured."""
    # the other sections have no cases to choose from
    if not set(settings.sections) <= {"maps", "layers", "nets", "steps", "memory", "dataflows", "neighbours"}:
        return
    tags = tags_of(settings)
    nets = tagged(NET_CASES, tags)
    names = {
        "maps": [case.name for case in tagged(MAP_CASES, tags)],
        "layers": [case.name for case in tagged(CONV_CASES, tags)],
        "nets": [case.name for case in nets if not case.training],
        "steps": [case.name for case in nets if case.training],
        "memory": [case.name for case in nets if case.training],
        "dataflows": [case.name for case in tagged(DATAFLOW_CASES, tags)],
        "neighbours": [case.name for case in NEIGHBOUR_CASES],
    }
    known = [name for section in settings.sections for name in names[section]]
    if not known:
        raise RangeError(f"no case of these sections has a tag of {', '.join(tags)}; ask for other --tags")
    check_only(settings.only, known)


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


def tags_of(settings: BenchSettings) -> tuple[Tag, ...]:
    """Which cases run."""
    return ("ci",) if settings.quick else settings.tags


def net_cases(settings: BenchSettings, *, training: bool) -> tuple[NetCase, ...]:
    """The networks that a run measures."""
    cases = tagged(NET_CASES, tags_of(settings))
    return tuple(case for case in cases if case.training == training and settings.only in case.name)
