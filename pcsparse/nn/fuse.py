"""Fold batch norm, ReLU and residual sums into the convolutions before them, for inference."""

from collections import Counter
from typing import Any, TypeGuard

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from pcsparse.kernels.lasting import will_last
from pcsparse.nn.block import ResidualBlock
from pcsparse.nn.conv import (
    SparseConv,
    SparseConv3d,
    SparseConvTranspose3d,
    SparseInverseConv3d,
    SubmanifoldConv3d,
)
from pcsparse.nn.copies import own_copy
from pcsparse.nn.norm import BatchNorm, BatchNormReLU
from pcsparse.nn.pointwise import ReLU
from pcsparse.sparse_tensor import SparseTensor

_CONVS = (SubmanifoldConv3d, SparseConv3d, SparseInverseConv3d, SparseConvTranspose3d)


class FusedResidualBlock(nn.Module):
    """What `fuse` makes of a ResidualBlock: two convolutions, the second of which adds the shortcut.

    Args:
        conv1: with its batch norm folded in, and ReLU.
        conv2: with its batch norm folded in, and ReLU after the sum.
        shortcut: nothing, or a convolution with its batch norm folded in.
    """

    def __init__(self, conv1: SparseConv, conv2: SparseConv, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1, self.conv2, self.shortcut = conv1, conv2, shortcut

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(n, c_in) -> (n, c_out)."""
        out: SparseTensor = self.conv2(self.conv1(x), residual=self.shortcut(x))
        return out


def fuse(model: nn.Module) -> nn.Module:
    """A copy of `model` for inference whose batch norms are folded into the convolutions before them.

    In an `nn.Sequential`, a convolution followed by BatchNorm, by BatchNormReLU, by BatchNorm and ReLU, or
    by ReLU alone becomes one convolution, and so do the pieces of a ResidualBlock. Outputs agree with
    `model.eval()` up to rounding. Feature maps are read and written once a convolution, not three times.

    Whatever is not exactly of these classes, has hooks or parametrizations, is used at more than one place,
    or has no running statistics is copied as it is.

    Args:
        model: any module; it is not changed.

    Returns:
        The copy, in evaluation mode. Training it further would train without batch norm. On a CPU its
        convolutions keep their weights in the order in which the kernel reads them, once they have run, and
        so need their bytes twice at least; they want no gradients, and what does wants them laid out at every
        call, as does a copy of the copy. Change them in place or by `load_state_dict`; what is written
        through `.data`, or into memory that is shared with NumPy, may not be seen.
    """
    model = own_copy(model)
    # a module at two places must do the same at both, and only one of them may be followed by a norm
    places = Counter(id(part) for _, part in model.named_modules(remove_duplicate=False))
    once = frozenset(part for part, count in places.items() if count == 1)
    fused = _fused(model, once).eval()
    for part in fused.modules():
        if isinstance(part, SparseConv):
            for parameter in part.parameters(recurse=False):
                will_last(parameter.requires_grad_(False))
    return fused


def _fused(module: nn.Module, once: frozenset[int]) -> nn.Module:
    if type(module) is ResidualBlock:
        return _fused_block(module, once)
    for name, child in module.named_children():
        setattr(module, name, _fused(child, once))
    if type(module) is nn.Sequential and id(module) in once:
        layers = _merged(list(module), once)
        if len(layers) == 1 and not _hooked(module):
            return layers[0]
        module._modules = {str(i): layer for i, layer in enumerate(layers)}
    return module


def _fused_block(block: ResidualBlock, once: frozenset[int]) -> nn.Module:
    pairs = ((block.conv1, block.norm1), (block.conv2, block.norm2))
    # all is decided before anything is changed
    if not _plain(block, once) or not all(_foldable(*pair, once) for pair in pairs):
        return block
    conv1, conv2 = (_folded(*pair) for pair in pairs)
    return FusedResidualBlock(conv1, conv2, _fused(block.shortcut, once))


def _merged(layers: list[nn.Module], once: frozenset[int]) -> list[nn.Module]:
    """The layers, with each convolution merged with what follows it."""
    merged = []
    while layers:
        layer = layers.pop(0)
        if layers and _foldable(layer, layers[0], once):
            layer = _folded(layer, layers.pop(0))
        if layers and type(layers[0]) is ReLU and _plain(layers[0], once) and _is_conv(layer, once):
            layer.relu = True
            layers.pop(0)
        merged.append(layer)
    return merged


def _hooked(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    return any(hooks) or bool(module._backward_pre_hooks)


def _plain(module: nn.Module, once: frozenset[int]) -> bool:
    """Whether nothing but the module's own class says what it does, and it stands at one place."""
    return id(module) in once and not _hooked(module) and not is_parametrized(module)


def _is_conv(module: nn.Module, once: frozenset[int]) -> TypeGuard[SparseConv]:
    return type(module) in _CONVS and _plain(module, once) and not module.relu


def _foldable(conv: nn.Module, norm: nn.Module, once: frozenset[int]) -> bool:
    if not _is_conv(conv, once) or type(norm) not in (BatchNorm, BatchNormReLU) or not _plain(norm, once):
        return False
    assert isinstance(norm, BatchNorm)
    return norm.running_mean is not None and norm.running_var is not None


@torch.no_grad()
def _folded(conv: Any, norm: Any) -> SparseConv:
    """The convolution that does what both did in evaluation."""
    dtype = conv.weight.dtype
    # in float64, so that folding rounds once
    scale, shift = norm.double().scale_and_shift(conv.weight.double())
    if conv.voxels is not None and conv.rest == "pass":
        # rows that pass the convolution do not pass the norm
        before = (1.0 if conv.through_scale is None else conv.through_scale.double(),
                  0.0 if conv.through_shift is None else conv.through_shift.double())  # fmt: skip
        # a network may be fused again, with norms that another one followed
        conv.through_scale = (before[0] * scale).to(dtype)
        conv.through_shift = (before[1] * scale + shift).to(dtype)
    bias = shift if conv.bias is None else shift + conv.bias.double() * scale
    conv.weight = nn.Parameter((conv.weight.double() * scale).to(dtype))
    conv.bias = nn.Parameter(bias.to(dtype))
    conv.relu, conv.folded = type(norm) is BatchNormReLU, True
    folded: SparseConv = conv
    return folded
