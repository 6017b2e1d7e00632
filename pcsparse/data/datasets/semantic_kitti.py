"""SemanticKITTI, and every data set in its layout: labelled sweeps by split and sequence."""

import hashlib
import json
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from pcsparse.data.files import read_labels, read_points
from pcsparse.data.label_map import LabelMap
from pcsparse.errors import FormatError, RangeError

Split = Literal["train", "val", "test"]

SEQUENCES: dict[str, tuple[str, ...]] = {
    "train": ("00", "01", "02", "03", "04", "05", "06", "07", "09", "10"),
    "val": ("08",),
    "test": tuple(f"{i:02d}" for i in range(11, 22)),
}
"""The standard split. Source: PRBonn/semantic-kitti-api@a9c749e:config/semantic-kitti.yaml."""

_log = logging.getLogger(__name__)
_COLUMNS = _LEAST_COLUMNS = 4
# the upper half of a label
_INSTANCE_SHIFT = 16
_SYNTHETIC_MARK = "synthetic.json"


@dataclass(frozen=True, eq=False)
class Sweep:
    """One turn of the sensor, in the order of the file.

    Attributes:
        points: (n, 3) float32, metres, sensor frame (x forward, y left, z up). Invalid rows of the file are
            kept, so that row i is row i of the file.
        intensity: (n,) float32, 0-1.
        targets: (n,) int64, 0 ... n_classes - 1 or -1; None without labels.
        name: sequence and frame, for example `08/000123`.
        instances: (n,) int64, which object of its class a point belongs to, 0 for none; None without labels.
        beams: (n,) int64, which beam of the sensor measured it; None where the file does not say.
    """

    points: npt.NDArray[np.float32]
    intensity: npt.NDArray[np.float32]
    targets: npt.NDArray[np.int64] | None
    name: str
    instances: npt.NDArray[np.int64] | None = None
    beams: npt.NDArray[np.int64] | None = None


class Frame(NamedTuple):
    """Where a sweep lies; `labels` is None where there are none."""

    name: str
    points: Path
    labels: Path | None


class SemanticKitti(Dataset[Sweep]):
    """Sweeps of a root in SemanticKITTI's layout (`datasets/semantickitti/README.md`), simulated ones too.

    Sequences of the split that the root lacks are left out, with a log line; sequences asked for by name must
    be there. The order is that of the names.

    Args:
        root: the folder that holds `sequences`, or the one that holds `dataset/sequences`.
        split: `train` and `val` must have a label file for each sweep; `test` may lack them, then the sweep's
            targets are None.
        sequences: names such as `"08"`, in place of the split's own; None takes those.
        label_map: what the raw ids of the label files mean: a map, or the path of a `labels.toml`. None loads
            the one of SemanticKITTI, or of the simulator for a root with `synthetic.json`.
        columns: float32 numbers a point in the `.bin` files: x, y, z, intensity and what is not read.
        intensity_scale: what 1.0 is in the files' intensity, for example 255.

    Attributes:
        frames: where each sweep lies.
        label_map: what the labels mean.

    Raises:
        FormatError: no such root, no sweep in the split, or labels missing; the text names them. Or no label
            map.
        RangeError: unknown split, or no intensity among the columns.
    """

    def __init__(
        self,
        root: str | Path,
        split: Split = "train",
        sequences: Sequence[str] | None = None,
        label_map: LabelMap | str | Path | None = None,
        columns: int = 4,
        intensity_scale: float = 1.0,
    ) -> None:
        if split not in SEQUENCES:
            raise RangeError(f"split must be one of {', '.join(SEQUENCES)}, got {split!r}")
        if columns < _LEAST_COLUMNS or not 0 < intensity_scale < float("inf"):
            raise RangeError(
                f"columns must be at least {_LEAST_COLUMNS} (x, y, z, intensity) and intensity_scale "
                f"positive and finite, got {columns} and {intensity_scale}"
            )
        self.root = _sequences_folder(Path(root)).parent
        self.split = split
        self.columns = columns
        self.intensity_scale = intensity_scale
        brought = LabelMap.load("synthetic" if _is_synthetic(self.root) else "semantickitti")
        self.label_map = brought if label_map is None else _label_map(label_map)
        names = SEQUENCES[split] if sequences is None else tuple(str(name) for name in sequences)
        self.frames = _frames(self.root / "sequences", names, split, optional=sequences is None)

    def __len__(self) -> int:
        return len(self.frames)

    def __repr__(self) -> str:
        return f"SemanticKitti(root={str(self.root)!r}, split={self.split!r}, sweeps={len(self)})"

    def file_digest(self) -> str:
        """The first sweep and the last, their number, and a digest of all names and the point files' sizes.

        Another folder that holds the same files gives the same text. Where they are not read as those of
        SemanticKITTI, it says how.
        """
        digest = hashlib.sha256()
        for frame in self.frames:
            digest.update(f"{frame.name} {_size(frame.points)}\n".encode())
        first, last = self.frames[0].name, self.frames[-1].name
        read = "" if self.columns == _COLUMNS else f", {self.columns} columns"
        read += "" if self.intensity_scale == 1.0 else f", intensity of {self.intensity_scale:g}"
        return f"{first} to {last}, {len(self)} in all, {digest.hexdigest()[:16]}{read}"

    def __getitem__(self, index: int) -> Sweep:
        """Sweep `index`, read from disk.

        Raises:
            FormatError: the point file is broken, the labels do not match it, or hold an unknown raw id.
        """
        frame = self.frames[index]
        # rows are kept, so that labels and predictions stay aligned with the file
        try:
            cloud = read_points(
                frame.points, columns=self.columns, invalid="keep", intensity_scale=self.intensity_scale
            )
        except FormatError as error:
            raise FormatError(
                f"{error}. For all files of a data set: columns, {self.columns} here (data.columns=N), and "
                f"intensity_scale, {self.intensity_scale:g} here (data.intensity_scale=S)"
            ) from error
        targets = instances = None
        if frame.labels is not None:
            raw = read_labels(frame.labels, cloud.n_file)
            targets = self.label_map.to_target(raw, source=frame.labels)
            instances = (raw >> _INSTANCE_SHIFT).astype(np.int64)
        intensity = np.zeros(0, np.float32) if cloud.intensity is None else cloud.intensity
        n_bad = int((~(np.isfinite(cloud.points).all(axis=1) & np.isfinite(intensity))).sum())
        if n_bad:
            warnings.warn(
                f"{frame.points}: {n_bad} of {cloud.n_file} points are NaN or infinite", stacklevel=2
            )
        return Sweep(cloud.points, intensity, targets, frame.name, instances)


def _sequences_folder(root: Path) -> Path:
    for candidate in (root / "sequences", root / "dataset" / "sequences"):
        if candidate.is_dir():
            return candidate
    raise FormatError(
        f"{root} is no SemanticKITTI root: neither {root / 'sequences'} nor {root / 'dataset' / 'sequences'} "
        "is a folder; see datasets/semantickitti/README.md, or make one with scripts/make_synthetic.py"
    )


def _label_map(given: LabelMap | str | Path) -> LabelMap:
    return given if isinstance(given, LabelMap) else LabelMap.from_toml(given)


def _is_synthetic(root: Path) -> bool:
    mark = root / _SYNTHETIC_MARK
    if not mark.is_file():
        return False
    try:
        complete = json.loads(mark.read_text(encoding="utf-8")).get("complete", True)
    except (ValueError, AttributeError) as error:
        raise FormatError(f"{mark} is no record of the simulator ({error}); make the root again") from error
    if not complete:
        _log.warning("%s is unfinished: resume it with scripts/make_synthetic.py for all its sweeps", root)
    return True


def _frames(folder: Path, names: tuple[str, ...], split: Split, *, optional: bool) -> tuple[Frame, ...]:
    missing = [name for name in names if not (folder / name / "velodyne").is_dir()]
    if missing and not optional:
        raise FormatError(f"{folder} lacks the sequences {', '.join(missing)}; it has {_held(folder)}")
    frames = [frame for name in names if name not in missing for frame in _frames_of(folder / name)]
    if not frames:
        without = "; to train without validation, set data.val=null" if split == "val" else ""
        raise FormatError(
            f"no sweep for split {split!r} under {folder}: looked for sequences {', '.join(names)} "
            f"(NN/velodyne/*.bin); it has {_held(folder)}{without}"
        )
    if missing:
        _log.warning("%s: split %s goes without sequences %s", folder, split, ", ".join(missing))
    unlabelled = [frame.name for frame in frames if frame.labels is None]
    if unlabelled and split != "test":
        raise FormatError(
            f"{folder}: {len(unlabelled)} of {len(frames)} sweeps of split {split!r} have no label file "
            f"(first: {unlabelled[0]}); unpack the labels beside velodyne/, or use split 'test'"
        )
    return tuple(frames)


def _held(folder: Path) -> str:
    held = sorted(child.parent.name for child in folder.glob("*/velodyne"))
    return f"sequences {', '.join(held)}" if held else "no sequence with a velodyne folder"


def _frames_of(sequence: Path) -> list[Frame]:
    # one listing a folder: asking for each of 19,000 label files is slow on network disks
    labelled = {path.stem for path in _visible(sequence / "labels", "*.label")}
    return [
        Frame(
            name=f"{sequence.name}/{path.stem}",
            points=path,
            labels=sequence / "labels" / f"{path.stem}.label" if path.stem in labelled else None,
        )
        for path in _visible(sequence / "velodyne", "*.bin")
    ]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        # a link that leads nowhere: whoever reads the sweep says so
        return -1


def _visible(folder: Path, pattern: str) -> list[Path]:
    """Files by name, without those that a Mac puts beside each in its archives (`._000000.bin`)."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))
