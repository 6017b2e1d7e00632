"""Voxel pruning of a network, layer by layer: verified against a simulation, then timed apart."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pcsparse.bench.verify import Check, check_close, check_equal
from pcsparse.compress.cost_measure import Draw
from pcsparse.compress.cost_run import Call, SomeRows, calls_of, named_parts, runnable
from pcsparse.compress.graph import ChannelGraph
from pcsparse.compress.voxels import prune_voxels
from pcsparse.coords.kept_outputs import kept_outputs
from pcsparse.coords.kernel_map import KernelMap
from pcsparse.kernels import reference
from pcsparse.nn import BatchNorm, BatchNormReLU, SubmanifoldConv3d
from pcsparse.nn.conv import Rest
from pcsparse.ops.conv import sparse_conv
from pcsparse.ops.importance import important_rows
from pcsparse.ops.partial_conv import partial_sparse_conv
from pcsparse.sparse_tensor import SparseTensor
from pcsparse.timing import Timing, time_in_turns

# of scores that were added in another order
_NEAR = 1e-5


@dataclass(frozen=True)
class LayerShare:
    """A layer that convolves a share of its rows.

    Attributes:
        share: of the rows of each cloud.
        pairs: of the filtered map.
        choose: to find the important rows.
        filter: to drop the pairs of the others.
        convolve: on the map that is left, all rows.
    """

    share: float
    pairs: int
    choose: Timing
    filter: Timing
    convolve: Timing


@dataclass(frozen=True)
class LayerTimes:
    """A layer at all shares.

    Attributes:
        name: in the network.
        c_in, c_out: channels.
        rows: of the cloud at its level.
        pairs: of the whole map.
        whole: the convolution of all rows.
        shares: in the order that was asked for.
    """

    name: str
    c_in: int
    c_out: int
    rows: int
    pairs: int
    whole: Timing
    shares: tuple[LayerShare, ...]


@dataclass(frozen=True, eq=False)
class Pruned:
    """A network at a share of the rows, as inference runs it, and the plain one that it was made of."""

    share: float
    plain: nn.Module
    fused: nn.Module

    @staticmethod
    def of(model: nn.Module, names: Sequence[str], share: float, rest: Rest) -> "Pruned":
        """`model` with that share in some layers; 1 is the plain convolution."""
        plain = prune_voxels(model, dict.fromkeys(names, share), rest)
        return Pruned(share, plain, runnable(plain, fused=True))


@torch.no_grad()
def verify(pruned: Pruned, names: Sequence[str], x: SparseTensor) -> list[Check]:
    """Each layer of the fused network on what it reads there, against a simulation in float64.

    The rows are checked by the definition: as many as the share says, and none that is left out is larger.
    Then all rows are convolved by the twin, those that are left out are overwritten, and the norm, the
    residual and the ReLU of the network before fusing follow.
    """
    follows = {layer.follows: layer.name for layer in ChannelGraph.of(pruned.plain).layers if layer.follows}
    parts, checks = named_parts(pruned.fused), []
    seen: dict[str, tuple[SparseTensor, Tensor | None, Tensor]] = {}

    def looking(name: str) -> Callable[..., None]:
        def look(part: nn.Module, inputs: tuple[Any, ...], options: Mapping[str, Any], out: Any) -> None:
            residual = options.get("residual")
            seen[name] = inputs[0], None if residual is None else residual.feats, out.feats

        return look

    handles = [parts[name].register_forward_hook(looking(name), with_kwargs=True) for name in names]
    try:
        pruned.fused(x)
    finally:
        for handle in handles:
            handle.remove()
    for name in names:
        source, residual, out = seen[name]
        conv, norm = pruned.plain.get_submodule(name), pruned.plain.get_submodule(follows[name])
        fused = parts[name]
        assert isinstance(conv, SubmanifoldConv3d)
        assert isinstance(fused, SubmanifoldConv3d)
        mask = fused.important(source)
        if mask is None:
            mask = torch.ones(len(source), dtype=torch.bool)
        checks.append(_check_rows(name, source, mask, pruned.share))
        expected = _simulated(conv, norm, source, mask, residual)
        checks.append(check_close(name, out, expected, conv.weight[..., 0].numel()))
    return checks


def _check_rows(name: str, x: SparseTensor, mask: Tensor, share: float) -> Check:
    """The number of clouds whose rows are not the largest."""
    scores, wrong = x.feats.double().abs().mean(dim=1), 0
    for cloud in range(x.batch_size):
        mine = x.coords[:, 0] == cloud
        inside, outside = scores[mine & mask], scores[mine & ~mask]
        wanted = math.ceil(round(share * int(mine.sum()), 9))
        lowest = float(inside.min()) if len(inside) else math.inf
        highest = float(outside.max()) if len(outside) else -math.inf
        wrong += len(inside) != wanted or lowest < (1 - _NEAR) * highest
    return check_equal(f"rows of {name}", torch.tensor([wrong]), torch.tensor([0]))


def _simulated(
    conv: SubmanifoldConv3d, norm: nn.Module, x: SparseTensor, mask: Tensor, residual: Tensor | None
) -> Tensor:
    assert isinstance(norm, BatchNorm)
    kmap = _whole_map(conv, x)
    feats, pairs = x.feats.double(), kmap.pairs
    out = reference.output_stationary(
        feats, conv.weight.double(), pairs.rows_in, pairs.rows_out, pairs.starts, kmap.n_out, 1
    )
    rest = feats
    if conv.rest == "centre":
        assert conv.centre is not None
        rest = feats @ conv.weight[conv.centre].double()
    if conv.bias is not None:
        out = out + conv.bias.double()
        rest = rest + conv.bias.double() if conv.rest == "centre" else rest
    out = torch.where(mask[:, None], out, rest)
    mean, var, weight, bias = (
        part.double()
        for part in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        if part is not None
    )
    out = (out - mean) / (var + norm.eps).sqrt() * weight + bias
    out = out if residual is None else out + residual.double()
    return out.clamp(min=0) if isinstance(norm, BatchNormReLU) else out


def _whole_map(conv: SubmanifoldConv3d, x: SparseTensor) -> KernelMap:
    return x.cache.kernel_map(x.coords, x.coords, conv.relation, conv.offsets, searched=conv.searched)


@torch.no_grad()
def time_layers(
    pruned: Sequence[Pruned], names: Sequence[str], x: SparseTensor, runs: int
) -> list[LayerTimes]:
    """Every layer at every share, its parts apart, all in turns.

    Rows and maps are those of the layer in the network of that share; the features are random.

    Args:
        pruned: shares below 1, of one network.
        names: of the layers.
        x: the network's input.
        runs: of each.
    """
    calls = [
        {call.name: call for call in calls_of(each.fused, x)[0] if call.kind == "conv"} for each in pruned
    ]
    draw = Draw(x.feats.dtype, x.device)
    return [_time_layer([calls_at[name] for calls_at in calls], draw, runs) for name in names]


def _time_layer(calls: Sequence[Call], draw: Draw, runs: int) -> LayerTimes:
    first = calls[0]
    kmap, c_in, c_out = first.kmap, first.c_in, first.c_out
    assert kmap is not None
    feats, weight, bias = draw(first.n_in, c_in), draw(first.k, c_in, c_out), draw(c_out)
    options: dict[str, Any] = {
        "bias": bias, "residual": draw(first.n_in, c_out) if first.residual else None, "relu": first.relu
    }  # fmt: skip
    runners: dict[str, Callable[[], object]] = {"whole": lambda: sparse_conv(feats, weight, kmap, **options)}
    for i, call in enumerate(calls):
        assert call.some is not None
        runners |= {
            f"{part} {i}": run for part, run in _parts(feats, weight, kmap, call.some, bias, options).items()
        }
    times = time_in_turns(runners, runs=runs)
    shares = tuple(
        LayerShare(
            call.some.share, call.n_pairs, times[f"choose {i}"], times[f"filter {i}"], times[f"convolve {i}"]
        )
        for i, call in enumerate(calls)
        if call.some is not None
    )
    return LayerTimes(first.name, c_in, c_out, first.n_in, kmap.n_pairs, times["whole"], shares)


def _parts(
    feats: Tensor, weight: Tensor, kmap: KernelMap, some: SomeRows, factor: Tensor, options: dict[str, Any]
) -> dict[str, Callable[[], object]]:
    if some.passes:
        options = {**options, "scale": factor, "shift": factor}
    return {
        "choose": lambda: important_rows(feats, some.clouds, some.share),
        # another tensor: what is kept with a mask would be found at the second run
        "filter": lambda: kept_outputs(kmap, some.mask.detach(), some.centre),
        "convolve": lambda: partial_sparse_conv(
            feats, weight, kmap, some.mask, centre=some.centre, **options
        ),
    }
