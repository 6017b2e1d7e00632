"""The page of `pcsparse infer`: what a model says of a cloud, to open in a browser."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from pcsparse.data.label_map import LabelMap
from pcsparse.data.point_cloud import PointCloud
from pcsparse.view.page import MAX_POINTS, Classes, Sweep, save_page


def classes_of(labels: LabelMap) -> Classes:
    """Names and colours of a label set."""
    return Classes(labels.names, labels.colors)


def rows_of(cloud: PointCloud) -> npt.NDArray[np.int64] | None:
    """Row of each point in its file; None where none was dropped."""
    return None if len(cloud.kept) == cloud.n_file else cloud.kept


def write_page(
    path: Path,
    cloud: PointCloud,
    points: npt.NDArray[np.float32],
    targets: npt.NDArray[np.int64],
    confidence: npt.NDArray[np.float32],
    labels: LabelMap,
) -> str | None:
    """Write the page of one cloud.

    Args:
        path: the `.html` file.
        cloud: as read.
        points: (n, 3) as the model saw them, NaN where it was not to see them.
        targets: (n,) class numbers, -1 for none.
        confidence: (n,) 0-1.
        labels: the label set.

    Returns:
        That the page shows fewer points than there are, or None.
    """
    every = max(1, -(-len(points) // MAX_POINTS))
    # what was moved, turned or scaled has no place in the world of the file
    origin = cloud.origin if points is cloud.points else np.zeros(3)
    sweep = Sweep(
        points[::every],
        cloud.source.name if every == 1 else f"{cloud.source.name}, one point in {every}",
        intensity=None if cloud.intensity is None else cloud.intensity[::every],
        prediction=targets[::every],
        confidence=confidence[::every],
        rows=rows_of(cloud) if every == 1 else cloud.kept[::every],
        origin=(float(origin[0]), float(origin[1]), float(origin[2])),
    )
    save_page(path, [sweep], classes_of(labels))
    if every == 1:
        return None
    return f"the page shows one point in {every}: browsers take {MAX_POINTS:,}, there are {len(points):,}"
