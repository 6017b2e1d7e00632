"""How much each kernel offset matters, summed over all layers that would lose it."""

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from pcsparse.compress.channel_scores import Losses, squared_changes
from pcsparse.compress.cost_run import named_parts, runnable
from pcsparse.compress.offset_groups import OffsetGroup, Offsets
from pcsparse.compress.shared_maps import SharedMaps
from pcsparse.errors import RangeError
from pcsparse.nn.conv import SparseConv

OffsetScore = Literal["magnitude", "taylor"]


def offset_scores(
    model: nn.Module, maps: SharedMaps, score: OffsetScore = "magnitude", losses: Losses | None = None
) -> dict[str, Tensor]:
    """A score for each unit of each group: for offsets that only go together. The lowest matter least.

    - "magnitude": the root of the sum over the unit of ||W_k||^2 times the pairs of k, which is how far the
      output moves without it where all features are alike; as a share of the same of all offsets of the
      layer, so that a wide layer counts no more than a narrow one; summed over the layers of the group. Where
      a batch norm follows, weights count as the norm scales them.
    - "taylor": the square of the change of the loss, to first order, if the unit's weights were zero in all
      layers of the group; summed over the batches (Molchanov et al., CVPR 2019, arXiv 1906.10771).

    Args:
        model: the network of the maps.
        maps: of `model`.
        score: one of the above.
        losses: of the calibration batches; needed for "taylor" only. The model runs in evaluation mode.

    Returns:
        (units,) float64 by name of the group, in the order of `OffsetGroup.units`.

    Raises:
        RangeError: an unknown score, "taylor" without losses or where the weights of a layer, or all of the
            network, get no gradient, or a score that is not finite.
    """
    if score not in get_args(OffsetScore):
        raise RangeError(f"score must be one of {', '.join(get_args(OffsetScore))}, got {score!r}")
    if score == "magnitude":
        found = _magnitude(model, maps)
    elif losses is None:
        raise RangeError("score='taylor' needs losses=, a function that yields the loss of each batch")
    else:
        found = squared_changes(
            model, losses, lambda: {group.name: _change(model, group) for group in maps.groups}
        )
    for name, values in found.items():
        if not bool(values.isfinite().all()):
            raise RangeError(f"the {score} scores of {name!r} are not finite; look at its weights")
    return found


@torch.no_grad()
def _magnitude(model: nn.Module, maps: SharedMaps) -> dict[str, Tensor]:
    # folded norms scale the weights as inference does
    convs = named_parts(runnable(model, fused=True))
    found = {}
    for group in maps.groups:
        total = torch.zeros(len(group.units), dtype=torch.float64, device="cpu")
        for reader in group.readers:
            conv = convs[reader.name]
            assert isinstance(conv, SparseConv)
            sizes = conv.weight.double().square().sum(dim=(1, 2)).cpu()
            moved = sizes * torch.tensor(
                [group.pairs_of((k,)) for k in reader.offsets], dtype=torch.float64, device="cpu"
            )
            whole = moved.sum().sqrt()
            # nothing moves a layer of zeros; NaN is told below
            if whole != 0:
                total += _by_unit(group, reader.offsets, moved).sqrt() / whole
        found[group.name] = total
    return found


def _by_unit(group: OffsetGroup, offsets: Offsets, values: Tensor) -> Tensor:
    """Sums over the offsets of each unit."""
    of: Mapping[int, float] = dict(zip(offsets, values.tolist(), strict=True))
    return torch.tensor(
        [sum(of.get(k, 0.0) for k in unit) for unit in group.units], dtype=torch.float64, device="cpu"
    )


@torch.no_grad()
def _change(model: nn.Module, group: OffsetGroup) -> Tensor:
    """Derivative of the loss by a factor on the weights of each unit, (units,)."""
    total = torch.zeros(len(group.units), dtype=torch.float64, device="cpu")
    for reader in group.readers:
        weight = model.get_submodule(reader.name).weight
        assert isinstance(weight, Tensor)
        if weight.grad is None:
            raise RangeError(
                f"the weights of {reader.name} get no gradient, so all its offsets would score 0; set "
                "requires_grad there, or use score='magnitude'"
            )
        change = (weight.double() * weight.grad.double()).sum(dim=(1, 2)).cpu()
        total += _by_unit(group, reader.offsets, change)
    return total
