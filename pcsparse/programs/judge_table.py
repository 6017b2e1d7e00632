"""What `judge_models` prints of several models on the same sweeps: a column a model."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pcsparse.data.label_map import IGNORE, LabelMap
from pcsparse.programs.ground_rule import GROUND, ground_shares
from pcsparse.train.metrics import ConfusionMatrix, SemanticKittiMetrics

_MAIN = ("road", "car", "building", "vegetation")
_WIDTH, _COLUMN = 26, 18


@dataclass
class Judgement:
    """What a model says of some sweeps.

    Args:
        model: its name.
        labels: its label set.
    """

    model: str
    labels: LabelMap
    points: int = 0
    counts: npt.NDArray[np.int64] = field(init=False)
    confusion: ConfusionMatrix = field(init=False)
    ground: list[tuple[str, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = np.zeros(self.labels.n_classes, np.int64)
        self.confusion = ConfusionMatrix(self.labels.n_classes)

    def add(
        self,
        name: str,
        points: npt.NDArray[np.float32],
        targets: npt.NDArray[np.int64],
        truth: npt.NDArray[np.int64] | None,
    ) -> None:
        """Count one sweep.

        Args:
            name: of it.
            points: (n, 3) metres, as the model saw them.
            targets: (n,) predicted, `IGNORE` where nothing is.
            truth: (n,) labels, `IGNORE` where there is none; None for a sweep without.
        """
        self.points += len(targets)
        self.counts += np.bincount(targets[targets != IGNORE], minlength=self.labels.n_classes)
        classes = [self.labels.names.index(one) for one in GROUND if one in self.labels.names]
        self.ground.append((name, *ground_shares(points, np.isin(targets, classes))))
        if truth is not None:
            self.confusion.update(targets, truth)

    @property
    def metrics(self) -> SemanticKittiMetrics | None:
        """Of the labelled sweeps; None without any."""
        return SemanticKittiMetrics.of(self.confusion) if self.confusion.counts[:, 1:].any() else None


def shares_table(judged: Sequence[Judgement]) -> str:
    """Share of each class among the points of all sweeps, in %."""
    names = judged[0].labels.names
    shares = np.array([100 * one.counts / max(one.points, 1) for one in judged])
    rows = [
        (name, [f"{share:.2f}" for share in shares[:, k]])
        for k, name in enumerate(names)
        if shares[:, k].any()
    ]
    rows.append(("(none)", [f"{100 - row.sum():.2f}" for row in shares]))
    return _table("class, share in %", judged, rows)


def ground_table(judged: Sequence[Judgement]) -> str:
    """Agreement with the height, in %: ground where it is low / no ground where it is high."""
    rows = []
    for k, (name, _, _) in enumerate(judged[0].ground):
        values = [one.ground[k] for one in judged]
        rows.append((name, [f"{100 * low:.1f} / {100 * high:.1f}" for _, low, high in values]))
    return _table("low is ground / high none", judged, rows)


def iou_table(judged: Sequence[Judgement]) -> str:
    """IoU in % of the classes that the labels have, and their means; empty where no sweep has labels."""
    measured = [metrics for one in judged if (metrics := one.metrics) is not None]
    if not measured:
        return ""
    names, n_truth = judged[0].labels.names, measured[0].n_truth
    present = [k for k in range(len(names)) if n_truth[k]]
    rows = [(f"{names[k]} ({n_truth[k]})", [f"{100 * one.iou[k]:.1f}" for one in measured]) for k in present]
    rows.append((f"mIoU of {len(present)} present", [f"{100 * m.mean_iou_present:.1f}" for m in measured]))
    main = [k for k in present if names[k] in _MAIN]
    if main:
        told = f"mean of {', '.join(names[k] for k in main)}"
        rows.append((told, [f"{100 * float(m.iou[main].mean()):.1f}" for m in measured]))
    rows.append(("accuracy", [f"{100 * m.accuracy:.1f}" for m in measured]))
    return _table("class (points), IoU in %", judged, rows)


def _table(title: str, judged: Sequence[Judgement], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    width = max(_WIDTH, *(len(name) for name, _ in rows))
    columns = [max(_COLUMN, len(one.model) + 2) for one in judged]
    lines = [(title, [one.model for one in judged]), *rows]
    return "\n".join(
        f"{name:<{width}}" + "".join(f"{value:>{w}}" for value, w in zip(values, columns, strict=True))
        for name, values in lines
    )
