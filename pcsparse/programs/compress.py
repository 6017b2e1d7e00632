"""`pcsparse compress`: a smaller network within a budget, as accurate as can be, and a report of why."""

import torch

from pcsparse.allocation import keep_freed_memory
from pcsparse.checks import require_extra
from pcsparse.compress.pruning import Prunable
from pcsparse.config import CompressSettings, to_yaml
from pcsparse.programs.compress_folder import RunFolder, Step
from pcsparse.programs.compress_job import Job
from pcsparse.programs.compress_report import compare_step, report
from pcsparse.programs.compress_steps import (
    budget_of,
    measure_step,
    prune_step,
    scan_step,
    scorer_of,
    search_step,
    weights_step,
)
from pcsparse.programs.compress_tuning import Stopped, control_step, export_step, tune_step
from pcsparse.programs.folder_lock import sole_user
from pcsparse.timing import environment
from pcsparse.whole_file import write_whole

_SIGNAL_EXIT = 128
_INTERRUPT = 2


def run(settings: CompressSettings) -> int:
    """Measure, scan, search, prune, fine-tune, export, report; or go on where an earlier process was.

    Returns:
        Exit status: 0, or 128 + the number of the signal that ended it early.

    Raises:
        PcsparseError: see `compress`.
    """
    keep_freed_memory()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    try:
        compress(Job.of(settings))
    except Stopped as stopped:
        print(stopped)
        return _SIGNAL_EXIT + stopped.number
    except KeyboardInterrupt:
        print("stopped; the same command goes on from there, without what was running")
        return _SIGNAL_EXIT + _INTERRUPT
    return 0


def compress(job: Job) -> RunFolder:
    """All steps of a compression. What is done already is taken over.

    Files in the folder, in the order in which they come: config.yaml, steps.json (what is done, from which
    inputs), cost.json, with both axes cost-offsets.json, weights.*, sensitivity.*, search.*, chosen.json,
    pruned.*, tuned/, control/, model.*, scores/, measured.json, report.html, report.png.

    Raises:
        FormatError: the folder holds a compression from other inputs.
        RangeError: a budget that cannot be met, before anything is scanned; the text says the smallest
            reachable cost. Or a split to report on that has no labels.
        UnsupportedError: an operator that the channel graph does not know; the text names it and its place.
            Or matplotlib is not installed, which draws search and report.
        Stopped: a signal ended the fine-tuning, after a checkpoint.
        PcsparseError: another process is at work in the folder.
    """
    # told now, not when the scan is done
    require_extra("matplotlib", "view")
    print(environment().header(), flush=True)
    job.check_report()
    # before anything is written: a network that cannot be pruned is refused here
    prunable = job.prunable
    with sole_user(job.folder):
        return _in_folder(job, prunable)


def _in_folder(job: Job, prunable: Prunable) -> RunFolder:
    settings = job.settings
    folder = RunFolder(job.folder, steps_of(settings), job.inputs, settings.resume)
    print(
        f"{job.weights}: {job.card.voxels.voxel_size:g} m voxels; {len(job.search_batches)} sweeps to search "
        f"on, {len(job.calibration)} to calibrate on, {len(job.final_set)} to report on"
    )
    measure_step(job, folder)
    space = prunable.space(settings.budget.unit)
    budget = budget_of(job, space)
    write_whole(folder.path / "config.yaml", to_yaml(settings).encode())
    score = scorer_of(job)
    try:
        weights_step(job, folder, score)
        scanned = scan_step(job, folder, score, space)
        choice = search_step(job, folder, space, budget, scanned, score)
    finally:
        # processes would hold their memory, and share the cores with the times of the report
        getattr(job.executor, "close", _nothing)()
    pruned = prune_step(job, folder, space, choice.assignment)
    if settings.tune:
        tune_step(job, folder, pruned, space, choice.assignment)
    if settings.control:
        control_step(job, folder)
    export_step(job, folder)
    report(job, folder, compare_step(job, folder), choice)
    return folder


def _nothing() -> None:
    pass


def steps_of(settings: CompressSettings) -> tuple[Step, ...]:
    """The steps that are asked for, in their order."""
    # what a search over two axes measures besides
    steps = [Step("cost", "cost.json", ("cost-offsets.json",))]
    if settings.scan.weights:
        steps.append(Step("weights", "weights.csv", ("weights.jsonl", "weights.png", "weights.html")))
    if settings.scan.run:
        figures = ("sensitivity.jsonl", "sensitivity.png", "sensitivity.html")
        steps.append(Step("scan", "sensitivity.csv", figures))
    steps.append(Step("search", "chosen.json", ("search.jsonl", "search.png"), ("cost", "scan")))
    steps.append(Step("prune", "pruned.safetensors", ("pruned.json",), ("search",)))
    if settings.tune:
        steps.append(Step("tune", "tuned/model.safetensors", ("tuned",), ("prune",)))
    if settings.control:
        steps.append(Step("control", "control/model.safetensors", ("control",)))
    steps.append(Step("export", "model.safetensors", ("model.json",), ("prune", "tune")))
    steps.append(
        Step("measure", "measured.json", ("scores", "report.html", "report.png"), ("export", "control"))
    )
    return tuple(steps)
