"""Traces of networks of sparse convolutions: run one, and write down what its layers did."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pcsparse.coords.keys import pack
from pcsparse.coords.relation import Relation
from pcsparse.errors import UnsupportedError
from pcsparse.hardware.trace import CoarsenStep, LayerTrace, MappingStep, MapStep, NetworkTrace
from pcsparse.nn.conv import SparseConv, SparseConv3d, SparseConvTranspose3d, SparseInverseConv3d
from pcsparse.nn.modes import modes_kept
from pcsparse.nn.pointwise import Linear
from pcsparse.sparse_tensor import SparseTensor


def trace_sparse(net: nn.Module, x: SparseTensor, name: str, *, itemsize: int = 2) -> NetworkTrace:
    """Run a network of sparse convolutions once, and write down what its layers did.

    A map is searched once, by the first layer that reads it; inverse convolutions read that of their strided
    one. No two linear layers are taken to be a chain: what lies between two modules is not seen. The network
    runs in evaluation mode and gets its own modes back. A module that runs again is another layer, "call 2".

    Args:
        net: of convolutions and linear layers of `pcsparse.nn`; other modules are left out.
        x: voxels in the order of their keys, as `voxelize` has them.
        name: in tables.
        itemsize: bytes of a feature and a weight on the chip, whatever the network computes with here.

    Raises:
        UnsupportedError: a grouped or generative convolution, or one whose coarse cells are not just the fine
            ones with low bits cleared; found before the network runs.
    """
    steps: list[LayerTrace | MappingStep] = []
    known: list[object] = []
    recorder = _Recorder(steps, known, itemsize)
    wanted = [(path, each) for path, each in net.named_modules() if isinstance(each, SparseConv | Linear)]
    for path, module in wanted:
        # before the network runs, not after
        _check_traced(path, module)
    hooks = [module.register_forward_hook(recorder.hook(path), with_kwargs=True) for path, module in wanted]
    try:
        with modes_kept(net), torch.no_grad():
            # batch norms must not learn from a sweep that is only looked at
            net.eval()(x)
    finally:
        for hook in hooks:
            hook.remove()
    return NetworkTrace(name, tuple(steps))


@dataclass(frozen=True, eq=False)
class _Recorder:
    """Appends to `steps`; `known` holds maps and levels that are there already."""

    steps: list[LayerTrace | MappingStep]
    known: list[object]
    itemsize: int

    def hook(self, path: str) -> Callable[..., None]:
        calls = itertools.count(1)

        def record(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: SparseTensor
        ) -> None:
            call = next(calls)
            name = path if call == 1 else f"{path} call {call}"
            if isinstance(module, SparseConv) and module.relation.volume > 1:
                self._conv(name, module, args[0] if args else kwargs["x"], out)
            elif isinstance(module, SparseConv):
                self._linear(name, module.c_in, module.c_out, len(out))
            elif isinstance(module, Linear):
                self._linear(name, module.in_features, module.out_features, len(out))

        return record

    def _linear(self, name: str, c_in: int, c_out: int, rows: int) -> None:
        self.steps.append(LayerTrace(name, None, c_in, c_out, self.itemsize, rows))

    def _conv(self, name: str, module: SparseConv, x: SparseTensor, out: SparseTensor) -> None:
        back = isinstance(module, SparseInverseConv3d)
        fine, coarse = (out.coords, x.coords) if back else (x.coords, out.coords)
        kmap = x.cache.kernel_map(fine, coarse, module.relation, module.offsets)
        if fine is not coarse and not self._seen(coarse):
            self._level(name, module.relation, fine, coarse)
        if not self._seen(kmap):
            queries = pack(fine) if fine is coarse else _scaled(coarse, module.relation)
            inputs = queries if fine is coarse else pack(fine)
            deltas = module.relation.key_deltas()
            kept = deltas if module.offsets is None else deltas[list(module.offsets)]
            self.steps.append(MapStep(f"{name} map", inputs, queries, kept, kmap.pairs))
        layer_map = kmap.transposed() if back else kmap
        self.steps.append(LayerTrace(name, layer_map, module.c_in, module.c_out, self.itemsize))

    def _level(self, name: str, relation: Relation, fine: Tensor, coarse: Tensor) -> None:
        self.steps.append(
            CoarsenStep(f"{name} level", pack(fine), relation.stride, _scaled(coarse, relation))
        )

    def _seen(self, thing: object) -> bool:
        if any(each is thing for each in self.known):
            return True
        self.known.append(thing)
        return False


def _check_traced(name: str, module: nn.Module) -> None:
    if not isinstance(module, SparseConv):
        return
    if module.groups > 1:
        raise UnsupportedError(
            f"{name} has {module.groups} groups of channels; traces have whole layers only"
        )
    if module.voxels is not None:
        raise UnsupportedError(
            f"{name} convolves a share of its rows, voxels={module.voxels}; traces have whole maps only"
        )
    if isinstance(module, SparseConvTranspose3d):
        raise UnsupportedError(f"{name} is a {type(module).__name__}; traces have inverse convolutions only")
    relation = module.relation
    cleared = relation.is_partition and relation.padding == (0, 0, 0)
    if isinstance(module, SparseConv3d) and not cleared:
        raise UnsupportedError(
            f"{name} with {relation} writes more cells than the fine ones with their low bits cleared; trace "
            "convolutions whose kernel is their stride"
        )


def _scaled(coarse: Tensor, relation: Relation) -> Tensor:
    return pack(coarse * coarse.new_tensor([1, *relation.stride]))
