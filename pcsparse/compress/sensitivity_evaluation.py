"""One evaluation of a scan: prune, score, and give the network back as it was."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from pcsparse.compress.sensitivity_axes import Axis
from pcsparse.compress.sensitivity_table import Evaluation
from pcsparse.nn import SubmanifoldConv3d
from pcsparse.nn.modes import modes_kept

Evaluate = Callable[[nn.Module], Evaluation | float]
"""Scores a network, higher is better: a number, or an `Evaluation` with values by sweep."""
Cut = tuple[str, int]
"""What is pruned, by its name on the axis, and how much of it stays."""


class PrunedScore:
    """The score of a network with one part pruned; can be sent to other processes if what it holds can.

    Args:
        model: comes back bit for bit after each call, also where that raises.
        axis: prunes it.
        evaluate: scores it.
    """

    def __init__(self, model: nn.Module, axis: Axis, evaluate: Evaluate) -> None:
        self._model, self._axis, self._evaluate = model, axis, evaluate

    def __call__(self, cut: Cut | None) -> Evaluation:
        """The score with a cut, or of the network as it is."""
        with _restored(self._model):
            if cut is not None:
                self._axis.cut(self._model, *cut)
            found = self._evaluate(self._model)
        if not isinstance(found, Evaluation):
            return Evaluation(float(found))
        # no log holds what is not finite, and a sweep without a value leaves no pairs to compare
        loss = found.loss if found.loss is not None and math.isfinite(found.loss) else None
        whole = all(math.isfinite(value) for value in found.per_sweep)
        return replace(found, loss=loss, per_sweep=found.per_sweep if whole else ())


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Brings back all parameters, buffers, modes and shares of rows as they were."""
    saved = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    convs = [part for part in model.modules() if isinstance(part, SubmanifoldConv3d)]
    shares = [(conv, conv.voxels, conv.rest) for conv in convs]
    try:
        with modes_kept(model):
            yield
    finally:
        with torch.no_grad():
            now: Mapping[str, Tensor] = model.state_dict()
            for name, tensor in saved.items():
                now[name].copy_(tensor)
        for conv, share, rest in shares:
            conv.voxels, conv.rest = share, rest
