"""The networks of the study of a quarter: each is trained where it is not there yet, and judged once."""

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from pcsparse.compress.finetune import Distillation, recalibrate
from pcsparse.compress.search.evolution import Evolution
from pcsparse.compress.search.executor import SpawnedProcesses
from pcsparse.compress.search.interface import search
from pcsparse.compress.search.space import Assignment
from pcsparse.compress.sensitivity import fingerprint
from pcsparse.compress.space_of import kept_of
from pcsparse.nn import fuse
from pcsparse.programs.bench_compress_methods import method_named
from pcsparse.programs.bench_compress_quarter_cost import Costs, costs_of, dense_model
from pcsparse.programs.bench_compress_quarter_rounds import calibration, folders_of, train_in_rounds
from pcsparse.programs.bench_compress_quarter_study import QuarterStudy, split
from pcsparse.programs.bench_compress_quarter_table import Tried
from pcsparse.programs.bench_compress_score import PrunedScore, Sweeps
from pcsparse.programs.bench_compress_streets import Training, train_on
from pcsparse.train.model_file import load_model
from pcsparse.train.sweep_counts import SweepCounts
from pcsparse.whole_file import write_whole

# children at once: as many processes have work; part of the search, so that machines find the same
_CHILDREN = 12


def held_path(study: QuarterStudy, network: str) -> Path:
    """Where the counts of a network on the held-out towns are."""
    return study.out / "held" / f"{network}.json"


def widths_path(study: QuarterStudy) -> Path:
    """Where the widths that the search found are."""
    return study.out / "widths.json"


def train_network(study: QuarterStudy, network: str) -> None:
    """Train a network, or go on with it; one that was judged is done, whether or not its weights are here.

    Raises:
        FormatError: no cost table, no dense network, or no widths, which come first.
        PcsparseError: a signal ended it; the same call goes on from there.
    """
    if held_path(study, network).is_file():
        return
    name, seed = split(network)
    folder = study.out / network
    place, streets = study.place, study.streets
    if name == "dense":
        train_on(streets, dense_model(study), study.training, folder, place=place)
        return
    if name == "scratch":
        training = _seeded(study.longer, 100 + seed)
        teacher = _taught(study, load_model(study.out / "dense")[0]) if study.distill else None
        train_on(streets, narrow_model(costs_of(study), training.seed), training, folder, teacher, place)
        return
    dense, _ = load_model(study.out / "dense")
    taught = _taught(study, dense)
    if name == "control":
        train_on(streets, dense, _seeded(study.tuning, seed), folder, taught, place)
    elif name == "pruned":
        widths = kept_of(costs_of(study).space, _widths(study))
        train_in_rounds(study, dense, widths, seed, folder, taught)


def _taught(study: QuarterStudy, dense: nn.Module) -> Distillation | None:
    return Distillation(dense, study.distill) if study.distill else None


def narrow_model(costs: Costs, seed: int) -> nn.Module:
    """The uniformly narrow network of a seed, untrained."""
    torch.manual_seed(seed)
    return costs.network(costs.narrow)


def _seeded(training: Training, seed: int) -> Training:
    return replace(training, seed=seed)


def search_widths(study: QuarterStudy) -> Assignment:
    """The widths of the pruned network; a done search is read from its log, with `after` from its file."""
    if study.after is not None and widths_path(study).is_file():
        return _widths(study)
    costs = costs_of(study)
    score = _score(study, costs)
    method = method_named(study.method, study.evaluations)
    if isinstance(method, Evolution):
        method = Evolution(batch=_CHILDREN)
    dense, _ = load_model(study.out / "dense")
    spawned = SpawnedProcesses(min(study.jobs, _CHILDREN), threads=1) if study.jobs > 1 else None
    with spawned or nullcontext():
        result = search(
            costs.space, score, costs.budget, study.evaluations,
            method=method, executor=spawned,
            log=study.out / f"{study.method.replace(' ', '-')}.jsonl",
            tag=f"{fingerprint(dense)} {study.facts}{study.score_facts}",
        )  # fmt: skip
    best = result.best
    print(
        f"{study.method}: {result.evaluations} evaluations, {best.counted_score:.4f} at {best.cost:.2f} ms",
        flush=True,
    )
    write_whole(widths_path(study), json.dumps(list(best.widths)).encode())
    return best.widths


def _score(study: QuarterStudy, costs: Costs) -> PrunedScore:
    return PrunedScore(study.out / "dense", study.streets, costs.space, steps=study.score_steps)


def _widths(study: QuarterStudy) -> Assignment:
    path = widths_path(study)
    return tuple(json.loads(path.read_text())) if path.is_file() else search_widths(study)


def _cut(study: QuarterStudy) -> nn.Module:
    """The dense network cut at once to the widths of the pruned one, batch norms measured anew."""
    pruned = _score(study, costs_of(study)).network(_widths(study))
    recalibrate(pruned, calibration(study))
    return pruned.eval()


def judge_network(study: QuarterStudy, network: str) -> None:
    """Count what a network does on the held-out sweeps, in float32 on the CPU, unless it is written."""
    path = held_path(study, network)
    if path.is_file():
        return
    if network == "cut":
        net = _cut(study)
    else:
        net, _ = load_model(study.out / network)
    net = net.cpu()
    sweeps = Sweeps(study.streets.batches(study.streets.held), net)
    counts = sweeps.counts(fuse(net), int(net.spec.n_classes))  # type: ignore[union-attr, arg-type]
    content = {
        "parameters": sum(p.numel() for p in net.parameters()),
        "steps": sum(_steps(folder) for folder in folders_of(study.out / network)),
        "counts": counts.to_lists(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(content).encode())
    print(f"{network}: mIoU {100 * float(counts.miou()[0]):.2f} % held out", flush=True)


def _steps(folder: Path) -> int:
    log = folder / "log.csv"
    return len(log.read_text().splitlines()) - 1 if log.is_file() else 0


def judged(study: QuarterStudy, network: str, row: str) -> Tried:
    """What `judge_network` wrote, for the row of a table."""
    content = json.loads(held_path(study, network).read_text())
    counts = SweepCounts.from_lists(content["counts"]).by_town(study.streets.held.sweeps)
    return Tried(row, split(network)[1], counts, int(content["parameters"]), int(content["steps"]))
