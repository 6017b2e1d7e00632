"""What `pcsparse infer` writes for a file: labels, or the file itself with classes as columns."""

from pathlib import Path

import numpy as np

from pcsparse.config import InferSettings
from pcsparse.data.files import EXTENSIONS, write_classes, write_labels
from pcsparse.data.files_table import CLASS_COLUMN, LAS_CLASS, PointClasses
from pcsparse.data.label_map import LabelMap
from pcsparse.data.point_cloud import PointCloud
from pcsparse.errors import RangeError
from pcsparse.infer.predictor import Prediction
from pcsparse.whole_file import write_whole

LABEL, SAME = "label", "same"
FORMATS = (LABEL, SAME, *(ending.removeprefix(".") for ending in EXTENSIONS))
"""What `--format` takes: raw ids alone, the format of the input, or any that can be written."""

LEGEND = "classes.csv"
"""File beside point files with classes: what their ids mean."""


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
    # its own format keeps its own name: also that of nuScenes' .pcd.bin
    own = (SAME, source.suffix.lower().removeprefix("."))
    paths = [out / source.name if form in own else out / f"{name}.{form}" for form in settings.formats]
    for path in paths:
        if path.resolve() == source.resolve():
            raise RangeError(f"{path} would be overwritten by its own classes; give another --out")
    return tuple(dict.fromkeys(paths))


def write_outputs(
    paths: tuple[Path, ...],
    cloud: PointCloud,
    prediction: Prediction,
    labels: LabelMap,
    settings: InferSettings,
) -> tuple[str, ...]:
    """Write all outputs of one file, a row for every row of it: what was dropped is unlabelled.

    Returns:
        Notes for the user.
    """
    raw = cloud.to_file_rows(labels.to_raw(prediction.targets), labels.ignore_raw)
    notes: list[str] = []
    for path in paths:
        if path.suffix == f".{LABEL}":
            write_labels(path, raw)
            continue
        classes = PointClasses(
            raw.astype(np.uint16),
            cloud.to_file_rows(prediction.confidence, 0),
            cloud.to_file_rows(labels.to_las(prediction.targets), 0),
        )
        of_bin = cloud.source.suffix.lower() == ".bin"
        said = write_classes(
            path,
            cloud.source,
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
