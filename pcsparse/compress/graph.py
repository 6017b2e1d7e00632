"""Which channels of a sparse network can only be removed together: the graph behind channel pruning.

Every channel that a layer writes gets a number, and the network runs once on features without values. A
convolution writes new numbers, a batch norm passes them on, a concatenation puts them side by side, a sum
ties them pair by pair. What meets in one number must be kept or removed as one.

Source: the idea of dependency groups, Fang et al., CVPR 2023 (arXiv 2301.12900). There the graph is read from
autograd; here from the layers, so that an operator that nobody taught it is an error, never a guess.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from pcsparse.compress.graph_trace import LayerCall, Trace, trace
from pcsparse.errors import RangeError
from pcsparse.sparse_tensor import SparseTensor

Side = Literal["out", "in", "norm"]


@dataclass(frozen=True)
class Layer:
    """A layer with weights.

    Attributes:
        name: of the module.
        kind: "conv", "linear" or "norm".
        c_in: channels it reads.
        c_out: channels it writes.
        follows: of a norm, the layer whose output it scales; None where that is no single layer's.
    """

    name: str
    kind: Literal["conv", "linear", "norm"]
    c_in: int
    c_out: int
    follows: str | None = None


@dataclass(frozen=True)
class Slot:
    """Where the channels of a group are in one layer.

    Attributes:
        layer: its name.
        side: "out" where it writes them, "in" where it reads them, "norm" where it scales them.
        channels: position of each channel of the group, in the group's order.
    """

    layer: str
    side: Side
    channels: tuple[int, ...]

    def __str__(self) -> str:
        """Layer, side and channels: `decoder.3.0.conv1 in 48-63`."""
        first, last = self.channels[0], self.channels[-1]
        ranged = self.channels == tuple(range(first, last + 1))
        return f"{self.layer} {self.side} {f'{first}-{last}' if ranged else self.channels}"


@dataclass(frozen=True)
class Group:
    """Channels that stand in the same places. Each of them can be kept or removed, in all places at once.

    Attributes:
        name: of the first layer that writes them; with "#2" and so on where that layer writes several groups.
        width: number of channels.
        slots: every place, in the order of execution.
        fixed: why no channel may be removed, or None.
    """

    name: str
    width: int
    slots: tuple[Slot, ...]
    fixed: str | None = None

    def layers(self, side: Side) -> tuple[str, ...]:
        """Names of the layers that have these channels at `side`."""
        return tuple(dict.fromkeys(slot.layer for slot in self.slots if slot.side == side))


@dataclass(frozen=True)
class ChannelGraph:
    """All layers of a network and all groups of its channels.

    Attributes:
        layers: in the order of execution.
        groups: in the order of execution of their first writers; the network's input is one of them.
    """

    layers: tuple[Layer, ...]
    groups: tuple[Group, ...]

    @staticmethod
    def of(model: nn.Module, x: SparseTensor | None = None) -> "ChannelGraph":
        """Follow the channels of a network through one run without arithmetic.

        Args:
            model: takes a SparseTensor; it is not changed.
            x: an input that leads through all of the network; one voxel if None.

        Raises:
            UnsupportedError: an operator that the graph does not know; the text names it and the module that
                it stands in.
        """
        followed = trace(model, x)
        written = {call.written: call.name for call in followed.calls if call.kind != "norm"}
        layers = (
            Layer(
                c.name, c.kind, len(c.read), len(c.written), written.get(c.read) if c.kind == "norm" else None
            )
            for c in followed.calls
        )
        return ChannelGraph(tuple(layers), _groups(followed))

    @property
    def free(self) -> tuple[Group, ...]:
        """The groups that may become narrower."""
        return tuple(group for group in self.groups if group.fixed is None)

    def group(self, name: str) -> Group:
        """The group of this name.

        Raises:
            RangeError: there is none.
        """
        for group in self.groups:
            if group.name == name:
                return group
        known = ", ".join(group.name for group in self.free)
        raise RangeError(f"there is no group {name!r}; the groups that can be pruned are {known}")

    def widths(self, kept: Mapping[str, int]) -> dict[str, tuple[int, int]]:
        """(c_in, c_out) of every layer where groups keep that many channels; those not named keep all.

        Raises:
            RangeError: no such group, or one that cannot keep that many channels.
        """
        removed: dict[tuple[str, str], int] = {}
        for name, width in kept.items():
            group = self.group(name)
            if not 1 <= width <= group.width or (group.fixed is not None and width != group.width):
                why = f", it is {group.fixed}" if group.fixed else ""
                raise RangeError(f"group {name!r} has {group.width} channels{why}; it cannot keep {width}")
            for slot in group.slots:
                at = slot.layer, "in" if slot.side == "in" else "out"
                removed[at] = removed.get(at, 0) + group.width - width
        sizes = {}
        for layer in self.layers:
            less_out = removed.get((layer.name, "out"), 0)
            less_in = less_out if layer.kind == "norm" else removed.get((layer.name, "in"), 0)
            sizes[layer.name] = layer.c_in - less_in, layer.c_out - less_out
        return sizes

    def __str__(self) -> str:
        """A line a group: width, then every place."""
        lines = []
        for group in self.groups:
            places = "; ".join(str(slot) for slot in group.slots)
            state = f" [{group.fixed}]" if group.fixed else ""
            lines.append(f"{group.name}: {group.width}{state}: {places}")
        return "\n".join(lines)


def _groups(followed: Trace) -> tuple[Group, ...]:
    # every place of every number, in the order of execution; a place is (layer, side), a position within it
    places: dict[int, list[tuple[str, str, int]]] = {}

    def put(numbers: tuple[int, ...], layer: str, side: str) -> None:
        for position, number in enumerate(numbers):
            places.setdefault(followed.root(number), []).append((layer, side, position))

    put(followed.inputs, "", "input")
    for call in followed.calls:
        if call.kind == "norm":
            put(call.written, call.name, "norm")
            continue
        put(call.read, call.name, "in")
        put(call.written, call.name, "out")
    put(followed.outputs, "", "output")
    alike: dict[tuple[tuple[str, str], ...], list[list[int]]] = {}
    for found in places.values():
        where = tuple((layer, side) for layer, side, _ in found)
        alike.setdefault(where, []).append([position for _, _, position in found])
    order = {name: i for i, name in enumerate(_writers(followed))}
    ranked = sorted(alike.items(), key=lambda item: (order[_first_writer(item[0])], item[1][0]))
    names: dict[str, int] = {}
    groups = []
    for where, members in ranked:
        writer = _first_writer(where)
        names[writer] = count = names.get(writer, 0) + 1
        columns = zip(*members, strict=True)
        slots = [
            Slot(layer, side, tuple(column))  # type: ignore[arg-type]
            for (layer, side), column in zip(where, columns, strict=True)
            if layer
        ]
        ends = [side for layer, side in where if not layer]
        fixed = f"the network's {' and '.join(ends)}" if ends else None
        name = writer or "input"
        groups.append(Group(name if count == 1 else f"{name}#{count}", len(members), tuple(slots), fixed))
    return tuple(groups)


def _writers(followed: Trace) -> list[str]:
    return ["", *(call.name for call in followed.calls if _writes(call))]


def _writes(call: LayerCall) -> bool:
    return call.kind != "norm"


def _first_writer(where: tuple[tuple[str, str], ...]) -> str:
    """The layer that writes a channel first; "" for the network's input."""
    return next((layer for layer, side in where if side in ("out", "input")), "")
