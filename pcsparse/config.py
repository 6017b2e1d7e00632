"""Schemas of the command-line programs. A key that is not here is an error.

The classes are plain frozen dataclasses: they work without Hydra. `register` makes them Hydra's schemas.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from pcsparse.checks import require_extra
from pcsparse.compress.settings import (
    BudgetSettings,
    CostSettings,
    EvaluationSettings,
    MeasureSettings,
    ScanSettings,
)
from pcsparse.data.collate import VoxelSettings
from pcsparse.data.transforms import Augmentation
from pcsparse.errors import FormatError, PcsparseError, RangeError
from pcsparse.train.settings import FitSettings

MISSING: Any = "???"
"""What Hydra refuses to run with: a value that the user has to give."""


@dataclass(frozen=True)
class DataSettings:
    """A data set and its splits.

    Attributes:
        root: folder of the data set.
        labels: path of the `labels.toml` that says what the raw ids mean; null for the data set's own.
        columns: numbers a point in its `.bin` files.
        intensity_scale: what 1.0 is in its intensity.
        train, val, test: nodes whose `_target_` makes a source of sweeps with a `label_map`; val and test may
            be null.
    """

    root: str = MISSING
    labels: str | None = None
    columns: int = 4
    intensity_scale: float = 1.0
    train: Any = None
    val: Any = None
    test: Any = None


@dataclass(frozen=True)
class AugmentSettings:
    """Augmentation of training sweeps.

    Attributes:
        steps: name -> node whose `_target_` makes a `Transform`; applied in this order. Null steps are left
            out.
        mix: node whose `_target_` makes a `Mix`, or null.
    """

    steps: dict[str, Any] = field(default_factory=dict)
    mix: Any = None


@dataclass(frozen=True)
class TrainSettings(FitSettings):
    """`pcsparse train`: what `fit` takes, and how to make its model and data.

    Attributes:
        name: of the run; its folder is `runs/NAME`.
        output_dir: folder of the run.
        model: node whose `_target_` names an nn.Module under `pcsparse.`.
        data: see `DataSettings`.
        augment: see `AugmentSettings`.
        threads: of torch and numba; 0 leaves them as they are.
        tuned: table of `pcsparse tune` that the plans of convolutions come from; null for the rules.
    """

    name: str = "run"
    output_dir: str = MISSING
    model: Any = MISSING
    data: DataSettings = field(default_factory=DataSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    threads: int = 0
    tuned: str | None = None


@dataclass(frozen=True)
class CompressSettings(FitSettings):
    """`pcsparse compress`: a budget, how to search and prune, and for fine-tuning what `fit` takes.

    The fine-tuning trains for `epochs`, at `lr_factor` times `optim.lr`, which is the peak of the network's
    first training; it stores the last weights and does not look at the validation set, which is for the
    report.

    Attributes:
        name: of the run; its folder is `runs/NAME`.
        output_dir: folder of the run.
        checkpoint: folder of a run or a .safetensors file; null for the default model.
        voxels: those of the checkpoint count, whatever the default is; other ones are refused.
        data, augment, threads, tuned: as in `TrainSettings`.
        budget: see `BudgetSettings`.
        compress: node whose `_target_` makes a `compress.pruning.Pruning`: what is removed.
        method: node whose `_target_` makes a `compress.search.task.Method`.
        evaluations: of the search; AMC's schedule is scaled to them.
        executor: node whose `_target_` makes a `compress.search.executor.Executor`; null for this process.
        cost, evaluation, scan, measure: see there.
        reconstruct: refit the layers that lost channels or kernel offsets by least squares; not for voxels.
        tune: whether to fine-tune at all.
        rounds: of pruning and training, `epochs` each; 1 prunes all at once, and `reconstruct` needs that.
        lr_factor: see above.
        distill: weight of the distance to the whole network's probabilities in the loss; 0 for none.
        temperature: of that, see `compress.finetune.distillation_loss`.
        l1, l2: factors of the sizes of all weights of convolutions and linear layers, and of their squares,
            summed, in the loss of the fine-tuning and of the control; 0 for none.
        control: train the whole network on for as many steps too, to compare with.
        half: store weights as float16; null for as the checkpoint has them.
        checkpoint_every: steps between checkpoints of the fine-tuning, the most that a kill loses.
        resume: auto (go on; refuse a folder of other inputs), never, or overwrite (make anew what was made
            from other inputs, and what follows from it).
    """

    name: str = "compressed"
    output_dir: str = MISSING
    checkpoint: str | None = None
    data: DataSettings = field(default_factory=DataSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    budget: BudgetSettings = field(default_factory=BudgetSettings)
    compress: Any = MISSING
    method: Any = MISSING
    evaluations: int = 200
    executor: Any = None
    cost: CostSettings = field(default_factory=CostSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    scan: ScanSettings = field(default_factory=ScanSettings)
    measure: MeasureSettings = field(default_factory=MeasureSettings)
    reconstruct: bool = False
    tune: bool = True
    rounds: int = 1
    lr_factor: float = 0.1
    distill: float = 0.0
    temperature: float = 2.0
    l1: float = 0.0
    l2: float = 0.0
    control: bool = False
    half: bool | None = None
    epochs: int = 2
    keep: str = "last"
    validate_every: int = 0
    checkpoint_every: int = 20
    threads: int = 0
    tuned: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.budget.check()
        if min(self.evaluations, self.rounds) < 1:
            raise RangeError(
                f"evaluations and rounds must be at least 1, got {self.evaluations} and {self.rounds}"
            )
        # written so that nan is refused too
        if not 0 <= self.distill < math.inf or not 0 < self.lr_factor <= 1:
            raise RangeError(
                f"distill must be at least 0 and lr_factor in (0, 1], got {self.distill} and {self.lr_factor}"
            )
        if not (0 <= self.l1 < math.inf and 0 <= self.l2 < math.inf):
            raise RangeError(f"l1 and l2 must be at least 0, got {self.l1} and {self.l2}")
        if not 0 < self.temperature < math.inf:
            raise RangeError(f"temperature must be above 0, got {self.temperature}")
        if self.reconstruct and self.tune and self.rounds > 1:
            raise RangeError(
                f"reconstruct refits a network that is pruned all at once, not one pruned in {self.rounds} "
                "rounds; set rounds=1 or reconstruct=false"
            )

    @property
    def penalties(self) -> dict[str, float]:
        """The factors of `compress.weight_penalty.WeightPenalty`, by name."""
        return {"l1": self.l1, "l2": self.l2}

    def fit_settings(self, voxels: VoxelSettings, epochs: int) -> FitSettings:
        """What `fit` takes for the fine-tuning."""
        given = {one.name: getattr(self, one.name) for one in fields(FitSettings)}
        optim = replace(self.optim, lr=self.lr_factor * self.optim.lr)
        # the folder of the compression says what may be taken over
        changed = {"voxels": voxels, "epochs": epochs, "optim": optim, "resume": "auto"}
        return FitSettings(**{**given, **changed})


@dataclass(frozen=True)
class EvaluateSettings:
    """`pcsparse evaluate`.

    Attributes:
        data: see `DataSettings`.
        split: train, val or test.
        checkpoint: folder of a run or a .safetensors file; null for the default model.
        output: JSON file of the metrics; null for none.
        predictions: folder for raw-id label files in the layout of a submission; null for none.
        device: where the network runs.
        workers: loader processes.
        tuned: as in `TrainSettings`.
    """

    data: DataSettings = field(default_factory=DataSettings)
    split: str = "val"
    checkpoint: str | None = None
    output: str | None = None
    predictions: str | None = None
    device: str = "cpu"
    workers: int = 1
    tuned: str | None = None


@dataclass(frozen=True)
class InferSettings:
    """`pcsparse infer`.

    Attributes:
        sources: files, folders or patterns.
        out: folder for outputs and pictures.
        formats: what to write: label (raw ids), same (the input with classes as columns), or endings to
            write it with: `programs.infer_files.FORMATS`.
        checkpoint: folder of a run or a .safetensors file; None for a model that pcsparse brings.
        model: name of a model that pcsparse brings; None for the one that fits the cloud.
        columns: numbers a point in .bin files; None to infer them.
        dtype: type of the numbers in .bin files; None for float32.
        invalid: drop, raise or keep points that are not finite; such rows get the raw id of *unlabelled*.
        intensity_scale: what 1.0 is in the files; None to infer it.
        voxel_size: metres; None for the model's own.
        z_offset: metres added to every z, to bring the ground to the height the model knows.
        scale, up, origin, min_range, max_range: as in `data.placement.Placement`.
        tile: metres; predict a large cloud in squares of this size; 0 for never, None for LAS and LAZ files
            of more than 4 million points, in squares of 60 m.
        device: where the network runs.
        tuned: as in `TrainSettings`.
        picture: draw a PNG beside each label file.
        page: write an HTML page beside each PNG.
        skip_existing: leave files alone whose outputs are there.
    """

    sources: tuple[str | Path, ...]
    out: str | Path = "out"
    formats: tuple[str, ...] = ("label",)
    checkpoint: str | None = None
    model: str | None = None
    columns: int | None = None
    dtype: str | None = None
    invalid: str = "drop"
    intensity_scale: float | None = None
    voxel_size: float | None = None
    z_offset: float = 0.0
    scale: float = 1.0
    up: str = "z"
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    min_range: float = 0.0
    max_range: float | None = None
    tile: float | None = None
    device: str = "cpu"
    tuned: str | None = None
    picture: bool = True
    page: bool = True
    skip_existing: bool = False


@dataclass(frozen=True)
class ViewSettings:
    """`pcsparse view`.

    Attributes:
        sources: files, folders or patterns; several make a sequence, in this order.
        out: the page.
        labels: a `.label` file, or a folder of them; None looks beside the source (`programs.view_files`).
        predictions: likewise; None looks beside the source, then for the columns that `infer --format` adds.
        boxes: a file (`data.box_files`) or a folder of them; None looks beside the source.
        poses: KITTI's `poses.txt` or Argoverse 2's feather; None looks beside the source.
        alone: show the points alone, whatever lies beside them.
        label_set: name of a label set, a `labels.toml`, or a model (the folder of a run, a `.safetensors`
            file, a card), which says what its classes are.
        title: of the page; None for the name of the first file.
        light: open the page in light colours.
        picture: draw a PNG of the first sweep beside the page.
        every: keep one point in so many.
        columns, dtype, intensity_scale, scale, up: as in `InferSettings`.
    """

    sources: tuple[str | Path, ...]
    out: str | Path = "page.html"
    labels: str | None = None
    predictions: str | None = None
    boxes: str | None = None
    poses: str | None = None
    alone: bool = False
    label_set: str = "semantickitti"
    title: str | None = None
    light: bool = False
    picture: bool = False
    every: int = 1
    columns: int | None = None
    dtype: str | None = None
    intensity_scale: float | None = None
    scale: float = 1.0
    up: str = "z"


@dataclass(frozen=True)
class InspectSettings:
    """`pcsparse inspect`.

    Attributes:
        sources: files, folders or patterns.
        checkpoint, model: the model to compare with, named as in `InferSettings`.
        columns, dtype, intensity_scale, voxel_size, z_offset, scale, up, origin, min_range, max_range, tile:
            as in `InferSettings`.
        json: print one JSON list instead of a report to read.
    """

    sources: tuple[str | Path, ...]
    checkpoint: str | None = None
    model: str | None = None
    columns: int | None = None
    dtype: str | None = None
    intensity_scale: float | None = None
    voxel_size: float | None = None
    z_offset: float = 0.0
    scale: float = 1.0
    up: str = "z"
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    min_range: float = 0.0
    max_range: float | None = None
    tile: float | None = None
    json: bool = False


def register() -> None:
    """Make the schemas known to Hydra as `train_schema`, `compress_schema` and `evaluate_schema`.

    Raises:
        UnsupportedError: Hydra is not installed.
    """
    store = require_extra("hydra.core.config_store", "train").ConfigStore.instance()
    omegaconf = require_extra("omegaconf", "train")
    for name, schema in (
        ("train_schema", TrainSettings),
        ("compress_schema", CompressSettings),
        ("evaluate_schema", EvaluateSettings),
    ):
        node = omegaconf.OmegaConf.structured(schema)
        _writable(node, omegaconf.DictConfig)
        store.store(name=name, node=node)


def _writable(node: Any, dict_config: Any) -> None:
    """Frozen dataclasses give read-only nodes, which groups and overrides could not be merged into."""
    node._set_flag("readonly", None)
    for key in node:
        child = node._get_node(key)
        if isinstance(child, dict_config) and not child._is_none() and not child._is_missing():
            _writable(child, dict_config)


def to_yaml(settings: TrainSettings | CompressSettings) -> str:
    """The settings as the text of a `config.yaml`."""
    omegaconf = require_extra("omegaconf", "train")
    text: str = omegaconf.OmegaConf.to_yaml(omegaconf.OmegaConf.structured(settings))
    return text


def build(node: Mapping[str, Any]) -> Any:
    """The object that a node with `_target_` describes. The node is the user's own and trusted, as in Hydra.

    Raises:
        UnsupportedError: Hydra is not installed.
        FormatError: the node names nothing that exists, or takes no such arguments.
        PcsparseError: what the object's own construction raised.
    """
    instantiate = require_extra("hydra.utils", "train").instantiate
    failure = require_extra("hydra.errors", "train").InstantiationException
    try:
        return instantiate(node, _convert_="all")
    except failure as error:
        if isinstance(error.__cause__, PcsparseError):
            raise error.__cause__ from None
        raise FormatError(f"cannot build {node.get('_target_')}: {error}") from error


def build_augmentation(settings: AugmentSettings) -> Augmentation:
    """The augmentation that the settings describe."""
    steps = tuple(build(node) for node in settings.steps.values() if node is not None)
    return Augmentation(steps, None if settings.mix is None else build(settings.mix))
