"""The only place that finds configs, label maps and weights, in a checkout or in a wheel."""

from pathlib import Path

from pcsparse.errors import UnsupportedError

_PACKAGE = Path(__file__).resolve().parent


def _folder(name: str) -> Path:
    # a wheel carries the folder inside the package, a checkout has it beside the package
    candidates = (_PACKAGE / "_resources" / name, _PACKAGE.parent / name)
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    tried = " and ".join(str(candidate) for candidate in candidates)
    raise UnsupportedError(
        f"the {name} folder of pcsparse is missing (looked at {tried}); reinstall pcsparse"
    )


def configs_dir() -> Path:
    """The folder of Hydra configs."""
    return _folder("configs")


def labels_file(dataset: str) -> Path:
    """`labels.toml` of a data set.

    Raises:
        UnsupportedError: no such data set; the text lists those there are.
    """
    folder = _folder("datasets")
    path = folder / dataset / "labels.toml"
    if not path.is_file():
        known = sorted(child.parent.name for child in folder.glob("*/labels.toml"))
        raise UnsupportedError(f"no label map for data set {dataset!r}; known: {', '.join(known)}")
    return path


def weights_dir() -> Path:
    """The folder of the default checkpoints, each with its card."""
    return _PACKAGE / "models" / "weights"
