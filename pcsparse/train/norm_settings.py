"""What norms of a stored network were set to, where its class alone would build others."""

import math
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pcsparse.errors import FormatError


def norm_settings(model: nn.Module, built: nn.Module) -> dict[str, dict[str, float | None]]:
    """`eps` and `momentum` of each norm of `model` that has others than `built`, the network of its Spec."""
    wanted = {name: part for name, part in built.named_modules() if isinstance(part, _BatchNorm)}
    found = {name: _settings_of(part) for name, part in model.named_modules() if isinstance(part, _BatchNorm)}
    return {
        name: settings
        for name, settings in found.items()
        if name in wanted and settings != _settings_of(wanted[name])
    }


def set_norms(model: nn.Module, settings: Any) -> None:
    """Set the norms of `model` in place to what `norm_settings` found.

    Raises:
        FormatError: a name is of no norm, or a number is none that a norm can have.
    """
    try:
        for name, numbers in settings.items():
            part, eps, momentum = model.get_submodule(name), numbers["eps"], numbers["momentum"]
            if not isinstance(part, _BatchNorm):
                raise FormatError(f"arch sets the norm {name!r}, which is a {type(part).__name__}")
            part.eps, part.momentum = _number(name, eps), momentum if momentum is None else float(momentum)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"the norms of arch do not fit ({type(error).__name__}: {error})") from error


def _settings_of(part: _BatchNorm) -> dict[str, float | None]:
    return {"eps": part.eps, "momentum": part.momentum}


def _number(name: str, eps: Any) -> float:
    if not (math.isfinite(eps) and eps >= 0):
        raise FormatError(f"arch gives the norm {name!r} eps={eps}; a norm needs a finite one of at least 0")
    return float(eps)
