"""One run of a network without arithmetic: which layers it calls, on which maps, and what lives at once."""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pcsparse.compress.graph_layers import input_of
from pcsparse.coords.kept_outputs import kept_outputs
from pcsparse.coords.kernel_map import KernelMap
from pcsparse.nn import BatchNorm, BatchNormReLU, Linear, SubmanifoldConv3d, fuse
from pcsparse.nn.conv import SparseConv
from pcsparse.nn.copies import own_copy
from pcsparse.nn.prepare import meta_copy, without_values
from pcsparse.nn.tuning import _map
from pcsparse.sparse_tensor import SparseTensor

_NAME = "_name_in_the_network"


@dataclass(frozen=True, eq=False)
class Call:
    """One layer, as it was called.

    Attributes:
        name: of its module in the network before fusing; of a "cat" that of the layer that reads it.
        kind: see `cost.LayerCost`.
        kmap: of a convolution or linear layer.
        c_in, c_out: channels.
        stride: of the outputs' level along x.
        n_in, n_out: rows.
        bias, residual, relu: what is done besides the products.
        some: of a convolution of a share of the rows, which ones.
        groups: of a convolution; each of its outputs reads c_in / groups channels.
    """

    name: str
    kind: Literal["conv", "linear", "norm", "cat"]
    kmap: KernelMap | None
    c_in: int
    c_out: int
    stride: int
    n_in: int
    n_out: int
    bias: bool = False
    residual: bool = False
    relu: bool = False
    some: "SomeRows | None" = None
    groups: int = 1

    @property
    def k(self) -> int:
        """Kernel offsets."""
        return 1 if self.kmap is None else self.kmap.volume

    @property
    def n_rows(self) -> int:
        """That it writes by products, so without those that pass."""
        return self.n_out if self.some is None or not self.some.passes else int(self.some.mask.sum())

    @property
    def n_pairs(self) -> int:
        """Of the map, without those that rows have lost that are not convolved."""
        if self.kmap is None or self.some is None:
            return 0 if self.kmap is None else self.kmap.n_pairs
        return kept_outputs(self.kmap, self.some.mask, self.some.centre).n_pairs

    @property
    def macs(self) -> int:
        """Multiply-adds."""
        return self.n_pairs * (self.c_in // self.groups) * self.c_out


@dataclass(frozen=True, eq=False)
class SomeRows:
    """The rows that a layer convolves.

    Attributes:
        mask: (n,) bool, True where one is.
        share: of each cloud.
        clouds: leads every row to its cloud.
        centre: the offset whose pairs the others keep, or None where they pass.
    """

    mask: Tensor
    share: float
    clouds: KernelMap
    centre: int | None

    @property
    def passes(self) -> bool:
        """Whether the other rows pass."""
        return self.centre is None


def runnable(model: nn.Module, *, fused: bool) -> nn.Module:
    """A copy for inference whose layers remember their names, which fusing would change.

    It has no hooks but those that make weights: those of a user would be called, and timed.
    """
    model = own_copy(model, hooked=False).eval()
    for name, part in model.named_modules():
        setattr(part, _NAME, name)
    return fuse(model) if fused else model


def named_parts(model: nn.Module) -> dict[str, nn.Module]:
    """The modules of a network from `runnable` by the names that they had before fusing."""
    return {getattr(part, _NAME): part for part in model.modules() if hasattr(part, _NAME)}


def vectors_of(part: nn.Module) -> int:
    """Parameters of one number an output channel: the bias of a layer, scale and shift of a norm."""
    return sum(parameter.dim() == 1 for parameter in part.parameters(recurse=False))


def calls_of(model: nn.Module, x: SparseTensor) -> tuple[tuple[Call, ...], int]:
    """The layers that `model(x)` calls, and the most bytes of features that live at once.

    Args:
        model: from `runnable`.
        x: its input; its cache is filled with all maps. Where layers convolve a share of the rows, the
            network runs on its features, as they say which.
    """
    some = iter(_rows_of(model, x))
    module = meta_copy(model)
    calls: list[Call] = []
    joined: list[Tensor] = []

    def record(part: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any], out: SparseTensor) -> None:
        source: SparseTensor = input_of(inputs, kwargs)
        name, c_in, c_out = getattr(part, _NAME), source.feats.shape[1], out.feats.shape[1]
        rows = out.stride[0], len(source), len(out)
        if any(source.feats is feats for feats in joined):
            # told once, by its first reader
            joined.clear()
            calls.append(Call(name, "cat", None, c_in, c_in, source.stride[0], len(source), len(source)))
        residual = kwargs.get("residual") is not None
        if isinstance(part, BatchNorm):
            relu = isinstance(part, BatchNormReLU)
            calls.append(Call(name, "norm", None, c_in, c_out, *rows, residual=residual, relu=relu))
            return
        bias = getattr(part, "bias", None) is not None
        relu = bool(getattr(part, "relu", False))
        kind: Literal["conv", "linear"] = "conv" if isinstance(part, SparseConv) else "linear"
        kmap = _map(part, source, out)
        chosen = next(some) if _chooses(part) else None
        groups = part.groups if isinstance(part, SparseConv) else 1
        calls.append(Call(name, kind, kmap, c_in, c_out, *rows, bias, residual, relu, chosen, groups))

    for part in module.modules():
        if isinstance(part, SparseConv | Linear | BatchNorm):
            part.register_forward_hook(record, with_kwargs=True)
    shapes = x.replace(x.feats.to("meta"))
    live = Live(joined, shapes.feats.nbytes, lambda made: made.is_meta and made.dim() == 2)
    with without_values(model), live:
        module(shapes)
    return tuple(calls), live.most


def _chooses(part: nn.Module) -> bool:
    return isinstance(part, SubmanifoldConv3d) and part.voxels is not None and part.voxels < 1.0


def _rows_of(model: nn.Module, x: SparseTensor) -> list[SomeRows]:
    """What layers that choose their rows choose in `model(x)`, call by call."""
    found: list[SomeRows] = []

    def record(part: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert isinstance(part, SubmanifoldConv3d)
        source: SparseTensor = input_of(inputs, kwargs)
        mask = part.important(source)
        assert mask is not None
        assert part.voxels is not None
        clouds = source.cache.cloud_map(source.coords, source.batch_size)
        found.append(SomeRows(mask, part.voxels, clouds, part.kept_centre))

    handles = [
        part.register_forward_pre_hook(record, with_kwargs=True) for part in model.modules() if _chooses(part)
    ]
    try:
        if handles:
            with torch.no_grad():
                model(x)
    finally:
        for handle in handles:
            handle.remove()
    return found


class Live(TorchDispatchMode):
    """Adds up the bytes of feature tensors while they live, and remembers the most.

    Args:
        joined: gets what a concatenation made.
        given: bytes of the network's input, which lives throughout.
        is_feature: which tensors count; only floats are asked about.
    """

    def __init__(self, joined: list[Tensor], given: int, is_feature: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self._joined, self._is_feature = joined, is_feature
        self.now = self.most = given

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.is_floating_point() and self._is_feature(out):
            sources = [tensor for tensor in args if isinstance(tensor, Tensor)]
            # a view takes no memory
            if all(out.untyped_storage()._cdata != t.untyped_storage()._cdata for t in sources):
                self._add(out)
            if func is torch.ops.aten.cat.default:
                self._joined[:] = [out]
        return out

    def _add(self, tensor: Tensor) -> None:
        size = tensor.nbytes
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(tensor, self._drop, size)

    def _drop(self, size: int) -> None:
        self.now -= size
