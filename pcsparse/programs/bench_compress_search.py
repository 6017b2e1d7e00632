"""The study of searches: six methods, two budgets in milliseconds, the same number of evaluations.

A small MinkUNet is cut to a half and to a quarter of its measured time. Every method sees the same search
sweeps and asks as often; what it answers is judged on towns that it never saw. Each step writes its file and
is not done again.
"""

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from threading import Thread
from typing import Any

import torch

from pcsparse.allocation import keep_freed_memory
from pcsparse.compress.cost import CostTable
from pcsparse.compress.cost_measure import measure_cost
from pcsparse.compress.graph import ChannelGraph
from pcsparse.compress.search.executor import end_with_parent
from pcsparse.compress.search.interface import search
from pcsparse.compress.search.space import Assignment
from pcsparse.compress.search.trials import SearchResult, Trial
from pcsparse.compress.sensitivity import fingerprint
from pcsparse.compress.space_of import space_of
from pcsparse.errors import RangeError
from pcsparse.nn import fuse
from pcsparse.programs.bench_compress_claim import check_study, claim
from pcsparse.programs.bench_compress_methods import METHODS, SEEDED, method_named
from pcsparse.programs.bench_compress_score import PrunedScore, Sweeps
from pcsparse.programs.bench_compress_search_table import Judged, report
from pcsparse.programs.bench_compress_streets import Streets, Training, dense_network
from pcsparse.timing import environment, time_in_turns
from pcsparse.train.model_file import load_model
from pcsparse.train.sweep_counts import SweepCounts
from pcsparse.whole_file import write_whole

_TIMED_SWEEP = 0


@dataclass(frozen=True)
class SearchStudy:
    """What to compare.

    Args:
        out: folder of all files.
        streets: sweeps to train, search and judge on.
        checkpoint: of the dense network; None trains one, in `out`.
        width: ratio of that network.
        training: of it.
        shares: budgets, as shares of the dense network's milliseconds.
        methods: see `bench_compress_methods.METHODS`.
        evaluations: of each search.
        seeds: of the methods that draw random numbers: 0, 1, ...
        workers: processes; each runs one search after the other. 0 runs them in this one.
    """

    out: Path
    streets: Streets
    checkpoint: Path | None = None
    width: float = 0.5
    training: Training = field(default_factory=Training)
    shares: tuple[float, ...] = (0.5, 0.25)
    methods: tuple[str, ...] = METHODS[:7]
    evaluations: int = 200
    seeds: int = 5
    workers: int = 2

    def __post_init__(self) -> None:
        for share in self.shares:
            check_study(share=share, seeds=self.seeds, evaluations=self.evaluations, workers=self.workers)
        if "uniform" not in self.methods:
            raise RangeError(f"gains are over uniform widths; add uniform to the methods {self.methods}")


@dataclass(frozen=True)
class Job:
    """One search."""

    method: str
    share: float
    seed: int
    budget: float
    evaluations: int
    log: Path
    tag: str

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.method.replace(' ', '-')}-{self.share:g}-{self.seed}"


def run(study: SearchStudy) -> int:
    """Do what is not done yet, print the table; 0.

    Raises:
        RangeError: no budget can be met; the text says the smallest there is. Where one can, the others are
            named and left out: fast machines spend more of their time on what no width changes.
    """
    print(environment().header(), flush=True)
    study.streets.write()
    checkpoint = study.checkpoint or dense_network(
        study.streets, study.width, study.training, study.out / "dense", from_default=True
    )
    model, _ = load_model(checkpoint)
    tag = f"{fingerprint(model)} {study.streets}"
    claim(study.out, tag)
    graph = ChannelGraph.of(model)
    sweeps = Sweeps(study.streets.batches(study.streets.search), model)
    table = _cost(study.out / "cost.json", model, graph, sweeps)
    print(table, flush=True)
    space = space_of(graph, table, "ms")
    full, least = space.cost(space.largest), space.cost(space.cheapest)
    print(
        f"{len(space.steps)} groups, dense {full:.2f} ms, least reachable {least:.2f} ms ({least / full:.1%})"
    )
    score = PrunedScore(checkpoint, study.streets, space)
    jobs = list(_jobs(study, full, tag))
    out_of_reach = dict.fromkeys(job.share for job in jobs if job.budget < least)
    for share in out_of_reach:
        print(_refusal(share, full, least), flush=True)
    jobs = [job for job in jobs if job.share not in out_of_reach]
    if not jobs:
        raise RangeError(f"{_refusal(next(iter(out_of_reach)), full, least)}; give other --shares")
    results = _in_processes(study, jobs, score, _search_job, study.out / "searches")
    judged = _in_processes(study, jobs, score, _judge_job, study.out / "held", dict(results))
    per_town = study.streets.held.sweeps
    dense = _dense_counts(study, model).by_town(per_town)
    times = _times(
        study, score, {name: _result(facts).best.widths for name, facts in results.items()}, sweeps
    )
    report(
        study.out,
        dense,
        full,
        [
            Judged(_result(results[job.name]), job.method, job.share,
                   SweepCounts.from_lists(judged[job.name]).by_town(per_town), times[job.name])
            for job in jobs
        ],
        dense_ms=times["dense"],
    )  # fmt: skip
    for share in out_of_reach:
        print(_refusal(share, full, least))
    return 0


def _refusal(share: float, full: float, least: float) -> str:
    return (
        f"a budget of {share * full:.2f} ms, {share:.1%} of the dense network's, cannot be met: the smallest "
        f"reachable is {least:.2f} ms, {least / full:.1%}"
    )


def _jobs(study: SearchStudy, full: float, tag: str) -> Iterator[Job]:
    """Searches that answer soonest first, then seed by seed, so that what is there early can be compared."""
    for seed in range(study.seeds):
        for share in study.shares:
            for method in study.methods:
                if seed == 0 or method in SEEDED:
                    name = f"{method.replace(' ', '-')}-{share:g}-{seed}"
                    log = study.out / "logs" / f"{name}.jsonl"
                    yield Job(method, share, seed, share * full, study.evaluations, log, tag)


def _cost(path: Path, model: torch.nn.Module, graph: ChannelGraph, sweeps: Sweeps) -> CostTable:
    """Measured once, alone, before any worker runs."""
    if path.is_file():
        return CostTable.load(path)
    table = measure_cost(model, sweeps.inputs, graph=graph, step=8)
    table.save(path)
    return table


def _in_processes(
    study: SearchStudy, jobs: Sequence[Job], score: PrunedScore, work: Any, folder: Path, given: Any = None
) -> dict[str, Any]:
    """What `work` makes of every job, from its file where it is there; written as soon as it is done."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for job in jobs:
        path = folder / f"{job.name}.json"
        if path.is_file():
            facts = json.loads(path.read_text())
            # another network, budget or number of evaluations: a file of another study
            if facts["job"] == _facts(job):
                found[job.name] = facts["found"]
    left = [job for job in jobs if job.name not in found]
    for job, made in _run_jobs(study, left, score, work, given):
        found[job.name] = made
        write_whole(folder / f"{job.name}.json", json.dumps({"job": _facts(job), "found": made}).encode())
        print(f"{folder.name}: {job.name} done, {len(found)} of {len(jobs)}", flush=True)
    return found


def _run_jobs(
    study: SearchStudy, jobs: Sequence[Job], score: PrunedScore, work: Any, given: Any
) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Each job with what was made of it, as soon as it is there."""
    if not jobs:
        return
    if study.workers == 0:
        _Process.score = score
        for job in jobs:
            yield job, work(job, given and given[job.name])
        return
    with ProcessPoolExecutor(
        study.workers, get_context("spawn"), initializer=_start, initargs=(score,)
    ) as pool:
        waiting = {pool.submit(work, job, given and given[job.name]): job for job in jobs}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        finally:
            # an error or Ctrl-C ends what has begun, and nothing else
            pool.shutdown(wait=False, cancel_futures=True)


def _facts(job: Job) -> dict[str, Any]:
    return {name: value for name, value in asdict(job).items() if name != "log"}


class _Process:
    """What a worker holds."""

    score: PrunedScore


def _start(score: PrunedScore) -> None:
    Thread(target=end_with_parent, daemon=True).start()
    keep_freed_memory()
    torch.set_num_threads(1)
    _Process.score = score


def _search_job(job: Job, given: None) -> dict[str, Any]:
    method = method_named(job.method, job.evaluations)
    score = _Process.score
    found = search(
        score.space, score, job.budget, job.evaluations, job.seed, method=method, log=job.log, tag=job.tag
    )
    return asdict(found)


def _judge_job(job: Job, found: dict[str, Any]) -> dict[str, Any]:
    """Counts of the answer on the held-out sweeps."""
    score = _Process.score
    return score.held_counts(_result(found).best.widths).to_lists()


def _result(facts: dict[str, Any]) -> SearchResult:
    trials = tuple(Trial(**{**trial, "widths": tuple(trial["widths"])}) for trial in facts["trials"])
    return SearchResult(**{**facts, "trials": trials})


def _dense_counts(study: SearchStudy, model: torch.nn.Module) -> SweepCounts:
    path = study.out / "held" / "dense.json"
    if path.is_file():
        return SweepCounts.from_lists(json.loads(path.read_text()))
    sweeps = Sweeps(study.streets.batches(study.streets.held), model)
    counts = sweeps.counts(fuse(model), int(model.spec.n_classes))  # type: ignore[union-attr, arg-type]
    write_whole(path, json.dumps(counts.to_lists()).encode())
    return counts


def _times(
    study: SearchStudy, score: PrunedScore, widths: dict[str, Assignment], sweeps: Sweeps
) -> dict[str, float]:
    """Milliseconds of each answer on one search sweep, maps included, in turns with the dense network."""
    path = study.out / "times.json"
    wanted = {name: list(chosen) for name, chosen in widths.items()}
    if path.is_file():
        known = json.loads(path.read_text())
        if known["widths"] == wanted:
            return {name: float(value) for name, value in known["ms"].items()}
    x = sweeps.inputs[_TIMED_SWEEP]
    nets = {name: fuse(score.network(chosen)) for name, chosen in widths.items()}
    nets["dense"] = fuse(score.network(score.space.largest))
    with torch.no_grad():
        runners = {name: (lambda net=net: net(x)) for name, net in nets.items()}
        times = time_in_turns({"maps": x.cache.rebuilt, **runners}, runs=11)
    found = {
        name: 1e3 * (time.median + times["maps"].median) for name, time in times.items() if name != "maps"
    }
    write_whole(path, json.dumps({"widths": wanted, "ms": found}).encode())
    return found


def main(arguments: Sequence[str]) -> int:
    """Parse a command line, without the program's name, and run it."""
    parser = argparse.ArgumentParser(
        prog="bench_compress.py search",
        description="Compare searches for the widths of a network at equal numbers of evaluations.",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/compress-search"), help="folder for all files")
    parser.add_argument("--streets", type=Path, help="folder for simulated sweeps (default: OUT/streets)")
    parser.add_argument("--checkpoint", type=Path, help="dense network (default: trained in OUT/dense)")
    parser.add_argument("--shares", nargs="+", type=float, default=SearchStudy.shares, help="of its ms")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=SearchStudy.methods)
    parser.add_argument("--evaluations", type=int, default=SearchStudy.evaluations)
    parser.add_argument("--seeds", type=int, default=SearchStudy.seeds)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args(arguments)
    keep_freed_memory()
    streets = Streets(given.streets or given.out / "streets")
    return run(
        SearchStudy(
            given.out, streets, given.checkpoint, shares=tuple(given.shares), methods=tuple(given.methods),
            evaluations=given.evaluations, seeds=given.seeds, workers=given.workers,
        )
    )  # fmt: skip
