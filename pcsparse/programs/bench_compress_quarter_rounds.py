"""The pruned networks of the study of a quarter: cut in rounds, each with its part of the fine-tuning."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import nn

from pcsparse.compress.finetune import Distillation, Rounds, tune_channels
from pcsparse.programs.bench_compress_quarter_study import QuarterStudy
from pcsparse.programs.bench_compress_streets import train_on
from pcsparse.sparse_tensor import SparseTensor
from pcsparse.train.model_file import load_model

_CALIBRATION = 8
# of the seeds of two rounds, so that the second shows other sweeps than the first
_APART = 1000


def calibration(study: QuarterStudy) -> list[SparseTensor]:
    """Sweeps to measure batch norms on, after every cut."""
    return [batch.tensor() for batch in study.streets.calibration(_CALIBRATION)]


def folders_of(network: Path) -> list[Path]:
    """Of the trainings that made a network, in order; that of the last one is the network's own."""
    return [*sorted(network.glob("round-*")), network]


def train_in_rounds(
    study: QuarterStudy,
    dense: nn.Module,
    widths: Mapping[str, int],
    seed: int,
    folder: Path,
    taught: Distillation | None,
) -> None:
    """Cut the dense network in rounds and train after each; a round that is done is read from its folder.

    Where a clock ends the trainings, each round gets the share of what is left that its epochs have of those
    that are left.

    Args:
        study: its rounds and epochs.
        dense: trained; it is not changed.
        widths: channels that each group keeps in the end.
        seed: of the network.
        folder: of the last round; those before are in it.
        taught: of all rounds.

    Raises:
        PcsparseError: a signal ended a training; the same call goes on from there.
    """
    epochs = study.round_epochs
    done = 0

    def fit(model: nn.Module, rate: float) -> None:
        nonlocal done
        place = study.place.part(epochs[done] / sum(epochs[done:]))
        training = replace(study.tuning, epochs=epochs[done], lr=rate, seed=seed + _APART * done)
        done += 1
        here = folder if done == len(epochs) else folder / f"round-{done}"
        train_on(study.streets, model, training, here, taught, place)
        # the weights that are kept are averages, and a round that was done trains nothing
        model.cpu().load_state_dict(load_model(here)[0].state_dict())

    tune_channels(
        dense, widths, fit, Rounds(study.training.lr, study.rounds, study.lr_factor),
        score="max_response", batches=lambda: calibration(study),
    )  # fmt: skip
