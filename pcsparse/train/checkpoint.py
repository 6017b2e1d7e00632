"""The state of a training run, `last.pt`: all that a resumed run needs to go on with the same bits."""

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcsparse.errors import FormatError
from pcsparse.train.settings import FitSettings
from pcsparse.whole_file import whole_file

STATE_FORMAT = 1

# a resumed run may differ in these: they change neither samples nor rules (another device rounds otherwise),
# and a run that ends by the clock repeats none, and may be granted more time
_NEUTRAL = {
    "device",
    "record",
    "workers",
    "prefetch",
    "checkpoint_every",
    "store_every",
    "resume",
    "progress",
    "tensorboard",
    "time_limit",
}

# what a data set says of its files and labels: equal to anything in states that were stored without
_ADDED = {"train_files", "val_files", "label_map"}

_UNREADABLE = (
    OSError, RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile,
)  # fmt: skip


@dataclass(frozen=True)
class TrainState:
    """A run after `step` optimiser steps.

    Attributes:
        step: optimiser steps done.
        best_miou: highest validation mIoU so far; -1 before the first.
        n_skipped: network passes left out because nothing in them was labelled.
        facts: what must be equal for the run to be continued (`run_facts`).
        model, optimizer: state dicts.
        average: state dict of the averaged model; empty without averaging.
        rng: states of torch's generators, by device.
        seconds: that the run has taken, which a time limit counts.
    """

    step: int
    best_miou: float
    n_skipped: int
    facts: dict[str, str]
    model: dict[str, Any]
    optimizer: dict[str, Any]
    average: dict[str, Any]
    rng: dict[str, Tensor]
    seconds: float = 0.0


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """The states of the generators that a network on `device` draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_rng_state(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Put the generators back into stored states."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def run_facts(settings: FitSettings, **others: object) -> dict[str, str]:
    """What shapes a run's numbers, as text: the settings that matter, and `others` such as the set's size."""
    # the fields of FitSettings only: a subclass adds names and paths, which may change
    names = [field.name for field in fields(FitSettings) if field.name not in _NEUTRAL]
    facts = {name: repr(getattr(settings, name)) for name in names}
    facts |= {key: repr(value) for key, value in others.items()}
    if not settings.resident:
        # as runs from before it was there
        del facts["resident"]
    # what runs from before it was there had, too
    return {name: text.replace(", min_range=0.0", "") for name, text in facts.items()}


def save_state(path: Path, state: TrainState) -> None:
    """Write `state`, whole or not at all."""
    content = {field.name: getattr(state, field.name) for field in fields(state)}
    # an open file and not its name, which would stand in the archive
    with whole_file(path) as temporary, temporary.open("wb") as file:
        torch.save({"format": STATE_FORMAT, **content}, file)


def seconds_spent(folder: Path) -> float:
    """Seconds that the run in a folder has taken, which its time limit counts; 0 where none can be read."""
    try:
        return float(_mapped(folder / "last.pt").get("seconds", 0.0))
    except _UNREADABLE:
        # whoever goes on with it says what is wrong
        return 0.0


def _mapped(path: Path) -> dict[str, Any]:
    """What is in a file, its tensors left on the disk where they can be."""
    content: dict[str, Any]
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:
        # written by a torch whose files were no archives yet, or on a disk that maps nothing
        content = torch.load(path, map_location="cpu", weights_only=True)
    return content


def load_state(path: Path, facts: Mapping[str, str], device: torch.device) -> TrainState:
    """Read the state of a run that is to be continued. No code in the file is run.

    Args:
        path: a `last.pt`.
        facts: of the run that wants to continue.
        device: where the tensors go (generator states stay on the CPU).

    Raises:
        FormatError: the file is no such state, or belongs to a run with other facts; the text names them.
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        if content["format"] != STATE_FORMAT:
            raise FormatError(f"{path} has format {content['format']}, this version reads {STATE_FORMAT}")
        # older states know no seconds
        content.setdefault("seconds", 0.0)
        state = TrainState(**{field.name: content[field.name] for field in fields(TrainState)})
    except _UNREADABLE as error:
        raise FormatError(
            f"{path} is not the state of a run ({type(error).__name__}: {error}); "
            "remove it, or start anew with resume=overwrite"
        ) from error
    # older states do not know them
    then = {key: facts[key] for key in _ADDED & facts.keys()} | state.facts
    changed = [
        f"{key}: {then.get(key, 'nothing')} then, {facts.get(key, 'nothing')} now"
        for key in sorted(then.keys() | facts.keys())
        if then.get(key) != facts.get(key)
    ]
    if changed:
        raise FormatError(
            f"{path} belongs to another run ({'; '.join(changed)}); restore these, choose another folder, "
            "or start anew with resume=overwrite"
        )
    return replace(state, rng={name: value.cpu() for name, value in state.rng.items()})
