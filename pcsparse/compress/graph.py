"""Which channels of a network can only be removed together: the graph behind channel pruning.

Every channel that a layer writes gets a number, and the network runs once. A convolution writes new numbers,
a batch norm passes them on, a concatenation puts them side by side, a sum ties them pair by pair, and where
places or heights are folded into channels, one number stands at several inputs. What meets in one number must
be kept or removed as one.

Source: the idea of dependency groups, Fang et al., CVPR 2023 (arXiv 2301.12900). There the graph is read from
autograd; here from the layers, so that an operator that nobody taught it is an error, never a guess.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from pcsparse.compress.graph_numbers import LayerCall, Numbers, Trace
from pcsparse.compress.graph_trace import Example, trace
from pcsparse.errors import RangeError, UnsupportedError

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
        channels: position of each channel of the group, in the group's order; of one that was folded, the
            first.
        fold: positions that each channel has from there on: the places of a map that was flattened, or the
            heights of a bird's-eye view.
    """

    layer: str
    side: Side
    channels: tuple[int, ...]
    fold: int = 1

    def positions(self, of: Iterable[int] | None = None) -> list[int]:
        """Every position of some channels of the group, by their numbers in it; of all if None."""
        chosen = self.channels if of is None else [self.channels[i] for i in of]
        return [first + i for first in chosen for i in range(self.fold)]

    def __str__(self) -> str:
        """Layer, side and positions: `decoder.3.0.conv1 in 48-63`."""
        places = tuple(self.positions())
        ranged = places == tuple(range(places[0], places[-1] + 1))
        each = f", {self.fold} a channel" if self.fold > 1 else ""
        return f"{self.layer} {self.side} {f'{places[0]}-{places[-1]}' if ranged else places}{each}"


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
        unseen: layers with weights that did not run and were not said to be unused. Nobody knows whose
            channels they read, so none can be removed or moved while there are any.
    """

    layers: tuple[Layer, ...]
    groups: tuple[Group, ...]
    unseen: tuple[str, ...] = ()

    @staticmethod
    def of(
        model: nn.Module, x: Example = None, *, training: bool = False, unused: Collection[str] = ()
    ) -> "ChannelGraph":
        """Follow the channels of a network through one run.

        Args:
            model: it is not changed.
            x: an input that leads through all of the network: a SparseTensor, a tensor (n, c) or
                (n, c, h, w), or a tuple of arguments; see `graph_trace.trace`. If None, the network's own
                `example_input()`, or else one voxel.
            training: follow a run as in training too, for layers that run there only, such as an auxiliary
                head.
            unused: layers that no run will lead through, such as a pretrained classifier that is left out;
                names of modules, which stand for all within them. They stay as wide as they are.

        Raises:
            RangeError: a name in `unused` under which no layer was left out.
            UnsupportedError: an operator that the graph does not know; the text names it and the module that
                it stands in. Or a network that does not run on `x`, or on what was guessed without it.
            PcsparseError: what a layer says of an `x` that does not fit it.
        """
        followed = trace(model, x, training=training)
        written = {call.written: call.name for call in followed.calls if call.kind != "norm"}
        layers = (
            Layer(
                c.name, c.kind, len(c.read), len(c.written), written.get(c.read) if c.kind == "norm" else None
            )
            for c in followed.calls
        )
        return ChannelGraph(tuple(layers), _groups(followed), _besides(followed.unseen, unused))

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

    def refuse_unseen(self) -> None:
        """To call before channels are removed or moved.

        Raises:
            UnsupportedError: there are layers that did not run.
        """
        if self.unseen:
            raise UnsupportedError(
                f"{', '.join(self.unseen)} did not run when the channel graph was read, so it does not know "
                "whose channels they read; pass graph=ChannelGraph.of(model, x) of an input that leads "
                "through them, with training=True if they run in training only, or with unused=[...] if they "
                "never do"
            )

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
                removed[at] = removed.get(at, 0) + slot.fold * (group.width - width)
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


def _besides(unseen: Iterable[str], unused: Collection[str]) -> tuple[str, ...]:
    """The layers that did not run, without those that need not."""
    under = {layer: [name for name in unused if f"{layer}.".startswith(f"{name}.")] for layer in unseen}
    strange = set(unused).difference(*under.values())
    if strange:
        raise RangeError(
            f"unused= names {', '.join(sorted(strange))}, where no layer with weights was left out; those "
            f"that did not run are {', '.join(under) or 'none'}"
        )
    return tuple(layer for layer, names in under.items() if not names)


# a layer, a side, the first of positions that follow each other, and how many
_Run = tuple[str, str, int, int]


def _groups(followed: Trace) -> tuple[Group, ...]:
    alike: dict[tuple[tuple[str, str, int], ...], list[list[int]]] = {}
    for runs in _places(followed).values():
        where = tuple((layer, side, fold) for layer, side, _, fold in runs)
        alike.setdefault(where, []).append([first for _, _, first, _ in runs])
    order = {name: i for i, name in enumerate(_writers(followed))}
    ranked = sorted(alike.items(), key=lambda item: (order[_first_writer(item[0])], item[1][0]))
    names: dict[str, int] = {}
    groups = []
    for where, members in ranked:
        writer = _first_writer(where)
        names[writer] = count = names.get(writer, 0) + 1
        columns = zip(*members, strict=True)
        slots = [
            Slot(layer, side, tuple(column), fold)  # type: ignore[arg-type]
            for (layer, side, fold), column in zip(where, columns, strict=True)
            if layer
        ]
        ends = dict.fromkeys(side for layer, side, _ in where if not layer)
        fixed = f"the network's {' and '.join(ends)}" if ends else None
        name = writer or "input"
        groups.append(Group(name if count == 1 else f"{name}#{count}", len(members), tuple(slots), fixed))
    return tuple(groups)


def _places(followed: Trace) -> dict[int, list[_Run]]:
    """Every place of every number, in the order of execution."""
    places: dict[int, list[_Run]] = {}

    def put(numbers: Numbers, layer: str, side: str) -> None:
        before = None
        for position, number in enumerate(map(followed.root, numbers)):
            runs = places.setdefault(number, [])
            if number == before:
                _, _, first, fold = runs.pop()
                runs.append((layer, side, first, fold + 1))
            else:
                runs.append((layer, side, position, 1))
            before = number

    put(tuple(followed.inputs), "", "input")
    for call in followed.calls:
        if call.kind == "norm":
            put(call.written, call.name, "norm")
            continue
        put(call.read, call.name, "in")
        put(call.written, call.name, "out")
    put(followed.outputs, "", "output")
    return places


def _writers(followed: Trace) -> list[str]:
    return ["", *(call.name for call in followed.calls if _writes(call))]


def _writes(call: LayerCall) -> bool:
    return call.kind != "norm"


def _first_writer(where: tuple[tuple[str, str, int], ...]) -> str:
    """The layer that writes a channel first; "" for the network's input."""
    return next((layer for layer, side, _ in where if side in ("out", "input")), "")
