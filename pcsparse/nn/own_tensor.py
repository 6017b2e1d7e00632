"""A module's parameters and buffers without torch's search for them, which layers do at every call."""

import torch
from torch import Tensor, nn


def own_tensor(module: nn.Module, name: str) -> Tensor | None:
    """`getattr(module, name)` of a parameter or a buffer, which may be None.

    Args:
        module: whose.
        name: of the attribute; a module that keeps it elsewhere, as under a parametrization, is asked for it.
    """
    # who traces knows the search better than the tables
    if not torch.compiler.is_compiling():
        if name in module._parameters:
            return module._parameters[name]
        if name in module._buffers:
            return module._buffers[name]
    kept: Tensor | None = getattr(module, name)
    return kept
