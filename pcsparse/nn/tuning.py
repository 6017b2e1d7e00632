"""Tuned plans in a network: which convolutions it runs, and the table that their plans come from."""

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from pcsparse.coords.kernel_map import KernelMap
from pcsparse.engine.problem import ConvProblem
from pcsparse.engine.tune_cache import Bucket, TuneTable
from pcsparse.nn.conv import SparseConv, SparseConvTranspose3d, SparseInverseConv3d
from pcsparse.nn.pointwise import ITSELF, Linear
from pcsparse.nn.prepare import meta_copy
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


@dataclass(frozen=True, eq=False)
class ConvCall:
    """A convolution that a network runs on a cloud.

    Attributes:
        names: of the modules that run a problem of this bucket, in the order of their calls.
        problem: sizes of the first of them.
        kmap: its map.
    """

    names: tuple[str, ...]
    problem: ConvProblem
    kmap: KernelMap


def conv_calls(module: nn.Module, x: SparseTensor, dtype: torch.dtype | None = None) -> tuple[ConvCall, ...]:
    """The different convolutions of `module(x)`, one for each bucket of the tuner. No arithmetic is done.

    Args:
        module: any module that takes a SparseTensor.
        x: its input; only its cache changes.
        dtype: of features and weights; that of `x` if None.
    """
    found: dict[Bucket, ConvCall] = {}
    # a copy: hooks, modes and weights of the module stay as they are
    module = meta_copy(module)
    names = {part: name for name, part in module.named_modules()}

    def record(part: nn.Module, inputs: tuple[Any, ...], output: SparseTensor) -> None:
        if isinstance(part, SparseConv) and part.groups > 1:
            # a grouped layer runs other convolutions than its weight says
            return
        kmap = _map(part, inputs[0], output)
        c_in, c_out = inputs[0].feats.shape[1], output.feats.shape[1]
        problem = ConvProblem(
            device=x.feats.device.type,
            dtype=dtype or x.feats.dtype,
            k=kmap.volume,
            c_in=c_in,
            c_out=c_out,
            n_in=kmap.n_in,
            n_out=kmap.n_out,
            n_pairs=kmap.n_pairs,
            symmetric=kmap.symmetric,
        )
        bucket = Bucket.of(problem)
        known = found.get(bucket)
        if known is None:
            found[bucket] = ConvCall((names[part],), problem, kmap)
        else:
            found[bucket] = ConvCall((*known.names, names[part]), known.problem, known.kmap)

    for part in names:
        if isinstance(part, _KINDS):
            part.register_forward_hook(record)
    # evaluation may fuse a convolution with its neighbours, and a fused one is not called by itself
    module.train()
    with torch.no_grad():
        module(x.replace(x.feats.to("meta")))
    return tuple(found.values())


def _map(conv: nn.Module, x: SparseTensor, y: SparseTensor) -> KernelMap:
    if not isinstance(conv, SparseConv):
        return x.cache.kernel_map(x.coords, x.coords, ITSELF)
    back = isinstance(conv, SparseInverseConv3d | SparseConvTranspose3d)
    fine, coarse = (y.coords, x.coords) if back else (x.coords, y.coords)
    kmap = x.cache.kernel_map(fine, coarse, conv.relation, conv.offsets)
    return kmap.transposed() if back else kmap
