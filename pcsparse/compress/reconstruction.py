"""Least-squares reconstruction: after channels are gone, the weights that read the rest make up for them.

Layer by layer, in the order of execution, a layer that lost inputs gets the weights with which it comes
nearest to what it computed in the whole network, on the features that the pruned network before it delivers.
A convolution of k offsets is a linear map of k * c_in gathered channels: one solve serves any kernel.

Source: He et al., ICCV 2017 (arXiv 1707.06168), section 3.1, and the weights of AMC's channel pruning (ECCV
2018), which stop at k = 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pcsparse.compress.channels import Chosen
from pcsparse.compress.graph import ChannelGraph
from pcsparse.compress.layer_rows import inputs_of, matrix_of, outputs_of, set_matrix
from pcsparse.errors import RangeError


@dataclass(frozen=True)
class Refit:
    """What reconstruction did to one layer.

    Attributes:
        layer: its name.
        before: mean square of the difference from the whole network's output, as a share of that output's
            mean square, on the calibration sweeps, with the weights that slicing left.
        after: with the new weights.
    """

    layer: str
    before: float
    after: float


def reconstruct(
    dense: nn.Module,
    sliced: nn.Module,
    graph: ChannelGraph,
    chosen: Chosen,
    sweeps: Sequence[Any],
    *,
    ridge: float = 1e-3,
) -> tuple[Refit, ...]:
    """Refit every convolution and linear layer that lost input channels, in place in `sliced`.

    The new weights minimise |X W - Y|^2 + ridge * mean(diag(X^T X)) * |W - W_sliced|^2, where X are the
    features that `sliced` delivers, gathered by the map, and Y the outputs in `dense`. Where rows are few,
    weights stay near where they are. X^T X takes (k * c_in)^2 float64: 24 MB for 27 offsets of 64 channels,
    96 MB for 128. Batch norms stay; `finetune.recalibrate` afterwards.

    Args:
        dense: the whole network.
        sliced: from `slice_channels(dense, graph, chosen)`; both run in evaluation mode.
        graph: of `dense`.
        chosen: the channels that were kept.
        sweeps: calibration inputs, SparseTensors or tensors; a tuple are several arguments.
        ridge: >= 0; how much the sliced weights hold.

    Returns:
        One entry a layer that was refitted, in the order of execution.

    Raises:
        RangeError: no sweeps, or a negative `ridge`.
        UnsupportedError: a layer to refit that is no product over rows, see `layer_rows.inputs_of`.
    """
    if not sweeps or not ridge >= 0:
        raise RangeError(f"reconstruct needs sweeps and a ridge of at least 0, got {len(sweeps)} and {ridge}")
    widths = graph.widths({name: len(channels) for name, channels in chosen.items()})
    modes = [(part, part.training) for net in (dense, sliced) for part in net.modules()]
    dense.eval()
    sliced.eval()
    found = []
    try:
        for layer in graph.layers:
            if layer.kind != "norm" and widths[layer.name][0] < layer.c_in:
                outputs = _kept_outputs(graph, chosen, layer.name, layer.c_out)
                found.append(_refit(dense, sliced, layer.name, outputs, sweeps, ridge))
    finally:
        for part, training in modes:
            part.training = training
    return tuple(found)


def _kept_outputs(graph: ChannelGraph, chosen: Chosen, layer: str, width: int) -> list[int]:
    gone: set[int] = set()
    for name, channels in chosen.items():
        for slot in graph.group(name).slots:
            if slot.layer == layer and slot.side == "out":
                gone |= set(slot.positions(set(range(len(slot.channels))) - set(channels)))
    return [i for i in range(width) if i not in gone]


@torch.no_grad()
def _refit(
    dense: nn.Module,
    sliced: nn.Module,
    name: str,
    outputs: list[int],
    sweeps: Sequence[Any],
    ridge: float,
) -> Refit:
    module, whole = sliced.get_submodule(name), dense.get_submodule(name)
    old = matrix_of(module).double()
    gram = old.new_zeros(len(old), len(old))
    cross = torch.zeros_like(old)
    size = rows = 0.0
    for x in sweeps:
        wanted = outputs_of(whole, _seen(dense, name, x)[1], outputs).double()
        source, got = _seen(sliced, name, x)
        # what the layer should add to what it computes; its bias is in both
        missing = wanted - outputs_of(module, got).double()
        size += float(wanted.square().sum())
        rows += float(missing.square().sum())
        start = 0
        for gathered in inputs_of(module, source, got):
            part = gathered.double()
            gram += part.T @ part
            cross += part.T @ missing[start : start + len(part)]
            start += len(part)
    held = ridge * float(gram.diagonal().mean())
    change = _solved(gram + held * torch.eye(len(gram), dtype=gram.dtype, device=gram.device), cross)
    set_matrix(module, old + change)
    # |M - X D|^2 from the sums, without another pass
    left = rows - 2 * float((change * cross).sum()) + float((change * (gram @ change)).sum())
    scale = size or 1.0
    return Refit(name, rows / scale, max(0.0, left) / scale)


def _solved(gram: Tensor, cross: Tensor) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex(gram)
    if not int(failed):
        return torch.cholesky_solve(cross, factor)
    # rows may be fewer than unknowns, and channels may be zero everywhere
    return torch.linalg.pinv(gram, hermitian=True) @ cross


def _seen(net: nn.Module, name: str, x: Any) -> tuple[Any, Any]:
    """What a layer reads and what it writes."""
    seen: list[tuple[Any, Any]] = []

    def look(part: nn.Module, inputs: tuple[Any, ...], out: Any) -> None:
        seen.append((inputs[0], out))

    handle = net.get_submodule(name).register_forward_hook(look)
    try:
        net(*(x if isinstance(x, tuple) else (x,)))
    finally:
        handle.remove()
    if len(seen) != 1:
        raise RangeError(
            f"{name} runs {len(seen)} times in the network; only layers that run once can be refitted"
        )
    return seen[0]
