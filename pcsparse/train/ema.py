"""Exponential moving average of a model's weights."""

import copy

import torch
from torch import nn


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
        for average, current in zip(self.model.parameters(), model.parameters(), strict=True):
            average.lerp_(current, 1.0 - decay)
        for kept, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            kept.copy_(buffer)
