"""Tuned plans in a network: which convolutions it runs, and the table that their plans come from."""

from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import nn

from pcsparse.coords.kernel_map import KernelMap
from pcsparse.engine.conv_call import ConvCall
from pcsparse.engine.problem import ConvProblem
from pcsparse.engine.tune_cache import Bucket, TuneTable
from pcsparse.nn.conv import SparseConv, SparseConvTranspose3d, SparseInverseConv3d
from pcsparse.nn.pointwise import ITSELF, Linear
from pcsparse.nn.prepare import meta_copy, without_values
from pcsparse.ops.grouped_conv import bundles
from pcsparse.sparse_tensor import SparseTensor

Module = TypeVar("Module", bound=nn.Module)
_KINDS = (SparseConv, Linear)


def use_tuning(module: Module, table: TuneTable | None) -> Module:
    """Let every convolution and linear layer in `module` take its plans from `table`; None is the rule.

    The table is no part of the module's state: a checkpoint does not keep it.

    Args:
        module: any module; its convolutions are changed in place.
        table: from `engine.tune_cache.load_table` or `engine.autotune.table_of`.

    Returns:
        `module`.
    """
    for part in module.modules():
        if isinstance(part, _KINDS):
            part.tuned = table
    return module


def conv_calls(module: nn.Module, x: SparseTensor, dtype: torch.dtype | None = None) -> tuple[ConvCall, ...]:
    """The different convolutions of `module(x)`, one for each map and bucket. No arithmetic is done.

    Args:
        module: any module that takes a SparseTensor.
        x: its input; only its cache changes. Where its features want a gradient, as those that another
            network made, the first layers compute it, too.
        dtype: of features and weights; that of `x` if None.
    """
    found: dict[tuple[int, bool, Bucket], ConvCall] = {}
    # a copy: hooks, modes and weights of the module stay as they are
    module = meta_copy(module)
    names = {part: name for name, part in module.named_modules()}
    given = x.replace(x.feats.to("meta"))

    def record(
        part: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any], output: SparseTensor
    ) -> None:
        source: SparseTensor = inputs[0] if inputs else kwargs["x"]
        built, turned = _built(part, source, output)
        for c_in, c_out in _channels(part, source, output):
            # the operands as far as a problem reads them: one number each, whatever their size
            number = torch.zeros((), dtype=dtype or x.feats.dtype, device=x.feats.device)
            k = part.weight.shape[0] if isinstance(part, SparseConv) else 1
            feats, weight = number.expand(len(source), c_in), number.expand(k, c_in, c_out)
            problem = ConvProblem.of(feats, weight, built.transposed() if turned else built)
            key = id(built), turned, Bucket.of(problem)
            known = found.get(key, ConvCall((), problem, built, turned))
            # the gradient of the cloud's own features is nobody's, unless these want one
            first = known.first + (source.feats is given.feats and not x.feats.requires_grad)
            found[key] = replace(known, names=(*known.names, names[part]), first=first)

    for part in names:
        if isinstance(part, _KINDS):
            part.register_forward_hook(record, with_kwargs=True)
    # evaluation may fuse a convolution with its neighbours, and a fused one is not called by itself
    module.train()
    with without_values(module):
        module(given)
    return tuple(found.values())


def _channels(part: nn.Module, x: SparseTensor, y: SparseTensor) -> list[tuple[int, int]]:
    """Channels of the convolutions that a layer runs: a grouped one runs its bundles."""
    c_in, c_out = x.feats.shape[1], y.feats.shape[1]
    groups = part.groups if isinstance(part, SparseConv) else 1
    if groups == 1:
        return [(c_in, c_out)]
    c_in, c_out = c_in // groups, c_out // groups
    return [(len(bundle) * c_in, len(bundle) * c_out) for bundle in bundles(c_in, c_out, groups)]


def _built(conv: nn.Module, x: SparseTensor, y: SparseTensor) -> tuple[KernelMap, bool]:
    """The map that is built for a layer, and whether it goes over its transpose."""
    if not isinstance(conv, SparseConv):
        return x.cache.kernel_map(x.coords, x.coords, ITSELF), False
    back = isinstance(conv, SparseInverseConv3d | SparseConvTranspose3d)
    fine, coarse = (y.coords, x.coords) if back else (x.coords, y.coords)
    return x.cache.kernel_map(fine, coarse, conv.relation, conv.offsets), back


def _map(conv: nn.Module, x: SparseTensor, y: SparseTensor) -> KernelMap:
    built, turned = _built(conv, x, y)
    return built.transposed() if turned else built
