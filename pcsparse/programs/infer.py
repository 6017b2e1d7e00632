"""`pcsparse infer`: a class for every point of files without labels."""

import os
import time
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pcsparse.allocation import keep_freed_memory
from pcsparse.checks import require_extra
from pcsparse.config import InferSettings, InspectSettings
from pcsparse.data.files_list import list_sources
from pcsparse.data.label_map import IGNORE, LabelMap
from pcsparse.data.placement import Placement
from pcsparse.errors import FormatError, PcsparseError, RangeError, UnsupportedError
from pcsparse.infer.diagnosis import diagnose
from pcsparse.infer.scale_watch import ScaleWatch
from pcsparse.programs.infer_files import Job, output_paths, read_source, report_shares, write_outputs
from pcsparse.programs.infer_models import InferModels
from pcsparse.programs.infer_page import write_page
from pcsparse.programs.infer_tiled import infer_tiled, tile_size
from pcsparse.view.raster import draw_classes, save_png

_POLICIES = ("drop", "raise", "keep")


def run(settings: InferSettings) -> int:
    """Write labels or what else is asked for, and unless declined a picture and a page, for every input.

    A file that cannot be read does not stop the others; it is named, and named again at the end.

    Returns:
        Exit status: 0, or 1 if a file failed.

    Raises:
        FormatError: no such input or checkpoint, or the checkpoint is broken.
        RangeError: a setting has no meaning, or nothing can be written to the folder.
        UnsupportedError: pictures are wanted, and the package that draws them is not installed.
    """
    keep_freed_memory()
    if settings.invalid not in _POLICIES:
        raise RangeError(f"invalid must be one of {', '.join(_POLICIES)}, got {settings.invalid!r}")
    placement = placement_of(settings)
    jobs = _jobs(settings)
    _check_folder(Path(settings.out))
    if settings.picture:
        _check_pictures()
    models = InferModels(settings)
    scales = ScaleWatch()
    failed: dict[Path, Exception] = {}
    for job in jobs:
        if settings.skip_existing and job.done:
            print(f"{job.source}: skipped, {job.listed} is there")
            continue
        try:
            if (tile := tile_size(job.source, settings)) is not None:
                infer_tiled(job, tile, settings, models.whole(), scales)
            else:
                _process(job, settings, placement, models, scales)
        except (PcsparseError, OSError) as error:
            failed[job.source] = error
            print(f"error: {error}")
    if failed:
        print(f"{len(failed)} of {len(jobs)} files failed: {', '.join(map(str, failed))}")
        if any(isinstance(error, FormatError | RangeError) for error in failed.values()):
            print("`pcsparse inspect FILE` says what a file holds, and which flag mends it, if one does")
    return 1 if failed else 0


def _check_folder(out: Path) -> None:
    """Whether outputs can be written there, before any work is lost."""
    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise RangeError(f"--out {out}: {there} is a file; name a folder")
    if not os.access(there, os.W_OK):
        raise RangeError(f"--out {out}: nothing can be written to {there}; name another folder")


def _check_pictures() -> None:
    """Whether pictures can be drawn, before any work is lost."""
    try:
        require_extra("PIL.Image", "view")
    except UnsupportedError as error:
        raise UnsupportedError(f"{error}, or write labels alone with --no-picture") from error


def _jobs(settings: InferSettings) -> list[Job]:
    """Outputs are named by the stem; files that share one keep their ending: a.bin.label and a.npy.label."""
    sources, notes = list_sources(settings.sources, written=settings.out)
    for note in notes:
        print(note)
    stems = Counter(path.stem for path in sources)
    names = [path.stem if stems[path.stem] == 1 else path.name for path in sources]
    out = Path(settings.out)
    jobs = [
        Job(
            source,
            output_paths(source, name, settings),
            out / f"{name}.png" if settings.picture else None,
            out / f"{name}.html" if settings.picture and settings.page else None,
        )
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
    job: Job, settings: InferSettings, placement: Placement, models: InferModels, scales: ScaleWatch
) -> None:
    began = time.perf_counter()
    cloud = read_source(job.source, settings)
    read_s = time.perf_counter() - began
    print(f"{job.source}: {cloud.n_file} points")
    for note in cloud.notes:
        print(f"  note: {note}")
    if (warning := scales.warning(cloud.source, cloud.known_scale)) is not None:
        print(f"  warning: {warning}")
    model, report = models.of(cloud, placement)
    predictor, labels = model.predictor, model.card.labels
    for fault in diagnose(cloud, model.card.input_spec, predictor.voxels, placement, report=report).faults:
        if fault.grave:
            print(f"  warning: {fault}")
    points = placement(cloud)
    prediction = predictor(points, cloud.intensity, str(job.source))
    began = time.perf_counter()
    targets = cloud.to_file_rows(prediction.targets, IGNORE)
    confidence = cloud.to_file_rows(prediction.confidence, 0)
    notes = write_outputs(job.outputs, job.source, targets, confidence, labels, settings)
    write_s = time.perf_counter() - began
    began = time.perf_counter()
    if job.picture is not None:
        _draw(job.picture, points, cloud.source.name, prediction.targets, labels)
    if job.page is not None:
        thinned = write_page(job.page, cloud, points, prediction.targets, prediction.confidence, labels)
        notes += (thinned,) if thinned else ()
    draw_s = time.perf_counter() - began
    report_shares(targets, labels, job.listed, predictor.voxels, settings)
    for note in notes:
        print(f"  note: {note}")
    print(
        f"  read {read_s:.2f} s, voxelise {prediction.voxelize_s:.2f} s, network {prediction.network_s:.2f} s"
        f" ({prediction.n_voxels} voxels), write {write_s:.2f} s, draw {draw_s:.2f} s"
    )


def _draw(
    path: Path, points: npt.NDArray[np.float32], title: str, targets: npt.NDArray[np.int64], labels: LabelMap
) -> None:
    image = draw_classes(points, targets, labels.names, labels.colors, title=title)
    save_png(path, image)
