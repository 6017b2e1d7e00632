"""How much each channel of a group matters, summed over all places where it stands."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from pcsparse.compress.graph import ChannelGraph, Group, Slot
from pcsparse.compress.weight_layout import in_rows, out_rows
from pcsparse.errors import RangeError
from pcsparse.nn.modes import modes_kept

Score = Literal["magnitude", "max_response", "batchnorm", "taylor"]
Losses = Callable[[nn.Module], Iterable[Tensor]]
"""Given the model, yields one loss (a scalar that leads back to its parameters) for each batch."""


def channel_scores(
    model: nn.Module, graph: ChannelGraph, score: Score = "magnitude", losses: Losses | None = None
) -> dict[str, Tensor]:
    """A score for each channel of each group that may become narrower; the lowest matter least.

    - "magnitude": the Euclidean norm of all weights that make the channel in a layer or take it into one,
      summed over the layers of the group. Where a batch norm follows, the weights that make the channel count
      as the norm scales them.
    - "max_response": the sum of the sizes of all weights that take the channel into a layer (He et al., ICCV
      2017, arXiv 1707.06168, and AMC).
    - "batchnorm": the sum of the sizes of its batch norms' scales (Liu et al., ICCV 2017, arXiv 1708.06519).
    - "taylor": the square of the change of the loss, to first order, if the channel were zero; summed over
      the batches (Molchanov et al., CVPR 2019, arXiv 1906.10771, with a gate behind each batch norm).

    Args:
        model: the graph's network.
        graph: of `model`.
        score: one of the above.
        losses: of the calibration batches; needed for "taylor" only. The model runs in evaluation mode.

    Returns:
        (width,) float64 by name of the group.

    Raises:
        RangeError: an unknown score, "taylor" without losses or where no gradient reaches a group or the
            whole network, "batchnorm" for a group without one, or a score that is not finite.
    """
    if score not in get_args(Score):
        raise RangeError(f"score must be one of {', '.join(get_args(Score))}, got {score!r}")
    if score == "taylor":
        if losses is None:
            raise RangeError("score='taylor' needs losses=, a function that yields the loss of each batch")
        found = _taylor(model, graph, losses)
    else:
        of = {"magnitude": _magnitude, "max_response": _response, "batchnorm": _scales}[score]
        found = {group.name: of(model, graph, group) for group in graph.free}
    for name, values in found.items():
        if not bool(values.isfinite().all()):
            raise RangeError(f"the {score} scores of group {name!r} are not finite; look at its weights")
    return found


def _module(model: nn.Module, slot: Slot) -> nn.Module:
    return model.get_submodule(slot.layer)


def _of_slot(slot: Slot, rows: Tensor) -> Tensor:
    """Of (positions of a layer, everything else) those of a slot, (width, all of each channel)."""
    return rows[slot.positions()].unflatten(0, (len(slot.channels), slot.fold)).flatten(1)


@torch.no_grad()
def _magnitude(model: nn.Module, graph: ChannelGraph, group: Group) -> Tensor:
    total = torch.zeros(group.width, dtype=torch.float64, device="cpu")
    norms = {layer.follows: layer.name for layer in reversed(graph.layers) if layer.follows is not None}
    for slot in group.slots:
        if slot.side == "norm":
            continue
        module = _module(model, slot)
        rows = (out_rows if slot.side == "out" else in_rows)(module, module.weight.double().cpu())  # type: ignore
        norm = model.get_submodule(norms[slot.layer]) if slot.side == "out" and slot.layer in norms else None
        if norm is not None and norm.running_var is not None:
            scale = torch.rsqrt(norm.running_var.double() + norm.eps)  # type: ignore[operator]
            if norm.weight is not None:
                scale = scale * norm.weight.double().abs()  # type: ignore[operator]
            rows = rows * scale.cpu()[:, None]
        total += _of_slot(slot, rows).norm(dim=1)
    return total


@torch.no_grad()
def _response(model: nn.Module, graph: ChannelGraph, group: Group) -> Tensor:
    total = torch.zeros(group.width, dtype=torch.float64, device="cpu")
    for slot in group.slots:
        if slot.side == "in":
            module = _module(model, slot)
            rows = in_rows(module, module.weight.double().cpu())  # type: ignore
            total += _of_slot(slot, rows.abs()).sum(dim=1)
    return total


@torch.no_grad()
def _scales(model: nn.Module, graph: ChannelGraph, group: Group) -> Tensor:
    total = torch.zeros(group.width, dtype=torch.float64, device="cpu")
    weights = [(s, _module(model, s).weight) for s in group.slots if s.side == "norm"]
    scales = [(slot, weight) for slot, weight in weights if isinstance(weight, Tensor)]
    if not scales:
        raise RangeError(
            f"group {group.name!r} has no batch norm with a scale; use score='magnitude' or 'taylor'"
        )
    for slot, weight in scales:
        total += _of_slot(slot, weight.double().cpu().abs()[:, None]).sum(dim=1)
    return total


def _taylor(model: nn.Module, graph: ChannelGraph, losses: Losses) -> dict[str, Tensor]:
    return squared_changes(
        model, losses, lambda: {group.name: _gate_gradient(model, group) for group in graph.free}
    )


def squared_changes(
    model: nn.Module, losses: Losses, changes: Callable[[], Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Squares of first-order changes of the loss, summed over the batches.

    Args:
        model: runs in evaluation mode; the mode of every module and the gradients of its parameters come
            back.
        losses: of the batches.
        changes: read from the gradients of one batch, float64 by name. Parameters without requires_grad have
            none then, whatever an earlier training left there.

    Raises:
        RangeError: no batches, or a loss that leads back to no parameter with requires_grad.
    """
    totals: dict[str, Tensor] = {}
    # the frozen ones too: what stands in their .grad is of no batch of these
    parameters = list(model.parameters())
    before = [p.grad for p in parameters]
    n = 0
    try:
        with modes_kept(model):
            for loss in losses(model.eval()):
                n += 1
                for parameter in parameters:
                    parameter.grad = None
                if not loss.requires_grad:
                    raise RangeError(
                        "a loss of losses= leads back to no parameter that requires a gradient; set "
                        "requires_grad where scores are wanted, or use score='magnitude'"
                    )
                loss.backward()
                for name, change in changes().items():
                    totals[name] = change.square() + totals.get(name, 0.0)
    finally:
        for parameter, grad in zip(parameters, before, strict=True):
            parameter.grad = grad
    if n == 0:
        raise RangeError("losses= yielded nothing; it is called once, and must make its batches anew then")
    return totals


@torch.no_grad()
def _gate_gradient(model: nn.Module, group: Group) -> Tensor:
    """Derivative of the loss by a factor on the channel, (width,), from the gradients of the parameters."""
    gates = [slot for slot in group.slots if slot.side == "norm"]
    gates = gates or [slot for slot in group.slots if slot.side == "out"]
    total = torch.zeros(group.width, dtype=torch.float64, device="cpu")
    parameters = [p for slot in gates for p in _own(_module(model, slot))]
    if all(parameter.grad is None for parameter in parameters):
        raise RangeError(
            f"no parameter of {', '.join(slot.layer for slot in gates)} of group {group.name!r} gets a "
            "gradient, so all its channels would score 0; set requires_grad there, or use score='magnitude'"
        )
    for slot in gates:
        module = _module(model, slot)
        # a factor on the output is one on the weights and on the bias at once
        for parameter in _own(module):
            if parameter.grad is not None:
                change = out_rows(module, parameter.double() * parameter.grad.double()).cpu()
                total += _of_slot(slot, change).sum(dim=1)
    return total


def _own(module: nn.Module) -> Sequence[Tensor]:
    return [parameter for parameter in (module.weight, module.bias) if isinstance(parameter, Tensor)]
