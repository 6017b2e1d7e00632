"""The models of `pcsparse infer`: the one that was named, or for each cloud the one that fits."""

from dataclasses import dataclass, replace
from pathlib import Path

from pcsparse.config import InferSettings
from pcsparse.data.placement import Placement
from pcsparse.data.point_cloud import PointCloud
from pcsparse.engine.tune_cache import load_table
from pcsparse.infer.inspect import CloudReport
from pcsparse.infer.predictor import Predictor
from pcsparse.nn.tuning import use_tuning
from pcsparse.programs.default_model import checkpoint_or_default, model_for, named_checkpoint
from pcsparse.train.model_file import ModelCard, load_model


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model, ready to predict.

    Attributes:
        weights: where it is from.
        predictor, card: of it.
    """

    weights: Path
    predictor: Predictor
    card: ModelCard


class InferModels:
    """Models by cloud; each is loaded once.

    Args:
        settings: which one, and how it runs.

    Raises:
        FormatError: the named model is missing or broken, or none is named and there is no default one.
        RangeError: no model of that name, or two are named.
    """

    def __init__(self, settings: InferSettings) -> None:
        self._settings = settings
        self._loaded: dict[Path, LoadedModel] = {}
        self._named = named_checkpoint(settings.checkpoint, settings.model)
        # first, so that a broken one is told before any file is read
        self._first = self._load(self._named or checkpoint_or_default(None), told=self._named is not None)

    def whole(self) -> LoadedModel:
        """For a cloud too large to be looked at: the named one, or the default one."""
        if self._named is None:
            print(f"  model {self._first.weights.stem}: the default one, for a cloud in tiles")
        return self._first

    def of(self, cloud: PointCloud, placement: Placement) -> tuple[LoadedModel, CloudReport | None]:
        """For a cloud as it is shown; the choice, if there is one, is printed.

        Returns:
            The model; and the report that it was chosen by, if it holds for the voxels of that model.
        """
        if self._named is not None:
            return self._first, None
        size = self._first.predictor.voxels.voxel_size
        report = CloudReport.of(cloud, placement, size)
        weights, choice = model_for(report)
        print(f"  model {choice.name}: {choice.reason}")
        model = self._load(weights, told=False)
        return model, report if model.predictor.voxels.voxel_size == size else None

    def _load(self, weights: Path, *, told: bool) -> LoadedModel:
        if weights not in self._loaded:
            settings = self._settings
            model, card = load_model(weights)
            voxels = card.voxels
            if settings.voxel_size is not None:
                print(
                    f"warning: voxels of {settings.voxel_size:g} m, the model was trained on "
                    f"{voxels.voxel_size:g} m"
                )
                voxels = replace(voxels, voxel_size=settings.voxel_size)
            if settings.tuned is not None:
                use_tuning(model, load_table(settings.tuned, settings.device))
            predictor = Predictor(model, voxels, settings.device)
            if told:
                print(f"model {weights}, {voxels.voxel_size:g} m voxels, {card.labels.n_classes} classes")
            self._loaded[weights] = LoadedModel(weights, predictor, card)
        return self._loaded[weights]
