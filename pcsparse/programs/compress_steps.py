"""The steps of a compression up to the sliced network: cost, scan, search, prune."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import nn

from pcsparse.compress.chosen import Choice, choice_of
from pcsparse.compress.finetune import recalibrate
from pcsparse.compress.search.budget import check_budget
from pcsparse.compress.search.executor import Evaluate, Executor, Finished, InProcess
from pcsparse.compress.search.figures import search_figure
from pcsparse.compress.search.interface import search
from pcsparse.compress.search.log import logged_scores
from pcsparse.compress.search.space import Assignment, Space
from pcsparse.compress.sensitivity import Axis, WeightsAxis, scan
from pcsparse.compress.sensitivity_figure import sensitivity_figure, sensitivity_page
from pcsparse.compress.sensitivity_table import Point, SensitivityTable
from pcsparse.compress.space_of import check_looks, curves_of
from pcsparse.programs.compress_evaluation import SearchScore, SweepScorer, inputs_of
from pcsparse.programs.compress_folder import RunFolder
from pcsparse.programs.compress_job import Job
from pcsparse.programs.compress_models import card_of
from pcsparse.train.model_file import load_model, save_model


def measure_step(job: Job, folder: RunFolder) -> None:
    """The cost, measured before anything else runs."""
    path, settings = folder.file("cost"), job.settings.cost
    sweeps = inputs_of(job.cost_batches, job.device)
    if folder.done("cost"):
        # where milliseconds count, the record of the folder says that they are of this machine
        job.prunable.load_cost(path, sweeps)
        print(f"cost: taken from {path}")
    else:
        with folder.running("cost"):
            job.prunable.measure(sweeps, step=settings.step, runs=settings.runs, tuned=job.table)
            job.prunable.save_cost(path)
        print(f"cost: measured, {path}")
    cost = job.prunable.summary()
    print(
        f"  the whole network: {cost.ms:.2f} ms ({cost.map_ms:.2f} of it maps), {cost.macs / 1e9:.3f} G "
        f"multiply-adds, {cost.bytes / 1e6:.2f} MB of weights"
    )
    if cost.busy:
        print(
            "  the machine was BUSY with other work: these milliseconds are worth nothing; where they count, "
            f"stop here, remove {path}, and start again when it is quiet, with resume=overwrite where a "
            "search has begun"
        )


def budget_of(job: Job, space: Space) -> float:
    """The budget in the unit of the space.

    Raises:
        RangeError: it cannot be met; the text says the smallest reachable cost.
    """
    full = space.cost(space.largest)
    budget = job.settings.budget.within(full)
    check_budget(space, budget)
    least = space.cost(space.cheapest)
    print(
        f"budget: {budget:.6g} {space.unit}, {budget / full:.1%} of the whole network; reachable are "
        f"{least:.6g} to {full:.6g}"
    )
    whole = sum(len(step.widths) == 1 for step in space.steps)
    if whole:
        print(f"  of {len(space.steps)} steps {whole} stay whole: nothing less would cost less there")
    return budget


def scorer_of(job: Job) -> SweepScorer:
    """What scores networks while scan and search run."""
    calibration = job.calibration_inputs if job.settings.evaluation.recalibrate else []
    return SweepScorer(job.search_batches, calibration, len(job.card.classes), job.device)


def weights_step(job: Job, folder: RunFolder, score: SweepScorer) -> SensitivityTable | None:
    """The sensitivity of every layer to lost single weights, as in the lecture; None where none is asked for.

    Nothing follows from it: it is the finest look at which layers can lose something, for the reader.
    """
    if not job.settings.scan.weights:
        return None
    return _scanned(job, folder, score, "weights", WeightsAxis(job.model), job.settings.scan.weights)


def scan_step(job: Job, folder: RunFolder, score: SweepScorer, space: Space) -> SensitivityTable | None:
    """The sensitivity of every step alone; None where none is asked for.

    Raises:
        RangeError: the search decides by curves, and the ratios of the scan leave a step whole.
    """
    if not job.settings.scan.run:
        print("scan: left out")
        return None
    axis, ratios = job.prunable.scan_axis(), job.settings.scan.ratios
    if job.method.wants_curves and not folder.done("search"):
        # before all is scanned: the curves would say so after it
        check_looks(space, {name: axis.kept(name, max(ratios)) for name in axis.sizes()})
    return _scanned(job, folder, score, "scan", axis, ratios)


def _scanned(
    job: Job, folder: RunFolder, score: SweepScorer, step: str, axis: Axis, ratios: Sequence[float]
) -> SensitivityTable:
    """A scan, and its files beside the table of the step; of one that is done what its log holds.

    Costs are those of today: where the cost was measured anew since, the files are written again, and nothing
    is evaluated. The log keeps what it said.
    """
    known, table_file = folder.done(step), folder.file(step)

    def say(point: Point) -> None:
        if not known:
            shown = "failed" if point.metric is None else f"{point.metric:.4f}"
            print(f"  {point.name}: {point.kept} of {point.size} kept, score {shown}", flush=True)

    log = table_file.with_suffix(".jsonl")
    print(f"{step}: {len(axis.sizes())} steps at ratios {list(ratios)}, {log}")
    arguments = {
        "ratios": ratios, "stop_after": job.settings.scan.stop_after, "log": log,
        "tag": json.dumps(job.inputs[step], sort_keys=True), "executor": job.executor,
    }  # fmt: skip
    if known:
        # all of it is in the log: nothing is evaluated
        table = scan(job.model, score, axis=axis, **arguments)  # type: ignore[arg-type]
        if table_file.read_text() != table.to_csv():
            _write_scan(table, table_file)
        return table
    with folder.running(step):
        table = scan(job.model, score, axis=axis, on_point=say, **arguments)  # type: ignore[arg-type]
        _write_scan(table, table_file)
    return table


def _write_scan(table: SensitivityTable, table_file: Path) -> None:
    """The picture, the page, and last the table, by which it is seen that all are there."""
    picture = table_file.with_suffix(".png")
    sensitivity_figure(table, picture)
    page = table_file.with_suffix(".html")
    sensitivity_page(table, page, f"Sensitivity to lost {table.axis}", picture.read_bytes())
    table.write_csv(table_file)


def search_step(
    job: Job,
    folder: RunFolder,
    space: Space,
    budget: float,
    scanned: SensitivityTable | None,
    score: SweepScorer,
) -> Choice:
    """Look for widths, and note what was chosen and why."""
    path = folder.file("search")
    if folder.done("search"):
        print(f"search: taken from {path}")
        return Choice.load(path)
    evaluate = SearchScore(job.prunable.networks(space), score)
    n = job.settings.evaluations
    method = job.method.fitted(n)
    if scanned is not None and method.wants_curves:
        method = method.with_curves(curves_of(space, scanned))
    log = folder.path / "search.jsonl"
    print(f"search: {method.name}, {_evaluations(method.takes(n))}, {log}")
    with folder.running("search"):
        result = search(
            space,
            evaluate,
            budget,
            n,
            job.settings.seed,
            method=method,
            executor=_Telling(job.executor or InProcess(), log),
            log=log,
            tag=json.dumps(job.inputs["search"], sort_keys=True),
        )
        search_figure([result], folder.path / "search.png")
        choice = choice_of(result, space, scanned, job.prunable.places)
        choice.save(path)
    print(f"  best of {_evaluations(result.evaluations)}: score {choice.score:.4f} at {choice.cost:.6g} "
          f"{space.unit}{', ' + result.note if result.note else ''}")  # fmt: skip
    return choice


def prune_step(job: Job, folder: RunFolder, space: Space, assignment: Assignment) -> nn.Module:
    """The sliced network, one shot: refitted by least squares, or with batch norms measured anew.

    Not both: the norms of the whole network fit what least squares come near to, see `reconstruct`.
    """
    path = folder.file("prune")
    if folder.done("prune"):
        print(f"prune: taken from {path}")
        return load_model(path)[0].to(job.device)
    with folder.running("prune"):
        small = job.prunable.networks(space)(assignment)
        notes = {"stage": "pruned, batch norms measured anew, not trained"}
        if job.settings.reconstruct:
            refits = job.prunable.refit(small, space, assignment, job.calibration_inputs)
            notes = {
                "stage": "pruned, not trained", "reconstructed": f"{len(refits)} layers by least squares"
            }  # fmt: skip
            for refit in refits:
                print(f"  {refit.layer}: {refit.before:.3f} of its output missing, {refit.after:.3f} after")
        else:
            recalibrate(small, job.calibration_inputs)
        card = card_of(job, small, notes)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_model(path, small, card)
    print(f"prune: {sum(p.numel() for p in small.parameters()):,} parameters, {path}")
    return small.eval()


def _evaluations(n: int) -> str:
    return "1 evaluation" if n == 1 else f"{n} evaluations"


class _Telling:
    """An executor that prints each evaluation when it is done, and counts on from those of a log."""

    def __init__(self, inner: Executor[Assignment, float], log: Path) -> None:
        self._inner = inner
        scores = logged_scores(log)
        self._n = len(scores)
        self._best = max((score for score in scores if score is not None), default=0.0)

    def run(self, evaluate: Evaluate, items: Sequence[Assignment]) -> Iterator[Finished[float]]:
        """As the other one does."""
        for done in self._inner.run(evaluate, items):
            yield done
            self._n += 1
            finite = math.isfinite(done.score)
            self._best = max(self._best, done.score if finite else 0.0)
            # the word of the scan
            shown = f"{done.score:.4f}" if finite else "failed"
            print(
                f"  evaluation {self._n}: score {shown}, highest {self._best:.4f}, {done.seconds:.1f} s",
                flush=True,
            )
