"""What a smaller network takes over from the one it was cut from besides Spec and weights."""

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def carry_over(model: nn.Module, smaller: nn.Module) -> None:
    """What neither the Spec nor the weights say: what is trained, and what norms were set to.

    Args:
        model: that was cut.
        smaller: the new one, with modules and parameters of the same names; changed in place.
    """
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for name, parameter in smaller.named_parameters():
        parameter.requires_grad_(flags[name])
    for name, part in smaller.named_modules():
        if isinstance(part, _BatchNorm):
            old: Any = model.get_submodule(name)
            part.eps, part.momentum = old.eps, old.momentum
