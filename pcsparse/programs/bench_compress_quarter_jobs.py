"""The study of a quarter in several processes: what may run beside what, and kernels compiled ahead."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from pcsparse.compress.finetune import Distillation, recalibrate
from pcsparse.data.collate import VoxelSettings
from pcsparse.data.label_map import LabelMap
from pcsparse.errors import PcsparseError
from pcsparse.nn import fuse
from pcsparse.programs.bench_compress_quarter_cost import costs_of, dense_model
from pcsparse.programs.bench_compress_quarter_networks import (
    held_path,
    judge_network,
    narrow_model,
    search_widths,
    train_network,
    widths_path,
)
from pcsparse.programs.bench_compress_quarter_study import QuarterStudy, split
from pcsparse.programs.bench_compress_score import Sweeps
from pcsparse.programs.bench_compress_score_steps import take_steps
from pcsparse.programs.bench_compress_streets import AUGMENTATION, has_ended
from pcsparse.train.order import BatchesFrom, SampleOrder
from pcsparse.train.resident import ResidentSweeps
from pcsparse.train.stepper import Stepper

_PROGRAM = "pcsparse.programs.bench_compress_quarter"
_LOOK = 0.3


@dataclass(frozen=True)
class Task:
    """One process of the study.

    Attributes:
        name: verb and what it is for, as `do` takes it.
        after: names of those that come before.
        optional: whether others go on where it failed.
    """

    name: str
    after: tuple[str, ...] = ()
    optional: bool = False


Running = dict[str, tuple[Task, bool, "subprocess.Popen[bytes]"]]
"""By name: the task, whether it is tried again, its process."""


def tasks_of(study: QuarterStudy) -> list[Task]:
    """All there is to do, what takes longest first."""
    parts = study.jobs
    render = [Task(f"render-{part}-{parts}") for part in range(parts)]
    rendered = tuple(task.name for task in render)
    warm: list[Task] = []
    if study.place.device != "cpu" and study.jobs > 1:
        # kernels are compiled once a machine; the narrow network's widths are known now
        warm = [Task(f"warm-{what}", optional=True) for what in ("dense", "scratch", "cpu")]
    # nobody teaches the narrow network where nothing is distilled
    teacher = ("train-dense",) if study.distill else rendered
    narrow = (*teacher, *(["warm-scratch"] if warm else []))
    before = {"scratch": narrow, "control": ("train-dense",), "pruned": ("search",)}
    longest_first = sorted(study.seeded, key=lambda network: list(before).index(split(network)[0]))
    return [
        *warm,
        *render,
        Task("train-dense", (*rendered, *(["warm-dense"] if warm else []))),
        Task("search", ("train-dense", *(["warm-cpu"] if warm else []))),
        *(Task(f"train-{network}", before[split(network)[0]]) for network in longest_first),
        Task("judge-dense", ("train-dense",)),
        Task("judge-cut", ("search",)),
        *(Task(f"judge-{n}", (f"train-{n}",)) for n in study.seeded),
    ]


def left_of(study: QuarterStudy) -> list[Task]:
    """What an earlier call has not done: a process that finds nothing to do takes seconds all the same."""
    tasks = tasks_of(study)
    done = {task.name for task in tasks if _is_done(study, task.name)}
    return [
        replace(task, after=tuple(name for name in task.after if name not in done))
        for task in tasks
        if task.name not in done
    ]


def _is_done(study: QuarterStudy, name: str) -> bool:
    verb, _, what = name.partition("-")
    streets = study.streets
    if verb == "render":
        return all(streets.complete(towns) for towns in (streets.train, streets.search, streets.held))
    if verb == "warm":
        # trainings have begun, with these kernels
        return (study.out / "dense" / "log.csv").is_file()
    if verb == "search":
        return widths_path(study).is_file()
    return held_path(study, what).is_file() or (verb == "train" and has_ended(study.out / what))


def do(study: QuarterStudy, name: str) -> None:
    """Do one task."""
    verb, _, what = name.partition("-")
    streets = study.streets
    if verb == "render":
        part, parts = map(int, what.split("-"))
        # those that are looked at first
        streets.render((streets.search, streets.held, streets.train), part, parts)
    elif verb == "warm":
        _warm(study, what)
    elif verb == "train":
        train_network(study, what)
    elif verb == "search":
        if not all(held_path(study, network).is_file() for network in study.networks):
            search_widths(study)
    elif verb == "judge":
        judge_network(study, what)


def run_here(study: QuarterStudy) -> None:
    """All tasks, one after the other, in this process."""
    for task in tasks_of(study):
        do(study, task.name)


def run_processes(study: QuarterStudy, arguments: Sequence[str]) -> None:
    """All tasks, as many at once as there are jobs.

    A training that failed on a GPU is tried once more without CUDA graphs.

    Args:
        study: of the arguments.
        arguments: the command line that describes it, for the processes.

    Raises:
        PcsparseError: tasks failed; the text names them.
    """
    began = time.monotonic()

    def start(task: Task, again: bool) -> subprocess.Popen[bytes]:
        print(f"{time.monotonic() - began:.0f} s: {task.name}", flush=True)
        # one thread each: there are as many processes as cores; fewer at the end, when networks are judged
        threads = str(max(study.jobs // 8, 1) if task.name.startswith("judge-") else 1)
        env = {**os.environ, "OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads}
        more = ["--record", "never"] if again else []
        command = [sys.executable, "-m", _PROGRAM, *arguments, *more, "--do", task.name]
        return subprocess.Popen(command, env={**env, "PYTHONUNBUFFERED": "1"})

    # processes end with this one: the default would leave them
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        failed = schedule(left_of(study), study.jobs, start, retries=study.place.device != "cpu")
    finally:
        signal.signal(signal.SIGTERM, before)
    if failed:
        raise PcsparseError(f"failed: {', '.join(failed)}; the same command goes on with what is left")


def schedule(
    tasks: Sequence[Task],
    jobs: int,
    start: Callable[[Task, bool], "subprocess.Popen[bytes]"],
    *,
    retries: bool,
) -> list[str]:
    """Start tasks when those before them have ended well; the names of those that did not.

    Optional ones that still run when all others have ended are ended too: nothing needs them any more.

    Args:
        tasks: in the order in which they are preferred.
        jobs: processes at once.
        start: starts one; the second time after it failed, with True.
        retries: whether trainings that failed are started a second time.
    """
    waiting, running = list(tasks), Running()
    done: set[str] = set()
    failed: list[str] = []
    try:
        while not all(task.optional for task in [*waiting, *(task for task, _, _ in running.values())]):
            for name, (task, again, process) in list(running.items()):
                status = process.poll()
                if status is None:
                    continue
                del running[name]
                if status and retries and not again and name.startswith("train-"):
                    running[name] = (task, True, start(task, True))
                elif status and not task.optional:
                    failed.append(name)
                else:
                    done.add(name)
            for task in list(waiting):
                if any(before in failed for before in task.after):
                    waiting.remove(task)
                    failed.append(task.name)
                elif _room(running, jobs, task) and all(before in done for before in task.after):
                    waiting.remove(task)
                    running[task.name] = (task, False, start(task, False))
            time.sleep(_LOOK)
    finally:
        for _, _, process in running.values():
            process.terminate()
        for _, _, process in running.values():
            process.wait()
    return failed


def _room(running: "Running", jobs: int, task: Task) -> bool:
    """Whether one more may start; those that only prepare are beside the others."""
    return task.optional or sum(not one.optional for one, _, _ in running.values()) < jobs


def _warm(study: QuarterStudy, what: str) -> None:
    """Compile what trainings or the search will run, on the search sweeps as soon as they are there."""
    streets = study.streets
    while not streets.complete(streets.search):
        time.sleep(_LOOK)
    costs = costs_of(study)
    if what == "cpu":
        narrow = narrow_model(costs, 0)
        batches = streets.batches(streets.search, [0], cropped=True)
        sweeps = Sweeps(batches, narrow)
        targets = [batch.targets for batch in batches if batch.targets is not None]
        take_steps(narrow, sweeps.inputs, targets, min(study.score_steps, 1))
        recalibrate(narrow, sweeps.inputs)
        sweeps.counts(fuse(narrow), int(costs.dense.spec.n_classes))
        return
    dense = dense_model(study)
    if what == "dense":
        _steps(study, dense, None)
        return
    _steps(study, narrow_model(costs, 0), Distillation(dense, study.distill) if study.distill else None)


def _steps(study: QuarterStudy, model: nn.Module, taught: Distillation | None) -> None:
    """Two steps of a network that is thrown away."""
    began = time.monotonic()
    streets, size = study.streets, study.training.batch_size
    settings = study.place.of(study.training.settings(streets.voxel_size))
    source = streets.read(streets.search)
    order = BatchesFrom(SampleOrder(len(source), size, accumulate=1, epochs=1, seed=1), start=0)
    stepper = Stepper(model, settings, 2, torch.ones(LabelMap.load("synthetic").n_classes), taught)
    voxels = VoxelSettings(streets.voxel_size)
    batch = next(ResidentSweeps(source, voxels, AUGMENTATION, 1, stepper.device).batches(order))
    for _ in range(2):
        stepper.advance([batch])
    print(f"kernels compiled, {time.monotonic() - began:.0f} s", flush=True)
