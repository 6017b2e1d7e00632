"""Build all maps of a network before it runs."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from pcsparse.sparse_tensor import SparseTensor

Module = TypeVar("Module", bound=nn.Module)

# layers that keep shape and dtype, and for which torch thinks long on the "meta" device
_KEEPING = frozenset(
    {functional.batch_norm, functional.relu, functional.leaky_relu, functional.dropout, torch.relu}
)


class _ShapesOnly(TorchFunctionMode):
    """Answers for layers that keep shape and dtype: what comes in goes out."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in _KEEPING and args and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


def meta_copy(module: Module) -> Module:
    """A copy whose parameters and buffers have shapes but no values; `module` may run meanwhile elsewhere."""
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        shadow = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
        memo[id(parameter)] = shadow
    for buffer in module.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(module, memo)


def prepare(module: nn.Module, x: SparseTensor) -> SparseTensor:
    """Fill the cache of `x` with every level and map that `module(x)` will ask for.

    The module runs once with features and parameters on the "meta" device: coordinates and maps are real,
    arithmetic is not done. So map time can be measured apart, and `torch.compile` finds the maps ready.

    Args:
        module: any module that takes a SparseTensor.
        x: its input; only the cache changes.

    Returns:
        `x`.
    """
    with torch.no_grad(), _ShapesOnly():
        meta_copy(module)(x.replace(x.feats.to("meta")))
    return x
