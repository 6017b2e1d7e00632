"""Where the points of an example lie."""

import torch
from torch import nn


def device_of_points(model: nn.Module) -> torch.device:
    """That of the parameters; the CPU where these have no values, as what points do depends on theirs."""
    device = next(model.parameters()).device
    return torch.device("cpu") if device.type == "meta" else device
