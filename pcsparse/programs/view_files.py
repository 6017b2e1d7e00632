"""The files that belong to a point file: named by the user, or where data sets keep them."""

from dataclasses import dataclass
from pathlib import Path

from pcsparse.config import ViewSettings
from pcsparse.errors import FormatError

_BOX_ENDINGS = (".json", ".csv", ".txt")


@dataclass(frozen=True)
class Companions:
    """Files that belong to a point file; None where there is none.

    Attributes:
        labels: a `.label` file.
        predictions: a `.label` file.
        boxes: what `data.box_files.read_boxes` reads.
        poses: `poses.txt` of KITTI, or Argoverse 2's `city_SE3_egovehicle.feather`.
    """

    labels: Path | None = None
    predictions: Path | None = None
    boxes: Path | None = None
    poses: Path | None = None

    @property
    def listed(self) -> tuple[str, ...]:
        """What was found, for a message."""
        named = {"labels": self.labels, "predictions": self.predictions, "boxes": self.boxes}
        return tuple(f"{what}: {path}" for what, path in named.items() if path is not None)


def companions_of(source: Path, settings: ViewSettings) -> Companions:
    """The files of one source; what the user names goes before what lies beside it.

    Raises:
        FormatError: a named file or folder is not there, or has nothing for this source.
    """
    beside = Companions() if settings.alone else _beside(source)
    return Companions(
        _chosen(settings.labels, source, (".label",)) or beside.labels,
        _chosen(settings.predictions, source, (".label",)) or beside.predictions,
        _chosen(settings.boxes, source, _BOX_ENDINGS) or beside.boxes,
        _chosen(settings.poses, source, ()) or beside.poses,
    )


def _chosen(given: str | None, source: Path, endings: tuple[str, ...]) -> Path | None:
    if given is None:
        return None
    path = Path(given)
    if path.is_file() or (path / "sample_data.json").is_file():
        return path
    if not path.is_dir():
        raise FormatError(f"{path} does not exist (looked in {path.parent.resolve()})")
    wanted = [path / f"{source.stem}{ending}" for ending in endings]
    found = _first(*wanted)
    if found is None:
        names = " or ".join(each.name for each in wanted) or "a file"
        raise FormatError(f"the folder {path} has no {names} for {source}")
    return found


def _first(*candidates: Path) -> Path | None:
    return next((path for path in candidates if path.exists()), None)


def _beside(source: Path) -> Companions:
    """Where SemanticKITTI, KITTI, Argoverse 2, nuScenes and our simulator keep what belongs to a sweep."""
    source = source.absolute()
    folder, stem = source.parent, source.stem
    if folder.name == "velodyne":
        sequence = folder.parent
        return Companions(
            _first(sequence / "labels" / f"{stem}.label"),
            _first(sequence / "predictions" / f"{stem}.label"),
            # the simulator's boxes are all around, KITTI's own before its camera
            _first(sequence / "boxes" / f"{stem}.json", sequence / "label_2" / f"{stem}.txt"),
            _first(sequence / "poses.txt"),
        )
    if folder.parts[-2:] == ("sensors", "lidar"):
        log = folder.parent.parent
        return Companions(
            boxes=_first(log / "annotations.feather"), poses=_first(log / "city_SE3_egovehicle.feather")
        )
    if folder.parts[-2:] == ("samples", "LIDAR_TOP"):
        tables = sorted(folder.parent.parent.glob("v1.0-*/sample_annotation.json"))
        return Companions(boxes=tables[0].parent if tables else None)
    return Companions()
