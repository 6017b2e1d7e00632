"""A sweep of a 64-laser sensor between walls, by geometry, and a model's card that knows such sweeps."""

import numpy as np

from pcsparse.data.collate import VoxelSettings
from pcsparse.data.input_spec import CloudFacts, InputSpec
from pcsparse.data.label_map import LabelMap
from pcsparse.train.model_file import ModelCard

HEIGHT = 1.7
ELEVATIONS = np.linspace(2.0, -24.0, 64)


def walled_street(columns: int = 300, seed: int = 0) -> np.ndarray:
    """(64 x columns, 4) float32 x, y, z, intensity: ground, walls at y = -8, 12, x = -40, 60; by rings."""
    rng = np.random.default_rng(seed)
    azimuth = np.tile((np.arange(columns) + 0.5) * (2 * np.pi / columns), 64)
    elevation = np.radians(np.repeat(ELEVATIONS, columns))
    ray = np.stack(
        [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], axis=1
    )
    with np.errstate(divide="ignore"):
        along_x = np.where(ray[:, 0] > 0, 60 / ray[:, 0], -40 / ray[:, 0])
        along_y = np.where(ray[:, 1] > 0, 12 / ray[:, 1], -8 / ray[:, 1])
        down = np.where(ray[:, 2] < 0, -HEIGHT / ray[:, 2], np.inf)
    distance = np.minimum(np.minimum(along_x, along_y), down) + rng.normal(0, 0.01, len(ray))
    intensity = rng.integers(0, 70, len(ray)) / 100
    intensity[:20] = 0.99
    return np.column_stack([ray * distance[:, None], intensity]).astype(np.float32)


def write_model(folder, rows: np.ndarray | None = None) -> str:
    """A model folder of which only the card is worth anything; it knows `rows`, else `walled_street`."""
    rows = walled_street() if rows is None else rows
    facts = CloudFacts.of(rows[:, :3], rows[:, 3])
    labels = LabelMap.load("semantickitti")
    card = ModelCard(
        arch={"_target_": "pcsparse.models.minkunet.MinkUNet", "spec": {}},
        labels=labels,
        voxels=VoxelSettings(0.1),
        input_spec=InputSpec.of([facts]),
        metrics={},
        provenance={},
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.json").write_text(card.to_json())
    (folder / "model.safetensors").touch()
    return str(folder)
