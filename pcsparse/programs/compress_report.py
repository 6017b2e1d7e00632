"""The end of a compression: all networks scored and timed side by side, and the report."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from pcsparse.compress.chosen import Choice
from pcsparse.compress.measured import count_macs, measure_layers, measure_sweeps, spread_by_size
from pcsparse.compress.report import write_report
from pcsparse.compress.report_facts import Measured, NetworkFacts, ReportFacts, Score
from pcsparse.programs.compress_evaluation import inputs_of
from pcsparse.programs.compress_folder import RunFolder
from pcsparse.programs.compress_job import Job
from pcsparse.programs.compress_models import file_type
from pcsparse.timing import environment
from pcsparse.train.evaluation import evaluate_sweeps
from pcsparse.train.model_file import ModelCard, load_model
from pcsparse.train.sweep_scores import Interval, SweepScores
from pcsparse.whole_file import write_whole


@dataclass(frozen=True)
class _Entry:
    """A network of the report and the file that it is loaded from, so that what is stored is measured."""

    name: str
    path: Path
    smaller: bool


def compare_step(job: Job, folder: RunFolder) -> Measured:
    """Score every network on the split of the report, and time both kinds layer by layer and whole."""
    path = folder.file("measure")
    if folder.done("measure"):
        print(f"measure: taken from {path}")
        return Measured.load(path)
    settings = job.settings.measure
    print(f"measure: {len(job.final_set)} sweeps of {settings.split}, then times")
    entries = _entries(job, folder)
    with folder.running("measure"):
        scores = {entry.name: _scores(job, folder, entry) for entry in entries}
        sweeps = inputs_of(job.cost_batches, job.device)
        # just before the times, not before all that came first
        here = environment()
        dense, small = (load_model(entries[i].path)[0].to(job.device) for i in (0, -1))
        layers = measure_layers(dense, small, sweeps, runs=settings.runs, tuned=job.table)
        chosen = spread_by_size(sweeps, settings.maps)
        whole = measure_sweeps(dense, small, chosen, runs=settings.runs, tuned=job.table)
        found = Measured(
            environment=here.header(),
            busy=here.busy or environment().busy,
            metric=_metric(job, scores["dense"]),
            networks=tuple(_facts(job, entry, scores) for entry in entries),
            sweeps=whole,
            layers=layers,
            predicted=tuple(job.prunable.predicted(layer) for layer in layers),
        )
        found.save(path)
    return found


def report(job: Job, folder: RunFolder, found: Measured, choice: Choice) -> None:
    """Write the page and the picture, and say the headline."""
    small = found.networks[-1]
    dense = found.networks[0]
    faster = found.usual.before_all.median / found.usual.after_all.median
    title = (
        f"{job.settings.name}: {faster:.2f} times as fast, {small.parameters / dense.parameters:.0%} of the "
        f"parameters, {100 * (small.score.value - dense.score.value):+.2f} points"
    )
    write_report(ReportFacts(title, job.command, _notes(job), choice, found), folder.path)
    for network in found.networks:
        gain = "" if network.gain is None else f", against dense {network.gain.signed()} points"
        over = network.over_control
        control = "" if over is None else f", against control {over.signed()} points"
        size = f"{network.parameters:>12,} parameters"
        print(f"  {network.name:<8} {size}, score {network.score} %{gain}{control}")
    print(f"{title}\nreport: {folder.path / 'report.html'}, {folder.path / 'report.png'}")
    if found.busy:
        print("the machine was BUSY while this was measured: the milliseconds are worth nothing")


def _entries(job: Job, folder: RunFolder) -> list[_Entry]:
    entries = [_Entry("dense", job.weights, smaller=False)]
    if job.settings.control:
        entries.append(_Entry("control", folder.file("control"), smaller=False))
    if job.settings.tune:
        entries.append(_Entry("pruned", folder.file("prune"), smaller=True))
    # the file that others will load, float16 perhaps
    last = "tuned" if job.settings.tune else "pruned"
    return [*entries, _Entry(last, folder.file("export"), smaller=True)]


def _scores(job: Job, folder: RunFolder, entry: _Entry) -> SweepScores:
    path = folder.path / "scores" / f"{entry.name}.npz"
    if path.is_file():
        return SweepScores.load(path)
    model, card = load_model(entry.path)
    scores = evaluate_sweeps(
        model.to(job.device), job.final_set, card.voxels, len(card.classes), device=job.device,
        workers=job.settings.workers,
    )  # fmt: skip
    if entry.smaller:
        _note_metrics(entry.path, card, scores)
    scores.save(path)
    return scores


def _note_metrics(weights: Path, card: ModelCard, scores: SweepScores) -> None:
    """Write into a card what its network reached."""
    metrics = scores.metrics()
    noted = {
        "miou": metrics.mean_iou,
        "miou_present": metrics.mean_iou_present,
        "accuracy": metrics.accuracy,
    }
    write_whole(weights.with_suffix(".json"), replace(card, metrics=noted).to_json().encode())


def _facts(job: Job, entry: _Entry, scores: dict[str, SweepScores]) -> NetworkFacts:
    model, _ = load_model(entry.path)
    own, dense, control = scores[entry.name], scores["dense"], scores.get("control")
    return NetworkFacts(
        name=entry.name,
        smaller=entry.smaller,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        file_bytes=entry.path.stat().st_size,
        file_type=file_type(entry.path),
        macs=_macs(job, model),
        score=_score(own.miou_present()),
        gain=None if entry.name == "dense" else _score(own.gain_over(dense)),
        over_control=_score(own.gain_over(control)) if control is not None and entry.smaller else None,
    )


def _macs(job: Job, model: nn.Module) -> float:
    return count_macs(model.to(job.device), inputs_of(job.cost_batches, job.device))


def _score(found: Interval) -> Score:
    return Score(found.value, found.low, found.high)


def _metric(job: Job, scores: SweepScores) -> str:
    return (
        f"mean IoU over the classes that occur, point by point, {len(scores.names)} sweeps of "
        f"{job.settings.measure.split}; in brackets 95 % of a bootstrap over {scores.drawn()}"
    )


def _notes(job: Job) -> tuple[str, ...]:
    settings = job.settings
    scored = settings.evaluation
    notes = [
        f"network: {job.weights.name}, {job.card.voxels.voxel_size:g} m voxels",
        f"searched on {len(job.search_batches)} sweeps of {scored.split}"
        + (f", cropped to {scored.crop} m" if scored.crop else "")
        + (f"; batch norms measured anew before each score, calibration sweeps: {len(job.calibration)}"
           if scored.recalibrate else "; batch norms as they were"),
        "pruned: " + ", ".join(f"{name} {value}" for name, value in job.pruning.facts().items()),
    ]  # fmt: skip
    if settings.measure.split in (scored.split, "train"):
        notes.append(
            f"THE SCORES ARE OF {settings.measure.split}, whose sweeps were searched or trained on: they "
            "flatter; choose another measure.split"
        )
    if job.prunable.summary().busy:
        notes.append("the costs that the search went by were measured on a BUSY machine")
    if settings.reconstruct:
        notes.append("layers that lost inputs were refitted by least squares")
    if not settings.tune:
        return (*notes, "not fine-tuned (tune=true does)")
    notes.append(
        f"fine-tuned: {settings.rounds} times {settings.epochs} epochs of {len(job.train_set)} sweeps, "
        f"{settings.optim.name} at {settings.lr_factor * settings.optim.lr:g}, schedule "
        f"{settings.schedule.name}, seed {settings.seed}"
        + (f", distilled with weight {settings.distill:g}" if settings.distill else "")
        + "".join(f", {name} {factor:g}" for name, factor in settings.penalties.items() if factor)
    )
    if not settings.control:
        notes.append("no dense control: what training on alone brings is unknown (control=true trains one)")
    return tuple(notes)
