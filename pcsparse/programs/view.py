"""`pcsparse view`: point files, and what is known of them, as one page to open in a browser."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pcsparse.config import ViewSettings
from pcsparse.data.box_files import LabelledBox, read_boxes
from pcsparse.data.files import read_classes, read_labels, read_points
from pcsparse.data.files_list import list_sources
from pcsparse.data.label_map import IGNORE, LabelMap
from pcsparse.data.placement import Placement
from pcsparse.data.point_cloud import PointCloud
from pcsparse.data.pose_files import Pose, read_av2_poses, read_kitti_poses
from pcsparse.errors import FormatError, RangeError, UnsupportedError
from pcsparse.infer.scale_watch import ScaleWatch
from pcsparse.programs.infer_page import classes_of
from pcsparse.programs.view_files import Companions, companions_of
from pcsparse.train.model_file import ModelCard, find_weights
from pcsparse.view.page import Box, Sweep, save_page
from pcsparse.view.page_payload import CELLS, Grid
from pcsparse.view.palette import Legend, class_colors, height_colors, value_colors
from pcsparse.view.raster import Background, draw, save_png
from pcsparse.view.sheet import THEMES

_INSTANCE_SHIFT = 16
# metres between cells of a page from which a sensor's points look like a grid
_FINE_M = 0.02


def run(settings: ViewSettings) -> int:
    """Write the page, and a picture where asked for.

    Returns:
        Exit status: 0.

    Raises:
        FormatError: a file is missing or broken, or labels do not fit their points.
        RangeError: a setting has no meaning, or there are more points than a page holds.
        UnsupportedError: a format needs an extra.
    """
    if settings.every < 1:
        raise RangeError(f"every must be at least 1, got {settings.every}")
    sources, notes = list_sources(settings.sources)
    for note in notes:
        print(note)
    labels = _label_map(settings.label_set)
    placement = Placement(scale=settings.scale, up=settings.up)
    scales = ScaleWatch()
    sweeps = [_sweep(source, settings, placement, labels, scales) for source in sources]
    sweeps = _with_poses(sweeps, sources, settings)
    classes = classes_of(labels) if any(_has_classes(sweep) for sweep in sweeps) else None
    out = Path(settings.out)
    size = save_page(
        out,
        sweeps,
        classes,
        title=settings.title or sources[0].name,
        theme="light" if settings.light else "dark",
    )
    for sweep in sweeps:
        step = max(Grid.of(sweep.points[np.isfinite(sweep.points).all(axis=1)]).step)
        if step > _FINE_M:
            print(
                f"  note: {sweep.name} spans {step * CELLS:,.0f} m, so its points lie on a grid of "
                f"{1000 * step:.0f} mm; stray points far away are often the reason"
            )
    number = f"{len(sweeps)} sweep{'s' if len(sweeps) > 1 else ''}"
    print(f"wrote {out}: {number}, {sum(len(s.points) for s in sweeps):,} points, {size:,} bytes")
    if settings.picture:
        picture = out.with_suffix(".png")
        save_png(picture, _picture(sweeps[0], labels, classes is not None, settings))
        print(f"wrote {picture}")
    return 0


def _label_map(name: str) -> LabelMap:
    path = Path(name)
    if path.suffix == ".toml":
        return LabelMap.from_toml(path)
    try:
        return LabelMap.load(name)
    except UnsupportedError:
        if not path.exists():
            raise
    # the classes of whoever trained it are in the card of a model
    card = path if path.suffix == ".json" else find_weights(path).with_suffix(".json")
    return ModelCard.read(card).labels


def _has_classes(sweep: Sweep) -> bool:
    return sweep.labels is not None or sweep.prediction is not None


def _sweep(
    source: Path, settings: ViewSettings, placement: Placement, labels: LabelMap, scales: ScaleWatch
) -> Sweep:
    cloud = _read(source, settings)
    companions = companions_of(source, settings)
    print(f"{source}: {cloud.n_file} points")
    for note in (*cloud.notes, *companions.listed):
        print(f"  {note}")
    if (warning := scales.warning(cloud.source, cloud.known_scale)) is not None:
        print(f"  warning: {warning}")
    raw = None if companions.labels is None else read_labels(companions.labels, cloud.n_file)[cloud.kept]
    prediction, confidence = _prediction(source, cloud, companions, settings, labels)
    instance = None if raw is None else raw >> _INSTANCE_SHIFT
    points, origin = placement.centred(cloud)
    boxes: tuple[LabelledBox, ...] = ()
    if companions.boxes is not None and points is cloud.points:
        boxes = read_boxes(companions.boxes, source)
    elif companions.boxes is not None:
        print("  the boxes are left out: they are in the frame of the file, which --scale and --up change")
    kept = slice(None, None, settings.every)

    def thinned(values: npt.NDArray | None) -> npt.NDArray | None:
        return None if values is None else values[kept]

    return Sweep(
        points[kept],
        source.name,
        intensity=thinned(cloud.intensity),
        labels=None if raw is None else labels.to_target(raw[kept], source=companions.labels),
        prediction=thinned(prediction),
        confidence=thinned(confidence),
        instance=thinned(instance if instance is not None and instance.any() else None),
        rows=None if settings.every == 1 and len(cloud.kept) == cloud.n_file else cloud.kept[kept],
        boxes=tuple(_shown(box, labels, origin) for box in boxes),
        origin=(float(origin[0]), float(origin[1]), float(origin[2])),
    )


def _read(source: Path, settings: ViewSettings) -> PointCloud:
    # other formats say themselves what they hold
    of_bin = source.suffix.lower() == ".bin"
    with warnings.catch_warnings():
        # the notes are printed
        warnings.simplefilter("ignore", UserWarning)
        return read_points(
            source,
            columns=settings.columns if of_bin else None,
            dtype=settings.dtype if of_bin else None,
            intensity_scale=settings.intensity_scale,
        )


def _prediction(
    source: Path, cloud: PointCloud, companions: Companions, settings: ViewSettings, labels: LabelMap
) -> tuple[npt.NDArray[np.int64] | None, npt.NDArray[np.float32] | None]:
    """Predicted targets and confidence, a row a point, from a label file or the columns of the source."""
    if companions.predictions is not None:
        raw = read_labels(companions.predictions, cloud.n_file)[cloud.kept]
        return labels.to_target(raw, source=companions.predictions), None
    columns = None if settings.alone else read_classes(source)
    if columns is None:
        return None, None
    targets = labels.to_target(columns.raw_ids[cloud.kept].astype(np.uint32), source=source)
    return targets, None if columns.confidence is None else columns.confidence[cloud.kept]


def _shown(box: LabelledBox, labels: LabelMap, origin: npt.NDArray[np.float64]) -> Box:
    """As the page shows it, beside points without that origin."""
    name = box.name
    if not name and box.raw_id is not None:
        target = int(labels.to_target(np.array([box.raw_id], np.uint32))[0])
        name = "" if target == IGNORE else labels.names[target]
    x, y, z = (float(value) for value in np.array(box.center) - origin)
    return Box((x, y, z), box.size, box.yaw, name, box.score)


def _with_poses(sweeps: list[Sweep], sources: list[Path], settings: ViewSettings) -> list[Sweep]:
    """The sweeps of a sequence with their poses, where all of them have one."""
    if len(sweeps) < 2 or (settings.alone and settings.poses is None):
        return sweeps
    files = [companions_of(source, settings).poses for source in sources]
    path = files[0]
    if path is None or set(files) != {path}:
        return sweeps
    if Placement(scale=settings.scale, up=settings.up) != Placement():
        print("  the poses are left out: they are in the frame of the files, which --scale and --up change")
        return sweeps
    poses = _poses(path, sources)
    print(f"  poses: {path}")
    # from the first sweep on: world coordinates of a drive would be far from everything
    back = np.linalg.inv(poses[0])
    return [replace(sweep, pose=back @ pose) for sweep, pose in zip(sweeps, poses, strict=True)]


def _poses(path: Path, sources: list[Path]) -> list[Pose]:
    odd = [source for source in sources if not source.stem.isdigit()]
    if odd:
        raise FormatError(
            f"{path}: a sweep's pose is found by its number, and {odd[0].name} is none; use --alone"
        )
    numbers = [int(source.stem) for source in sources]
    if path.suffix.lower() == ".feather":
        return read_av2_poses(path, numbers)
    poses = read_kitti_poses(path)
    if max(numbers) >= len(poses):
        raise FormatError(f"{path} has {len(poses)} poses, none for sweep {max(numbers)}")
    return [poses[number] for number in numbers]


def _picture(
    sweep: Sweep, labels: LabelMap, has_classes: bool, settings: ViewSettings
) -> npt.NDArray[np.uint8]:
    """By prediction, else label, intensity, height; boxes by class where there are classes: as the page."""
    targets = sweep.labels if sweep.prediction is None else sweep.prediction
    colors: npt.NDArray[np.uint8]
    legend: Legend
    if targets is not None:
        colors, legend = class_colors(targets, labels.names, labels.colors)
    elif sweep.intensity is not None:
        colors, legend = value_colors(sweep.intensity, "intensity")
    else:
        colors, legend = height_colors(sweep.points)
    background: Background = "light" if settings.light else "dark"
    return draw(
        sweep.points,
        colors,
        legend=legend,
        title=settings.title or sweep.name,
        background=background,
        boxes=sweep.boxes,
        box_colors=_box_colors(sweep.boxes, labels, background) if has_classes else None,
    )


def _box_colors(boxes: Sequence[Box], labels: LabelMap, background: Background) -> npt.NDArray[np.uint8]:
    """The colour of the class of a box's name, where there is one."""
    of_class = {name.lower(): color for name, color in zip(labels.names, labels.colors, strict=True)}
    plain = np.array(THEMES[background].box, np.uint8)
    rows = [of_class.get(box.name.lower(), plain) for box in boxes]
    return np.array(rows, np.uint8).reshape(len(boxes), 3)
