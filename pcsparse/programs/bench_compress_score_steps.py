"""A few steps of training before a score: what a pruned network can learn tells more than what it kept."""

from collections.abc import Sequence

from torch import Tensor, nn

from pcsparse.sparse_tensor import SparseTensor
from pcsparse.train.losses import segmentation_loss
from pcsparse.train.schedule import build_optimizer
from pcsparse.train.settings import LossSettings, OptimSettings

_RATE = 1e-3
_LARGEST_GRADIENT = 10.0
_LOSS = LossSettings(lovasz=1.0)


def take_steps(
    model: nn.Module, inputs: Sequence[SparseTensor], targets: Sequence[Tensor], steps: int
) -> None:
    """Train in place, a sweep a step, from the first on: all networks see the same.

    Args:
        model: in evaluation mode afterwards; its batch norms are to be measured anew.
        inputs: sweeps of training towns.
        targets: (m,) int64 of each.
        steps: >= 0.
    """
    optimizer = build_optimizer(model, OptimSettings(lr=_RATE))
    model.train()
    for step in range(steps):
        place = step % len(inputs)
        optimizer.zero_grad()
        segmentation_loss(model(inputs[place]).feats, targets[place], _LOSS, None).backward()
        nn.utils.clip_grad_norm_(model.parameters(), _LARGEST_GRADIENT)
        optimizer.step()
    model.eval()
