"""The same network with other convolutions inside: for the peer, for the twin, and to count the work."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from pcsparse.bench.limits import Work, conv_work
from pcsparse.bench.peer import Convolve
from pcsparse.coords.kernel_map import KernelMap
from pcsparse.errors import UnsupportedError
from pcsparse.kernels import reference
from pcsparse.nn import SparseConv3d, SparseInverseConv3d, SubmanifoldConv3d
from pcsparse.sparse_tensor import SparseTensor

_CONVS = (SubmanifoldConv3d, SparseConv3d, SparseInverseConv3d)


class _Swapped(nn.Module):
    """A convolution module whose arithmetic is `convolve`; coordinates and maps stay the package's."""

    def __init__(self, conv: SubmanifoldConv3d | SparseConv3d | SparseInverseConv3d, convolve: Convolve):
        super().__init__()
        self.conv, self.convolve = conv, convolve

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(n_in, c_in) -> (n_out, c_out), where `conv` would write them."""
        conv, relation = self.conv, self.conv.relation
        fine: Tensor | None = x.coords
        coarse, stride = x.coords, x.stride
        if isinstance(conv, SparseConv3d):
            coarse = x.cache.coarser(x.coords, relation, conv.coverage)
            stride = _each(x.stride, relation.stride, divide=False)
        elif isinstance(conv, SparseInverseConv3d):
            fine = x.cache.finer(x.coords, relation)
            stride = _each(x.stride, relation.stride, divide=True)
        if fine is None:
            raise UnsupportedError(
                f"no SparseConv3d with {relation} made these {len(x)} voxels, so there is no way back"
            )
        kmap = x.cache.kernel_map(fine, coarse, relation, conv.offsets)
        back = isinstance(conv, SparseInverseConv3d)
        out = self.convolve(x.feats, conv.weight, kmap.transposed() if back else kmap)
        return x.at(out if conv.bias is None else out + conv.bias, fine if back else coarse, stride)


def _each(stride: tuple[int, int, int], by: tuple[int, int, int], *, divide: bool) -> tuple[int, int, int]:
    x, y, z = (a // b if divide else a * b for a, b in zip(stride, by, strict=True))
    return x, y, z


def swapped(model: nn.Module, convolve: Convolve) -> nn.Module:
    """A deep copy of `model` in which every sparse convolution runs by `convolve`."""
    other = copy.deepcopy(model)
    for parent in list(other.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _CONVS) and not isinstance(parent, _Swapped):
                setattr(parent, name, _Swapped(child, convolve))
    return other


class _TwinConv(torch.autograd.Function):
    # autograd through the twin would keep every gathered row of a whole network: gigabytes in float64
    @staticmethod
    def forward(ctx: Any, feats: Tensor, weight: Tensor, kmap: KernelMap) -> Tensor:
        ctx.save_for_backward(feats, weight)
        ctx.kmap = kmap
        pairs = kmap.pairs
        return reference.output_stationary(
            feats, weight, pairs.rows_in, pairs.rows_out, pairs.starts, kmap.n_out, 0
        )

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        feats, weight = ctx.saved_tensors
        pairs, back = ctx.kmap.pairs, weight.transpose(1, 2)
        rows_in, rows_out, starts = pairs.rows_in, pairs.rows_out, pairs.starts
        return (
            reference.output_stationary(grad_out, back, rows_out, rows_in, starts, feats.shape[0], 0),
            reference.output_stationary_grad_weight(feats, grad_out, rows_in, rows_out, starts, 0),
            None,
        )


def twin_conv(feats: Tensor, weight: Tensor, kmap: KernelMap) -> Tensor:
    """The twin as a differentiable function, for a whole network in float64."""
    out: Tensor = _TwinConv.apply(feats, weight, kmap)
    return out


def network_work(model: nn.Module, x: SparseTensor, *, training: bool) -> tuple[Work, ...]:
    """The work of every convolution of `model(x)`, in order; nothing is computed.

    Args:
        model: any module of sparse convolutions.
        x: its input; its cache is filled.
        training: both gradients too.
    """
    works: list[Work] = []

    def count(feats: Tensor, weight: Tensor, kmap: KernelMap) -> Tensor:
        k, c_in, c_out = weight.shape
        works.append(conv_work(kmap.n_in, kmap.n_out, kmap.n_pairs, k, c_in, c_out, training))
        return feats.new_empty(kmap.n_out, c_out)

    with torch.no_grad():
        swapped(model, count).to("meta")(x.replace(x.feats.to("meta")))
    return tuple(works)
