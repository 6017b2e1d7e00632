"""`pcsparse infer`: a class for every point of files without labels."""

import time
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from pcsparse.allocation import keep_freed_memory
from pcsparse.config import InferSettings, InspectSettings
from pcsparse.data.files import list_point_files, read_points
from pcsparse.data.label_map import IGNORE, LabelMap
from pcsparse.data.placement import Placement
from pcsparse.data.point_cloud import InvalidPolicy, PointCloud
from pcsparse.engine.tune_cache import load_table
from pcsparse.errors import PcsparseError, RangeError
from pcsparse.infer.diagnosis import diagnose
from pcsparse.infer.predictor import Prediction, Predictor
from pcsparse.nn.tuning import use_tuning
from pcsparse.programs.default_model import checkpoint_or_default
from pcsparse.programs.infer_outputs import output_paths, write_outputs
from pcsparse.train.model_file import ModelCard, load_model
from pcsparse.view.raster import draw_classes, save_png

_POLICIES = ("drop", "raise", "keep")


@dataclass(frozen=True)
class _Job:
    """One file and where its outputs go."""

    source: Path
    outputs: tuple[Path, ...]
    picture: Path | None

    @property
    def done(self) -> bool:
        return all(path.is_file() for path in (*self.outputs, self.picture) if path is not None)

    @property
    def listed(self) -> str:
        return ", ".join(str(path) for path in (*self.outputs, self.picture) if path is not None)


def run(settings: InferSettings) -> int:
    """Write a label file or what else is asked for, and a picture unless declined, for every input.

    A file that cannot be read does not stop the others; it is named, and named again at the end.

    Returns:
        Exit status: 0, or 1 if a file failed.

    Raises:
        FormatError: no such input or checkpoint, or the checkpoint is broken.
        RangeError: a setting has no meaning.
    """
    keep_freed_memory()
    if settings.invalid not in _POLICIES:
        raise RangeError(f"invalid must be one of {', '.join(_POLICIES)}, got {settings.invalid!r}")
    placement = placement_of(settings)
    jobs = _jobs(settings)
    checkpoint = checkpoint_or_default(settings.checkpoint)
    model, card = load_model(checkpoint)
    labels = LabelMap.load(card.label_set)
    voxels = card.voxels
    if settings.voxel_size is not None:
        print(
            f"warning: voxels of {settings.voxel_size:g} m, the model was trained on {voxels.voxel_size:g} m"
        )
        voxels = replace(voxels, voxel_size=settings.voxel_size)
    if settings.tuned is not None:
        use_tuning(model, load_table(settings.tuned))
    predictor = Predictor(model, voxels, settings.device)
    print(f"model {checkpoint}, {voxels.voxel_size:g} m voxels, {labels.n_classes} classes")
    failed = []
    for job in jobs:
        if settings.skip_existing and job.done:
            print(f"{job.source}: skipped, {job.listed} is there")
            continue
        try:
            _process(job, settings, placement, predictor, card, labels)
        except (PcsparseError, OSError) as error:
            failed.append(job.source)
            print(f"error: {error}")
    if failed:
        print(f"{len(failed)} of {len(jobs)} files failed: {', '.join(map(str, failed))}")
    return 1 if failed else 0


def _jobs(settings: InferSettings) -> list[_Job]:
    """Outputs are named by the stem; files that share one keep their ending: a.bin.label and a.npy.label."""
    sources = list(dict.fromkeys(path for given in settings.sources for path in list_point_files(given)))
    stems = Counter(path.stem for path in sources)
    names = [path.stem if stems[path.stem] == 1 else path.name for path in sources]
    out = Path(settings.out)
    jobs = [
        _Job(source, output_paths(source, name, settings), out / f"{name}.png" if settings.picture else None)
        for source, name in zip(sources, names, strict=True)
    ]
    doubled = sorted(path for path, n in Counter(p for job in jobs for p in job.outputs).items() if n > 1)
    if doubled:
        raise RangeError(
            f"several inputs would write {doubled[0]}; give them to separate runs with other --out"
        )
    return jobs


def placement_of(settings: InferSettings | InspectSettings) -> Placement:
    """The placement that the settings ask for.

    Raises:
        RangeError: a value has no meaning.
    """
    return Placement(
        scale=settings.scale,
        up=settings.up,
        origin=settings.origin,
        min_range=settings.min_range,
        max_range=settings.max_range,
        z_offset=settings.z_offset,
    )


def _process(
    job: _Job,
    settings: InferSettings,
    placement: Placement,
    predictor: Predictor,
    card: ModelCard,
    labels: LabelMap,
) -> None:
    began = time.perf_counter()
    cloud = _read(job.source, settings)
    read_s = time.perf_counter() - began
    print(f"{job.source}: {cloud.n_file} points")
    for note in cloud.notes:
        print(f"  note: {note}")
    for fault in diagnose(cloud, card.input_spec, predictor.voxels, placement).faults:
        if fault.grave:
            print(f"  warning: {fault}")
    points = placement(cloud)
    prediction = predictor(points, cloud.intensity, str(job.source))
    began = time.perf_counter()
    notes = write_outputs(job.outputs, cloud, prediction, labels, settings)
    write_s = time.perf_counter() - began
    began = time.perf_counter()
    if job.picture is not None:
        _draw(job.picture, points, cloud.source.name, prediction.targets, labels)
    draw_s = time.perf_counter() - began
    _report(job, cloud, prediction, labels)
    for note in notes:
        print(f"  note: {note}")
    print(
        f"  read {read_s:.2f} s, voxelise {prediction.voxelize_s:.2f} s, network {prediction.network_s:.2f} s"
        f" ({prediction.n_voxels} voxels), write {write_s:.2f} s, draw {draw_s:.2f} s"
    )


def _read(source: Path, settings: InferSettings) -> PointCloud:
    # other formats say themselves what they hold
    of_bin = source.suffix.lower() == ".bin"
    with warnings.catch_warnings():
        # what was dropped is among the notes of the cloud, which are printed
        warnings.simplefilter("ignore", UserWarning)
        return read_points(
            source,
            columns=settings.columns if of_bin else None,
            dtype=settings.dtype if of_bin else None,
            invalid=cast(InvalidPolicy, settings.invalid),
            intensity_scale=settings.intensity_scale,
        )


def _report(job: _Job, cloud: PointCloud, prediction: Prediction, labels: LabelMap) -> None:
    """The share of each class, and what got none."""
    if not cloud.n_file:
        print(f"  the file has no points: {job.listed} hold none either")
        return
    counts = np.bincount(prediction.targets[prediction.targets != IGNORE], minlength=labels.n_classes)
    for target in np.argsort(-counts, kind="stable"):
        if counts[target]:
            share = 100 * counts[target] / cloud.n_file
            print(f"  {labels.names[target]:<16} {counts[target]:>9} {share:6.2f} %")
    n_none = cloud.n_file - int(counts.sum())
    if n_none:
        print(
            f"  {'(unlabelled)':<16} {n_none:>9} {100 * n_none / cloud.n_file:6.2f} %  "
            "not finite, cropped or out of range"
        )
    print(f"  wrote {job.listed}")


def _draw(
    path: Path, points: npt.NDArray[np.float32], title: str, targets: npt.NDArray[np.int64], labels: LabelMap
) -> None:
    image = draw_classes(points, targets, labels.names, labels.colors, title=title)
    save_png(path, image)
