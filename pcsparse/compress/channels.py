"""Channel pruning: choose channels group by group, and slice them out of every layer that has them.

What comes out is the same class with another Spec and fewer weights, not a mask: it is smaller and faster.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pcsparse.compress.carry_over import build, cut_everywhere, fill, refuse_made, refuse_shared
from pcsparse.compress.channel_scores import Losses, Score, channel_scores
from pcsparse.compress.graph import ChannelGraph, Group
from pcsparse.compress.weight_layout import in_axis, out_axis
from pcsparse.errors import RangeError, UnsupportedError

Keep = float | Mapping[str, float]
"""A share in (0, 1] of every group's channels; or by group a share (float) or a number of channels (int)."""
Chosen = Mapping[str, Sequence[int]]
"""The channels that a group keeps, ascending, by name; groups that are not named keep all."""

MULTIPLE = 8
"""Widths are multiples of this: vector units work on that many channels at once."""


def prune_channels(
    model: nn.Module,
    keep: Keep,
    *,
    graph: ChannelGraph | None = None,
    score: Score = "magnitude",
    multiple: int = MULTIPLE,
    losses: Losses | None = None,
) -> nn.Module:
    """A network with fewer channels, made of the channels of `model` that matter most.

    Args:
        model: built from a Spec that has `with_channels`; it is not changed.
        keep: how much of each group stays, see `Keep`; groups that are not named keep all.
        graph: of `model`; read from it if None, see `ChannelGraph.of` for networks that need an input.
        score: what matters, see `channel_scores`.
        multiple: kept widths are rounded up to multiples of it, and to the group's own width at most.
        losses: for score="taylor".

    Returns:
        A new network of the same class, with `spec` of its own; dtype, device and mode are those of `model`.
        Batch norms keep the statistics of the wide network: `finetune.recalibrate` renews them. Tuned plans
        are not taken over.

    Raises:
        RangeError: no such group, a share outside (0, 1], or more channels than the group has.
        UnsupportedError: the network has an operator that the graph does not know, layers that did not run
            when it was read, or no such Spec.
    """
    graph = ChannelGraph.of(model) if graph is None else graph
    widths = kept_widths(graph, keep, multiple)
    chosen = choose_channels(channel_scores(model, graph, score, losses), widths)
    return slice_channels(model, graph, chosen)


def kept_widths(graph: ChannelGraph, keep: Keep, multiple: int = MULTIPLE) -> dict[str, int]:
    """The number of channels that each free group keeps.

    Raises:
        RangeError: see `prune_channels`.
    """
    if multiple < 1:
        raise RangeError(f"multiple must be at least 1, got {multiple}")
    wanted = keep if isinstance(keep, Mapping) else {group.name: float(keep) for group in graph.free}
    for name in wanted:
        # also says which groups there are
        group = graph.group(name)
        if group.fixed is not None:
            raise RangeError(f"group {name!r} is {group.fixed}, its {group.width} channels must stay")
    return {group.name: _width(group, wanted.get(group.name, 1.0), multiple) for group in graph.free}


def _width(group: Group, keep: float, multiple: int) -> int:
    if isinstance(keep, int):
        if not 1 <= keep <= group.width:
            raise RangeError(
                f"group {group.name!r} has {group.width} channels, it cannot keep {keep}; "
                "write shares as floats"
            )
        share = keep / group.width
    else:
        if not 0.0 < keep <= 1.0:
            raise RangeError(f"the share that group {group.name!r} keeps must be in (0, 1], got {keep}")
        share = keep
    # a share such as 0.7 of 80 must not become 57 by rounding errors
    blocks = math.ceil(round(share * group.width / multiple, 9))
    return min(group.width, blocks * multiple)


def choose_channels(scores: Mapping[str, Tensor], widths: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """The channels of the highest scores, ascending; of equal ones the first stay.

    Args:
        scores: (width,) by group.
        widths: how many to keep, by group.
    """
    chosen = {}
    for name, width in widths.items():
        order = scores[name].argsort(descending=True, stable=True)
        chosen[name] = tuple(sorted(order[:width].tolist()))
    return chosen


def slice_channels(model: nn.Module, graph: ChannelGraph, chosen: Chosen) -> nn.Module:
    """The network without the channels that are not chosen.

    Raises:
        RangeError: a group that is not there or must stay, or channels that do not ascend within it.
        UnsupportedError: the model has no Spec with `with_channels`, other layers than its Spec, as a fused
            network has, layers that did not run (`ChannelGraph.unseen`), or weights that a parametrisation
            makes or that are another layer's, too.
    """
    widths = graph.widths({name: len(channels) for name, channels in chosen.items()})
    spec: Any = getattr(model, "spec", None)
    if not hasattr(spec, "with_channels"):
        raise UnsupportedError(
            f"{type(model).__name__} has no Spec with a method with_channels, so no smaller one can be built"
        )
    for name, part in model.named_modules():
        refuse_made(name, part)
    refuse_shared(model, {layer for (layer, _), gone in _removed(graph, chosen).items() if gone})
    weighty = {layer.name: widths[layer.name] for layer in graph.layers if layer.kind != "norm"}
    try:
        smaller_spec = spec.with_channels(weighty)
    except RangeError as error:
        raise UnsupportedError(
            f"the layers of {type(model).__name__} are not those of its Spec ({error}); prune a network "
            "before fuse, and before its layers are replaced"
        ) from error
    smaller = build(model, smaller_spec)
    state = _sliced_state(model, graph, chosen)
    state = cut_everywhere(model, state)
    for name, wanted in smaller.state_dict().items():
        if name not in state or state[name].shape != wanted.shape:
            found = tuple(state[name].shape) if name in state else "nothing"
            raise UnsupportedError(
                f"{name} should have shape {tuple(wanted.shape)} in the smaller network, the graph leaves "
                f"{found}; with_channels of its Spec and its layers disagree"
            )
    return fill(smaller, model, state)


def mask_channels(model: nn.Module, graph: ChannelGraph, chosen: Chosen) -> None:
    """Make the channels that are not chosen zero, in place: what `slice_channels` gives, at full width.

    The weights and biases that write them become zero, and the scales, shifts and running means of their
    batch norms.

    Raises:
        RangeError: see `slice_channels`.
        UnsupportedError: layers that did not run (`ChannelGraph.unseen`), or weights to change that a
            parametrisation makes, or that are another layer's, too; nothing is changed then.
    """
    removed = _removed(graph, chosen)
    changed: dict[str, list[int]] = {}
    for layer in graph.layers:
        gone = removed.get((layer.name, "norm" if layer.kind == "norm" else "out"))
        if gone:
            refuse_made(layer.name, model.get_submodule(layer.name))
            changed[layer.name] = sorted(gone)
    refuse_shared(model, changed)
    with torch.no_grad():
        for name, channels in changed.items():
            module = model.get_submodule(name)
            # a norm without a shift of its own still takes its mean off
            for tensor in (module.weight, module.bias, getattr(module, "running_mean", None)):
                if isinstance(tensor, Tensor):
                    axis = out_axis(module) if tensor.dim() > 1 else 0
                    tensor.index_fill_(axis, torch.tensor(channels, device=tensor.device), 0.0)


def _sliced_state(model: nn.Module, graph: ChannelGraph, chosen: Chosen) -> dict[str, Tensor]:
    removed = _removed(graph, chosen)

    def rest(layer: str, side: str, width: int) -> Tensor:
        gone = removed.get((layer, side), set())
        return torch.tensor([i for i in range(width) if i not in gone], device="cpu")

    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    for layer in graph.layers:
        module = model.get_submodule(layer.name)
        norm = layer.kind == "norm"
        outs = rest(layer.name, "norm" if norm else "out", layer.c_out)
        for name in ("weight", "bias", "running_mean", "running_var"):
            key = f"{layer.name}.{name}"
            tensor = state.get(key)
            if tensor is None:
                continue
            if tensor.dim() == 1:
                state[key] = _selected(tensor, 0, outs)
            else:
                ins = rest(layer.name, "in", layer.c_in)
                state[key] = _selected(_selected(tensor, out_axis(module), outs), in_axis(module), ins)
    # nothing of the smaller network shares memory with the old one
    return {name: tensor.clone() for name, tensor in state.items()}


def _selected(tensor: Tensor, axis: int, kept: Tensor) -> Tensor:
    return tensor.index_select(axis, kept.to(tensor.device))


def _removed(graph: ChannelGraph, chosen: Chosen) -> dict[tuple[str, str], set[int]]:
    """Positions that go, by layer and side."""
    removed: dict[tuple[str, str], set[int]] = {}
    for name, channels in chosen.items():
        group = graph.group(name)
        if group.fixed is not None and len(channels) < group.width:
            raise RangeError(f"group {name!r} is {group.fixed}, its {group.width} channels must stay")
        kept = list(channels)
        if not kept or kept != sorted(set(kept)) or not 0 <= kept[0] <= kept[-1] < group.width:
            raise RangeError(
                f"the channels of group {name!r} must ascend within 0 ... {group.width - 1}, got {kept}"
            )
        gone = set(range(group.width)) - set(kept)
        for slot in group.slots:
            removed.setdefault((slot.layer, slot.side), set()).update(slot.positions(gone))
    if any(removed.values()):
        graph.refuse_unseen()
    return removed
