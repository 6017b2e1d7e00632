"""What a benchmark run is asked for: its settings, and the cloud, the cases and the threads that follow."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from pcsparse.bench.cases import NET_CASES, SETTLE, VOXEL_SIZE, NetCase, Tag, tagged
from pcsparse.bench.clouds import Cloud, file_cloud, real_cloud, simulated_cloud, small_cloud
from pcsparse.bench.scene import Scene
from pcsparse.coords.relation import Relation
from pcsparse.errors import FormatError

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
