"""The layers that the channel graph knows, and where their channels stand."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from pcsparse.compress.graph_numbers import Kind
from pcsparse.nn import (
    GELU,
    AvgPool3d,
    BatchNorm,
    BatchNormReLU,
    Dropout,
    GlobalAvgPool,
    GlobalMaxPool,
    LeakyReLU,
    Linear,
    MaxPool3d,
    ReLU,
    SiLU,
    SparseConv3d,
    SparseConvTranspose3d,
    SparseInverseConv3d,
    SubmanifoldConv3d,
)
from pcsparse.nn.row_layer import RowLinear, RowNorm, RowNormReLU

_CONVS_2D = (nn.Conv2d, nn.ConvTranspose2d)
_CONVS = (SubmanifoldConv3d, SparseConv3d, SparseInverseConv3d, SparseConvTranspose3d, *_CONVS_2D)
_LINEARS = (Linear, RowLinear, nn.Linear)
_NORMS = (BatchNorm, BatchNormReLU, RowNorm, RowNormReLU, nn.BatchNorm1d, nn.BatchNorm2d)
_POOLS_2D = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d)
# what they make of a channel depends on no other channel, and they make zeros of zeros
_CHANNELWISE = (
    ReLU, LeakyReLU, SiLU, GELU, Dropout, MaxPool3d, AvgPool3d, GlobalMaxPool, GlobalAvgPool,
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.ELU, nn.Tanh, nn.Hardswish,
    nn.Dropout, nn.Dropout2d, *_POOLS_2D,
)  # fmt: skip
# the names that the first argument has in their `forward`
_INPUTS = ("x", "input", "rows")
_KNOWN = frozenset((*_CONVS, *_LINEARS, *_NORMS, *_CHANNELWISE))


def class_of(part: nn.Module) -> type[nn.Module]:
    """The class that says what a module does; a subclass of a layer may do anything."""
    # torch gives a module with parametrised weights a class of its own, below the one it had
    return type(part).__bases__[0] if is_parametrized(part) else type(part)


def is_layer(part: nn.Module) -> bool:
    """Whether the module is followed as a whole, and not by what it runs."""
    return class_of(part) in _KNOWN


def kind_of(part: nn.Module) -> Kind | Literal["channelwise"]:
    """What a known layer does to channels."""
    found = class_of(part)
    if found in _CONVS:
        return "conv"
    if found in _LINEARS:
        return "linear"
    return "norm" if found in _NORMS else "channelwise"


def axis_of(part: nn.Module, dims: int) -> int | None:
    """The dimension of a known layer's input, of `dims` dimensions, that it takes for channels; None: any.

    The output has them there too.
    """
    found = class_of(part)
    if found in _LINEARS:
        return dims - 1
    if found in _CONVS_2D or found in _POOLS_2D or found in (nn.BatchNorm2d, nn.Dropout2d):
        return dims - 3
    return 1 if found in _CONVS or found in _NORMS else None


def input_of(inputs: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What a known layer reads, of the arguments of a call."""
    return inputs[0] if inputs else next(kwargs[name] for name in _INPUTS if name in kwargs)


def with_weights(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Layers with weights, and whatever else has some of its own; not what stands within a known layer."""
    within: tuple[str, ...] = ()
    for name, part in module.named_modules():
        if name.startswith(within):
            continue
        known = is_layer(part)
        if known:
            within += (f"{name}." if name else "",)
        if (known and kind_of(part) != "channelwise") or any(True for _ in part.parameters(recurse=False)):
            yield name, part
