"""2:4 matrices on disk: one safetensors file for the layers of a head."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pcsparse.errors import FormatError, RangeError
from pcsparse.packed.two_four import TwoFourMatrix
from pcsparse.whole_file import write_whole

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
    if not matrices:
        raise RangeError("no layers to save; give at least one TwoFourMatrix by name")
    tensors: dict[str, Tensor] = {}
    for name, matrix in matrices.items():
        if "/" in name:
            raise RangeError(f"the layer name {name!r} contains a slash; use dots")
        matrix.checked()
        tensors[f"{name}/values"] = matrix.values.detach().cpu().contiguous()
        tensors[f"{name}/positions"] = matrix.positions.cpu().contiguous()
    layers = {name: {"n_out": m.n_out, "n_in": m.n_in} for name, m in matrices.items()}
    header = {"kind": _KIND, "format": FILE_FORMAT, "layers": layers, "sha256": _digest(tensors, layers)}
    write_whole(Path(path), save(tensors, {_KIND: json.dumps(header, sort_keys=True)}))
    return {name: matrix.stored_bytes for name, matrix in matrices.items()}


def load_two_four(path: str | Path) -> dict[str, TwoFourMatrix]:
    """Read layers that `save_two_four` wrote.

    Raises:
        FormatError: the file is missing, truncated, altered, of another kind or version, or its content is
            no 2:4 matrix.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        header = _header(content)
        tensors = load(content)
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error}") from error
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(f"{path} is no whole safetensors file of 2:4 layers: {error}") from error
    if header.get("kind") != _KIND or header.get("format") != FILE_FORMAT:
        raise FormatError(
            f"{path} is {header.get('kind')!r} format {header.get('format')!r}; this version reads "
            f"{_KIND!r} format {FILE_FORMAT}"
        )
    if header.get("sha256") != _digest(tensors, header.get("layers")):
        raise FormatError(f"{path} has been altered or damaged since it was written (SHA-256 differs)")
    found = {}
    for name, sizes in header["layers"].items():
        try:
            values, positions = tensors[f"{name}/values"], tensors[f"{name}/positions"]
            matrix = TwoFourMatrix(values, positions, int(sizes["n_out"]), int(sizes["n_in"]))
            found[name] = matrix.checked()
        except (FormatError, KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{path}, layer {name!r}: {error}") from error
    return found


def _header(content: bytes) -> dict[str, Any]:
    """The text beside the tensors: `load` does not hand it out."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 + length:
        raise ValueError(f"the header says {length} bytes, {max(len(content) - 8, 0)} follow")
    metadata = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    header = json.loads(metadata[_KIND])
    if not isinstance(header, dict):
        raise ValueError("the header is no table")
    return header


def _digest(tensors: Mapping[str, Tensor], layers: object) -> str:
    """SHA-256 of the sizes of all layers, and of all tensors with their names, dtypes and shapes."""
    sha = hashlib.sha256(json.dumps(layers, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        # numpy has no bfloat16
        sha.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
