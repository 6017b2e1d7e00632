"""Fold batch norm, ReLU and residual sums into the convolutions before them, for inference."""

import copy
from collections.abc import Iterable

import torch
from torch import nn

from pcsparse.nn.block import ResidualBlock
from pcsparse.nn.conv import SparseConv
from pcsparse.nn.norm import BatchNorm, BatchNormReLU
from pcsparse.nn.pointwise import ReLU
from pcsparse.sparse_tensor import SparseTensor


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

    In an `nn.Sequential`, a convolution followed by BatchNorm, by BatchNormReLU, by BatchNorm and ReLU, or by
    ReLU alone becomes one convolution, and so do the pieces of a ResidualBlock. The rest is copied as it is.
    Outputs agree with `model.eval()` up to rounding. Feature maps are read and written once a convolution
    instead of three times.

    Args:
        model: any module; it is not changed.

    Returns:
        The copy, in evaluation mode. Training it further would train without batch norm.
    """
    return _fused(copy.deepcopy(model)).eval()


def _fused(module: nn.Module) -> nn.Module:
    if isinstance(module, ResidualBlock):
        conv1, conv2 = _folded(module.conv1, module.norm1), _folded(module.conv2, module.norm2)
        if conv1 is None or conv2 is None:
            return module
        return FusedResidualBlock(conv1, conv2, _fused(module.shortcut))
    for name, child in module.named_children():
        setattr(module, name, _fused(child))
    if type(module) is nn.Sequential:
        return _shortened(_merged(list(module)))
    return module


def _merged(layers: list[nn.Module]) -> Iterable[nn.Module]:
    """The layers, with each convolution merged with what follows it."""
    while layers:
        layer = layers.pop(0)
        if isinstance(layer, SparseConv) and not layer.relu:
            if layers and isinstance(layers[0], BatchNorm):
                folded = _folded(layer, layers[0])
                if folded is not None:
                    layer = folded
                    layers.pop(0)
            if layers and isinstance(layers[0], ReLU) and isinstance(layer, SparseConv) and not layer.relu:
                layer.relu = True
                layers.pop(0)
        yield layer


def _shortened(layers: Iterable[nn.Module]) -> nn.Module:
    found = list(layers)
    return found[0] if len(found) == 1 else nn.Sequential(*found)


@torch.no_grad()
def _folded(conv: SparseConv, norm: BatchNorm) -> SparseConv | None:
    """The convolution that does what both did in evaluation; None without running statistics."""
    if norm.running_mean is None or norm.running_var is None or conv.relu:
        return None
    dtype = conv.weight.dtype
    # in float64, so that folding rounds once
    scale, shift = norm.double().scale_and_shift(conv.weight.double())
    bias = shift if conv.bias is None else shift + conv.bias.double() * scale
    conv.weight = nn.Parameter((conv.weight.double() * scale).to(dtype))
    conv.bias = nn.Parameter(bias.to(dtype))
    conv.relu = isinstance(norm, BatchNormReLU)
    return conv
