"""`pcsparse infer` on a cloud too large for one pass: square by square, a LAS file never whole."""

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pcsparse.config import InferSettings, InspectSettings
from pcsparse.data.files_las import las_point_count
from pcsparse.data.files_tiles import Tile, Tiles, cloud_tiles, las_tiles
from pcsparse.data.label_map import LabelMap
from pcsparse.data.placement import Placement
from pcsparse.data.point_cloud import PointCloud
from pcsparse.errors import RangeError
from pcsparse.infer.diagnosis import diagnose
from pcsparse.infer.scale_watch import ScaleWatch
from pcsparse.infer.tiling import Levelling, predict_tiles
from pcsparse.infer.unlike import TILE_M
from pcsparse.programs.infer_files import Job, read_source, report_shares, write_outputs
from pcsparse.programs.infer_models import LoadedModel
from pcsparse.programs.infer_page import classes_of
from pcsparse.view.page import Sweep, save_page
from pcsparse.view.raster import draw_classes, save_png

_LAS = (".las", ".laz")
_MANY_POINTS = 4_000_000
# what a network sees around a point
_MARGIN_M = 10.0
_DRAWN_POINTS = 400_000
_TELLING_POINTS = 2_000
# kinds of faults that a square cannot show
_OF_SWEEPS = ("lasers", "density", "small", "few", "crop", "tilt")


def tile_size(source: Path, settings: InferSettings | InspectSettings) -> float | None:
    """Metres of the squares in which a file is predicted; None for one pass.

    Raises:
        FormatError: a LAS file with a broken header, or another format under its ending.
        RangeError: a placement that squares cannot have.
    """
    size = settings.tile
    if size is None:
        is_las = source.suffix.lower() in _LAS
        size = TILE_M if is_las and las_point_count(source) > _MANY_POINTS else 0.0
    if size == 0:
        return None
    placement = Placement(
        settings.scale, settings.up, settings.origin, settings.min_range, settings.max_range
    )
    if not fits_tiles(placement):
        flags = ", ".join(placement.flags())
        raise RangeError(f"{source}: {flags} cannot go with tiles, which have places of their own; --tile 0")
    return size


def fits_tiles(placement: Placement) -> bool:
    """Whether squares can have it: all but a height is their own."""
    return replace(placement, z_offset=0.0) == Placement()


def infer_tiled(
    job: Job, size: float, settings: InferSettings, model: LoadedModel, scales: ScaleWatch
) -> None:
    """Predict one file in squares of `size` metres and write its outputs."""
    began = time.perf_counter()
    labels, predictor = model.card.labels, copy.copy(model.predictor)
    # no sensor stands in the middle of a square
    predictor.voxels = replace(predictor.voxels, min_range=0.0)
    level = Levelling(model.card.input_spec, settings.z_offset)
    picture = _Picture()
    with _tiles(job.source, size, settings) as tiles:
        print(f"{job.source}: {tiles.n_points} points, {tiles.n_tiles} tiles of {size:g} m")
        for note in tiles.notes:
            print(f"  note: {note}")
        if (warning := scales.warning(tiles.source, tiles.known_scale)) is not None:
            print(f"  warning: {warning}")
        picture.every = -(-tiles.n_points // _DRAWN_POINTS)
        spread_s = time.perf_counter() - began
        warned = _Warned(level, model, size, job.source)
        prediction = predict_tiles(predictor, tiles, warned, picture.add)
    began = time.perf_counter()
    notes = write_outputs(
        job.outputs, job.source, prediction.targets, prediction.confidence, labels, settings
    )
    write_s = time.perf_counter() - began
    if job.picture is not None:
        picture.save(job.picture, job.source.name, labels)
    if job.page is not None:
        picture.save_page(job.page, job.source.name, prediction.confidence, labels)
    report_shares(prediction.targets, labels, job.listed, predictor.voxels, settings)
    for note in notes:
        print(f"  note: {note}")
    print(
        f"  sort into tiles {spread_s:.2f} s, voxelise {prediction.voxelize_s:.2f} s, "
        f"network {prediction.network_s:.2f} s ({prediction.n_voxels} voxels, largest tile "
        f"{prediction.largest} points), write {write_s:.2f} s"
    )


@contextmanager
def _tiles(source: Path, size: float, settings: InferSettings) -> Iterator[Tiles]:
    margin = min(_MARGIN_M, size)
    if source.suffix.lower() in _LAS:
        with las_tiles(source, size, margin, intensity_scale=settings.intensity_scale) as tiles:
            yield tiles
    else:
        yield cloud_tiles(read_source(source, settings), size, margin)


class _Warned:
    """Levels tiles, and says once what is wrong with the first that has enough points to tell."""

    def __init__(self, level: Levelling, model: LoadedModel, size: float, source: Path) -> None:
        self._level, self._model, self._size, self._source = level, model, size, source
        self._said = False

    def __call__(self, tile: Tile) -> npt.NDArray[np.float32]:
        points = self._level(tile)
        if not self._said and len(tile) >= _TELLING_POINTS:
            self._said = True
            self._say(points, tile)
        return points

    def _say(self, points: npt.NDArray[np.float32], tile: Tile) -> None:
        some = slice(None, None, -(-len(points) // _DRAWN_POINTS))
        rows = np.arange(len(points[some]))
        intensity = None if tile.intensity is None else tile.intensity[some]
        cloud = PointCloud(points[some], tile.origin, intensity, None, rows, len(rows), self._source)
        card, voxels = self._model.card, self._model.predictor.voxels
        for fault in diagnose(cloud, card.input_spec, voxels, tile=self._size).faults:
            # a square has no sensor, and a slope is no tilt
            if fault.grave and fault.kind not in _OF_SWEEPS:
                print(f"  warning: {fault}")


class _Picture:
    """Some of the points of all tiles, to be drawn."""

    def __init__(self) -> None:
        self.every = 1
        self._points: list[npt.NDArray[np.float64]] = [np.empty((0, 3))]
        self._targets: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)]
        self._rows: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)]

    def add(self, tile: Tile, targets: npt.NDArray[np.int64]) -> None:
        """Take every n-th row of the file that is inside the tile."""
        some = tile.inside & (tile.rows % self.every == 0)
        self._points.append(tile.points[some] + tile.origin)
        self._targets.append(targets[some])
        self._rows.append(tile.rows[some])

    def save(self, path: Path, title: str, labels: LabelMap) -> None:
        """Draw them, the middle of the cloud at the middle of the picture."""
        points, targets = np.concatenate(self._points), np.concatenate(self._targets)
        if len(points):
            points = points - np.median(points, axis=0)
        image = draw_classes(points.astype(np.float32), targets, labels.names, labels.colors, title=title)
        save_png(path, image)

    def save_page(
        self, path: Path, title: str, confidence: npt.NDArray[np.float32], labels: LabelMap
    ) -> None:
        """Write them as a page, in the order of the file.

        Args:
            path: the `.html` file.
            title: the name of the file.
            confidence: (n_file,) of every row of the file.
            labels: the label set.
        """
        rows = np.concatenate(self._rows)
        order = np.argsort(rows)
        points = np.concatenate(self._points)[order]
        origin = np.round(np.median(points, axis=0)) if len(points) else np.zeros(3)
        sweep = Sweep(
            points - origin,
            title if self.every == 1 else f"{title}, one point in {self.every}",
            prediction=np.concatenate(self._targets)[order],
            confidence=confidence[rows[order]],
            rows=rows[order],
            origin=(float(origin[0]), float(origin[1]), float(origin[2])),
        )
        save_page(path, [sweep], classes_of(labels), title=title)
