"""Where the output and the input channels stand in the weights of each kind of layer. The only place."""

from torch import Tensor, nn

from pcsparse.nn.conv import SparseConv


def out_axis(module: nn.Module) -> int:
    """The dimension of a weight that its output channels have; of a norm, its only one."""
    # kernel offsets come first, then inputs
    if isinstance(module, SparseConv):
        return 2
    return 1 if isinstance(module, nn.ConvTranspose2d) else 0


def in_axis(module: nn.Module) -> int:
    """The dimension of a weight that its input channels have."""
    return 0 if isinstance(module, nn.ConvTranspose2d) else 1


def out_rows(module: nn.Module, parameter: Tensor) -> Tensor:
    """A parameter of a layer as (c_out, everything else)."""
    if parameter.dim() == 1:
        return parameter[:, None]
    return parameter.movedim(out_axis(module), 0).flatten(1)


def in_rows(module: nn.Module, weight: Tensor) -> Tensor:
    """The weight of a convolution or linear layer as (c_in, everything else)."""
    return weight.movedim(in_axis(module), 0).flatten(1)
