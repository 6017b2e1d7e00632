"""Orders of channels for 2:4 pruning through a whole network: all layers that have a channel move with it.

What `channel_order.permute_head` does between the linear layers of one head, this does for every group of the
channel graph: convolutions of the backbone write in the new order, norms scale in it, sums and concatenations
stay what they were, because all that meets in a channel is one group.

Source: Pool and Yu, "Channel Permutations for N:M Sparsity", NeurIPS 2021: an order of a layer's inputs is
one of the outputs of whoever makes them.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pcsparse.compress.carry_over import refuse_shared
from pcsparse.compress.channel_order import ChannelOrder, search_permutation
from pcsparse.compress.graph import ChannelGraph, Group, Slot
from pcsparse.compress.graph_layers import class_of
from pcsparse.compress.weight_layout import in_axis, in_rows, out_axis
from pcsparse.errors import RangeError, UnsupportedError
from pcsparse.packed.two_four import GROUP

_PRUNED = (nn.Linear, nn.Conv2d)
# what has channels; only the first of them has those that are read
_MOVED = ("weight", "bias", "running_mean", "running_var")


def permute_network(
    model: nn.Module,
    layers: Iterable[str] | None = None,
    *,
    graph: ChannelGraph | None = None,
    rounds: int = 100,
) -> dict[str, ChannelOrder]:
    """Order the channels of a network so that 2:4 pruning of some layers keeps more; in place.

    The network computes what it did, but for the rounding of reordered sums. Where several of the layers read
    one group of channels, one order is searched for all of them. What the network reads and writes keeps its
    order. A layer in which the channels do not stand side by side in whole groups of four, as after a
    flattened map, has no say in it.

    Args:
        model: that the channel graph can follow.
        layers: that will be pruned, linear layers or 2-D convolutions; None for all of them.
        graph: of `model`; read from it if None.
        rounds: of each search, see `search_permutation`.

    Returns:
        What was found, by the name of the group; groups that none of the layers reads are left out.

    Raises:
        RangeError: a name that is no such layer, or a weight that is not finite.
        UnsupportedError: an operator that the graph does not know, layers that did not run when it was read,
            weights that a parametrisation makes, or that two layers share. Nothing is changed then.
    """
    graph = ChannelGraph.of(model) if graph is None else graph
    pruned = _pruned(model, graph, layers)
    found: dict[str, ChannelOrder] = {}
    for group in graph.free:
        readers = [slot for slot in group.slots if slot.side == "in" and slot.layer in pruned]
        readers = [slot for slot in readers if _in_whole_groups(slot)]
        if readers:
            _check_movable(model, group)
            rows = [_read(model.get_submodule(slot.layer), slot) for slot in readers]
            found[group.name] = search_permutation(torch.cat(rows), rounds=rounds)
    if found:
        graph.refuse_unseen()
    _reorder(model, graph, {name: order.permutation.tolist() for name, order in found.items()})
    return found


def _pruned(model: nn.Module, graph: ChannelGraph, layers: Iterable[str] | None) -> set[str]:
    known = [each.name for each in graph.layers if class_of(model.get_submodule(each.name)) in _PRUNED]
    if layers is None:
        return set(known)
    wanted = set(layers)
    if not wanted <= set(known):
        strange = ", ".join(sorted(wanted - set(known)))
        raise RangeError(
            f"{strange} cannot be pruned 2:4; linear layers and 2-D convolutions are {', '.join(known)}"
        )
    return wanted


def _in_whole_groups(slot: Slot) -> bool:
    first, places = slot.channels[0], slot.positions()
    side_by_side = places == list(range(first, first + len(places)))
    return slot.fold == 1 and side_by_side and first % GROUP == 0 and len(places) % GROUP == 0


def _read(module: nn.Module, slot: Slot) -> Tensor:
    """(rows, width): all weights of the group's channels, those of a kernel's places as rows of their own."""
    weight = module.get_parameter("weight").detach()
    return in_rows(module, weight)[slot.positions()].T.float().cpu()


def _check_movable(model: nn.Module, group: Group) -> None:
    for slot in group.slots:
        module = model.get_submodule(slot.layer)
        # torch's parametrisations, and its older hooks, take the parameter of this name away
        if module.weight is not None and "weight" not in dict(module.named_parameters(recurse=False)):
            raise UnsupportedError(
                f"the weights of {slot.layer} are made by a parametrisation; bake it, or order channels first"
            )
    refuse_shared(model, {slot.layer for slot in group.slots})


@torch.no_grad()
def _reorder(model: nn.Module, graph: ChannelGraph, orders: dict[str, list[int]]) -> None:
    # groups that a layer reads side by side move in one copy
    moves: dict[tuple[str, bool], dict[int, int]] = {}
    for name, order in orders.items():
        for slot in graph.group(name).slots:
            move = moves.setdefault((slot.layer, slot.side == "in"), {})
            move.update(zip(slot.positions(), slot.positions(order), strict=True))
    for (layer, reads), move in moves.items():
        module = model.get_submodule(layer)
        for name in _MOVED[:1] if reads else _MOVED:
            tensor = getattr(module, name, None)
            if tensor is None:
                continue
            axis = 0 if tensor.dim() == 1 else in_axis(module) if reads else out_axis(module)
            places = torch.arange(tensor.shape[axis], device="cpu")
            places[list(move)] = torch.tensor(list(move.values()), device="cpu")
            tensor.copy_(tensor.index_select(axis, places.to(tensor.device)))
