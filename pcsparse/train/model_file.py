"""A trained model on disk: `model.safetensors` and its card `model.json`. Nothing in them is code."""

import importlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, get_type_hints

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pcsparse.data.collate import VoxelSettings
from pcsparse.data.input_spec import InputSpec
from pcsparse.data.label_map import LabelMap
from pcsparse.errors import FormatError, PcsparseError, UnsupportedError
from pcsparse.train.norm_settings import norm_settings, set_norms
from pcsparse.whole_file import write_whole

CARD_FORMAT = 1

# a checkpoint names a class to be imported and called: nothing outside the package
_TRUSTED_PREFIX = "pcsparse."

FEATURES = (
    {"name": "x", "unit": "m", "frame": "forward"},
    {"name": "y", "unit": "m", "frame": "left"},
    {"name": "z", "unit": "m", "frame": "up"},
    {"name": "intensity", "low": 0.0, "high": 1.0},
)
"""Network input a voxel: its first point. Written into the card for a reader, and compared on loading."""


@dataclass(frozen=True)
class ModelCard:
    """What a reader of the weights has to know.

    Attributes:
        arch: `_target_` (a class under `pcsparse.`), `spec` (the JSON of its Spec), and `norms` (eps and
            momentum by name) where they are not those that the class builds.
        labels: what its outputs mean.
        voxels: voxel size, crop and least range, metres.
        input_spec: the clouds it was trained on.
        metrics: of the validation, at the step of the weights.
        provenance: data, licence, command, versions.
    """

    arch: dict[str, Any]
    labels: LabelMap
    voxels: VoxelSettings
    input_spec: InputSpec
    metrics: dict[str, float]
    provenance: dict[str, str]

    @property
    def label_set(self) -> str:
        """Name of the label map."""
        return self.labels.label_set

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, by target."""
        return self.labels.names

    def means_other_ids_than(self, labels: LabelMap) -> bool:
        """Whether the model has a map that pcsparse does not bring, and these labels go by another one."""
        return not self.labels.is_brought() and self.labels.digest() != labels.digest()

    def to_json(self) -> str:
        """The text of a `model.json`. A label map that pcsparse does not bring is in it, whole."""
        content = {
            "format": CARD_FORMAT,
            "arch": self.arch,
            "label_set": self.label_set,
            "classes": list(self.classes),
            **({} if self.labels.is_brought() else {"labels": self.labels.rows()}),
            "voxel_size": self.voxels.voxel_size,
            "crop": self.voxels.crop,
            "min_range": self.voxels.min_range,
            "features": list(FEATURES),
            "input": asdict(self.input_spec),
            "metrics": self.metrics,
            "provenance": self.provenance,
        }
        return json.dumps(content, indent=2) + "\n"

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a `model.json`.

        Raises:
            FormatError: the file is missing, no such card, or of another format or input; or its classes are
                not those of its label map.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != CARD_FORMAT:
                raise FormatError(f"{path} has format {content['format']}, this version reads {CARD_FORMAT}")
            if content["features"] != list(FEATURES):
                raise FormatError(
                    f"{path}: the model takes {content['features']}, pcsparse gives {list(FEATURES)}"
                )
            return cls(
                arch=content["arch"],
                labels=_labels_of(path, content),
                voxels=VoxelSettings(content["voxel_size"], content["crop"], content.get("min_range", 0.0)),
                input_spec=InputSpec(**content["input"]),
                metrics=content["metrics"],
                provenance=content["provenance"],
            )
        except OSError as error:
            raise FormatError(
                f"{path} cannot be read ({error}); a model needs its card beside the weights"
            ) from error
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, PcsparseError):
                raise
            raise FormatError(
                f"{path} is not the card of a model ({type(error).__name__}: {error})"
            ) from error


def _labels_of(path: Path, content: dict[str, Any]) -> LabelMap:
    name, classes = content["label_set"], tuple(content["classes"])
    try:
        rows = content.get("labels")
        labels = LabelMap.load(name) if rows is None else LabelMap.from_rows(name, **rows)
    except UnsupportedError as error:
        raise UnsupportedError(
            f"{path}: {error}; a label map of one's own is part of the card of a model that is trained with "
            'this version: train again, or add its tables `ignore`, `raw` and `classes` under "labels"'
        ) from error
    if classes != labels.names:
        raise FormatError(
            f"{path}: its classes {list(classes)} are not those of label set {name!r}, "
            f"{list(labels.names)}; a prediction would get wrong names"
        )
    return labels


def arch_of(model: nn.Module, n_classes: int) -> dict[str, Any]:
    """How to build `model` again: the `arch` of its card.

    Raises:
        UnsupportedError: its class is not one of pcsparse with a `spec`, so it could not be loaded again.
        FormatError: it has another number of classes than the label set.
    """
    target = f"{type(model).__module__}.{type(model).__qualname__}"
    spec: Any = getattr(model, "spec", None)
    if not target.startswith(_TRUSTED_PREFIX) or not hasattr(spec, "to_json"):
        raise UnsupportedError(
            f"{target} cannot be stored: a checkpoint holds classes under {_TRUSTED_PREFIX} that have a Spec"
        )
    if spec.n_classes != n_classes:
        raise FormatError(
            f"the model has {spec.n_classes} classes, the label set {n_classes}; "
            f"set model.spec.n_classes={n_classes}"
        )
    arch = {"_target_": target, "spec": json.loads(spec.to_json())}
    # on the meta device nothing is allocated or drawn
    with torch.device("meta"):
        norms = norm_settings(model, build_arch(arch))
    return arch | ({"norms": norms} if norms else {})


def build_arch(arch: dict[str, Any]) -> nn.Module:
    """Build the model that a card describes.

    Raises:
        FormatError: `_target_` is outside `pcsparse.`, unknown or no model, or the Spec or norms do not fit.
    """
    try:
        target, spec = arch["_target_"], arch["spec"]
    except (KeyError, TypeError) as error:
        raise FormatError(f"arch must have _target_ and spec, got {str(arch)[:200]}") from error
    if not isinstance(target, str) or not target.startswith(_TRUSTED_PREFIX):
        raise FormatError(
            f"arch names {target!r}; a checkpoint may only name classes under {_TRUSTED_PREFIX}"
        )
    module, _, name = target.rpartition(".")
    try:
        model_class = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise FormatError(f"arch names {target!r}, which this version of pcsparse does not have") from error
    if not (isinstance(model_class, type) and issubclass(model_class, nn.Module)) or not (
        model_class.__module__.startswith(_TRUSTED_PREFIX)
    ):
        raise FormatError(f"arch names {target!r}, which is no model")
    spec_class: Any = get_type_hints(model_class.__init__).get("spec")
    if spec_class is None:
        raise FormatError(f"arch names {target!r}, which is not built from a Spec")
    try:
        model: nn.Module = model_class(spec_class.from_json(json.dumps(spec)))
    except PcsparseError as error:
        raise FormatError(f"the Spec of {target} does not fit: {error}") from error
    set_norms(model, arch.get("norms", {}))
    return model


def save_model(path: Path, model: nn.Module, card: ModelCard, *, half: bool = False) -> None:
    """Write the weights to `path` (.safetensors) and the card beside them (.json), each whole or not at all.

    Args:
        path: of the weights.
        model: as `card.arch` describes it.
        card: see `ModelCard`.
        half: store floats as float16, half the size; `load_model` widens them. A tensor with values beyond
            65504, the largest of float16, stays as it is: a running variance of a few channels may be.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if half:
        state = {name: _narrowed(t) if t.is_floating_point() else t for name, t in state.items()}
    write_whole(path, save(state))
    write_whole(path.with_suffix(".json"), card.to_json().encode())


def _narrowed(tensor: Tensor) -> Tensor:
    """As float16 where all that is finite stays so."""
    narrow = tensor.half()
    return narrow if torch.equal(narrow.isfinite(), tensor.isfinite()) else tensor


def find_weights(path: str | Path) -> Path:
    """The weights that `path` means: a `.safetensors` file, or the folder of a run.

    Raises:
        FormatError: there are none.
    """
    path = Path(path)
    weights = path / "model.safetensors" if path.is_dir() else path
    # a folder's name may have a dot: runs/v1.2
    if path.suffix != ".safetensors" and not path.exists():
        raise FormatError(f"{path} does not exist; name the folder of a run, or a .safetensors file")
    if weights.suffix != ".safetensors":
        raise FormatError(
            f"{weights} is no .safetensors file; pickled checkpoints are not read, they can run code"
        )
    if not weights.is_file():
        raise FormatError(f"{weights} does not exist; a run stores it at the end of its first epoch")
    return weights


def stored_step(folder: Path) -> float:
    """The step of the model that a run has stored; -1 without one, or without a card that says it."""
    try:
        # its labels may be of a map that only whoever trains it has
        return float(json.loads((folder / "model.json").read_text(encoding="utf-8"))["metrics"]["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return -1.0


def load_model(path: str | Path) -> tuple[nn.Module, ModelCard]:
    """Read a model: weights, card and labels are checked against each other.

    Args:
        path: a `.safetensors` file with its `.json` beside it, or the folder of a run.

    Returns:
        The model, on the CPU, in evaluation mode, in float32; and its card.

    Raises:
        FormatError: a file is missing, truncated or wrong; names, shapes or classes disagree; a weight is not
            finite.
    """
    weights = find_weights(path)
    card = ModelCard.read(weights.with_suffix(".json"))
    model = build_arch(card.arch)
    try:
        state = load_file(weights)
    except (SafetensorError, OSError) as error:
        raise FormatError(
            f"{weights} is truncated or no safetensors file ({error}); fetch it again"
        ) from error
    _check_state(weights, state, model.state_dict())
    wide = {name: t.float() if t.is_floating_point() else t for name, t in state.items()}
    model.load_state_dict(wide, strict=True)
    return model.eval(), card


def _check_state(weights: Path, state: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    missing, unknown = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or unknown:
        raise FormatError(
            f"{weights} does not fit its card: {len(missing)} tensors are missing {missing[:3]}, "
            f"{len(unknown)} are unknown {unknown[:3]}"
        )
    for name, tensor in state.items():
        if tensor.shape != wanted[name].shape:
            raise FormatError(
                f"{weights}: {name} has shape {tuple(tensor.shape)}, the card's model "
                f"{tuple(wanted[name].shape)}"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise FormatError(f"{weights}: {name} holds values that are not finite; the run went wrong")
