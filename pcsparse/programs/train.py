"""`pcsparse train`: train one model on one data set."""

import platform
from typing import Any

import torch

import pcsparse
from pcsparse.allocation import keep_freed_memory
from pcsparse.config import TrainSettings, build, build_augmentation, to_yaml
from pcsparse.engine.tune_cache import load_table
from pcsparse.errors import FormatError
from pcsparse.nn.tuning import use_tuning
from pcsparse.train.fit import FitResult, fit

_SIGNAL_EXIT = 128


def run(settings: TrainSettings) -> int:
    """Train, or go on with a run that was interrupted.

    Returns:
        Exit status: 0, or 128 + the number of the signal that ended the run early.

    Raises:
        PcsparseError: see `train.fit.fit`.
    """
    keep_freed_memory()
    result = train(settings)
    if result.stopped_by is not None:
        print(f"stopped at step {result.step} of {result.n_steps}; the same command goes on from there")
        return _SIGNAL_EXIT + result.stopped_by
    best = "" if result.best_miou is None else f", best mIoU {100 * result.best_miou:.2f} %"
    print(f"{result.step} steps done{best}: {settings.output_dir}/model.safetensors")
    if result.n_skipped:
        print(f"{result.n_skipped} network passes were left out: nothing in them was labelled")
    return 0


def train(settings: TrainSettings) -> FitResult:
    """The same without exit status or last words: for programs that train on their way."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    train_set = build(settings.data.train)
    val_set = None if settings.data.val is None else build(settings.data.val)
    labels = train_set.label_map
    if val_set is not None and val_set.label_map.names != labels.names:
        raise FormatError(
            f"training has the classes {labels.names}, validation {val_set.label_map.names}; they must be "
            "the same"
        )
    torch.manual_seed(settings.seed)
    model = build(settings.model)
    if settings.tuned is not None:
        use_tuning(model, load_table(settings.tuned, settings.device))
    return fit(
        model,
        train_set,
        val_set,
        settings,
        settings.output_dir,
        labels=labels,
        augmentation=build_augmentation(settings.augment),
        provenance=_provenance(settings, train_set, val_set),
        config_text=to_yaml(settings),
    )


def _provenance(settings: TrainSettings, train_set: Any, val_set: Any) -> dict[str, str]:
    # no paths: a model travels further than the folders it was trained in
    return {
        "pcsparse": pcsparse.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "data": f"{type(train_set).__name__}, label map {train_set.label_map.label_set}",
        "train_sweeps": str(len(train_set)),
        "val_sweeps": "0" if val_set is None else str(len(val_set)),
        "epochs": str(settings.epochs),
        "batch_size": str(settings.batch_size * settings.accumulate),
        "seed": str(settings.seed),
    }
