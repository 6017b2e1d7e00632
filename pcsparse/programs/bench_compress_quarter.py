"""The study of a quarter: MinkUNet at a quarter of its measured time, judged on streets it never saw.

The dense network is trained once. Its widths are searched, and for each seed the pruned network is
fine-tuned; the dense one is fine-tuned as long (control), and a uniformly narrow one of the same budget is
trained from scratch for the steps of both trainings together (control). Every training is resumable.

Three parts, which may run on two machines with one folder: "cost" measures milliseconds, "train" trains,
searches and judges by what "cost" measured, wherever a GPU is, "table" times the networks in turns where the
cost was measured. Nothing beyond torch, numpy, numba and safetensors is needed.
"""

import argparse
import sys
from collections.abc import Container, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from pcsparse.allocation import keep_freed_memory
from pcsparse.errors import FormatError
from pcsparse.programs.bench_compress_methods import METHODS
from pcsparse.programs.bench_compress_quarter_before import take_over
from pcsparse.programs.bench_compress_quarter_cost import Milliseconds, mean_share, measure, times_in_turns
from pcsparse.programs.bench_compress_quarter_jobs import do, run_here, run_processes
from pcsparse.programs.bench_compress_quarter_networks import held_path, judged
from pcsparse.programs.bench_compress_quarter_study import ROWS, QuarterStudy, split
from pcsparse.programs.bench_compress_quarter_table import table_text
from pcsparse.programs.bench_compress_score import Sweeps
from pcsparse.programs.bench_compress_streets import Place, Streets
from pcsparse.timing import environment
from pcsparse.train.model_file import ModelCard, build_arch
from pcsparse.whole_file import write_whole

PARTS = ("cost", "train", "table")
_SLACK = 1.05


def run(
    study: QuarterStudy, parts: Sequence[str] = PARTS, arguments: Sequence[str] = (), *, tuned: bool = False
) -> int:
    """Do what is not done yet.

    Args:
        study: what.
        parts: of `PARTS`, in their order.
        arguments: the command line that describes the study, for processes; needed with more than one job.
        tuned: the table times each network by the fastest plans of its convolutions, found first.

    Returns:
        The status of the table: 0 if it is whole and the fine-tuned network lost at most one point of mIoU to
        the dense start, in the mean over seeds, and measured takes no more than its share of the milliseconds
        (and 5 % of that); else 1. 0 without the table.

    Raises:
        RangeError: a budget that cannot be met; the text says the smallest there is.
        FormatError: the folder is of another study or of other trainings, or lacks what another part makes.
        PcsparseError: a signal ended a training; the same command goes on from there.
    """
    print(environment().header(), flush=True)
    take_over(study)
    study.claim()
    if "cost" in parts:
        # times are of this machine, so nothing runs beside them
        study.streets.render((study.streets.search,))
        measure(study)
    if "train" in parts:
        study.claim_trainings()
        if study.jobs > 1:
            run_processes(study, arguments)
        else:
            run_here(study)
    return _table(study, tuned) if "table" in parts else 0


def _table(study: QuarterStudy, tuned: bool) -> int:
    judged_ones = [network for network in study.networks if held_path(study, network).is_file()]
    names = {split(network)[0] for network in judged_ones}
    if not {"dense", "pruned"} <= names:
        raise FormatError(
            f"{study.out} holds no counts of the dense network and a pruned one, but of "
            f"{', '.join(judged_ones) or 'none'}; run --part train first"
        )
    study.claim_trainings()
    study.streets.render((study.streets.search,))
    tried = [judged(study, network, ROWS[split(network)[0]]) for network in judged_ones]
    tried.sort(key=lambda one: list(ROWS.values()).index(one.name))
    times = _times(study, names, tuned)
    text = table_text(tried, times, study.share)
    if tuned:
        text = f"fastest plans of each network; {text}"
    missing = [network for network in study.networks if network not in judged_ones]
    if missing:
        text += f"\n\nNot there yet: {', '.join(missing)}; --part train goes on with them."
    print(text)
    write_whole(study.out / "table.md", (text + "\n").encode())
    pruned = [one.counts for one in tried if one.name == ROWS["pruned"]]
    dense = next(one.counts for one in tried if one.name == ROWS["dense"])
    lost = float(dense.miou()[0]) - sum(float(counts.miou()[0]) for counts in pruned) / len(pruned)
    fast = mean_share(times, ROWS["pruned"]) <= _SLACK * study.share
    return 0 if not missing and lost <= 0.01 and fast else 1


def _times(study: QuarterStudy, names: Container[str], tuned: bool) -> Milliseconds:
    """By row; one architecture is timed once, its weights drawn at random: no time depends on them."""
    nets: dict[str, nn.Module] = {}
    for name in ("dense", "pruned", "scratch"):
        folders = [study.out / network for network in study.networks if split(network)[0] == name]
        card = next((f / "model.json" for f in folders if held_path(study, f.name).is_file()), None)
        if card is not None:
            torch.manual_seed(0)
            nets[name] = build_arch(ModelCard.read(card).arch).eval()
    streets = study.streets
    sweeps = Sweeps(streets.batches(streets.search), nets["dense"])
    times = times_in_turns(nets, sweeps, tuned=tuned)
    alike = {"control": "dense", "cut": "pruned"}
    return {row: times[alike.get(name, name)] for name, row in ROWS.items() if name in names}


def _parser() -> argparse.ArgumentParser:
    default = QuarterStudy(Path("runs/compress-quarter"), Streets(Path()))
    parser = argparse.ArgumentParser(
        prog="bench_compress.py quarter",
        description="MinkUNet at a quarter of its measured time, with controls.",
    )
    parser.add_argument("--out", type=Path, default=default.out, help="folder for all files")
    parser.add_argument(
        "--streets",
        type=Path,
        help="folder for simulated sweeps (default: OUT/streets, with --after the earlier study's)",
    )
    parser.add_argument(
        "--part", nargs="+", choices=PARTS, default=PARTS,
        help="cost and table on the CPU whose milliseconds count, train wherever a GPU is (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--towns", type=int, nargs=3, default=[96, 8, 24], metavar="N",
        help="to train, search and judge on (default: 96 8 24)",
    )  # fmt: skip
    parser.add_argument("--voxel-size", type=float, default=default.streets.voxel_size, help="metres")
    parser.add_argument("--width", type=float, default=default.width, help="of the dense network")
    parser.add_argument("--epochs", type=int, default=default.training.epochs, help="of its training")
    parser.add_argument("--batch-size", type=int, default=default.training.batch_size, help="sweeps a step")
    parser.add_argument("--lr", type=float, default=default.training.lr, help="peak of its rate")
    parser.add_argument("--share", type=float, default=default.share, help="of its milliseconds")
    parser.add_argument("--method", choices=METHODS, default=default.method)
    parser.add_argument("--evaluations", type=int, default=default.evaluations)
    parser.add_argument(
        "--score-steps", type=int, default=default.score_steps, help="of training before each evaluation"
    )
    parser.add_argument("--tuning-epochs", type=int, default=default.tuning_epochs)
    parser.add_argument(
        "--rounds", type=int, default=default.rounds, help="of pruning, which share the tuning epochs"
    )
    parser.add_argument("--lr-factor", type=float, default=default.lr_factor)
    parser.add_argument("--distill", type=float, default=default.distill)
    parser.add_argument("--seeds", type=int, default=default.seeds)
    parser.add_argument(
        "--narrow-seeds", type=int, default=default.narrow_seeds, help="of the narrow network (default: all)"
    )
    parser.add_argument(
        "--control-seeds", type=int, default=default.control_seeds, help="of the dense control (default: all)"
    )
    parser.add_argument(
        "--after", type=Path, metavar="OUT",
        help="folder of an earlier study: its first dense control is the dense network of this one, its "
        "costs and widths are taken over; --epochs are then what that control had in all",
    )  # fmt: skip
    parser.add_argument("--device", default=default.place.device, help="of the trainings")
    parser.add_argument("--record", default=default.place.record, help="CUDA graphs: auto, always or never")
    parser.add_argument("--jobs", type=int, default=default.jobs, help="processes at once")
    parser.add_argument(
        "--until", type=float, default=0.0, metavar="TIME",
        help="Unix time by which trainings end, their rates annealed; what earlier calls took counts too; "
        "0 for as many epochs as are asked for",
    )  # fmt: skip
    parser.add_argument(
        "--tuned", action="store_true", help="the table times each network by the fastest plans, found first"
    )
    parser.add_argument("--do", metavar="TASK", help=argparse.SUPPRESS)
    return parser


def _streets(given: argparse.Namespace) -> Streets:
    root = given.streets or (given.after or given.out) / "streets"
    streets = Streets(root, voxel_size=given.voxel_size, pooled=True)
    names = ("train", "search", "held")
    sets = {
        name: replace(getattr(streets, name), towns=n) for name, n in zip(names, given.towns, strict=True)
    }
    return replace(streets, **sets)


def _study(given: argparse.Namespace) -> QuarterStudy:
    default = QuarterStudy(given.out, _streets(given))
    training = replace(default.training, epochs=given.epochs, batch_size=given.batch_size, lr=given.lr)
    return replace(
        default,
        width=given.width,
        training=training,
        share=given.share,
        method=given.method,
        evaluations=given.evaluations,
        score_steps=given.score_steps,
        tuning_epochs=given.tuning_epochs,
        rounds=given.rounds,
        lr_factor=given.lr_factor,
        distill=given.distill,
        seeds=given.seeds,
        narrow_seeds=given.narrow_seeds,
        control_seeds=given.control_seeds,
        after=given.after,
        place=Place(given.device, given.record, given.until),
        jobs=given.jobs,
    )


def main(arguments: Sequence[str]) -> int:
    """Parse a command line, without the program's name, and run it."""
    given = _parser().parse_args(arguments)
    keep_freed_memory()
    study = _study(given)
    if given.do:
        do(study, given.do)
        return 0
    return run(study, given.part, arguments, tuned=given.tuned)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
