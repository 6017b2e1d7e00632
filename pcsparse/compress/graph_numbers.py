"""Numbers for the channels that a network makes, and what ties them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

Numbers = tuple[int, ...]
Kind = Literal["conv", "linear", "norm"]


@dataclass(frozen=True)
class Channels:
    """What is known of a tensor of features.

    Attributes:
        axis: the dimension along which its channels stand.
        numbers: one for each place there; a channel that was folded stands at several.
    """

    axis: int
    numbers: Numbers


@dataclass(frozen=True)
class LayerCall:
    """A layer with weights that the network ran.

    Attributes:
        name: of the module.
        kind: of the layer.
        read: number of each channel that it reads.
        written: number of each channel that it writes.
    """

    name: str
    kind: Kind
    read: Numbers
    written: Numbers


@dataclass(eq=False)
class Trace:
    """What a run left.

    Attributes:
        calls: in the order of execution.
        inputs: numbers of the network's input, and of what is made of nothing else.
        outputs: numbers of its outputs.
        unseen: layers with weights that it did not lead through, in the order of registration.
    """

    calls: list[LayerCall] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: Numbers = ()
    unseen: tuple[str, ...] = ()
    _parent: list[int] = field(default_factory=list)

    def new(self, n: int) -> Numbers:
        """Numbers for n channels."""
        first = len(self._parent)
        self._parent += range(first, first + n)
        return tuple(range(first, first + n))

    def given(self, n: int) -> Numbers:
        """Numbers for n channels of the network's input."""
        numbers = self.new(n)
        self.inputs += numbers
        return numbers

    def all_given(self, numbers: Numbers) -> bool:
        """Whether all of them are of the network's input, or tied to it."""
        roots = {self.root(number) for number in self.inputs}
        return all(self.root(number) in roots for number in numbers)

    def root(self, number: int) -> int:
        """The number that stands for all that are tied to `number`."""
        while self._parent[number] != number:
            self._parent[number] = self._parent[self._parent[number]]
            number = self._parent[number]
        return number

    def tie(self, these: Numbers, those: Numbers) -> None:
        """Channels that can only be kept or removed together, pair by pair."""
        for a, b in zip(these, those, strict=True):
            low, high = sorted((self.root(a), self.root(b)))
            self._parent[high] = low


@dataclass(frozen=True, eq=False)
class Applied:
    """An operator on tensors of which some are known.

    Attributes:
        func: the operator.
        args: its arguments.
        kwargs: those that have names.
        out: its result; of several, the first.
        known: the channels of a tensor, or None; takes anything.
        is_given: whether a tensor is made of the network's input alone, and has no channels that are known.
        is_zero: whether a tensor is all zeros.
        trace: what new channels are counted in.
    """

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Tensor
    known: Callable[[Any], Channels | None]
    is_given: Callable[[Any], bool]
    is_zero: Callable[[Any], bool]
    trace: Trace

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """An argument by place or name."""
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)

    @property
    def source(self) -> Channels | None:
        """The channels of the first argument."""
        return self.known(self.args[0])
