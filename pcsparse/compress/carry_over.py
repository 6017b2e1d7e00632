"""What a smaller network takes over from the one it was cut from, and how it is built."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pcsparse.errors import UnsupportedError


def build(model: nn.Module, spec: Any) -> nn.Module:
    """A network of the class of `model` by another Spec, to be filled; random numbers are left as they were.

    Weights and what else a checkpoint holds may be without values, on the "meta" device. All other tensors
    that its constructor makes have theirs.
    """
    kinds: Any = type(model)
    try:
        with torch.device("meta"):
            empty: nn.Module = kinds(spec)
        if not _left_without_values(empty):
            return empty
    except RuntimeError:
        # a constructor may ask tensors for numbers; if it was not that, it fails again
        pass
    with torch.random.fork_rng(devices=[]):
        return kinds(spec)  # type: ignore[no-any-return]


def fill(smaller: nn.Module, model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Give a network from `build` its weights, and what neither the Spec nor the weights say.

    That is: which parameters are trained, what norms were set to, which modules are in training mode, values
    of buffers that no checkpoint holds, and which names share a parameter.

    Args:
        smaller: with modules and parameters of the same names; changed in place.
        model: that was cut.
        state: of `smaller`; tensors are taken as they are.

    Returns:
        `smaller`.
    """
    smaller.load_state_dict(state, strict=True, assign=True)
    names: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first = names.setdefault(id(parameter), name)
        if first != name:
            path, _, last = name.rpartition(".")
            setattr(smaller.get_submodule(path), last, smaller.get_parameter(first))
    for name, parameter in smaller.named_parameters():
        parameter.requires_grad_(model.get_parameter(name).requires_grad)
    others = dict(model.named_modules(remove_duplicate=False))
    for name, part in smaller.named_modules(remove_duplicate=False):
        old: Any = others.get(name)
        part.training = model.training if old is None else old.training
        if old is None:
            continue
        if isinstance(part, _BatchNorm):
            part.eps, part.momentum = old.eps, old.momentum
        for key in part._non_persistent_buffers_set:
            values, made = getattr(old, key, None), getattr(part, key)
            if isinstance(values, Tensor) and isinstance(made, Tensor):
                # of another shape where it goes by the widths: then as it was built
                same = values.shape == made.shape
                setattr(part, key, values.detach().clone() if same else made.to(values.device))
    return smaller


def refuse_shared(model: nn.Module, layers: Collection[str]) -> None:
    """Raise UnsupportedError if a parameter of these layers is that of another layer, too."""
    owners: dict[int, list[str]] = {}
    for name, part in model.named_modules():
        for parameter in part.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    for names in owners.values():
        if len(names) > 1 and not set(names).isdisjoint(layers):
            raise UnsupportedError(
                f"{' and '.join(names)} share a parameter, and cannot be cut apart; give each a copy of its "
                "own, or leave them whole"
            )


def second_names(model: nn.Module) -> dict[str, str]:
    """By name in a checkpoint, of tensors of a module that stands in two places: the name of the first."""
    first: dict[int, str] = {}
    found: dict[str, str] = {}
    for path, part in model.named_modules(remove_duplicate=False):
        place = first.setdefault(id(part), path)
        if place != path:
            found |= {f"{path}.{key}": f"{place}.{key}" for key in part.state_dict(keep_vars=True)}
    return found


def _left_without_values(module: nn.Module) -> bool:
    """Whether a tensor that no checkpoint holds is on the meta device."""
    for part in module.modules():
        buffers = (part._buffers[name] for name in part._non_persistent_buffers_set)
        if any(isinstance(value, Tensor) and value.is_meta for value in (*vars(part).values(), *buffers)):
            return True
    return False
