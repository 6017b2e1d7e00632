"""What a smaller network takes over from the one it was cut from, and how it is built."""

from collections.abc import Collection, Iterator, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import is_parametrized

from pcsparse.compress.graph_layers import is_layer
from pcsparse.errors import UnsupportedError
from pcsparse.nn.copies import copy_with

# a network's own Spec says how it was built
_NOT_CARRIED = {*vars(nn.Module()), "spec"}
# of containers and objects within each other, in which tensors are looked for
_DEPTH = 6


def build(model: nn.Module, spec: Any) -> nn.Module:
    """A network of the class of `model` by another Spec, for `fill`; random numbers are left as they were.

    Weights and what else a checkpoint holds may be without values, on the "meta" device. Tensors that its
    constructor keeps elsewhere have theirs.
    """
    kinds: Any = type(model)
    empty: nn.Module | None = None
    try:
        with torch.device("meta"):
            empty = kinds(spec)
    except Exception:
        # a constructor may ask tensors for numbers; if it was not that, it fails again
        empty = None
    if empty is not None and not any(kept.is_meta for part in empty.modules() for kept in _beside(part)):
        return empty
    with torch.random.fork_rng(devices=[]):
        return kinds(spec)  # type: ignore[no-any-return]


def fill(smaller: nn.Module, model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Give a network from `build` its weights, and what neither the Spec nor the weights say.

    That is: which parameters are trained, what norms were set to, which modules are in training mode, which
    names share a parameter, and values of tensors that no checkpoint holds (buffers and attributes), where
    the new ones have the same shape.

    Args:
        smaller: with modules and parameters of the same names; changed in place.
        model: that was cut.
        state: of `smaller`; tensors are taken as they are.

    Returns:
        `smaller`.
    """
    smaller.load_state_dict(state, strict=True, assign=True)
    for first, *others in same_tensors(model):
        if isinstance(named := smaller.state_dict(keep_vars=True)[first], nn.Parameter):
            for name in others:
                path, _, last = name.rpartition(".")
                setattr(smaller.get_submodule(path), last, named)
    for name, parameter in smaller.named_parameters():
        parameter.requires_grad_(model.get_parameter(name).requires_grad)
    olds = dict(model.named_modules(remove_duplicate=False))
    parts = dict(smaller.named_modules(remove_duplicate=False))
    # what an attribute holds besides tensors may lead to other parts of the network
    memo: dict[int, Any] = {id(olds[name]): part for name, part in parts.items() if name in olds}
    memo |= {id(model.get_parameter(name)): own for name, own in smaller.named_parameters()}
    for name, part in parts.items():
        old: Any = olds.get(name)
        part.training = model.training if old is None else old.training
        if old is None:
            continue
        if isinstance(part, _BatchNorm):
            part.eps, part.momentum = old.eps, old.momentum
        _carry_tensors(old, part, memo)
    return smaller


def _carry_tensors(old: nn.Module, part: nn.Module, memo: dict[int, Any]) -> None:
    for key in part._non_persistent_buffers_set:
        values, made = getattr(old, key, None), getattr(part, key)
        if isinstance(values, Tensor) and isinstance(made, Tensor):
            # of another shape where it goes by the widths: then as it was built
            same = values.shape == made.shape
            setattr(part, key, values.detach().clone() if same else made.to(values))
    for key, built in list(vars(part).items()):
        kept = [tensor.shape for tensor in _tensors_in(built)] if key not in _NOT_CARRIED else []
        value = vars(old).get(key)
        if kept and [tensor.shape for tensor in _tensors_in(value)] == kept:
            vars(part)[key] = copy_with(value, memo, lambda result: result.detach().clone())


def refuse_made(name: str, part: nn.Module) -> None:
    """Raise UnsupportedError if a parametrisation, or a hook before each call, makes a layer's weight."""
    if is_parametrized(part):
        raise UnsupportedError(f"the weights of {name} are made by a parametrisation; remove it first")
    if is_layer(part) and "weight" not in part._parameters and isinstance(vars(part).get("weight"), Tensor):
        raise UnsupportedError(
            f"the weight of {name} is made by a hook before each call (weight_norm, spectral_norm or a "
            "pruning mask of torch); remove it first"
        )


def refuse_shared(model: nn.Module, layers: Collection[str]) -> None:
    """Raise UnsupportedError if a parameter of these layers is that of another layer, too."""
    owners: dict[int, list[str]] = {}
    for name, part in model.named_modules():
        for parameter in part.parameters(recurse=False) if is_layer(part) else ():
            owners.setdefault(id(parameter), []).append(name)
    for names in owners.values():
        if len(names) > 1 and not set(names).isdisjoint(layers):
            raise UnsupportedError(
                f"{' and '.join(names)} share a parameter, and cannot be cut apart; give each a copy of its "
                "own, or leave them whole"
            )


def cut_everywhere(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state in which a tensor of several names, one of which was cut, is cut under all of them.

    Args:
        model: that is cut.
        state: of the smaller network, with all names of `model`.
    """
    before = model.state_dict()
    for names in same_tensors(model):
        cut = [name for name in names if state[name].shape != before[name].shape]
        if cut:
            state = state | dict.fromkeys(names, state[cut[0]])
    return state


def same_tensors(model: nn.Module) -> list[list[str]]:
    """Names in a checkpoint of each tensor that has several: of a module in two places, or tied."""
    names: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    return [found for found in names.values() if len(found) > 1]


def _beside(part: nn.Module) -> Iterator[Tensor]:
    """Tensors of a module that no checkpoint holds."""
    yield from _tensors_in([part._buffers[name] for name in part._non_persistent_buffers_set])
    yield from _tensors_in([value for key, value in vars(part).items() if key not in _NOT_CARRIED])


def _tensors_in(value: Any, depth: int = _DEPTH) -> Iterator[Tensor]:
    """Tensors in containers and objects; not those of modules."""
    if isinstance(value, Tensor):
        yield value
    elif depth and not isinstance(value, nn.Module | ModuleType | type):
        within = value if isinstance(value, dict) else getattr(value, "__dict__", {})
        for one in value if isinstance(value, list | tuple | set) else within.values():
            yield from _tensors_in(one, depth - 1)
