"""Copies of networks with what torch's deepcopy refuses: results that they keep, and what hangs on hooks."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode

Given = TypeVar("Given")
Module = TypeVar("Module", bound=nn.Module)

# torch's own names, of whichever version
_HOOKS = tuple(name for name in vars(nn.Module()) if name.endswith("_hooks") or "_hooks_" in name)
_MAKERS = (WeightNorm, SpectralNorm, BasePruningMethod)


class _Results(TorchFunctionMode):
    """Lets `copy.deepcopy` take tensors with a history, wherever they are kept."""

    def __init__(self, copied: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._copied = copied

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            return self._copied(args[0])
        return func(*args, **(kwargs or {}))


def copy_with(given: Given, memo: dict[int, Any], copied: Callable[[Tensor], Tensor]) -> Given:
    """`copy.deepcopy` that takes tensors which were computed from others, too.

    A network may keep such results in its attributes, in lists, dicts and SparseTensors among them. Those
    that hang on another tensor (an attribute of it, a gradient with a history) are refused, as by torch.

    Args:
        given: a network, or what one holds; it stays as it is.
        memo: see `copy.deepcopy`.
        copied: what stands for such a tensor.
    """
    with _Results(copied):
        return copy.deepcopy(given, memo)


def own_copy(module: Module, *, hooked: bool = True) -> Module:
    """A deep copy in which results that the module keeps have values and no history.

    Args:
        module: any; it stays as it is.
        hooked: take its hooks over. Otherwise those alone stay by which torch makes weights before each call
            (`torch.nn.utils.weight_norm`, `spectral_norm`, pruning masks).
    """
    memo = {} if hooked else without_hooks(module, keep=_MAKERS)
    return copy_with(module, memo, lambda result: result.detach().clone())


def without_hooks(module: nn.Module, *, keep: tuple[type, ...] = ()) -> dict[int, Any]:
    """The memo of a deep copy that has no hooks but those of some classes."""
    memo: dict[int, Any] = {}
    for part in module.modules():
        state = vars(part)
        for name in _HOOKS:
            if name in state:
                # in place of a copy: what hangs on a hook need not bear to be copied
                memo[id(state[name])] = hooks = type(state[name])()
                hooks.update({key: hook for key, hook in state[name].items() if isinstance(hook, keep)})
    return memo
