"""The packed layers of a model in one file, and what they take there."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from pcsparse.compress.sparse_heads_layers import PACKED, HeadLayer, Packed, has_hooks
from pcsparse.compress.sparse_heads_report import LayerReport
from pcsparse.errors import FormatError, PcsparseError, RangeError
from pcsparse.nn.eie_linear import EIELinear
from pcsparse.nn.linear_conv2d import LinearConv2d, Mode
from pcsparse.nn.semi_structured_linear import SemiStructuredLinear
from pcsparse.packed.eie import EIEMatrix
from pcsparse.packed.eie_file import eie_arrays, eie_matrix, layer_bytes
from pcsparse.packed.layer_file import check_names, read_layers, write_layers
from pcsparse.packed.two_four import TwoFourMatrix

FILE_FORMAT = 1
_KIND = "pcsparse-heads"
_KINDS = (nn.Linear, nn.Conv2d, *PACKED)
_Linear = EIELinear | SemiStructuredLinear
_Matrix = EIEMatrix | TwoFourMatrix


def save_heads(model: nn.Module, path: str | Path, *, with_huffman: bool = False) -> dict[str, int]:
    """Write all packed layers of a model, whole or not at all.

    The file holds these layers alone, weights and biases: what else `fit` may have trained is in the state
    dict, which can also hold them, in more bytes.

    Args:
        model: after `sparsify_heads`.
        path: the file; its folder must exist.
        with_huffman: code the streams of layers in EIE's format by how often each value occurs.

    Returns:
        Bytes by layer, weight and bias.

    Raises:
        RangeError: no packed layer, a name with a slash, or a bias that is not finite.
        FormatError: the matrix of a layer is none.
    """
    names = _names(model)
    packed = {listed[0]: m for m, listed in names.items() if isinstance(m, PACKED)}
    inside = {m.linear for m in packed.values() if isinstance(m, LinearConv2d)}
    packed = {name: m for name, m in packed.items() if m not in inside}
    check_names(packed)
    if "" in packed:
        raise RangeError("the model is itself a packed layer, which has no name; wrap it in nn.Sequential")
    tensors: dict[str, Tensor] = {}
    layers: dict[str, Any] = {}
    sizes: dict[str, int] = {}
    for name, module in packed.items():
        linear = _linear(module)
        # a copy, because a layer trusts its own tensors, which anybody may have changed
        parts, numbers = _parts(replace(linear.matrix).checked(), with_huffman=with_huffman)
        if linear.bias is not None:
            _check_bias(name, linear.bias)
            parts["bias"] = linear.bias.detach().cpu().contiguous()
        tensors.update({f"{name}/{part}": tensor for part, tensor in parts.items()})
        layers[name] = {
            "format": "eie" if isinstance(linear, EIELinear) else "2:4",
            "numbers": numbers,
            "with_relu": linear.with_relu,
            "skips_zeros": linear.skips_zeros if isinstance(linear, EIELinear) else True,
            "geometry": _geometry(module, names[module]),
        }
        sizes[name] = sum(tensor.numel() * tensor.element_size() for tensor in parts.values())
    write_layers(Path(path), _KIND, FILE_FORMAT, layers, tensors)
    return sizes


def load_heads(model: nn.Module, path: str | Path, *, mode: Mode = "auto") -> tuple[str, ...]:
    """Convert the layers of a model into those that `save_heads` wrote, in place.

    Args:
        model: of the same architecture, dense or converted; nothing changes if any layer does not fit.
        path: the file.
        mode: of the layers, see `EIELinear`.

    Returns:
        The names of the layers.

    Raises:
        FormatError: the file is missing, truncated, altered, of another kind or version, or its content is no
            packed layer; or the model has no such layer, or one of other sizes or with hooks.
        RangeError: another mode.
    """
    if mode not in get_args(Mode):
        raise RangeError(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")
    path = Path(path)
    layers, tensors = read_layers(path, _KIND, FILE_FORMAT, "packed layers")
    names = _names(model)
    by_name = {name: module for module, listed in names.items() for name in listed}
    made: list[tuple[list[str], nn.Module]] = []
    for name, entry in layers.items():
        parts = {key.partition("/")[2]: value for key, value in tensors.items() if _owner(key) == name}
        if name not in by_name:
            raise FormatError(f"{path} has a layer {name!r}, the model has none of this name")
        target = by_name[name]
        try:
            linear, geometry = _read(entry, parts)
            made.append((names[target], _fitted(linear, geometry, target, names[target], mode)))
        except PcsparseError as error:
            raise FormatError(f"{path}, layer {name!r}: {error}") from error
    # only now, when all fit
    for listed, module in made:
        for name in listed:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module)
    return tuple(listed[0] for listed, _ in made)


def report_of(layer: HeadLayer, module: Packed) -> LayerReport:
    """Sizes of a layer and of what stands in for it."""
    linear = _linear(module)
    matrix = linear.matrix
    weight = layer.module.weight
    plain, _ = _parts(matrix, with_huffman=False)
    huffman = None
    if isinstance(matrix, EIEMatrix):
        arrays, _ = eie_arrays(matrix, with_huffman=True)
        huffman = layer_bytes(arrays, matrix).total
    held = [tensor for name, tensor in linear.named_buffers() if name != "bias"]
    return LayerReport(
        layer.name,
        layer.also,
        type(layer.module).__name__,
        tuple(weight.shape),
        int((module.dense_weight() != 0).sum()) / weight.numel(),
        4 * weight.numel(),
        sum(tensor.numel() * tensor.element_size() for tensor in held),
        sum(tensor.numel() * tensor.element_size() for tensor in plain.values()),
        huffman,
    )


def _names(model: nn.Module) -> dict[nn.Module, list[str]]:
    found: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        found.setdefault(module, []).append(name)
    return found


def _linear(module: Packed) -> _Linear:
    return module.linear if isinstance(module, LinearConv2d) else module


def _parts(matrix: _Matrix, *, with_huffman: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What a file holds of a matrix: tensors by part, and numbers."""
    if isinstance(matrix, EIEMatrix):
        arrays, numbers = eie_arrays(matrix, with_huffman=with_huffman)
        return {part: torch.from_numpy(array) for part, array in arrays.items()}, numbers
    parts = {"values": matrix.values, "positions": matrix.positions}
    numbers = {"n_out": matrix.n_out, "n_in": matrix.n_in}
    return {part: tensor.detach().cpu().contiguous() for part, tensor in parts.items()}, numbers


def _check_bias(name: str, bias: Tensor) -> None:
    if not bool(bias.isfinite().all()):
        where = f"layer {name!r}: " if name else ""
        raise RangeError(f"{where}its bias is not finite; did its training diverge?")


def _read(entry: Any, parts: dict[str, Tensor]) -> tuple[_Linear, dict[str, Any]]:
    """The layer, and what it must have in common with the one whose place it takes."""
    try:
        numbers, geometry, with_relu = entry["numbers"], dict(entry["geometry"]), bool(entry["with_relu"])
        bias = parts.pop("bias", None)
        if bias is not None:
            _check_bias("", bias)
        if entry["format"] == "eie":
            matrix = eie_matrix({part: tensor.numpy() for part, tensor in parts.items()}, numbers)
            skips = bool(entry.get("skips_zeros", True))
            return EIELinear.from_matrix(matrix, bias, with_relu=with_relu, skips_zeros=skips), geometry
        if entry["format"] == "2:4":
            sizes = int(numbers["n_out"]), int(numbers["n_in"])
            halved = TwoFourMatrix(parts["values"], parts["positions"], *sizes).checked()
            return SemiStructuredLinear.from_matrix(halved, bias, with_relu=with_relu), geometry
    except PcsparseError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"it is no packed layer: {error!r}") from error
    raise FormatError(f"its format is {entry['format']!r}, neither 'eie' nor '2:4'")


def _geometry(module: nn.Module, names: list[str]) -> dict[str, Any]:
    """What a layer must have in common with the one that takes its place, as JSON gives it back."""
    geometry: dict[str, Any] = {"names": list(names)}
    if isinstance(module, nn.Conv2d | LinearConv2d):
        holder: Any = module.linear if isinstance(module, LinearConv2d) else module
        for key in ("kernel_size", "stride", "padding", "dilation"):
            value = getattr(module, key)
            geometry[key] = value if isinstance(value, str) else list(value)
        rest = {"groups": module.groups, "padding_mode": module.padding_mode}
        sizes = {"in_channels": module.in_channels, "out_channels": module.out_channels}
        return {"kind": "Conv2d", **geometry, **sizes, **rest, "bias": holder.bias is not None}
    linear: Any = module
    sizes = {"in_features": linear.in_features, "out_features": linear.out_features}
    return {"kind": "Linear", **geometry, **sizes, "bias": linear.bias is not None}


def _fitted(
    linear: _Linear, geometry: dict[str, Any], target: nn.Module, names: list[str], mode: Mode
) -> Packed:
    """The layer of a file that takes the place of `target`."""
    if type(target) not in _KINDS:
        raise FormatError(f"in the model it is a {type(target).__name__}")
    if has_hooks(target):
        raise FormatError(
            "in the model it has hooks, which would be lost; remove them, or hook it afterwards"
        )
    have = _geometry(target, names)
    for key in {**have, **geometry}:
        if have.get(key) != geometry.get(key):
            raise FormatError(
                f"{key} is {geometry.get(key)}, the model's is {have.get(key)}; build the model as it was "
                "when the file was written"
            )
    if have["bias"] != (linear.bias is not None):
        raise FormatError(
            f"its bias is {'' if have['bias'] else 'not '}announced, and the file says otherwise"
        )
    device = next(tensor.device for tensor in (*target.parameters(), *target.buffers()))
    if isinstance(target, nn.Conv2d | LinearConv2d):
        return LinearConv2d.from_conv(target, linear, mode=mode).to(device)
    if (linear.in_features, linear.out_features) != (have["in_features"], have["out_features"]):
        raise FormatError(f"its matrix is {linear.out_features} x {linear.in_features}, other than announced")
    linear.mode = mode
    return linear.to(device)


def _owner(key: str) -> str:
    return key.partition("/")[0]
