"""`scripts/sparsify_heads.py`: dense heads made sparse on small tasks that train here in minutes."""

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from pcsparse.allocation import keep_freed_memory
from pcsparse.compress.heads import EIESettings, TwoFourSettings
from pcsparse.programs.sparse_heads_objects import ObjectSizes, object_task
from pcsparse.programs.sparse_heads_report import (
    Trained,
    accuracy_table,
    product_lines,
    size_table,
    write_results,
)
from pcsparse.programs.sparse_heads_run import FineTuning, HeadRun, run_head
from pcsparse.programs.sparse_heads_score import accuracy
from pcsparse.programs.sparse_heads_streets import StreetSizes, street_task
from pcsparse.programs.sparse_heads_tasks import Task, commonest_share, count_right, train
from pcsparse.timing import environment

TASKS = ("objects", "streets")
METHODS = ("eie", "2:4")


@dataclass(frozen=True)
class SparseHeadsSettings:
    """What to run.

    Args:
        out: folder for results.json, results.csv and the packed heads.
        data: folder that holds the simulated data, or gets them.
        tasks: of `TASKS`.
        methods: of `METHODS`.
        density: share of the weights that EIE keeps.
        objects: sizes of that task.
        streets: sizes of that task.
        epochs: passes over the training data, by task.
        tuning: by task.
        timed_runs: of each head.
        seed: of the networks' first weights, order and augmentation.
    """

    out: Path
    data: Path
    tasks: tuple[str, ...] = TASKS
    methods: tuple[str, ...] = METHODS
    density: float = 0.25
    objects: ObjectSizes = field(default_factory=ObjectSizes)
    streets: StreetSizes = field(default_factory=StreetSizes)
    epochs: tuple[int, int] = (12, 14)
    tuning: tuple[FineTuning, FineTuning] = (FineTuning(2), FineTuning(4))
    timed_runs: int = 50
    seed: int = 0

    def quick(self) -> "SparseHeadsSettings":
        """The same in seconds, with networks that have hardly learnt anything."""
        return replace(
            self,
            objects=replace(self.objects, per_class=4, held_out=2, n_points=64),
            streets=replace(
                self.streets,
                towns=1,
                held_out=2,
                sweeps=2,
                stride_metres=4.0,
                sensor="vlp16",
                reach=9.6,
                channels=8,
                head=(16, 16),
            ),
            epochs=(1, 1),
            tuning=(FineTuning(1), FineTuning(1)),
            timed_runs=3,
        )


def run(settings: SparseHeadsSettings) -> int:
    """Train, convert, fine-tune, write and read back; print tables; 0 when all is done.

    Raises:
        FormatError: the data folder holds other data, or a packed head is not what was written.
    """
    # refused before minutes of training, not after
    chosen = {m: EIESettings(settings.density) if m == "eie" else TwoFourSettings() for m in settings.methods}
    where = environment()
    print(where.header(), flush=True)
    settings.out.mkdir(parents=True, exist_ok=True)
    given = {**asdict(settings), "out": str(settings.out), "data": str(settings.data)}
    trained: list[Trained] = []
    runs: list[HeadRun] = []
    for name in settings.tasks:
        index = TASKS.index(name)
        dense = _train(_task(name, settings), settings.epochs[index], settings.seed)
        trained.append(dense)
        for method in settings.methods:
            found = run_head(
                dense.task, dense.model, chosen[method], settings.tuning[index], settings.out,
                timed_runs=settings.timed_runs,
            )  # fmt: skip
            runs.append(found)
            print(f"\n{name}, {found.report}\n({found.seconds:.0f} s)\n{product_lines(found)}", flush=True)
            # after each, so that a later failure takes none of it away
            write_results(settings.out, trained, runs, {"environment": asdict(where), "settings": given})
    print(f"\n{accuracy_table(runs)}\n\n{size_table(runs)}")
    print(f"\nwritten: {settings.out}/results.json, results.csv and the packed heads")
    return 0


def _task(name: str, settings: SparseHeadsSettings) -> Task:
    print(f"\n{name}:", flush=True)
    if name == "objects":
        return object_task(settings.data, settings.objects, print)
    return street_task(settings.data, settings.streets, print)


def _train(task: Task, epochs: int, seed: int) -> Trained:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = task.network()
    begin = time.perf_counter()
    loss = train(model, task, epochs, task.lr, seed)
    seconds = time.perf_counter() - begin
    counts = count_right(model, task)
    right, counted = counts.sum(dim=0).tolist()
    score = accuracy(counts)
    name = type(model).__name__
    print(
        f"{name}: {epochs} epochs of {task.n_batches} batches in {seconds:.0f} s, "
        f"loss {loss:.3f}; held out {right:,} of {counted:,} right in {task.n_groups} groups, "
        f"accuracy {score} %, always the commonest class: {commonest_share(task):.1%}",
        flush=True,
    )
    return Trained(task, model, score, loss, seconds)


def main(arguments: Sequence[str]) -> int:
    """Parse a command line, without the program's name, and run it."""
    parser = argparse.ArgumentParser(
        prog="sparsify_heads.py",
        description="Train two small networks, make their heads sparse, and compare before with after.",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/sparse-heads"), help="folder for results")
    parser.add_argument("--data", type=Path, help="folder for simulated data (default: OUT/data)")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--density", type=float, default=0.25, help="share of the weights that EIE keeps")
    parser.add_argument("--seed", type=int, default=0, help="of the networks, not of the data")
    parser.add_argument("--quick", action="store_true", help="tiny data and networks: seconds, no figures")
    given = parser.parse_args(arguments)
    keep_freed_memory()
    settings = SparseHeadsSettings(
        given.out, given.data or given.out / "data", tuple(given.tasks), tuple(given.methods), given.density,
        seed=given.seed,
    )  # fmt: skip
    return run(settings.quick() if given.quick else settings)
