"""Build all maps of a network before it runs."""

import torch
from torch import nn
from torch.func import functional_call

from pcsparse.sparse_tensor import SparseTensor


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
    with torch.no_grad():
        functional_call(module, shadow, (x.replace(x.feats.to("meta")),))
    return x
