"""Packed layers in one safetensors file, with their sizes and a digest of all of it."""

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
from pcsparse.whole_file import write_whole


def check_names(names: Mapping[str, object]) -> None:
    """Raise RangeError where there is no layer, or one whose name contains a slash."""
    if not names:
        raise RangeError("no layers to save; give at least one matrix by name")
    for name in names:
        if "/" in name:
            raise RangeError(f"the layer name {name!r} contains a slash; use dots")


def write_layers(
    path: Path, kind: str, version: int, layers: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write a file whole or not at all.

    Args:
        path: the file; its folder must exist.
        kind: what is in it, the key of its header.
        version: of the format.
        layers: what JSON can hold, by layer.
        tensors: by `layer/part`, contiguous, on the CPU.
    """
    header = {"kind": kind, "format": version, "layers": layers, "sha256": _digest(tensors, layers)}
    write_whole(path, save(dict(tensors), {kind: json.dumps(header, sort_keys=True)}))


def read_layers(path: Path, kind: str, version: int, what: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Layers and tensors that `write_layers` wrote.

    Args:
        path: the file.
        kind: as it was written.
        version: that is understood.
        what: the name of its layers for messages.

    Raises:
        FormatError: the file is missing, truncated, altered, or of another kind or version.
    """
    try:
        content = path.read_bytes()
        header = _header(content, kind)
        tensors = load(content)
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error}") from error
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(f"{path} is no whole safetensors file of {what}: {error}") from error
    if header.get("kind") != kind or header.get("format") != version:
        raise FormatError(
            f"{path} is {header.get('kind')!r} format {header.get('format')!r}; this version reads "
            f"{kind!r} format {version}"
        )
    if header.get("sha256") != _digest(tensors, header.get("layers")):
        raise FormatError(f"{path} has been altered or damaged since it was written (SHA-256 differs)")
    return header["layers"], tensors


def _header(content: bytes, kind: str) -> dict[str, Any]:
    """The text beside the tensors: `load` does not hand it out."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 + length:
        raise ValueError(f"the header says {length} bytes, {max(len(content) - 8, 0)} follow")
    metadata = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    header = json.loads(metadata[kind])
    if not isinstance(header, dict):
        raise ValueError("the header is no table")
    return header


def _digest(tensors: Mapping[str, Tensor], layers: object) -> str:
    """SHA-256 of the sizes of all layers, and of all tensors with their names, dtypes and shapes."""
    sha = hashlib.sha256(json.dumps(layers, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        # nothing can be viewed of an array without items, and numpy has no bfloat16
        if tensor.numel():
            sha.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
