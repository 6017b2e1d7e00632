"""The models that pcsparse brings: by name, by default, and by the cloud where none is named."""

from pathlib import Path

from pcsparse import resources
from pcsparse.errors import FormatError, RangeError
from pcsparse.infer.choice import Choice, choose
from pcsparse.infer.inspect import CloudReport
from pcsparse.train.model_file import ModelCard

DEFAULT_MODEL = "minkunet-hdl64e.safetensors"


def brought_models() -> list[Path]:
    """The weights that pcsparse brings, the default one first."""
    folder = resources.weights_dir()
    return sorted(folder.glob("*.safetensors"), key=lambda path: (path.name != DEFAULT_MODEL, path.name))


def model_named(name: str) -> Path:
    """The brought model of a name: that of its file without the ending.

    Raises:
        RangeError: there is none; the text lists those there are.
    """
    for path in brought_models():
        if path.stem == name:
            return path
    known = ", ".join(path.stem for path in brought_models()) or "none"
    hint = "; a file or the folder of a run is named by --checkpoint" if Path(name).exists() else ""
    raise RangeError(f"pcsparse brings no model {name!r}, but: {known}{hint}")


def checkpoint_or_default(checkpoint: str | None) -> Path:
    """The named checkpoint, or the default model that pcsparse brings.

    Raises:
        FormatError: none is named and the default one is not there.
    """
    if checkpoint is not None:
        return Path(checkpoint)
    path = resources.weights_dir() / DEFAULT_MODEL
    if not path.is_file():
        raise FormatError(
            f"no checkpoint is named, and the default one, {path}, is not there; name a run or a "
            ".safetensors file"
        )
    return path


def named_checkpoint(checkpoint: str | None, model: str | None) -> Path | None:
    """The model that a user named, by file or by name; None where the cloud decides.

    Raises:
        RangeError: both are given, or there is no model of that name.
        FormatError: none is named, and pcsparse brings none.
    """
    if checkpoint is not None and model is not None:
        raise RangeError(f"a model is named twice: checkpoint {checkpoint}, model {model}; give one of them")
    if model is not None:
        return model_named(model)
    if checkpoint is None:
        checkpoint_or_default(None)
        return None
    return Path(checkpoint)


def model_for(report: CloudReport) -> tuple[Path, Choice]:
    """The brought model that knows sweeps like a cloud, and why.

    Raises:
        FormatError: a card is broken.
        RangeError: pcsparse brings none.
    """
    weights = {path.stem: path for path in brought_models()}
    specs = {name: ModelCard.read(path.with_suffix(".json")).input_spec for name, path in weights.items()}
    choice = choose(report, specs)
    return weights[choice.name], choice
