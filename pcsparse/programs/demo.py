"""`make demo`: from nothing to segmented sweeps, simulated and real, and a verdict.

    python -m pcsparse.programs.demo [--out demo-out]

Exits with 1 unless the short training run learns and the default checkpoint meets every bar below.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from pcsparse.config import InferSettings
from pcsparse.data.collate import VoxelSettings
from pcsparse.data.datasets.semantic_kitti import SemanticKitti
from pcsparse.data.files import read_labels, read_points
from pcsparse.data.label_map import LabelMap
from pcsparse.data.synthetic.sensor import sensor_named
from pcsparse.data.synthetic.writer import write_towns
from pcsparse.data.transforms import Augmentation, RandomFlip, RandomYaw
from pcsparse.errors import FormatError, PcsparseError
from pcsparse.models import MinkUNet, MinkUNetSpec
from pcsparse.programs import infer
from pcsparse.programs.default_model import checkpoint_or_default
from pcsparse.programs.ground_rule import GROUND, ground_shares
from pcsparse.train.evaluation import evaluate
from pcsparse.train.fit import fit
from pcsparse.train.metrics import SemanticKittiMetrics
from pcsparse.train.model_file import load_model
from pcsparse.train.settings import FitSettings, OptimSettings

# town seeds that no shipped model was trained on (its card lists those it was)
_TRAIN_TOWNS = {"00": 910_000, "01": 910_001, "02": 910_002}
_HELD_OUT_TOWNS = {"08": 920_000, "11": 920_001, "12": 920_002, "13": 920_003}
_SWEEPS = 6

# bars of the default checkpoint on held-out streets
_MIOU = 0.25
_CLASS_IOU = 0.50
_BARRED = ("road", "building", "vegetation", "car")
# and on a real sweep, whose labels nobody has: of `ground_rule`
_SHARE = 0.85
# the short run: the loss of its last steps against that of its first ones
_LEARNT = 0.7

# patterns, by what the pictures are called
_REAL_SWEEPS = {
    "semantickitti-000000": "semantickitti/dataset/sequences/00/velodyne/000000.bin",
    "kitti-000000": "kitti/training/velodyne/000000.bin",
    "kitti-000001": "kitti/training/velodyne/000001.bin",
    "kitti-odometry-000049": "kitti_odometry/000049.bin",
    "nuscenes": "nuscenes/samples/LIDAR_TOP/*.pcd.bin",
}


@dataclass(frozen=True)
class DemoSettings:
    """What to show.

    Args:
        out: folder of everything the demo writes; replaced if it is there.
        checkpoint: model to judge; if None the default one, and on sweeps without labels the one that fits.
        real_data: folder of real samples, see `_REAL_SWEEPS`; none if None.
        epochs: passes of the short training run over its sweeps.
    """

    out: Path = Path("demo-out")
    checkpoint: str | None = None
    real_data: Path | None = None
    epochs: int = 16


@dataclass
class _Verdict:
    """Bars and what was reached."""

    lines: list[str] = field(default_factory=list)
    passed: bool = True

    def bar(self, what: str, value: float, least: float) -> None:
        """Record one bar; NaN fails."""
        met = value >= least
        self.passed &= met
        mark = "ok  " if met else "FAIL"
        self.lines.append(f"  {mark} {what:<80} {100 * value:6.1f} %   at least {100 * least:.0f} %")


def run(settings: DemoSettings) -> int:
    """Run the demo.

    Returns:
        0 where every bar is met, else 1.

    Raises:
        PcsparseError: something could not be read, trained or drawn.
    """
    began = time.monotonic()
    # first, so that a missing or broken model costs no minute
    checkpoint = checkpoint_or_default(settings.checkpoint)
    load_model(checkpoint)
    labels, verdict = LabelMap.load("semantickitti"), _Verdict()

    _say(began, "1/5 simulate a small town: three streets to train on, four to judge by")
    town = settings.out / "town"
    towns = {**_TRAIN_TOWNS, **_HELD_OUT_TOWNS}
    write_towns(town, towns, _SWEEPS, sensor_named("hdl64e"), existing="replace", report=print)
    held_out = SemanticKitti(town, "val", sequences=list(_HELD_OUT_TOWNS), label_map=labels)

    _say(began, "2/5 train a small network from scratch, a minute or two")
    _train(settings, town, labels, verdict)

    _say(began, f"3/5 evaluate the default model on {len(held_out)} sweeps of held-out streets")
    _evaluate(checkpoint, held_out, labels, verdict)

    _say(began, "4/5 segment sweeps without labels, and draw them")
    simulated = {"simulated-08-000000": town / "sequences" / "08" / "velodyne" / "000000.bin"}
    real = _real_files(settings.real_data)
    pictures = settings.out / "pictures"
    # what an earlier demo left must not be judged, nor shown
    shutil.rmtree(pictures, ignore_errors=True)
    for name, file in (simulated | real).items():
        if infer.run(InferSettings((str(file),), out=str(pictures / name), checkpoint=settings.checkpoint)):
            raise FormatError(f"inference on {file} failed, see above")

    _say(began, "5/5 the verdict")
    for name, file in real.items():
        _judge_real(name, file, pictures / name / f"{file.stem}.label", labels, verdict)
    if not real:
        verdict.lines.append(
            "  --   no real sweep is here (PCSPARSE_REAL_DATA is not set), so none was judged"
        )
    print("\n".join(verdict.lines))
    print("\npictures:")
    for picture in sorted(pictures.rglob("*.png")):
        print(f"  {picture}")
    print(f"\ndemo {'passed' if verdict.passed else 'FAILED'} in {time.monotonic() - began:.0f} s")
    return 0 if verdict.passed else 1


def _say(began: float, line: str) -> None:
    print(f"\n== [{time.monotonic() - began:4.0f} s] {line}", flush=True)


def _train(settings: DemoSettings, town: Path, labels: LabelMap, verdict: _Verdict) -> None:
    train_set = SemanticKitti(town, "train", sequences=list(_TRAIN_TOWNS), label_map=labels)
    val_set = SemanticKitti(town, "val", sequences=list(_HELD_OUT_TOWNS)[:1], label_map=labels)
    torch.manual_seed(0)
    model = MinkUNet(MinkUNetSpec.minkunet14(width=0.25))
    folder = settings.out / "run"
    chosen = FitSettings(
        epochs=settings.epochs,
        batch_size=1,
        voxels=VoxelSettings(voxel_size=0.2),
        optim=OptimSettings(lr=4e-3),
        validate_every=max(1, settings.epochs // 2),
        checkpoint_every=0,
        progress="plain",
        resume="overwrite",
    )
    augmentation = Augmentation(steps=(RandomYaw(), RandomFlip()))
    fit(model, train_set, val_set, chosen, folder, labels=labels, augmentation=augmentation)
    losses = np.genfromtxt(folder / "log.csv", delimiter=",", names=True)["loss"]
    few = max(1, len(losses) // 10)
    first, last = float(losses[:few].mean()), float(losses[-few:].mean())
    print(f"loss: {first:.3f} over the first {few} steps, {last:.3f} over the last {few}")
    verdict.bar("short training run: fall of the loss", 1 - last / first, 1 - _LEARNT)


def _evaluate(checkpoint: Path, held_out: SemanticKitti, labels: LabelMap, verdict: _Verdict) -> None:
    model, card = load_model(checkpoint)
    confusion = evaluate(
        model, held_out, card.voxels, labels.n_classes, device=torch.device("cpu"), workers=1
    )
    metrics = SemanticKittiMetrics.of(confusion)
    print(metrics.table(labels.names))
    verdict.bar("default model, held-out streets: mIoU of 19 classes", metrics.mean_iou, _MIOU)
    for name in _BARRED:
        iou = float(metrics.iou[labels.names.index(name)])
        verdict.bar(f"default model, held-out streets: IoU of {name}", iou, _CLASS_IOU)


def _real_files(folder: Path | None) -> dict[str, Path]:
    """The real sweeps that are there, by a name that tells them apart."""
    if folder is None:
        return {}
    found = {name: sorted(folder.glob(pattern)) for name, pattern in _REAL_SWEEPS.items()}
    return {name: files[0] for name, files in found.items() if files}


def _judge_real(name: str, file: Path, label_file: Path, labels: LabelMap, verdict: _Verdict) -> None:
    cloud = read_points(file)
    raw = read_labels(label_file, cloud.n_file)[cloud.kept]
    ground = labels.to_raw(np.array([labels.names.index(name) for name in GROUND]))
    low, high = ground_shares(cloud.points, np.isin(raw, ground))
    verdict.bar(f"{name}: ground where it is low", low, _SHARE)
    verdict.bar(f"{name}: no ground where it is high", high, _SHARE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description="From nothing to segmented sweeps, and a verdict.")
    parser.add_argument("--out", type=Path, default=DemoSettings.out, help="folder for all that is written")
    parser.add_argument("--checkpoint", help="model to judge; the default one if not given")
    parser.add_argument("--epochs", type=int, default=DemoSettings.epochs, help="of the short training run")
    given = parser.parse_args(arguments)
    real = os.environ.get("PCSPARSE_REAL_DATA")
    try:
        return run(DemoSettings(given.out, given.checkpoint, Path(real) if real else None, given.epochs))
    except PcsparseError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
