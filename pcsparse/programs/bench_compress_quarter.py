"""The study of a quarter: MinkUNet at a quarter of its measured time, judged on streets it never saw.

The dense network is trained once. Its widths are searched, and for each seed the pruned network is
fine-tuned; the dense one is fine-tuned as long (control), and a uniformly narrow one of the same budget is
trained from scratch for the steps of both trainings together (control). Every training is resumable.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from pcsparse.allocation import keep_freed_memory
from pcsparse.compress.channels import kept_widths
from pcsparse.compress.cost import CostTable
from pcsparse.compress.cost_measure import measure_cost
from pcsparse.compress.finetune import Distillation, recalibrate
from pcsparse.compress.graph import ChannelGraph
from pcsparse.compress.search.interface import search
from pcsparse.compress.search.space import Assignment, Space
from pcsparse.compress.search.uniform import uniform_widths
from pcsparse.compress.sensitivity import fingerprint
from pcsparse.compress.space_of import kept_of, space_of
from pcsparse.errors import RangeError
from pcsparse.nn import fuse
from pcsparse.programs.bench_compress_methods import METHODS, method_named
from pcsparse.programs.bench_compress_quarter_table import Tried, table_text
from pcsparse.programs.bench_compress_score import PrunedScore, Sweeps
from pcsparse.programs.bench_compress_streets import (
    Streets,
    Training,
    check_study,
    claim,
    dense_network,
    train_on,
)
from pcsparse.timing import environment, time_in_turns
from pcsparse.train.model_file import load_model
from pcsparse.train.sweep_counts import SweepCounts
from pcsparse.whole_file import write_whole

_TIMED_SWEEPS = 3
_SLACK = 1.05


@dataclass(frozen=True)
class QuarterStudy:
    """What to compare.

    Args:
        out: folder of all files.
        streets: sweeps to train, search and judge on.
        width: ratio of the dense network.
        training: of the dense network.
        share: of its milliseconds.
        method: that looks for widths.
        evaluations: of the search.
        tuning_epochs: of every fine-tuning.
        lr_factor: of the fine-tuning's rate over the training's.
        distill: weight of the dense network's probabilities in every training but the dense one's: pruned,
            narrow and control alike, so that it favours none; 0 for none.
        seeds: fine-tunings and trainings from scratch: 1, 2, ...
    """

    out: Path
    streets: Streets
    width: float = 1.0
    training: Training = field(default_factory=lambda: Training(epochs=4))
    share: float = 0.25
    method: str = "evolution"
    evaluations: int = 100
    tuning_epochs: int = 2
    lr_factor: float = 0.1
    distill: float = 1.0
    seeds: int = 3

    def __post_init__(self) -> None:
        check_study(share=self.share, seeds=self.seeds, evaluations=self.evaluations)


def run(study: QuarterStudy) -> int:
    """Do what is not done yet and print the table.

    Returns:
        0 if the fine-tuned network lost at most one point of mIoU to the dense start, in the mean over seeds,
        and measured takes no more than its share of the milliseconds (and 5 % of that); else 1.

    Raises:
        RangeError: a budget that cannot be met; the text says the smallest there is.
        PcsparseError: a signal ended a training; the same command goes on from there.
    """
    print(environment().header(), flush=True)
    streets = study.streets
    streets.write()
    checkpoint = dense_network(streets, study.width, study.training, study.out / "dense")
    model, _ = load_model(checkpoint)
    tag = f"{fingerprint(model)} {streets}"
    claim(study.out, tag)
    graph = ChannelGraph.of(model)
    sweeps = Sweeps(streets.batches(streets.search), model)
    path = study.out / "cost.json"
    if not path.is_file():
        measure_cost(model, sweeps.inputs, graph=graph).save(path)
    table = CostTable.load(path)
    space = space_of(graph, table, "ms")
    score = PrunedScore(checkpoint, streets, space)
    widths = _search(study, space, score, tag)
    narrow = uniform_widths(space, study.share * space.cost(space.largest))
    nets: dict[tuple[str, int], nn.Module] = {}
    for seed in range(1, study.seeds + 1):
        nets["pruned, fine-tuned", seed] = _tuned(study, score, model, widths, seed)
        nets["dense, fine-tuned", seed] = _control(study, model, seed)
        nets["narrow, from scratch", seed] = _scratch(study, graph, model, space, narrow, seed)
    nets["pruned, not trained", 0] = _recalibrated(study, score, widths)
    nets["dense", 0] = model
    tried = _judge(study, nets, model)
    times = _times(nets, sweeps)
    text = table_text(tried, times, study.share)
    print(text)
    write_whole(study.out / "table.md", (text + "\n").encode())
    tuned = [one.counts for one in tried if one.name == "pruned, fine-tuned"]
    dense = next(one.counts for one in tried if one.name == "dense")
    lost = float(dense.miou()[0]) - sum(float(counts.miou()[0]) for counts in tuned) / len(tuned)
    taken = sum(times["pruned, fine-tuned"]) / sum(times["dense"])
    return 0 if lost <= 0.01 and taken <= _SLACK * study.share else 1


def _search(study: QuarterStudy, space: Space, score: PrunedScore, tag: str) -> Assignment:
    full = space.cost(space.largest)
    budget, least = study.share * full, space.cost(space.cheapest)
    if budget < least:
        raise RangeError(
            f"a budget of {budget:.2f} ms cannot be met: the smallest reachable is {least:.2f} ms, "
            f"{least / full:.1%} of the dense network; give a larger --share or --width"
        )
    result = search(
        space, score, budget, study.evaluations,
        method=method_named(study.method, study.evaluations),
        log=study.out / f"{study.method.replace(' ', '-')}.jsonl",
        tag=tag,
    )  # fmt: skip
    best = result.best
    print(f"{study.method}: {result.evaluations} evaluations, {best.counted_score:.4f} at {best.cost:.2f} ms")
    return best.widths


def _tuning(study: QuarterStudy, seed: int) -> Training:
    training = study.training
    return replace(
        training, epochs=study.tuning_epochs, lr=study.lr_factor * training.lr, seed=seed, validate_every=0
    )


def _recalibrated(study: QuarterStudy, score: PrunedScore, widths: Assignment) -> nn.Module:
    pruned = score.network(widths)
    recalibrate(pruned, [batch.tensor() for batch in study.streets.calibration(8)])
    return pruned.eval()


def _taught(study: QuarterStudy, model: nn.Module) -> Distillation | None:
    return Distillation(model, study.distill) if study.distill else None


def _tuned(
    study: QuarterStudy, score: PrunedScore, model: nn.Module, widths: Assignment, seed: int
) -> nn.Module:
    folder = study.out / f"pruned-{seed}"
    start = _recalibrated(study, score, widths)
    train_on(study.streets, start, _tuning(study, seed), folder, _taught(study, model))
    return load_model(folder)[0]


def _control(study: QuarterStudy, model: nn.Module, seed: int) -> nn.Module:
    folder = study.out / f"control-{seed}"
    start, _ = load_model(study.out / "dense")
    train_on(study.streets, start, _tuning(study, seed), folder, _taught(study, model))
    return load_model(folder)[0]


def _scratch(
    study: QuarterStudy, graph: ChannelGraph, model: nn.Module, space: Space, widths: Assignment, seed: int
) -> nn.Module:
    """The uniformly narrow network, for as many steps as pruned ones had in all."""
    training = study.training
    longer = replace(
        training, epochs=training.epochs + study.tuning_epochs, seed=100 + seed, validate_every=0
    )
    folder = study.out / f"scratch-{seed}"
    kept = kept_widths(graph, kept_of(space, widths), 1)
    named = {
        name: graph.widths(kept)[name]
        for name in (layer.name for layer in graph.layers if layer.kind != "norm")
    }
    torch.manual_seed(longer.seed)
    start = type(model)(model.spec.with_channels(named))  # type: ignore[operator, union-attr, call-arg]
    train_on(study.streets, start, longer, folder, _taught(study, model))
    return load_model(folder)[0]


def _judge(study: QuarterStudy, nets: dict[tuple[str, int], nn.Module], like: nn.Module) -> list[Tried]:
    """Counts of every network on the held-out sweeps, from files where they are there."""
    folder = study.out / "held"
    folder.mkdir(parents=True, exist_ok=True)
    sweeps: Sweeps | None = None
    tried = []
    for (name, seed), net in nets.items():
        path = folder / f"{fingerprint(net)}.json"
        if path.is_file():
            counts = SweepCounts.from_lists(json.loads(path.read_text()))
        else:
            sweeps = sweeps or Sweeps(study.streets.batches(study.streets.held), like)
            counts = sweeps.counts(fuse(net), int(net.spec.n_classes))  # type: ignore[union-attr, arg-type]
            write_whole(path, json.dumps(counts.to_lists()).encode())
        tried.append(
            Tried(
                name,
                seed,
                counts.by_town(study.streets.held.sweeps),
                sum(p.numel() for p in net.parameters()),
            )
        )
    return tried


def _times(nets: dict[tuple[str, int], nn.Module], sweeps: Sweeps) -> dict[str, tuple[float, ...]]:
    """Milliseconds of one network of each name, maps included, in turns, on a few sweeps."""
    first = {name: fuse(net) for (name, _), net in reversed(nets.items())}
    found: dict[str, list[float]] = {name: [] for name in first}
    with torch.no_grad():
        for x in sweeps.inputs[:_TIMED_SWEEPS]:
            runners = {name: (lambda net=net, x=x: net(x)) for name, net in first.items()}
            times = time_in_turns({"maps": x.cache.rebuilt, **runners}, runs=15)
            for name in found:
                found[name].append(1e3 * (times[name].median + times["maps"].median))
    return {name: tuple(values) for name, values in found.items()}


def main(arguments: Sequence[str]) -> int:
    """Parse a command line, without the program's name, and run it."""
    default = QuarterStudy(Path("runs/compress-quarter"), Streets(Path()))
    parser = argparse.ArgumentParser(
        prog="bench_compress.py quarter",
        description="MinkUNet at a quarter of its measured time, with controls.",
    )
    parser.add_argument("--out", type=Path, default=default.out, help="folder for all files")
    parser.add_argument("--streets", type=Path, help="folder for simulated sweeps (default: OUT/streets)")
    parser.add_argument("--width", type=float, default=default.width, help="of the dense network")
    parser.add_argument("--epochs", type=int, default=default.training.epochs, help="of its training")
    parser.add_argument("--share", type=float, default=default.share, help="of its milliseconds")
    parser.add_argument("--method", choices=METHODS, default=default.method)
    parser.add_argument("--evaluations", type=int, default=default.evaluations)
    parser.add_argument("--tuning-epochs", type=int, default=default.tuning_epochs)
    parser.add_argument("--lr-factor", type=float, default=default.lr_factor)
    parser.add_argument("--distill", type=float, default=default.distill)
    parser.add_argument("--seeds", type=int, default=default.seeds)
    given = parser.parse_args(arguments)
    keep_freed_memory()
    return run(
        QuarterStudy(
            given.out, Streets(given.streets or given.out / "streets"), given.width,
            Training(epochs=given.epochs), given.share, given.method, given.evaluations,
            given.tuning_epochs, given.lr_factor, given.distill, given.seeds,
        )
    )  # fmt: skip
