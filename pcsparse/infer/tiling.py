"""A trained model applied to a large cloud, tile by tile: each square decides on its own points."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pcsparse.data.files_tiles import Tile, Tiles
from pcsparse.data.input_spec import CloudFacts, InputSpec
from pcsparse.data.label_map import IGNORE
from pcsparse.infer.predictor import Predictor

# a stray return below the ground must not be taken for it
_LOW_PERCENT = 5


@dataclass(frozen=True, eq=False)
class TiledPrediction:
    """What a model says of all rows of a file.

    Attributes:
        targets: (n_file,) int16; -1 for rows that are in no tile or were left out.
        confidence: (n_file,) float32, 0-1; 0 there.
        n_voxels: that the network saw, those of margins too.
        largest: points of the largest tile, its margin included.
        voxelize_s, network_s: seconds.
    """

    targets: npt.NDArray[np.int16]
    confidence: npt.NDArray[np.float32]
    n_voxels: int
    largest: int
    voxelize_s: float
    network_s: float


class Levelling:
    """Puts the ground of each tile at the height that a model knows.

    A tile with too few points to tell its ground is moved like the last that told; as long as none did, by
    its own lowest points.

    Args:
        spec: of the model.
        offset: metres added to z instead, if it is not 0.
    """

    def __init__(self, spec: InputSpec, offset: float = 0.0) -> None:
        self._wanted = spec.ground_height if not offset else None
        self._offset = offset
        self._known = False

    def __call__(self, tile: Tile) -> npt.NDArray[np.float32]:
        """(n, 3) float32: the points of a tile, moved in z."""
        if self._wanted is not None and len(tile):
            # around the middle of the points: a tile at the edge of a cloud has none at its own
            shift = np.median(tile.points, axis=0) * np.array([1, 1, 0], dtype=np.float32)
            ground = CloudFacts.of(tile.points - shift, None).ground_height
            if ground is not None:
                self._known = True
            elif not self._known:
                ground = float(np.percentile(tile.points[:, 2], _LOW_PERCENT))
            if ground is not None:
                self._offset = self._wanted - ground
        return tile.points + np.array([0.0, 0.0, self._offset], dtype=np.float32)


def predict_tiles(
    predictor: Predictor,
    tiles: Tiles,
    placed: Callable[[Tile], npt.NDArray[np.float32]],
    seen: Callable[[Tile, npt.NDArray[np.int64]], None] = lambda tile, targets: None,
) -> TiledPrediction:
    """Predict the class of every point, a tile with its margin at a time.

    Args:
        predictor: the model.
        tiles: of the cloud.
        placed: the points of a tile as the model should see them.
        seen: called after each tile with the targets of its points, for progress and pictures.

    Raises:
        RangeError: as `Predictor`.
    """
    targets = np.full(tiles.n_points, IGNORE, dtype=np.int16)
    confidence = np.zeros(tiles.n_points, dtype=np.float32)
    n_voxels, largest, voxelize_s, network_s = 0, 0, 0.0, 0.0
    for tile in tiles:
        prediction = predictor(placed(tile), tile.intensity, f"{tiles.source}, tile at {tile.origin[:2]} m")
        own = tile.rows[tile.inside]
        targets[own] = prediction.targets[tile.inside]
        confidence[own] = prediction.confidence[tile.inside]
        n_voxels, largest = n_voxels + prediction.n_voxels, max(largest, len(tile))
        voxelize_s, network_s = voxelize_s + prediction.voxelize_s, network_s + prediction.network_s
        seen(tile, prediction.targets)
    return TiledPrediction(targets, confidence, n_voxels, largest, voxelize_s, network_s)
