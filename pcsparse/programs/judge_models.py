"""Models side by side on any sweeps: pictures, shares, agreement with height and, with labels, IoU."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pcsparse.allocation import keep_freed_memory
from pcsparse.data.files import read_labels
from pcsparse.data.files_list import list_sources
from pcsparse.data.label_map import LabelMap
from pcsparse.data.placement import Placement
from pcsparse.data.point_cloud import PointCloud
from pcsparse.errors import FormatError, RangeError
from pcsparse.infer.predictor import Predictor
from pcsparse.infer.readings import Reading
from pcsparse.programs.default_model import brought_models, model_named
from pcsparse.programs.judge_table import Judgement, ground_table, iou_table, shares_table
from pcsparse.train.model_file import load_model
from pcsparse.view.raster import draw_classes, save_png

_NO_LABELS = "-"


@dataclass(frozen=True)
class JudgeSettings:
    """What to compare.

    Args:
        sources: files, folders or patterns of sweeps.
        models: checkpoints, folders of runs or names of brought models; all brought ones if empty.
        labels: a `.label` file for each sweep, in their order, `-` where there is none; or nothing.
        out: folder for a picture a sweep; None for none.
        z_offset: metres added to every z.
        device: where the networks run.
    """

    sources: tuple[str | Path, ...]
    models: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    out: Path | None = None
    z_offset: float = 0.0
    device: str = "cpu"


def run(settings: JudgeSettings) -> list[Judgement]:
    """Print the tables, and write the pictures.

    Returns:
        One a model, in their order.

    Raises:
        FormatError: a sweep, its labels or a model cannot be read, or models differ in their classes.
        RangeError: labels for another number of sweeps, or an unknown model.
    """
    keep_freed_memory()
    sources, notes = list_sources(settings.sources)
    for note in notes:
        print(note)
    truths = _labels_of(settings, sources)
    weights = [_model(name) for name in settings.models] or brought_models()
    loaded = [(path, *load_model(path)) for path in weights]
    if not loaded:
        raise FormatError("no model is named, and pcsparse brings none")
    labels = loaded[0][2].labels
    if any(c.classes != labels.names or c.labels.digest() != labels.digest() for _, _, c in loaded):
        raise FormatError("the models do not have the same label map; judge them one by one")
    names = _names(weights)
    judged = [Judgement(name, labels) for name in names]
    predictors = [Predictor(model, card.voxels, settings.device) for _, model, card in loaded]
    placement = Placement(z_offset=settings.z_offset)
    shown = _short(sources)
    for source, label_file, title in zip(sources, truths, shown, strict=True):
        cloud = Reading().read(source)
        points = placement(cloud)
        truth = None if label_file is None else _truth(label_file, cloud, labels)
        panels = [] if truth is None else [("labels", truth)]
        for one, predictor in zip(judged, predictors, strict=True):
            targets = predictor(points, cloud.intensity, str(source)).targets
            one.add(title, points, targets, truth)
            panels.append((one.model, targets))
        if settings.out is not None:
            _draw(settings.out / f"{title.replace('/', '-')}.png", title, points, panels, labels)
    for table in (shares_table(judged), ground_table(judged), iou_table(judged)):
        if table:
            print(f"\n{table}")
    return judged


def _labels_of(settings: JudgeSettings, sources: list[Path]) -> list[Path | None]:
    if not settings.labels:
        return [None] * len(sources)
    if len(settings.labels) != len(sources):
        raise RangeError(
            f"{len(settings.labels)} label files for {len(sources)} sweeps; name one for each, "
            f"{_NO_LABELS} where there is none"
        )
    return [None if given == _NO_LABELS else Path(given) for given in settings.labels]


def _model(name: str) -> Path:
    path = Path(name)
    return path if path.exists() or path.suffix else model_named(name)


def _names(weights: Sequence[Path]) -> list[str]:
    """Stems, or the ends of the paths where stems are alike."""
    paths = [path.with_suffix("") if path.suffix else path for path in weights]
    return _short(paths)


def _short(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of paths that tell all of them apart."""
    parts = [path.resolve().parts for path in paths]
    depth = 1
    while depth < max(map(len, parts), default=1) and len({p[-depth:] for p in parts}) < len(set(parts)):
        depth += 1
    return ["/".join(p[-depth:]) for p in parts]


def _truth(path: Path, cloud: PointCloud, labels: LabelMap) -> npt.NDArray[np.int64]:
    raw = read_labels(path, cloud.n_file)[cloud.kept]
    return np.asarray(labels.to_target(raw, source=path), np.int64)


def _draw(
    path: Path,
    title: str,
    points: npt.NDArray[np.float32],
    panels: Sequence[tuple[str, npt.NDArray[np.int64]]],
    labels: LabelMap,
) -> None:
    """A picture a panel, below one another."""
    drawn = [
        draw_classes(points, targets, labels.names, labels.colors, title=f"{name}: {title}")
        for name, targets in panels
    ]
    save_png(path, np.concatenate(drawn))
    print(f"{path}")


def main(arguments: Sequence[str]) -> int:
    """Parse a command line and run it."""
    parser = argparse.ArgumentParser(prog="judge_models.py", description=__doc__)
    parser.add_argument("sources", nargs="+", help="sweeps: files, folders or patterns")
    parser.add_argument(
        "--models",
        nargs="+",
        default=[],
        metavar="MODEL",
        help=".safetensors files, folders of runs, or names of brought models (default: all brought ones)",
    )
    parser.add_argument(
        "--labels",
        nargs="+",
        default=[],
        metavar="LABEL",
        help=f"a .label file for each sweep, in their order; {_NO_LABELS} where there is none",
    )
    parser.add_argument("--out", type=Path, help="folder for pictures (default: none)")
    parser.add_argument("--z-offset", type=float, default=0.0, help="metres added to every z")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(arguments)
    run(
        JudgeSettings(
            tuple(given.sources), tuple(given.models), tuple(given.labels), given.out, given.z_offset,
            given.device,
        )
    )  # fmt: skip
    return 0
