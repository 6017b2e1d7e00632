"""The model that is used where none is named."""

from pathlib import Path

from pcsparse import resources
from pcsparse.errors import FormatError

DEFAULT_MODEL = "minkunet-hdl64e.safetensors"


def brought_models() -> list[Path]:
    """The weights that pcsparse brings, the default one first."""
    folder = resources.weights_dir()
    return sorted(folder.glob("*.safetensors"), key=lambda path: (path.name != DEFAULT_MODEL, path.name))


def checkpoint_or_default(checkpoint: str | None) -> Path:
    """The named checkpoint, or the one that pcsparse brings.

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
