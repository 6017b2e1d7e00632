"""Exponential moving average of a model's weights."""

import copy

import torch
from torch import Tensor, nn


class ExponentialAverage:
    """A copy of a model whose weights trail the trained ones: a <- d a + (1 - d) w after each step.

    Early on the decay is min(d, (1 + step) / (10 + step)), so that the random start is forgotten.

    Attributes:
        model: the averaged model, in evaluation mode, without gradients. Buffers (running statistics) are
            copied.
        decay: d.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights of `model` after optimiser step `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        # one call for all of them: a GPU waits for the host here
        averages: list[Tensor] = list(self.model.parameters())
        currents: list[Tensor] = list(model.parameters())
        torch._foreach_lerp_(averages, currents, 1.0 - decay)
        kept, buffers = list(self.model.buffers()), list(model.buffers())
        if kept:
            torch._foreach_copy_(kept, buffers)
