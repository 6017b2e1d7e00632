"""`pcsparse evaluate`: SemanticKITTI's official mIoU of a model on a split, point by point."""

import json
from pathlib import Path

from torch import Tensor

from pcsparse.allocation import keep_freed_memory
from pcsparse.checks import usable_device
from pcsparse.config import EvaluateSettings, build
from pcsparse.data.files import write_labels
from pcsparse.data.label_map import LabelMap
from pcsparse.engine.tune_cache import load_table
from pcsparse.errors import FormatError, RangeError
from pcsparse.nn.tuning import use_tuning
from pcsparse.programs.default_model import checkpoint_or_default
from pcsparse.train.evaluation import evaluate
from pcsparse.train.metrics import SemanticKittiMetrics
from pcsparse.train.model_file import load_model
from pcsparse.whole_file import write_whole

RESULT_FORMAT = 1


def run(settings: EvaluateSettings) -> int:
    """Evaluate, print the table, and write the metrics and predictions that were asked for.

    Returns:
        Exit status 0.

    Raises:
        FormatError: the checkpoint or the data are broken, or have different classes.
        RangeError: the split is unknown or the data set does not have it.
    """
    keep_freed_memory()
    if settings.split not in ("train", "val", "test"):
        raise RangeError(f"split must be train, val or test, got {settings.split!r}")
    node = getattr(settings.data, settings.split)
    if node is None:
        raise RangeError(f"the data set has no split {settings.split!r}; set data.{settings.split}")
    checkpoint = checkpoint_or_default(settings.checkpoint)
    model, card = load_model(checkpoint)
    if settings.tuned is not None:
        use_tuning(model, load_table(settings.tuned, settings.device))
    source = build(node)
    labels: LabelMap = source.label_map
    if labels.names != card.classes or (settings.data.labels is None and card.means_other_ids_than(labels)):
        raise FormatError(
            f"{checkpoint} has the classes {card.classes} of label map {card.label_set!r}, the data "
            f"{labels.names} of {labels.label_set!r}; name the one that the label files go by as "
            "data.labels=FILE"
        )
    device = usable_device(settings.device)
    writer = None if settings.predictions is None else _SubmissionWriter(Path(settings.predictions), labels)
    confusion = evaluate(
        model.to(device),
        source,
        card.voxels,
        labels.n_classes,
        device=device,
        workers=settings.workers,
        on_sweep=writer,
    )
    if writer is not None:
        print(f"{writer.n_written} label files in {settings.predictions}/sequences/NN/predictions")
    if not int(confusion.counts[:, 1:].sum()):
        print(f"{len(source)} sweeps predicted; none of them has labels, so there are no metrics")
        return 0
    metrics = SemanticKittiMetrics.of(confusion)
    print(f"{checkpoint} on {len(source)} sweeps of {settings.split}, {card.voxels.voxel_size:g} m voxels")
    print(metrics.table(labels.names))
    if settings.output is not None:
        path = Path(settings.output)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, _as_json(metrics, labels, settings, len(source)).encode())
        print(f"metrics in {path}")
    return 0


class _SubmissionWriter:
    """Writes predictions as a submission has them: sequences/NN/predictions/%06d.label, raw ids."""

    def __init__(self, folder: Path, labels: LabelMap) -> None:
        self.folder = folder
        self.labels = labels
        self.n_written = 0

    def __call__(self, name: str, targets: Tensor) -> None:
        sequence, _, frame = name.rpartition("/")
        path = self.folder / "sequences" / sequence / "predictions" / f"{frame}.label"
        write_labels(path, self.labels.to_raw(targets))
        self.n_written += 1


def _as_json(
    metrics: SemanticKittiMetrics, labels: LabelMap, settings: EvaluateSettings, n_sweeps: int
) -> str:
    content = {
        "format": RESULT_FORMAT,
        "rule": "SemanticKITTI single scan: mean over all classes, absent ones as 0",
        "split": settings.split,
        "sweeps": n_sweeps,
        "points": int(metrics.n_truth.sum()),
        "miou": metrics.mean_iou,
        "miou_present": metrics.mean_iou_present,
        "accuracy": metrics.accuracy,
        "classes": {
            name: {"iou": float(iou), "points": int(n_truth), "predicted": int(n_predicted)}
            for name, iou, n_truth, n_predicted in zip(
                labels.names, metrics.iou, metrics.n_truth, metrics.n_predicted, strict=True
            )
        },
    }
    return json.dumps(content, indent=2) + "\n"
