"""Follow channels through one run of a network on features without values."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._python_dispatch import TorchDispatchMode

from pcsparse.errors import PcsparseError, UnsupportedError
from pcsparse.nn import (
    GELU,
    AvgPool3d,
    BatchNorm,
    BatchNormReLU,
    Dropout,
    GlobalAvgPool,
    GlobalMaxPool,
    LeakyReLU,
    Linear,
    MaxPool3d,
    ReLU,
    SiLU,
    SparseConv3d,
    SparseConvTranspose3d,
    SparseInverseConv3d,
    SubmanifoldConv3d,
)
from pcsparse.nn.conv import SparseConv
from pcsparse.nn.prepare import meta_copy
from pcsparse.sparse_tensor import SparseTensor

_CONVS = (SubmanifoldConv3d, SparseConv3d, SparseInverseConv3d, SparseConvTranspose3d)
_LINEARS = (Linear, nn.Linear)
_NORMS = (BatchNorm, BatchNormReLU, nn.BatchNorm1d)
# what they make of a channel depends on no other channel, and they make zeros of zeros
_CHANNELWISE = (
    ReLU,
    LeakyReLU,
    SiLU,
    GELU,
    Dropout,
    nn.Identity,
    nn.ReLU,
    nn.Dropout,
    MaxPool3d,
    AvgPool3d,
    GlobalMaxPool,
    GlobalAvgPool,
)
_KNOWN = (*_CONVS, *_LINEARS, *_NORMS, *_CHANNELWISE)

_aten: Any = torch.ops.aten
# the same as functions: of one tensor of features
_PASSED_ON = frozenset(
    (
        _aten.relu.default,
        _aten.relu_.default,
        _aten.leaky_relu.default,
        _aten.silu.default,
        _aten.gelu.default,
        _aten.neg.default,
        _aten.clone.default,
        _aten.detach.default,
        _aten.alias.default,
        _aten._to_copy.default,
    )
)
# of two tensors of features, channel by channel
_TYING = frozenset((_aten.add.Tensor, _aten.add_.Tensor, _aten.sub.Tensor, _aten.mul.Tensor))

Numbers = tuple[int, ...]
Kind = Literal["conv", "linear", "norm"]


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
        inputs: numbers of the network's input.
        outputs: numbers of its outputs.
    """

    calls: list[LayerCall] = field(default_factory=list)
    inputs: Numbers = ()
    outputs: Numbers = ()
    _parent: list[int] = field(default_factory=list)

    def new(self, n: int) -> Numbers:
        """Numbers for n channels."""
        first = len(self._parent)
        self._parent += range(first, first + n)
        return tuple(range(first, first + n))

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


def trace(model: nn.Module, x: SparseTensor | None = None) -> Trace:
    """Run `model` once on features without values and follow its channels.

    Args:
        model: takes a SparseTensor; it is not changed.
        x: an input; one voxel with as many channels as the first layer reads if None.

    Raises:
        UnsupportedError: an operator that is not known here, or no network on a SparseTensor.
    """
    # one dtype for all: only shapes matter
    module = meta_copy(model).eval().float()
    follower = _Follower(module)
    if x is None:
        x = _one_voxel(module)
    shapes = x.replace(x.feats.to("meta", torch.float32))
    follower.trace.inputs = follower.give(shapes.feats, follower.trace.new(shapes.feats.shape[1]))
    try:
        with torch.no_grad(), follower:
            y = module(shapes)
    except PcsparseError:
        raise
    except Exception as error:
        raise UnsupportedError(
            f"{type(model).__name__} does not run on a SparseTensor of features without values, so its "
            f"channels cannot be followed: {type(error).__name__}: {error}"
        ) from error
    outputs = [follower.numbers(feats, "the network's output") for feats in _tensors(y)]
    follower.trace.outputs = tuple(number for numbers in outputs for number in numbers)
    return follower.trace


def _one_voxel(module: nn.Module) -> SparseTensor:
    for part in module.modules():
        if isinstance(part, SparseConv | Linear):
            channels = part.c_in if isinstance(part, SparseConv) else part.in_features
            return SparseTensor(torch.zeros(1, channels), torch.zeros(1, 4, dtype=torch.int32))
    raise UnsupportedError(
        f"{type(module).__name__} has no sparse convolution and no `nn.Linear` of pcsparse: only channels of "
        "networks on a SparseTensor can be followed"
    )


def _tensors(value: Any) -> list[Tensor]:
    """The features of an output: of a SparseTensor, a tensor, or a collection of them."""
    if isinstance(value, SparseTensor):
        return [value.feats]
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, Iterable):
        return [feats for item in value for feats in _tensors(item)]
    raise UnsupportedError(f"the network returns a {type(value).__name__}, whose channels cannot be followed")


class _Follower(TorchDispatchMode):
    """Numbers the channels of every tensor of features: of layers by hooks, of operators as they come."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.trace = Trace()
        # by identity, with the tensor itself so that its identity is not given away
        self._known: dict[int, tuple[Tensor, Numbers]] = {}
        self._first: dict[str, LayerCall] = {}
        self._stack: list[str] = []
        self._inside = 0
        for name, part in module.named_modules():
            is_layer = _kind_of(part) in _KNOWN
            part.register_forward_pre_hook(self._entering(name, part, is_layer))
            part.register_forward_hook(self._leaving(name, part, is_layer), with_kwargs=True)

    def give(self, feats: Tensor, numbers: Numbers) -> Numbers:
        self._known[id(feats)] = feats, numbers
        return numbers

    def numbers(self, feats: Tensor, where: str) -> Numbers:
        if id(feats) not in self._known:
            raise UnsupportedError(
                f"{where} is a tensor {tuple(feats.shape)} that no operator known to the channel graph has "
                "made, so its channels cannot be followed"
            )
        return self._known[id(feats)][1]

    def _position(self) -> str:
        return f"in {self._stack[-1]}" if self._stack else "outside of it"

    def _entering(self, name: str, part: nn.Module, is_layer: bool) -> Callable[..., None]:
        title = f"{name or 'the network'} ({type(part).__name__})"

        def enter(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            self._stack.append(title)
            self._inside += is_layer

        return enter

    def _leaving(self, name: str, part: nn.Module, is_layer: bool) -> Callable[..., None]:
        def leave(module: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if is_layer:
                self._layer(name, part, inputs[0], kwargs, output)
                self._inside -= 1
            self._stack.pop()

        return leave

    def _layer(self, name: str, part: nn.Module, given: Any, kwargs: dict[str, Any], output: Any) -> None:
        (source,), (made,) = _tensors(given), _tensors(output)
        read = self.numbers(source, f"what {name} reads")
        kind = _kind_of(part)
        written = read
        if kind in _CONVS or kind in _LINEARS:
            if isinstance(part, SparseConv) and part.groups > 1:
                raise UnsupportedError(
                    f"{name} is a convolution of {part.groups} groups, whose channels the graph cannot follow"
                )
            written = self._call(name, "conv" if kind in _CONVS else "linear", read, made.shape[-1])
        elif kind in _NORMS:
            # scales and shifts belong to the channels that come in
            self._call(name, "norm", read, 0)
        residual = kwargs.get("residual")
        if residual is not None:
            self.trace.tie(written, self.numbers(residual.feats, f"the residual of {name}"))
        self.give(made, written)

    def _call(self, name: str, kind: Kind, read: Numbers, n_written: int) -> Numbers:
        known = self._first.get(name)
        if known is not None:
            # the same weights at a second place: what they meet there is tied to what they met before
            self.trace.tie(known.read, read)
            return known.written if kind != "norm" else read
        written = self.trace.new(n_written) if kind != "norm" else read
        self._first[name] = call = LayerCall(name, kind, read, written)
        self.trace.calls.append(call)
        return written

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if self._inside:
            return out
        given = [*args, *(kwargs or {}).values()]
        listed = [t for item in given for t in (item if isinstance(item, list | tuple) else [item])]
        tensors = [item for item in listed if isinstance(item, Tensor)]
        known = [tensor for tensor in tensors if id(tensor) in self._known]
        if known:
            self.give(out, self._through(func, args, kwargs or {}, known, tensors))
        return out

    def _through(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        known: list[Tensor],
        all_: list[Tensor],
    ) -> Numbers:
        """The numbers of what an operator makes of tensors of features."""
        numbers = [self._known[id(tensor)][1] for tensor in known]
        if len(known) == len(all_):
            if func in _PASSED_ON:
                return numbers[0]
            if func in _TYING and len(known) == 2 and known[0].shape == known[1].shape:
                self.trace.tie(*numbers)
                return numbers[0]
            dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
            if func is _aten.cat.default and dim in (1, -1):
                return tuple(number for part in numbers for number in part)
        raise UnsupportedError(
            f"the channel graph does not know the operator {func} {self._position()}, on tensors "
            f"{', '.join(str(tuple(tensor.shape)) for tensor in all_)}; prune a network without it, or leave "
            "its layers alone"
        )


def _kind_of(part: nn.Module) -> type[nn.Module]:
    # torch gives a module with parametrised weights a class of its own, below the one it had
    return type(part).__bases__[0] if is_parametrized(part) else type(part)
