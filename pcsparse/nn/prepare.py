"""Build all maps of a network before it runs."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from pcsparse.sparse_tensor import SparseTensor

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
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    shadow = {name: torch.empty_like(tensor, device="meta") for name, tensor in state.items()}
    with torch.no_grad(), _ShapesOnly():
        functional_call(module, shadow, (x.replace(x.feats.to("meta")),))
    return x
