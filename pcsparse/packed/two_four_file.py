"""2:4 matrices on disk: one safetensors file for the layers of a head."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from pcsparse.errors import FormatError
from pcsparse.packed.layer_file import check_names, read_layers, write_layers
from pcsparse.packed.two_four import TwoFourMatrix

FILE_FORMAT = 1
_KIND = "pcsparse-two-four"


def save_two_four(matrices: Mapping[str, TwoFourMatrix], path: str | Path) -> dict[str, int]:
    """Write layers whole or not at all.

    Args:
        matrices: by name; names are free, but none may contain a slash.
        path: the file; its folder must exist.

    Returns:
        Bytes by layer, values and positions.

    Raises:
        RangeError: no layer, a name with a slash.
        FormatError: a matrix is none, see `TwoFourMatrix.checked`.
    """
    check_names(matrices)
    tensors: dict[str, Tensor] = {}
    for name, matrix in matrices.items():
        matrix.checked()
        tensors[f"{name}/values"] = matrix.values.detach().cpu().contiguous()
        tensors[f"{name}/positions"] = matrix.positions.cpu().contiguous()
    layers = {name: {"n_out": m.n_out, "n_in": m.n_in} for name, m in matrices.items()}
    write_layers(Path(path), _KIND, FILE_FORMAT, layers, tensors)
    return {name: matrix.stored_bytes for name, matrix in matrices.items()}


def load_two_four(path: str | Path) -> dict[str, TwoFourMatrix]:
    """Read layers that `save_two_four` wrote.

    Raises:
        FormatError: the file is missing, truncated, altered, of another kind or version, or its content is
            no 2:4 matrix.
    """
    path = Path(path)
    layers, tensors = read_layers(path, _KIND, FILE_FORMAT, "2:4 layers")
    found = {}
    for name, sizes in layers.items():
        try:
            values, positions = tensors[f"{name}/values"], tensors[f"{name}/positions"]
            matrix = TwoFourMatrix(values, positions, int(sizes["n_out"]), int(sizes["n_in"]))
            found[name] = matrix.checked()
        except (FormatError, KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{path}, layer {name!r}: {error}") from error
    return found
