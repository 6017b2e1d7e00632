"""The learning rate as a function of the step: nothing to store, so a resumed run cannot differ."""

import math

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from pcsparse.train.settings import OptimSettings, ScheduleSettings


def _cosine(start: float, stop: float, share: float) -> float:
    return stop + 0.5 * (start - stop) * (1.0 + math.cos(math.pi * share))


def lr_factor(step: float, n_steps: int, settings: ScheduleSettings) -> float:
    """Factor of the peak learning rate that optimiser step `step` uses.

    Args:
        step: 0 ... n_steps - 1; not whole where a clock moves the run along.
        n_steps: optimiser steps of the whole run.
        settings: shape of the schedule.

    Returns:
        0 ... 1; 1 at the end of the warm-up, `settings.final` at the last step (1 if constant).

    Source: onecycle is L. Smith, N. Topin, Super-convergence, 2018, with two cosine phases as in torch's
    OneCycleLR.
    """
    last = max(n_steps - 1, 1)
    top = settings.warmup * last
    if step < top:
        if settings.name == "onecycle":
            return _cosine(settings.start, 1.0, step / top)
        return (step + 1) / (top + 1)
    if settings.name == "constant":
        return 1.0
    return _cosine(1.0, settings.final, (step - top) / max(last - top, 1e-9))


def build_optimizer(model: nn.Module, settings: OptimSettings) -> Optimizer:
    """The optimiser over all parameters that learn; biases and normalisation do not decay."""
    decaying: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            (decaying if parameter.dim() > 1 else free).append(parameter)
    groups = [
        {"params": decaying, "weight_decay": settings.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.name == "sgd":
        return SGD(
            groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.momentum > 0, fused=True
        )
    return AdamW(groups, lr=settings.lr, fused=True)


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Give every parameter group the learning rate `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr
