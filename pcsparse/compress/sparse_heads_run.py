"""One conversion of a model: its stages, the way back when it fails, and the check of what was packed."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear
from torch.nn.utils import parametrize

from pcsparse.compress.sparse_heads_layers import HeadLayer, Packed
from pcsparse.compress.sparse_heads_report import Stage
from pcsparse.compress.sparse_heads_settings import Evaluate, Fit
from pcsparse.errors import FormatError, RangeError

# times epsilon and the root of the terms of a sum: rounding errors walk at random, this is far from where
_ROOM = 32.0
# items of an input, rows and columns of a map, that a check takes: a packed product of a whole map is slow
_MOST_ITEMS, _MOST_PIXELS = 16, 24


@dataclass(eq=False)
class Run:
    """A model on its way from stage to stage.

    Attributes:
        model: the one.
        layers: of it that are converted.
        evaluate: see `Evaluate`; None to measure nothing.
        fit: see `Fit`; None to train nothing.
        fit_shared: of shared values, where it is another.
        stages: so far.
    """

    model: nn.Module
    layers: tuple[HeadLayer, ...]
    evaluate: Evaluate | None
    fit: Fit | None
    fit_shared: Fit | None
    stages: list[Stage] = field(default_factory=list)

    def measure(self, name: str, model: nn.Module | None = None) -> None:
        """Note a stage; `model` is the one of this run if None."""
        accuracy = None
        model = model or self.model
        if self.evaluate is not None:
            modes = _modes(model)
            model.eval()
            try:
                with torch.no_grad():
                    accuracy = float(self.evaluate(model))
            finally:
                _set_modes(modes)
        self.stages.append(Stage(name, accuracy))

    def train(self, name: str, *, shared: bool = False) -> None:
        """Train and note a stage, if there is anything to train with.

        Raises:
            RangeError: a weight is not finite afterwards.
        """
        fit = self._fit(shared=shared)
        if fit is None:
            return
        _train(self.model, fit)
        for layer in self.layers:
            weight = layer.module.weight.detach()
            n_wrong = int((~weight.isfinite()).sum())
            if n_wrong:
                raise RangeError(
                    f"{layer.name}: {n_wrong} of {weight.numel()} weights are not finite after training "
                    f"({name}); take a lower learning rate. The model is as it was before"
                )
        self.measure(name)

    def control(self, *, with_shared: bool) -> None:
        """Train a copy of the model as it is, as often as the model will be."""
        dense = copy.deepcopy(self.model)
        # dropout of the control draws no number that the model's would have drawn
        with torch.random.fork_rng():
            for fit in (self._fit(), self._fit(shared=True) if with_shared else None):
                if fit is not None:
                    _train(dense, fit)
        self.measure("dense, fine-tuned", dense)

    def _fit(self, *, shared: bool = False) -> Fit | None:
        return (self.fit_shared if shared else None) or self.fit


class Before:
    """The state of a model, to go back to."""

    def __init__(self, model: nn.Module, layers: tuple[HeadLayer, ...]) -> None:
        self._model, self._layers = model, layers
        self._state = {
            name: value.detach().clone() if isinstance(value, Tensor) else value
            for name, value in model.state_dict().items()
        }
        # those that no state dict has, too
        self._buffers = {name: value.detach().clone() for name, value in model.named_buffers()}

    def restore(self) -> None:
        """Plain dense layers in their places, and all weights and statistics as they were."""
        for layer in self._layers:
            layer.put(layer.module)
            if parametrize.is_parametrized(layer.module, "weight"):
                parametrize.remove_parametrizations(layer.module, "weight")
                # of a weight of another shape, it may be
                layer.module.weight.grad = None
            # a weight that was parametrised once is the last parameter, and optimisers count them
            layer.module._parameters["bias"] = layer.module._parameters.pop("bias")
        # what `fit` registered besides is no reason to fail here, and to hide what went wrong there
        self._model.load_state_dict(self._state, strict=False)
        with torch.no_grad():
            for name, value in self._model.named_buffers():
                if name in self._buffers:
                    value.copy_(self._buffers[name])


class Inputs:
    """What layers get while a model runs: the first input of each."""

    def __init__(self, layers: tuple[HeadLayer, ...]) -> None:
        self._found: dict[str, Tensor] = {}
        self._handles = [layer.module.register_forward_pre_hook(self._hook(layer.name)) for layer in layers]

    def stop(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def of(self, layer: HeadLayer) -> Tensor:
        """A part of what came, random numbers where nothing came; some of it 0, as behind a ReLU."""
        module = layer.module
        found = self._found.get(layer.name)
        if found is not None:
            return found
        generator = torch.Generator().manual_seed(0)
        if isinstance(module, nn.Linear):
            shape: tuple[int, ...] = (_MOST_ITEMS, module.in_features)
        else:
            spans = _spans(module)
            shape = (2, module.in_channels, *(span + 3 for span in spans))
        return (
            torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
            .relu()
            .to(module.weight.device)
        )

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[object, ...]], None]:
        def keep(module: nn.Module, args: tuple[object, ...]) -> None:
            x = args[0] if args else None
            if (
                name in self._found
                or not isinstance(x, Tensor)
                or x.numel() == 0
                or not bool(x.isfinite().all())
            ):
                return
            if not isinstance(module, nn.Conv2d):
                part = x.reshape(-1, x.shape[-1])[:_MOST_ITEMS]
            else:
                part = (x if x.dim() == 4 else x[None])[:1]
                spans = _spans(module)
                part = part[..., : max(_MOST_PIXELS, spans[0]), : max(_MOST_PIXELS, spans[1])]
            self._found[name] = part.detach().clone()

        return keep


def check_packed(layer: HeadLayer, packed: Packed, x: Tensor) -> None:
    """Compare a packed layer with the one that it was made of: equal weights, results equal but for rounding.

    Args:
        layer: with the weight that was packed.
        packed: whose product is its mode's.
        x: an input.

    Raises:
        FormatError: they differ.
    """
    module = layer.module
    weight = module.weight.detach()
    decoded = packed.dense_weight()
    if not torch.equal(decoded, weight):
        n_wrong = int((decoded != weight).sum())
        raise FormatError(f"{layer.name}: {n_wrong} of {weight.numel()} weights are others when decoded")
    bias = None if module.bias is None else module.bias.detach().double()
    size = None if bias is None else bias.abs()
    with torch.no_grad():
        found = packed(x).double()
        if isinstance(module, nn.Linear):
            wanted = linear(x.double(), weight.double(), bias)
            scale = linear(x.double().abs(), weight.double().abs(), size)
        else:
            stride, padding, dilation = module.stride, module.padding, module.dilation
            wanted = conv2d(x.double(), weight.double(), bias, stride, padding, dilation)
            scale = conv2d(x.double().abs(), weight.double().abs(), size, stride, padding, dilation)
    terms = weight[0].numel()
    bound = torch.finfo(torch.float32).eps * _ROOM * terms**0.5 * scale
    worst = (found - wanted).abs() - bound
    # not >, so that what is not a number differs, too
    if not bool((worst <= 0).all()):
        where = int(worst.reshape(-1).nan_to_num(float("inf")).argmax())
        one, other = float(found.reshape(-1)[where]), float(wanted.reshape(-1)[where])
        raise FormatError(f"{layer.name}: the packed layer gives {one:.8g} where {other:.8g} is right")


def _train(model: nn.Module, fit: Fit) -> None:
    """Every module has afterwards the mode that it had before."""
    modes = _modes(model)
    try:
        fit(model)
    finally:
        _set_modes(modes)


def _spans(conv: nn.Conv2d) -> list[int]:
    """Rows and columns of a map that one output sees."""
    return [d * (k - 1) + 1 for k, d in zip(conv.kernel_size, conv.dilation, strict=True)]


def _modes(model: nn.Module) -> dict[nn.Module, bool]:
    return {module: module.training for module in model.modules()}


def _set_modes(modes: dict[nn.Module, bool]) -> None:
    # not by `train`, which would set what lies below, too
    for module, mode in modes.items():
        module.training = mode
