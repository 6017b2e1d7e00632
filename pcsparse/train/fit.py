"""The training loop: plain torch, resumable at any step, callable from a notebook."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from pcsparse.data.collate import SweepSource, TrainSamples, VoxelBatch
from pcsparse.data.label_map import LabelMap
from pcsparse.data.transforms import Augmentation
from pcsparse.errors import FormatError
from pcsparse.train.checkpoint import load_state, run_facts
from pcsparse.train.evaluation import evaluate
from pcsparse.train.interrupt import StopRequest
from pcsparse.train.loading import open_loader
from pcsparse.train.losses import class_weights
from pcsparse.train.metrics import SemanticKittiMetrics
from pcsparse.train.model_file import ModelCard, arch_of, save_model, stored_step
from pcsparse.train.order import BatchesFrom, SampleOrder
from pcsparse.train.passes import ExtraLoss, Penalty
from pcsparse.train.progress import Progress, Throughput, open_progress
from pcsparse.train.resident import ResidentSweeps
from pcsparse.train.run_log import CsvLog
from pcsparse.train.settings import FitSettings
from pcsparse.train.state_writer import StateWriter
from pcsparse.train.stepper import StepFacts, Stepper
from pcsparse.train.survey import check_validation, survey_of
from pcsparse.train.tensorboard import EventLog, open_event_log
from pcsparse.whole_file import remove_leftovers, write_whole

LOG_COLUMNS = (
    "step", "epoch", "loss", "lr", "grad_norm", "sweeps", "voxels", "labelled", "skipped", "seconds",
    "voxels_per_s",
)  # fmt: skip
VAL_COLUMNS = ("step", "epoch", "miou", "miou_present", "accuracy")


@dataclass(frozen=True)
class FitResult:
    """How a run ended.

    Attributes:
        step: optimiser steps done, of `n_steps`.
        n_steps: optimiser steps of the whole run.
        best_miou: highest validation mIoU; None where there was no validation.
        n_skipped: network passes left out because nothing in them was labelled.
        stopped_by: number of the signal that ended the run early; None if it is complete.
        timed_out: whether the time limit ended it before its last step; it is complete then too.
    """

    step: int
    n_steps: int
    best_miou: float | None
    n_skipped: int
    stopped_by: int | None
    timed_out: bool = False


def fit(
    model: nn.Module,
    train_set: SweepSource,
    val_set: SweepSource | None,
    settings: FitSettings,
    output_dir: str | Path,
    *,
    labels: LabelMap,
    augmentation: Augmentation | None = None,
    provenance: Mapping[str, str] | None = None,
    config_text: str | None = None,
    extra_loss: ExtraLoss | None = None,
    penalty: Penalty | None = None,
) -> FitResult:
    """Train a model, or go on with a run that was interrupted.

    Writes into `output_dir`: log.csv, val.csv, last.pt (the state, for `resume`), model.safetensors and
    model.json (`load_model` reads them). A run that was killed goes on from its last checkpoint with the same
    losses, bit for bit; on a GPU with `record="never"`, as the sums of a recorded pass depend on the room
    that the first batch made (ADR 0023).

    Args:
        model: takes a SparseTensor with 4 channels, returns one whose feats are logits (m, labels.n_classes).
            Seed torch before building it where runs are to be repeatable.
        train_set: labelled sweeps. Where it has a method `file_digest`, as `SemanticKitti` has, a run goes on
            only if it returns the same text; val_set likewise. That of `SemanticKitti` knows names and sizes
            of point files, not labels.
        val_set: labelled sweeps; None for no validation.
        settings: see `FitSettings`.
        output_dir: folder of the run; made where it is missing.
        labels: what the targets mean.
        augmentation: of the training sweeps; none if None.
        provenance: what a reader of the model should know: data, licence, command.
        config_text: content of config.yaml; None writes none.
        extra_loss: added to the loss of every network pass, as distillation is; none if None.
        penalty: of the weights, added to the loss of every step; none if None.

    Returns:
        How the run ended. SIGTERM and Ctrl-C end it early, after a checkpoint.

    Raises:
        FormatError: a run is there and `settings.resume` forbids to touch it, or it is another run; or
            validation is without labels.
        RangeError: the loss stopped being finite, or a sweep leaves the range of coordinates.
    """
    folder = Path(output_dir)
    order = SampleOrder(
        len(train_set), settings.batch_size, settings.accumulate, settings.epochs, settings.seed
    )
    augmentation = augmentation or Augmentation()
    resuming = _resumes(folder, settings.resume)
    survey = survey_of(train_set, labels.n_classes)
    validated = val_set if settings.validate_every > 0 else None
    if validated is not None:
        check_validation(validated, settings.voxels)
    card = ModelCard(
        arch=arch_of(model, labels.n_classes),
        labels=labels,
        voxels=settings.voxels,
        input_spec=survey.input_spec,
        metrics={},
        provenance=dict(provenance or {}),
    )
    # norms are not among them: runs from before there were any go on
    arch = {name: part for name, part in card.arch.items() if name != "norms"}
    # no entry where there is none, so that older runs go on
    given: dict[str, object] = {"extra_loss": extra_loss, "penalty": penalty}
    given |= {"train_files": _files_of(train_set), "val_files": _files_of(validated)}
    given["label_map"] = labels.digest()
    extra = {name: term for name, term in given.items() if term is not None}
    facts = run_facts(
        settings, n_train=len(train_set), arch=arch, augmentation=augmentation, labels=labels.names,
        **extra,
    )  # fmt: skip
    torch.manual_seed(settings.seed)
    weights = class_weights(survey.counts, settings.loss.class_weights, settings.loss.weight_limit)
    stepper = Stepper(model, settings, order.n_steps, weights, extra_loss, penalty)
    if resuming:
        stepper.restore(load_state(folder / "last.pt", facts, stepper.device))
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    if not resuming:
        # a kill before the first checkpoint must leave neither the state nor the model of an earlier run
        for name in ("last.pt", "model.safetensors", "model.json"):
            (folder / name).unlink(missing_ok=True)
    if config_text is not None:
        write_whole(folder / "config.yaml", config_text.encode())
    with ExitStack() as stack:
        outputs = _open_outputs(stack, folder, settings, stepper.step if resuming else None, facts, card)
        stop = stack.enter_context(StopRequest())
        if resuming:
            outputs.progress.note(f"going on from step {stepper.step} of {order.n_steps} in {folder}")
        left = BatchesFrom(order, stepper.step)
        if settings.resident:
            resident = ResidentSweeps(train_set, settings.voxels, augmentation, settings.seed, stepper.device)
            batches = resident.batches(left)
        else:
            samples = TrainSamples(train_set, settings.voxels, augmentation, settings.seed)
            batches = stack.enter_context(open_loader(samples, left, settings.workers, settings.prefetch))
        _loop(stepper, order, batches, val_set, outputs, stop)
    early = stepper.step < order.n_steps
    return FitResult(
        step=stepper.step,
        n_steps=order.n_steps,
        best_miou=stepper.best_miou if stepper.best_miou >= 0 else None,
        n_skipped=stepper.n_skipped,
        stopped_by=stop.signal_number if early else None,
        timed_out=early and stop.signal_number is None,
    )


@dataclass(frozen=True)
class _Outputs:
    folder: Path
    facts: dict[str, str]
    card: ModelCard
    log: CsvLog
    val_log: CsvLog
    events: EventLog
    progress: Progress
    states: StateWriter

    def record(self, step: int, epoch: int, done: StepFacts, seconds: float, every: int) -> None:
        """One row of log.csv; the columns that a clock decides come last."""
        if done.n_skipped:
            self.progress.note(
                f"step {step}: {done.n_skipped} network passes left out, nothing in them is labelled"
            )
        if step % every:
            return
        rate = round(done.n_voxels / max(seconds, 1e-9))
        self.log.write(
            step, epoch, done.loss, done.lr, done.grad_norm, done.n_sweeps, done.n_voxels, done.n_labelled,
            done.n_skipped, round(seconds, 4), rate,
        )  # fmt: skip
        self.events.scalars(
            step, {"train/loss": done.loss, "train/lr": done.lr, "train/grad_norm": done.grad_norm}
        )


def _open_outputs(
    stack: ExitStack,
    folder: Path,
    settings: FitSettings,
    resume_step: int | None,
    facts: dict[str, str],
    card: ModelCard,
) -> _Outputs:
    return _Outputs(
        folder=folder,
        facts=facts,
        card=card,
        log=stack.enter_context(CsvLog(folder / "log.csv", LOG_COLUMNS, resume_step=resume_step)),
        val_log=stack.enter_context(CsvLog(folder / "val.csv", VAL_COLUMNS, resume_step=resume_step)),
        events=stack.enter_context(open_event_log(folder, settings.tensorboard, resume_step)),
        progress=stack.enter_context(open_progress(settings.progress)),
        states=stack.enter_context(StateWriter(folder / "last.pt", beside=settings.device != "cpu")),
    )


def _files_of(source: SweepSource | None) -> str | None:
    """What a data set says of its files; None where it says nothing: its sweeps may be made on the way."""
    digest = getattr(source, "file_digest", None)
    return None if digest is None else str(digest())


def _resumes(folder: Path, resume: str) -> bool:
    """Whether a run is there to be continued."""
    state, log = folder / "last.pt", folder / "log.csv"
    if resume == "never" and (state.exists() or log.exists()):
        raise FormatError(
            f"{folder} already holds a run; resume=auto continues it, resume=overwrite replaces it"
        )
    return resume == "auto" and state.is_file()


def _loop(
    stepper: Stepper,
    order: SampleOrder,
    batches: Iterator[VoxelBatch],
    val_set: SweepSource | None,
    outputs: _Outputs,
    stop: StopRequest,
) -> None:
    settings = stepper.settings
    throughput = Throughput(order.n_steps)
    # one step at least, or there would be no model at the end
    timed_out = stepper.clock.share >= 1.0 and stepper.step > 0
    if stepper.step > 0 and (timed_out or stepper.step % order.steps_per_epoch == 0):
        # stopped before the end of an epoch, and out of time now; or its validation failed
        end = _EpochEnd.of(stepper, order, val_set, timed_out)
        if not end.is_done(stepper, outputs):
            _end_epoch(stepper, end, val_set, outputs)
            # the best validation may be this one
            outputs.states.offer(lambda: stepper.state(outputs.facts), due=True, ends=True)
    while stepper.step < order.n_steps and stop.signal_number is None and not timed_out:
        began = time.perf_counter()
        epoch = stepper.step // order.steps_per_epoch
        passes = len(order.step_batches(stepper.step))
        done = stepper.advance([next(batches) for _ in range(passes)])
        seconds = time.perf_counter() - began
        throughput.update(seconds, done.n_sweeps, done.n_voxels)
        outputs.record(stepper.step, epoch, done, seconds, settings.log_every)
        outputs.progress.step(stepper.step, epoch, done.loss, throughput)
        timed_out = stepper.clock.share >= 1.0
        ends_epoch = stepper.step % order.steps_per_epoch == 0 or timed_out
        is_last = timed_out or stepper.step == order.n_steps
        if ends_epoch:
            try:
                _end_epoch(stepper, _EpochEnd.of(stepper, order, val_set, timed_out), val_set, outputs)
            except Exception:
                # the steps are not lost with it
                outputs.states.offer(lambda: stepper.state(outputs.facts), due=True, ends=True)
                raise
        due = ends_epoch or bool(settings.checkpoint_every and stepper.step % settings.checkpoint_every == 0)
        ends = is_last or stop.signal_number is not None
        outputs.states.offer(lambda: stepper.state(outputs.facts), due=due, ends=ends)
    if stop.signal_number is not None:
        outputs.progress.note(f"stopped by signal {stop.signal_number}; step {stepper.step} is stored")


@dataclass(frozen=True)
class _EpochEnd:
    """What the end of an epoch asks for.

    Attributes:
        epoch: from 0.
        validates: whether a validation is due.
        stores: whether the model is due, whatever the validation says.
    """

    epoch: int
    validates: bool
    stores: bool

    @classmethod
    def of(
        cls, stepper: Stepper, order: SampleOrder, val_set: SweepSource | None, timed_out: bool
    ) -> "_EpochEnd":
        """After the last step of the epoch."""
        settings = stepper.settings
        epoch = (stepper.step - 1) // order.steps_per_epoch
        is_last = timed_out or stepper.step == order.n_steps
        has_validations = val_set is not None and settings.validate_every > 0
        return cls(
            epoch=epoch,
            validates=has_validations and (is_last or (epoch + 1) % settings.validate_every == 0),
            stores=(settings.keep == "last" or not has_validations)
            and (is_last or (epoch + 1) % settings.store_every == 0),
        )

    def is_done(self, stepper: Stepper, outputs: _Outputs) -> bool:
        """Whether the validation and the model of this step are there already."""
        if self.validates:
            # the row comes after the model
            return outputs.val_log.last_step == stepper.step
        return not self.stores or stored_step(outputs.folder) >= stepper.step


def _end_epoch(stepper: Stepper, end: _EpochEnd, val_set: SweepSource | None, outputs: _Outputs) -> None:
    """Validate where it is due, and store the model where it is the one to keep."""
    metrics: dict[str, float] = {}
    better = False
    if end.validates and val_set is not None:
        found = _validate(stepper, val_set, outputs.card)
        metrics = {
            "miou": found.mean_iou,
            "miou_present": found.mean_iou_present,
            "accuracy": found.accuracy,
        }
        better = found.mean_iou > stepper.best_miou
        outputs.events.scalars(stepper.step, {f"val/{name}": value for name, value in metrics.items()})
        outputs.progress.note(
            f"epoch {end.epoch + 1}: mIoU {100 * found.mean_iou:.2f} %, over present classes "
            f"{100 * found.mean_iou_present:.2f} %, accuracy {100 * found.accuracy:.2f} %"
        )
    if better or end.stores:
        card = replace(outputs.card, metrics={"step": float(stepper.step), **metrics})
        save_model(outputs.folder / "model.safetensors", stepper.evaluated, card)
    if metrics:
        # not before its model is there: a state that knows it would never store that one
        stepper.best_miou = max(stepper.best_miou, metrics["miou"])
        outputs.val_log.write(stepper.step, end.epoch, *metrics.values())


def _validate(stepper: Stepper, val_set: SweepSource, card: ModelCard) -> SemanticKittiMetrics:
    confusion = evaluate(
        stepper.evaluated,
        val_set,
        card.voxels,
        len(card.classes),
        device=stepper.device,
        workers=stepper.settings.workers,
    )
    return SemanticKittiMetrics.of(confusion)
