"""Which layers of a model are dense layers of a head, and where they stand."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from pcsparse.compress.sparse_heads_report import SkippedLayer
from pcsparse.errors import RangeError, UnsupportedError
from pcsparse.nn.eie_linear import EIELinear
from pcsparse.nn.linear_conv2d import LinearConv2d, conv_refusal, kernel_order, reduction_order
from pcsparse.nn.semi_structured_linear import SemiStructuredLinear

Heads = Sequence[str] | Callable[[str, nn.Module], bool]
Places = tuple[tuple[nn.Module, str], ...]
"""The modules that hold a layer, each with the name that it has there."""
Packed = EIELinear | SemiStructuredLinear | LinearConv2d
PACKED = (EIELinear, SemiStructuredLinear, LinearConv2d)


@dataclass(frozen=True, eq=False)
class HeadLayer:
    """A dense layer that can be converted.

    Attributes:
        name: its first in the model.
        also: its other names.
        places: that it stands in.
        module: of torch's own class.
    """

    name: str
    also: tuple[str, ...]
    places: Places
    module: nn.Linear | nn.Conv2d

    def matrix(self) -> Tensor:
        """The weight as (n_out, n_in), see `reduction_order`; without gradients."""
        return self.flat(self.module.weight.detach())

    def flat(self, weight: Tensor) -> Tensor:
        """What has the shape of the layer's weight, of any dtype, as (n_out, n_in)."""
        return weight if isinstance(self.module, nn.Linear) else reduction_order(weight)

    def shaped(self, matrix: Tensor) -> Tensor:
        """The inverse of `flat`."""
        if isinstance(self.module, nn.Linear):
            return matrix
        kh, kw = self.module.kernel_size
        return kernel_order(matrix, self.module.in_channels, (kh, kw))

    def around(self, linear: EIELinear | SemiStructuredLinear) -> Packed:
        """What stands in for the layer; its weight is `linear`."""
        if isinstance(self.module, nn.Linear):
            return linear
        return LinearConv2d.from_conv(self.module, linear)

    def put(self, module: nn.Module) -> None:
        """Set a module in all places of this one."""
        for parent, child in self.places:
            setattr(parent, child, module)


def find_layers(
    model: nn.Module, heads: Heads | None, refusal: Callable[[str, nn.Linear | nn.Conv2d], str | None]
) -> tuple[tuple[HeadLayer, ...], tuple[SkippedLayer, ...]]:
    """The dense layers of heads that can be converted, and those that cannot.

    Args:
        model: to search.
        heads: names of modules, each of which stands for itself and all below it; or whether a layer, by its
            name and itself, belongs to a head; None for all.
        refusal: why a method cannot take a layer; None where it can.

    Raises:
        RangeError: a name that does not exist, or below which there is no linear or convolution layer.
        UnsupportedError: nothing can be converted, the text says why for each layer; or a layer of the model
            waits for its first input.
    """
    for name, tensor in model.named_parameters():
        if is_lazy(tensor):
            raise UnsupportedError(f"{name} has no values yet; call the model once before")
    names: dict[nn.Module, list[str]] = defaultdict(list)
    for name, module in model.named_modules(remove_duplicate=False):
        names[module].append(name)
    inside: set[nn.Module] = {module.linear for module in names if isinstance(module, LinearConv2d)}
    candidates: dict[nn.Module, list[str]] = {
        module: listed
        for module, listed in names.items()
        if isinstance(module, (nn.Linear, nn.Conv2d, *PACKED)) and module not in inside
    }
    chosen = _chosen(names, candidates, heads)
    owners: dict[int, list[str]] = defaultdict(list)
    for module, listed in names.items():
        for tensor in module.parameters(recurse=False):
            owners[id(tensor)].append(listed[0])
    layers, skipped = [], []
    for module in chosen:
        name, *also = candidates[module]
        places = tuple(_place(model, one) for one in (name, *also))
        reason = _refusal(name, module, owners, places)
        if reason is None and isinstance(module, nn.Linear | nn.Conv2d):
            reason = refusal(name, module)
            if reason is None:
                layers.append(HeadLayer(name, tuple(also), places, module))
                continue
        skipped.append(SkippedLayer(name, _shape(module), reason or ""))
    if not layers:
        reasons = "; ".join(f"{layer.name or 'the model'}: {layer.reason}" for layer in skipped)
        raise UnsupportedError(f"no layer can be converted: {reasons or 'there are no linear or 2-D layers'}")
    return tuple(layers), tuple(skipped)


def _chosen(
    names: dict[nn.Module, list[str]], candidates: dict[nn.Module, list[str]], heads: Heads | None
) -> list[nn.Module]:
    """The candidates that belong to a head, in the order of the model."""
    if heads is None:
        return list(candidates)
    if callable(heads):
        return [m for m, listed in candidates.items() if any(heads(name, m) for name in listed)]
    if isinstance(heads, str):
        raise RangeError(f"heads must be a list of names, got the text {heads!r}; put it in brackets")
    every = [name for listed in candidates.values() for name in listed]
    for head in heads:
        if not any(head in listed for listed in names.values()):
            raise RangeError(f"the model has no module {head!r}; linear and 2-D layers: {', '.join(every)}")
        if not any(_within(name, head) for name in every):
            raise RangeError(
                f"{head!r} holds no linear or 2-D convolution layer; such layers: {', '.join(every)}"
            )
    return [m for m, listed in candidates.items() if any(_within(n, head) for n in listed for head in heads)]


def _within(name: str, head: str) -> bool:
    return head in ("", name) or name.startswith(f"{head}.")


def _refusal(name: str, module: nn.Module, owners: dict[int, list[str]], places: Places) -> str | None:
    """Why a layer cannot be converted, whatever the method."""
    if isinstance(module, PACKED):
        return f"is converted already ({type(module).__name__})"
    # torch's parametrisations, and its older hooks, take the parameter of this name away
    if parametrize.is_parametrized(module) or "weight" not in dict(module.named_parameters(recurse=False)):
        return "its weight is parametrised; remove that first"
    if type(module) not in (nn.Linear, nn.Conv2d):
        kind = type(module)
        return f"is a {kind.__module__}.{kind.__qualname__}, not torch's own layer"
    if not name:
        return "is the model itself and cannot be replaced in it; wrap it in nn.Sequential"
    if not isinstance(module, nn.Linear | nn.Conv2d) or module.weight.numel() == 0:
        return "has no weights"
    if isinstance(module, nn.Conv2d) and (reason := conv_refusal(module)) is not None:
        return reason
    for tensor in module.parameters(recurse=False):
        others = [other for other in owners[id(tensor)] if other != name]
        if others:
            return f"shares a parameter with {', '.join(others)}"
        if tensor.dtype != torch.float32:
            return f"its parameters are {tensor.dtype}; only float32 is packed"
    if any(isinstance(parent, nn.TransformerEncoderLayer) for parent, _ in places):
        return "nn.TransformerEncoderLayer reads its weight past its forward"
    if has_hooks(module):
        return "has hooks, which would be lost"
    return None


def has_hooks(module: nn.Module) -> bool:
    """Whether anything was registered to run with a layer, and would be lost with it."""
    return any(
        (
            module._forward_hooks,
            module._forward_pre_hooks,
            module._backward_hooks,
            module._backward_pre_hooks,
        )
    )


def _place(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    parent, _, child = name.rpartition(".")
    return model.get_submodule(parent), child


def _shape(module: nn.Module) -> tuple[int, ...]:
    weight = getattr(module, "weight", None)
    return tuple(weight.shape) if isinstance(weight, Tensor) else ()
