"""Any layer as a matrix product over rows: what it reads, gathered, times its weights is what it writes.

A convolution of k offsets reads k * c_in numbers a row; sparse or dense makes no difference from there on.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pcsparse.compress.graph_layers import axis_of
from pcsparse.errors import UnsupportedError
from pcsparse.nn.conv import SparseConv, SubmanifoldConv3d
from pcsparse.nn.tuning import _map
from pcsparse.sparse_tensor import SparseTensor

# rows that are gathered at once
_CHUNK = 4096


def inputs_of(part: nn.Module, source: Any, out: Any) -> Iterator[Tensor]:
    """What each output row reads, zero where nothing is, (rows, unknowns) piece by piece.

    A row that passes the layer reads nothing: its weights have no part in it. One that keeps its centre reads
    itself alone.

    Args:
        part: a convolution or linear layer.
        source: what it was called with, a SparseTensor or a tensor.
        out: what it returned.

    Raises:
        UnsupportedError: a layer that is no such product, as a transposed convolution that overlaps.
    """
    if isinstance(source, SparseTensor):
        kmap = _map(part, source, out)
        if isinstance(part, SubmanifoldConv3d):
            mask = part.important(source)
            kmap = kmap if mask is None else kmap.keep_outputs(mask, part.kept_centre)
        table = kmap.table
        for start in range(0, table.shape[1], _CHUNK):
            rows = table[:, start : start + _CHUNK].long()
            gathered = source.feats[rows.clamp(min=0)] * (rows >= 0)[..., None]
            yield gathered.permute(1, 0, 2).flatten(1)
    elif isinstance(part, nn.Conv2d):
        mode = "constant" if part.padding_mode == "zeros" else part.padding_mode
        padded = functional.pad(source, part._reversed_padding_repeated_twice, mode=mode)
        for image in padded.split(1):
            patches = functional.unfold(image, part.kernel_size, part.dilation, stride=part.stride)
            yield patches[0].T
    elif isinstance(part, nn.ConvTranspose2d):
        _check_tiles(part)
        for image in source.split(1):
            yield image[0].flatten(1).T
    else:
        yield from source.flatten(0, -2).split(_CHUNK)


def outputs_of(part: nn.Module, out: Any, channels: Sequence[int] | None = None) -> Tensor:
    """What a layer wrote, in the same rows, (rows, columns); of some of its channels only."""
    if isinstance(out, SparseTensor):
        return out.feats if channels is None else out.feats[:, list(channels)]
    if channels is not None:
        axis = axis_of(part, out.dim())
        assert axis is not None
        out = out.index_select(axis, torch.tensor(list(channels), device=out.device))
    if isinstance(part, nn.ConvTranspose2d):
        _check_tiles(part)
        out = functional.unfold(out, part.kernel_size, stride=part.stride)
        return out.transpose(1, 2).flatten(0, 1)
    return out.flatten(2).transpose(1, 2).flatten(0, 1) if isinstance(part, nn.Conv2d) else out.flatten(0, -2)


def matrix_of(part: Any) -> Tensor:
    """The weights, (unknowns, columns)."""
    weight: Tensor = part.weight.detach()
    if isinstance(part, SparseConv):
        return weight.flatten(0, 1)
    return weight.flatten(1) if isinstance(part, nn.ConvTranspose2d) else weight.flatten(1).T


@torch.no_grad()
def set_matrix(part: Any, matrix: Tensor) -> None:
    """The inverse of `matrix_of`."""
    first = isinstance(part, SparseConv | nn.ConvTranspose2d)
    shaped = (matrix if first else matrix.T).reshape(part.weight.shape)
    part.weight.copy_(shaped.to(part.weight.dtype))


def _check_tiles(part: nn.ConvTranspose2d) -> None:
    tiles = part.stride == part.kernel_size and {*part.padding, *part.output_padding} == {0}
    if not tiles or set(part.dilation) != {1}:
        raise UnsupportedError(
            f"the outputs of a transposed convolution of kernel {part.kernel_size} and stride {part.stride} "
            "overlap or are cut, so it is no product over rows; leave the channels that it reads"
        )
