"""Follow channels through one run of a network."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pcsparse.compress.graph_layers import axis_of, input_of, is_layer, kind_of, with_weights
from pcsparse.compress.graph_numbers import Applied, Channels, Kind, LayerCall, Numbers, Trace
from pcsparse.compress.graph_operators import follow, makes_zeros
from pcsparse.compress.shapes_only import NoDropout, shapes_only
from pcsparse.errors import PcsparseError, UnsupportedError
from pcsparse.nn import Linear
from pcsparse.nn.conv import SparseConv
from pcsparse.nn.prepare import meta_copy
from pcsparse.sparse_tensor import SparseTensor

Example = SparseTensor | Tensor | tuple[Any, ...] | None
"""What a network is run on to read its graph."""

_GIVE_ONE = (
    "read the graph on one of yours that leads through all of the network and pass it on, "
    "graph=ChannelGraph.of(model, x), or give the network a method `example_input`; a tuple, (x,), is "
    "run with its values"
)


def trace(model: nn.Module, x: Example = None, *, training: bool = False) -> Trace:
    """Run `model` once and follow its channels.

    Args:
        model: it is not changed.
        x: of a SparseTensor and of a tensor of features (n, c, ...) only coordinates and shapes are read, and
            no arithmetic is done. A tuple are the arguments of a network that looks at values, as one on
            points does; then only its layers do nothing. If None, what `model.example_input()` gives, or else
            one voxel with as many channels as the first layer reads.
        training: run it once more as in training, so that what runs there only is followed too; layers do
            there what they do in evaluation mode.

    Raises:
        UnsupportedError: an operator that is not known here, or a network that does not run on `x`.
        PcsparseError: what a layer says of an `x` that was given.
    """
    guessed = ""
    if x is None:
        x, guessed = _example(model)
    # one dtype for all: only shapes matter
    device = "cpu" if isinstance(x, tuple) else "meta"
    module = shapes_only(model) if isinstance(x, tuple) else meta_copy(model).eval().float()
    follower = _Follower(module)
    given = tuple(follower.start(value, device) for value in (x if isinstance(x, tuple) else (x,)))
    try:
        with torch.no_grad(), NoDropout(), follower:
            made = [module(*given)]
            if training:
                for part in module.modules():
                    part.training = not is_layer(part)
                made.append(module(*given))
    except Exception as error:
        # of an input that was given, an error of a layer tells what is wrong
        if isinstance(error, UnsupportedError) or (isinstance(error, PcsparseError) and not guessed):
            raise
        on = ", ".join(type(part).__name__ for part in given)
        without = "" if isinstance(x, tuple) else " of features without values"
        raise UnsupportedError(
            f"{type(model).__name__} does not run on a {on}{without}, so its channels cannot be followed: "
            f"{type(error).__name__}: {error}{guessed}"
        ) from error
    outputs = [follower.channels(feats, "the network's output").numbers for feats in _tensors(made)]
    follower.trace.outputs = tuple(number for numbers in outputs for number in numbers)
    follower.trace.unseen = tuple(follower.unseen)
    return follower.trace


def _example(model: nn.Module) -> tuple[SparseTensor | Tensor | tuple[Any, ...], str]:
    """What to run on, and what to say of it if it was guessed and does not fit."""
    make: Any = getattr(model, "example_input", None)
    if callable(make):
        return make(), ""
    for name, part in model.named_modules():
        if isinstance(part, SparseConv | Linear):
            channels = part.c_in if isinstance(part, SparseConv) else part.in_features
            voxel = SparseTensor(
                torch.zeros(1, channels, device="cpu"), torch.zeros(1, 4, dtype=torch.int32, device="cpu")
            )
            return voxel, (
                f". No input was given, so it was one voxel of {channels} channels, as {name or 'it'} reads, "
                f"which is registered first; {_GIVE_ONE}"
            )
    raise UnsupportedError(
        f"{type(model).__name__} has no sparse convolution, no `nn.Linear` of pcsparse and no method "
        f"`example_input`, so there is no input that it is sure to take; {_GIVE_ONE}"
    )


def _tensors(value: Any) -> list[Tensor]:
    """The features of an output: of a SparseTensor, a tensor, or a collection of them; integers are none."""
    if isinstance(value, SparseTensor):
        return [value.feats]
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [feats for item in value for feats in _tensors(item)]
    raise UnsupportedError(f"the network returns a {type(value).__name__}, whose channels cannot be followed")


def _listed(values: Iterable[Any]) -> list[Tensor]:
    """The tensors among values, and in lists among them."""
    items = (item for value in values for item in (value if isinstance(value, list | tuple) else [value]))
    return [item for item in items if isinstance(item, Tensor)]


class _Marked:
    """Tensors with something known of them, by identity."""

    def __init__(self) -> None:
        # with the tensor itself, so that its identity is not given away
        self._found: dict[int, tuple[Tensor, Channels | None, int]] = {}

    def mark(self, tensor: Tensor, channels: Channels | None = None) -> None:
        self._found[id(tensor)] = tensor, channels, tensor._version

    def forget(self, tensor: Tensor) -> None:
        self._found.pop(id(tensor), None)

    def __contains__(self, value: Any) -> bool:
        return id(value) in self._found

    def get(self, value: Any) -> Channels | None:
        return self._found[id(value)][1] if id(value) in self._found else None

    def untouched(self, value: Any) -> bool:
        """Whether it is marked, and nobody wrote into it since, not even through a view."""
        return id(value) in self._found and self._found[id(value)][2] == value._version


class _Follower(TorchDispatchMode):
    """Numbers the channels of every tensor of features: of layers by hooks, of operators as they come."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.trace = Trace()
        self._known = _Marked()
        # made of the network's input alone, where nobody knows which channels
        self._given = _Marked()
        self._zeros = _Marked()
        self._first: dict[str, LayerCall] = {}
        self._stack: list[str] = []
        self._inside = 0
        # a module leads through its weights where it is called, and any operator that reads them does
        self.unseen: dict[str, None] = {}
        self._owners: dict[int, list[str]] = {}
        # names of a parameter that are no layer: a list of weights, an attribute
        self._aside: dict[int, list[str]] = {}
        for name, part in with_weights(module):
            self.unseen[name] = None
            if not is_layer(part):
                for parameter in part.parameters(recurse=False):
                    self._aside.setdefault(id(parameter), []).append(name)
            for parameter in part.parameters(recurse=False):
                self._owners.setdefault(id(parameter), []).append(name)
        for name, part in module.named_modules():
            layer = is_layer(part)
            part.register_forward_pre_hook(self._entering(name, part, layer))
            part.register_forward_hook(self._leaving(name, part, layer), with_kwargs=True)

    def start(self, value: Any, device: str) -> Any:
        """An argument of the network, as the run gets it: one dtype for all features."""
        if isinstance(value, SparseTensor):
            return value.replace(self.start(value.feats, device))
        if not isinstance(value, Tensor):
            return value
        if not value.is_floating_point():
            return value.to(device)
        feats = value.detach().to(device, torch.float32)
        if feats.dim() > 1:
            self._known.mark(feats, Channels(1, self.trace.given(feats.shape[1])))
        else:
            self._given.mark(feats)
        return feats

    def channels(self, feats: Tensor, where: str, axis: int | None = None) -> Channels:
        """Of a tensor; of one that is made of the input alone, new ones along `axis`, or the last."""
        known = self._known.get(feats)
        if known is None and feats in self._given:
            axis = feats.dim() - 1 if axis is None else axis
            known = Channels(axis, self.trace.given(feats.shape[axis]))
        if known is None:
            raise UnsupportedError(
                f"{where} is a tensor {tuple(feats.shape)} that no operator known to the channel graph has "
                "made, so its channels cannot be followed"
            )
        if axis is not None and known.axis != axis:
            raise UnsupportedError(
                f"{where} is a tensor {tuple(feats.shape)} with its channels along dimension {known.axis}, "
                f"not {axis} where the layer takes them; the graph cannot follow what it mixes"
            )
        return known

    def _position(self) -> str:
        return f"in {self._stack[-1]}" if self._stack else "outside of it"

    def _entering(self, name: str, part: nn.Module, layer: bool) -> Callable[..., None]:
        title = f"{name or 'the network'} ({type(part).__name__})"

        def enter(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            self._stack.append(title)
            self.unseen.pop(name, None)
            for parameter in module.parameters(recurse=False):
                for other in self._aside.get(id(parameter), ()):
                    self.unseen.pop(other, None)
            self._inside += layer

        return enter

    def _leaving(self, name: str, part: nn.Module, layer: bool) -> Callable[..., None]:
        def leave(module: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if layer:
                self._layer(name, part, input_of(inputs, kwargs), kwargs, output)
                self._inside -= 1
            self._stack.pop()

        return leave

    def _layer(self, name: str, part: nn.Module, given: Any, kwargs: dict[str, Any], output: Any) -> None:
        (source,), (made,) = _tensors(given), _tensors(output)
        read = self.channels(source, f"what {name} reads", axis_of(part, source.dim()))
        kind, numbers = kind_of(part), read.numbers
        if kind == "conv" or kind == "linear":
            groups = getattr(part, "groups", 1)
            if groups > 1:
                raise UnsupportedError(
                    f"{name} is a {type(part).__name__} of {groups} groups, whose channels the graph cannot "
                    "follow; prune kernel offsets or single weights instead"
                )
            written = self._call(name, kind, numbers, made.shape[read.axis])
            if isinstance(part, SparseConv) and part.voxels is not None and part.rest == "pass":
                # a row that passes is what comes in and what goes out
                self.trace.tie(numbers, written)
            numbers = written
        elif kind == "norm":
            # scales and shifts belong to the channels that come in
            self._call(name, kind, numbers, 0)
        residual = kwargs.get("residual")
        if residual is not None:
            beside = self.channels(residual.feats, f"the residual of {name}", read.axis)
            self.trace.tie(numbers, beside.numbers)
        self._known.mark(made, Channels(read.axis, numbers))

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
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        made = [
            part for part in (out if isinstance(out, tuple | list) else [out]) if isinstance(part, Tensor)
        ]
        if self._inside or not made:
            return out
        if makes_zeros(func, args, self._zeros.untouched):
            self._zeros.mark(made[0])
            return out
        tensors = _listed([*args, *kwargs.values()])
        for owner in (name for tensor in tensors for name in self._owners.get(id(tensor), ())):
            self.unseen.pop(owner, None)
        known = [tensor for tensor in tensors if tensor in self._known]
        if known:
            self._through(Applied(
                func, args, kwargs, made[0], self._known.get, self._given.__contains__,
                self._zeros.untouched, self.trace,
            ), known, tensors, made)  # fmt: skip
        elif any(tensor in self._given for tensor in tensors):
            for part in made:
                self._given.mark(part)
        return out

    def _through(self, call: Applied, known: list[Tensor], all_: list[Tensor], made: list[Tensor]) -> None:
        """Mark what an operator makes of tensors of features."""
        found = follow(call)
        if found is not None:
            self._known.mark(call.out, found)
            return
        numbers = [channels.numbers for t in known if (channels := self._known.get(t)) is not None]
        if all(map(self.trace.all_given, numbers)):
            # none of these channels can go, so it does not matter what becomes of them
            for part in made:
                self._known.forget(part)
                self._given.mark(part)
            return
        raise UnsupportedError(
            f"the channel graph does not know the operator {call.func} {self._position()}, on tensors "
            f"{', '.join(str(tuple(tensor.shape)) for tensor in all_)}; prune a network without it, or leave "
            "its layers alone"
        )
