"""The files of `pcsparse infer`: how one is read, what is written for it and said of it."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from pcsparse.config import InferSettings
from pcsparse.data.collate import VoxelSettings
from pcsparse.data.files import EXTENSIONS, read_points, write_classes, write_labels
from pcsparse.data.files_table import CLASS_COLUMN, LAS_CLASS, PointClasses
from pcsparse.data.label_map import IGNORE, LabelMap
from pcsparse.data.point_cloud import InvalidPolicy, PointCloud
from pcsparse.errors import RangeError
from pcsparse.whole_file import write_whole

LABEL, SAME = "label", "same"
FORMATS = (LABEL, SAME, *(ending.removeprefix(".") for ending in EXTENSIONS))
"""What `--format` takes: raw ids alone, the format of the input, or any that can be written."""

# what the copies no longer are: nuScenes has five columns, a COPC an octree
_PLAIN_ENDINGS = {".pcd.bin": ".bin", ".copc.laz": ".laz"}

LEGEND = "classes.csv"
"""File beside point files with classes: what their ids mean."""


@dataclass(frozen=True)
class Job:
    """One file and where its outputs go."""

    source: Path
    outputs: tuple[Path, ...]
    picture: Path | None
    page: Path | None

    @property
    def written(self) -> tuple[Path, ...]:
        """All that is written for it."""
        return tuple(path for path in (*self.outputs, self.picture, self.page) if path is not None)

    @property
    def done(self) -> bool:
        """Whether all outputs are there."""
        return all(path.is_file() for path in self.written)

    @property
    def listed(self) -> str:
        """The outputs, for a message."""
        return ", ".join(map(str, self.written))


def read_source(source: Path, settings: InferSettings) -> PointCloud:
    """Read one file as the settings say; what was dropped is among the notes.

    Raises:
        FormatError: as `read_points`.
    """
    # other formats say themselves what they hold
    of_bin = source.suffix.lower() == ".bin"
    with warnings.catch_warnings():
        # the notes are printed
        warnings.simplefilter("ignore", UserWarning)
        return read_points(
            source,
            columns=settings.columns if of_bin else None,
            dtype=settings.dtype if of_bin else None,
            invalid=cast(InvalidPolicy, settings.invalid),
            intensity_scale=settings.intensity_scale,
        )


def output_paths(source: Path, name: str, settings: InferSettings) -> tuple[Path, ...]:
    """Where the outputs of one input go.

    Args:
        source: the input.
        name: what its outputs are named by: the stem, or the whole name where a stem is not unique.
        settings: `formats` and `out`.

    Raises:
        RangeError: an unknown format, or an output that is an input.
    """
    unknown = sorted(set(settings.formats) - set(FORMATS))
    if unknown or not settings.formats:
        got = ", ".join(unknown) or None
        raise RangeError(f"format must be one or more of {', '.join(FORMATS)}, got {got}")
    out = Path(settings.out)
    own = (SAME, source.suffix.lower().removeprefix("."))
    own_name = source.name
    for ending, plain in _PLAIN_ENDINGS.items():
        if own_name.lower().endswith(ending):
            own_name = own_name[: -len(ending)] + plain
    paths = [out / own_name if form in own else out / f"{name}.{form}" for form in settings.formats]
    for path in paths:
        if path.resolve() == source.resolve():
            raise RangeError(f"{path} would be overwritten by its own classes; give another --out")
        if path.name == LEGEND:
            raise RangeError(f"{path} is the file that says what the classes are; rename {source}")
    return tuple(dict.fromkeys(paths))


def write_outputs(
    paths: tuple[Path, ...],
    source: Path,
    targets: npt.NDArray[np.integer],
    confidence: npt.NDArray[np.float32],
    labels: LabelMap,
    settings: InferSettings,
) -> tuple[str, ...]:
    """Write all outputs of one file.

    Args:
        paths: of `output_paths`.
        source: the file.
        targets: (n_file,) a row for every row of the file; `IGNORE` where there is no prediction.
        confidence: (n_file,) 0-1, 0 there.
        labels: the label set.
        settings: how the file was read.

    Returns:
        Notes for the user.
    """
    raw = labels.to_raw(targets)
    notes: list[str] = []
    for path in paths:
        if path.suffix == f".{LABEL}":
            write_labels(path, raw)
            continue
        classes = PointClasses(raw.astype(np.uint16), confidence, labels.to_las(targets))
        of_bin = source.suffix.lower() == ".bin"
        said = write_classes(
            path,
            source,
            classes,
            columns=settings.columns if of_bin else None,
            dtype=settings.dtype if of_bin else None,
        )
        notes += [f"{path.name}: {note}" for note in said]
        _write_legend(path.with_name(LEGEND), labels)
    return tuple(notes)


def _write_legend(path: Path, labels: LabelMap) -> None:
    """Names, codes and colours by raw id."""
    rows = [f"{CLASS_COLUMN},name,{LAS_CLASS},red,green,blue", f"{labels.ignore_raw},unlabelled,0,0,0,0"]
    table = zip(labels.raw_ids, labels.names, labels.las_codes, labels.colors, strict=True)
    rows += [f"{raw},{name},{las},{red},{green},{blue}" for raw, name, las, (red, green, blue) in table]
    write_whole(path, ("\n".join(rows) + "\n").encode())


def _left_out(voxels: VoxelSettings, settings: InferSettings) -> str:
    """Which points get no class."""
    reasons = ["not finite"]
    if near := max(voxels.min_range, settings.min_range):
        whose = "" if settings.min_range >= voxels.min_range else ", as in the model's training"
        reasons.append(f"nearer than {near:g} m{whose}")
    if settings.max_range is not None:
        reasons.append(f"beyond {settings.max_range:g} m")
    if voxels.crop is not None:
        reasons.append("outside the model's box")
    return "; ".join(reasons)


def report_shares(
    targets: npt.NDArray[np.integer],
    labels: LabelMap,
    outputs: str,
    voxels: VoxelSettings,
    settings: InferSettings,
) -> None:
    """Print the share of each class, and what got none.

    Args:
        targets: (n_file,) a row for every row of the file.
        labels: the label set.
        outputs: what was written.
        voxels: what the model leaves out.
        settings: what the user leaves out.
    """
    n_file = len(targets)
    if not n_file:
        print(f"  the file has no points: {outputs} hold none either")
        return
    counts = np.bincount(targets[targets != IGNORE], minlength=labels.n_classes)
    for target in np.argsort(-counts, kind="stable"):
        if counts[target]:
            share = 100 * counts[target] / n_file
            print(f"  {labels.names[target]:<16} {counts[target]:>9} {share:6.2f} %")
    n_none = n_file - int(counts.sum())
    if n_none:
        print(
            f"  {'(unlabelled)':<16} {n_none:>9} {100 * n_none / n_file:6.2f} %  "
            f"{_left_out(voxels, settings)}"
        )
    print(f"  wrote {outputs}")
