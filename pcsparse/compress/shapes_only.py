"""Run a network on real points without its arithmetic: its layers answer with zeros of the right shape."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from pcsparse.compress.graph_layers import input_of, is_layer
from pcsparse.nn.copies import Module
from pcsparse.nn.prepare import meta_copy
from pcsparse.sparse_tensor import SparseTensor

_DROPOUTS = frozenset((functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d))


def shapes_only(model: Module) -> Module:
    """A copy in evaluation mode that takes real inputs on the CPU; see `nn.prepare.meta_copy`.

    What a network on points does between its layers, such as a search of neighbours, is done; the layers that
    the channel graph knows only look at shapes. They are float32.
    """
    module = meta_copy(model).eval().float()
    for part in module.modules():
        if is_layer(part):
            part.forward = _Answer(part, part.forward)  # type: ignore[method-assign]
    return module


class NoDropout(TorchFunctionMode):
    """The functions that drop features in training pass them on, as the layers do that the graph knows."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        return input_of(args, kwargs) if func in _DROPOUTS else func(*args, **kwargs)


class _Answer:
    def __init__(self, part: nn.Module, forward: Callable[..., Any]) -> None:
        self._part, self._forward = part, forward

    def __call__(self, *inputs: Any, **kwargs: Any) -> Any:
        x = input_of(inputs, kwargs)
        feats = x.feats if isinstance(x, SparseTensor) else x
        if isinstance(self._part, nn.Linear):
            return _like(x, (*feats.shape[:-1], self._part.out_features))
        if isinstance(self._part, _BatchNorm):
            return _like(x, feats.shape)
        shadow = feats.to("meta")
        out = self._forward(x.replace(shadow) if isinstance(x, SparseTensor) else shadow)
        return _like(out, (out.feats if isinstance(out, SparseTensor) else out).shape)


def _like(x: SparseTensor | Tensor, shape: tuple[int, ...]) -> SparseTensor | Tensor:
    # numpy asks for pages that cost nothing until someone reads them
    zeros = torch.from_numpy(np.zeros(shape, np.float32))
    return x.replace(zeros) if isinstance(x, SparseTensor) else zeros
