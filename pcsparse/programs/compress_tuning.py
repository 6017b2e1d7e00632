"""Fine-tuning of a compression, its dense control, and the file that comes out."""

import copy
from pathlib import Path

import torch
from torch import nn

from pcsparse.compress.finetune import Distillation, Rounds
from pcsparse.compress.search.space import Assignment, Space
from pcsparse.compress.weight_penalty import WeightPenalty
from pcsparse.errors import PcsparseError
from pcsparse.nn.tuning import use_tuning
from pcsparse.programs.compress_folder import RunFolder
from pcsparse.programs.compress_job import Job
from pcsparse.programs.compress_models import card_of, file_type
from pcsparse.train.fit import fit
from pcsparse.train.model_file import load_model, save_model
from pcsparse.train.passes import ExtraLoss


class Stopped(PcsparseError):
    """A signal ended a training, after a checkpoint.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by signal {number}; the same command goes on from there")
        self.number = number


def tune_step(job: Job, folder: RunFolder, pruned: nn.Module, space: Space, assignment: Assignment) -> None:
    """Train the pruned network on, or prune and train it in rounds."""
    settings = job.settings
    out = folder.path / "tuned"
    if folder.done("tune"):
        print(f"tune: taken from {out}")
        return
    extra = None
    if settings.distill:
        extra = Distillation(job.model, settings.distill, settings.temperature)
    print(f"tune: {settings.rounds} times {settings.epochs} epochs, {out}")
    with folder.running("tune"):
        if settings.rounds == 1:
            tuned = copy.deepcopy(pruned)
            _fit(job, tuned, out, settings.epochs, extra)
        else:
            tuned = _in_rounds(job, out, space, assignment, extra)
        notes = {
            "stage": "pruned, trained on",
            **_notes(job),
            "tuned_rounds": str(settings.rounds),
            "distilled": repr(settings.distill),
        }
        save_model(folder.file("tune"), tuned, card_of(job, tuned, notes))


def _in_rounds(
    job: Job, out: Path, space: Space, assignment: Assignment, extra: ExtraLoss | None
) -> nn.Module:
    rounds = Rounds(lr=job.settings.optim.lr, n=job.settings.rounds, lr_factor=job.settings.lr_factor)
    done = 0

    def train(model: nn.Module, lr: float) -> None:
        nonlocal done
        done += 1
        print(f"  round {done} of {rounds.n}")
        # what an earlier process finished is taken from its last checkpoint
        _fit(job, model, out / f"round-{done}", job.settings.epochs, extra)

    return job.prunable.tune(space, assignment, train, rounds, lambda: job.calibration_inputs)


def control_step(job: Job, folder: RunFolder) -> None:
    """Train the whole network on for as many steps."""
    out = folder.path / "control"
    if folder.done("control"):
        print(f"control: taken from {out}")
        return
    epochs = job.settings.epochs * job.settings.rounds
    print(f"control: the whole network, {epochs} epochs, {out}")
    with folder.running("control"):
        model = copy.deepcopy(job.model)
        _fit(job, model, out, epochs, None)
        notes = {"stage": "whole, trained on", **_notes(job)}
        save_model(folder.file("control"), model, card_of(job, model, notes))


def export_step(job: Job, folder: RunFolder) -> None:
    """The result where other programs look for it: model.safetensors and model.json of the run."""
    path = folder.file("export")
    if folder.done("export"):
        print(f"export: {path} is there")
        return
    with folder.running("export"):
        model, card = load_model(folder.file("tune" if job.settings.tune else "prune"))
        save_model(path, model, card, half=is_half(job))
    print(f"export: {path}, {path.stat().st_size / 1e6:.2f} MB")


def is_half(job: Job) -> bool:
    """Whether the result is stored as float16."""
    if job.settings.half is not None:
        return job.settings.half
    return file_type(job.weights) == "float16"


def _fit(job: Job, model: nn.Module, out: Path, epochs: int, extra: ExtraLoss | None) -> None:
    """Train in place, or take what an earlier process trained; the weights are those that `fit` stores.

    Raises:
        Stopped: by a signal, after a checkpoint.
    """
    torch.manual_seed(job.settings.seed)
    penalties = job.settings.penalties
    result = fit(
        use_tuning(model, job.table),
        job.train_set,
        None,
        job.settings.fit_settings(job.card.voxels, epochs),
        out,
        labels=job.labels,
        augmentation=job.augmentation,
        provenance=job.card.provenance,
        extra_loss=extra,
        penalty=WeightPenalty(**penalties) if any(penalties.values()) else None,
    )
    if result.stopped_by is not None:
        raise Stopped(result.stopped_by)
    stored, _ = load_model(out)
    model.load_state_dict(stored.state_dict())
    model.eval()


def _notes(job: Job) -> dict[str, str]:
    """What holds for the tuned network and for its control."""
    settings = job.settings
    return {
        "tuned_epochs": str(settings.epochs * settings.rounds),
        "tuned_lr": repr(settings.lr_factor * settings.optim.lr),
        "tuned_sweeps": str(len(job.train_set)),
        "seed": str(settings.seed),
        **{f"tuned_{name}": repr(factor) for name, factor in settings.penalties.items() if factor},
    }
