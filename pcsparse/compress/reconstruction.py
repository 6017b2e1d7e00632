"""Least-squares reconstruction: what is left of the weights makes up for what is gone.

Layer by layer, in the order of execution, a layer that lost input channels or kernel offsets gets the weights
with which it comes nearest to what it computed in the whole network, on the features that the pruned network
before it delivers.
A convolution of k offsets is a linear map of k * c_in gathered channels: one solve serves any kernel.

Source: He et al., ICCV 2017 (arXiv 1707.06168), section 3.1, and the weights of AMC's channel pruning (ECCV
2018), which stop at k = 1.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pcsparse.compress.channels import Chosen
from pcsparse.compress.graph import ChannelGraph
from pcsparse.compress.graph_layers import input_of
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
    """Refit every convolution and linear layer that lost inputs, in place in `sliced`.

    Inputs are channels and kernel offsets.

    The new weights minimise |X W - Y|^2 + ridge * mean(diag(X^T X)) * |W - W_sliced|^2, where X are the
    features that `sliced` delivers, gathered by the map, and Y the outputs in `dense`. Where rows are few,
    weights stay near where they are. X^T X takes (k * c_in)^2 float64, and its factor as much again: 24 MB
    for 27 offsets of 64 channels, 96 MB for 128, 860 MB for the 384 of MinkUNet-18's first decoder block. The
    outputs of the whole network on all sweeps are kept meanwhile.

    Batch norms stay as they are: they fit the outputs that the new weights come near to. Least squares leave
    less variance than there was, and measuring it anew blows up what is left of the error: MinkUNet-18 at
    half of its time had a mIoU of .28 so, and .22 with norms measured anew (docs/log.md). Before training,
    which renews them, it makes no difference.

    Args:
        dense: the whole network.
        sliced: what `slice_channels(dense, graph, chosen)` or `slice_offsets` made of it, or both of them;
            both networks run in evaluation mode.
        graph: of `dense`.
        chosen: the channels that were kept; none where no channels went.
        sweeps: calibration inputs, SparseTensors or tensors; a tuple are several arguments.
        ridge: >= 0; how much the sliced weights hold.

    Returns:
        One entry a layer that was refitted, in the order of execution.

    Raises:
        RangeError: no sweeps, a negative `ridge`, channels that are not those of `sliced`, or a layer to
            refit that does not run exactly once.
        UnsupportedError: a layer to refit that is no product over rows, see `layer_rows.inputs_of`.
    """
    if not sweeps or not ridge >= 0:
        raise RangeError(f"reconstruct needs sweeps and a ridge of at least 0, got {len(sweeps)} and {ridge}")
    # refuses groups that the graph does not have
    graph.widths({name: len(channels) for name, channels in chosen.items()})
    modes = [(part, part.training) for net in (dense, sliced) for part in net.modules()]
    dense.eval()
    sliced.eval()
    lost = [
        layer for layer in graph.layers
        if layer.kind != "norm"
        and _lost_inputs(dense.get_submodule(layer.name), sliced.get_submodule(layer.name))
    ]  # fmt: skip
    kept = {layer.name: _kept_outputs(graph, chosen, layer.name, layer.c_out) for layer in lost}
    try:
        wanted = [_wanted(dense, kept, x) for x in sweeps]
        return tuple(
            _refit(sliced, layer.name, sweeps, [told.pop(layer.name) for told in wanted], ridge)
            for layer in lost
        )
    finally:
        for part, training in modes:
            part.training = training


def _lost_inputs(dense: nn.Module, sliced: nn.Module) -> bool:
    return len(matrix_of(sliced)) < len(matrix_of(dense))


def _kept_outputs(graph: ChannelGraph, chosen: Chosen, layer: str, width: int) -> list[int]:
    gone: set[int] = set()
    for name, channels in chosen.items():
        for slot in graph.group(name).slots:
            if slot.layer == layer and slot.side == "out":
                gone |= set(slot.positions(set(range(len(slot.channels))) - set(channels)))
    return [i for i in range(width) if i not in gone]


@torch.no_grad()
def _wanted(dense: nn.Module, kept: Mapping[str, list[int]], x: Any) -> dict[str, Tensor]:
    """What each layer writes in the whole network, of the channels that stay, (rows, columns)."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def look(part: nn.Module, inputs: tuple[Any, ...], out: Any) -> None:
            if name in found:
                raise RangeError(
                    f"{name} runs more than once in the network; only layers that run once can be refitted"
                )
            # what follows may write in place
            found[name] = outputs_of(part, out, kept[name]).clone()

        return look

    handles = [dense.get_submodule(name).register_forward_hook(keep(name)) for name in kept]
    try:
        dense(*(x if isinstance(x, tuple) else (x,)))
    finally:
        for handle in handles:
            handle.remove()
    missing = kept.keys() - found.keys()
    if missing:
        raise RangeError(f"{sorted(missing)[0]} does not run on the sweeps, so it cannot be refitted")
    return found


@torch.no_grad()
def _refit(
    sliced: nn.Module, name: str, sweeps: Sequence[Any], wanted: Sequence[Tensor], ridge: float
) -> Refit:
    module = sliced.get_submodule(name)
    old = matrix_of(module).double()
    gram = old.new_zeros(len(old), len(old))
    cross = torch.zeros_like(old)
    size = rows = 0.0
    for x, told in zip(sweeps, wanted, strict=True):
        source, got = _seen(sliced, name, x)
        computed = outputs_of(module, got)
        if computed.shape != told.shape:
            raise RangeError(
                f"{name} writes {computed.shape[1]} channels where chosen leaves {told.shape[1]} of the "
                "whole network's; pass the channels that slice_channels got"
            )
        # what the layer should add to what it computes; its bias is in both
        missing = told.double() - computed.double()
        size += float(told.double().square().sum())
        rows += float(missing.square().sum())
        start = 0
        for gathered in inputs_of(module, source, got):
            part = gathered.double()
            gram += part.T @ part
            cross += part.T @ missing[start : start + len(part)]
            start += len(part)
    held = ridge * float(gram.diagonal().mean())
    # in place: it is as large as all else together
    gram.diagonal().add_(held)
    change = _solved(gram, cross)
    set_matrix(module, old + change)
    # |M - X D|^2 from the sums, without another pass
    fitted = float((change * (gram @ change)).sum()) - held * float(change.square().sum())
    left = rows - 2 * float((change * cross).sum()) + fitted
    scale = size or 1.0
    return Refit(name, rows / scale, max(0.0, left) / scale)


def _solved(gram: Tensor, cross: Tensor) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex(gram)
    if not int(failed):
        return torch.cholesky_solve(cross, factor)
    # rows may be fewer than unknowns, and channels may be zero everywhere
    return torch.linalg.pinv(gram, hermitian=True) @ cross


class _SeenError(Exception):
    """Carries what a layer read and wrote out of the network, which need not run on."""

    def __init__(self, source: Any, out: Any) -> None:
        super().__init__()
        self.seen = source, out


def _seen(net: nn.Module, name: str, x: Any) -> tuple[Any, Any]:
    """What a layer reads and what it writes."""

    def look(part: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        raise _SeenError(input_of(inputs, kwargs), out)

    handle = net.get_submodule(name).register_forward_hook(look, with_kwargs=True)
    try:
        net(*(x if isinstance(x, tuple) else (x,)))
    except _SeenError as error:
        return error.seen
    finally:
        handle.remove()
    raise RangeError(f"{name} does not run on the sweeps, so it cannot be refitted")
