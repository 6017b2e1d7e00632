"""Convolution modules. All geometry is that of `coords.relation`."""

import math
from collections.abc import Sequence
from operator import index
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pcsparse.coords.kernel_map import KernelMap
from pcsparse.coords.relation import Relation
from pcsparse.engine.tune_cache import TuneTable
from pcsparse.errors import RangeError, ShapeError, UnsupportedError
from pcsparse.kernels.map_ways import MapRule
from pcsparse.nn.own_tensor import own_tensor
from pcsparse.ops.conv import sparse_conv
from pcsparse.ops.grouped_conv import grouped_sparse_conv
from pcsparse.ops.importance import check_share, important_rows
from pcsparse.ops.partial_conv import partial_sparse_conv
from pcsparse.sparse_tensor import SparseTensor, check_same_coords
from pcsparse.types import Triple

Rest = Literal["pass", "centre"]
"""What becomes of rows that are not convolved, see `SubmanifoldConv3d`."""


class SparseConv(nn.Module):
    """Abstract: weights (k, c_in, c_out), bias (c_out,) and the relation, which all convolutions have.

    Attributes:
        relu: whether negative outputs become zero; `nn.fuse` sets it.
        folded: whether `nn.fuse` has folded a norm into the weights.
        voxels: the share of rows that are convolved, None for all; only a SubmanifoldConv3d may have one.
        rest: what becomes of the rows that are not convolved.
        searched: offsets that all layers of its map together keep, see `nn.map_search.search_together`;
            None where that is not known: then the whole kernel is searched.

    Args:
        c_in: input channels.
        c_out: output channels.
        relation: geometry of the kernel.
        bias: whether to add a bias.
        offsets: positions of the kernel offsets to keep, ascending; all if None. A dropped offset costs
            nothing.
        dataflow: "auto" or a name of `engine.plan.DATAFLOWS`.
        groups: blocks of output channels, each of which reads its block of inputs; c_in is depthwise.
    """

    # of modules from before there were any, too
    folded: bool = False
    voxels: float | None = None
    rest: Rest = "pass"

    def __init__(
        self,
        c_in: int,
        c_out: int,
        relation: Relation,
        bias: bool,
        offsets: Sequence[int] | None,
        dataflow: str,
        groups: int = 1,
    ) -> None:
        super().__init__()
        if c_in < 1 or c_out < 1:
            raise ShapeError(f"channels must be at least 1, got c_in={c_in}, c_out={c_out}")
        if groups < 1 or c_in % groups or c_out % groups:
            raise ShapeError(
                f"groups must divide both channel counts, got groups={groups}, c_in={c_in}, c_out={c_out}"
            )
        self.groups = groups
        self.c_in, self.c_out, self.relation, self.dataflow = c_in, c_out, relation, dataflow
        self.relu = False
        self.searched: tuple[int, ...] | None = None
        # set by `use_tuning`
        self.tuned: TuneTable | None = None
        self.offsets = None if offsets is None else tuple(offsets)
        if self.offsets is not None and (
            not self.offsets
            or list(self.offsets) != sorted(set(self.offsets))
            or not 0 <= self.offsets[0] <= self.offsets[-1] < relation.volume
        ):
            raise RangeError(f"offsets must ascend within 0 ... {relation.volume - 1}, got {self.offsets}")
        k = relation.volume if self.offsets is None else len(self.offsets)
        self.weight = nn.Parameter(torch.empty(k, c_in // groups, c_out))
        self.bias = nn.Parameter(torch.empty(c_out)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in +-1 / sqrt(k * c_in / groups), as torch's dense convolution draws it."""
        bound = 1 / math.sqrt(self.weight.shape[0] * self.weight.shape[1])
        for parameter in self.parameters(recurse=False):
            nn.init.uniform_(parameter, -bound, bound)

    @property
    def _how(self) -> MapRule | None:
        """The rule for maps that this layer was tuned with; None leaves the way to the cache."""
        return None if self.tuned is None or torch.compiler.is_compiling() else self.tuned.maps

    def _map(self, x: SparseTensor, fine: Tensor, coarse: Tensor) -> KernelMap:
        """The map of this layer, from the cache of `x`."""
        return x.cache.kernel_map(
            fine, coarse, self.relation, self.offsets, searched=self.searched, how=self._how
        )

    def _convolve(
        self,
        x: SparseTensor,
        fine: Tensor,
        coarse: Tensor,
        *,
        back: bool = False,
        residual: SparseTensor | None = None,
    ) -> Tensor:
        kmap = self._map(x, fine, coarse)
        kmap = kmap.transposed() if back else kmap
        extra = None if residual is None else residual.feats
        if self.groups > 1:
            return grouped_sparse_conv(
                x.feats,
                self.weight,
                kmap,
                self.groups,
                bias=self.bias,
                residual=extra,
                relu=self.relu,
                dataflow=self.dataflow,
                tuned=self.tuned,
            )
        weight = own_tensor(self, "weight")
        assert weight is not None
        return sparse_conv(
            x.feats,
            weight,
            kmap,
            bias=own_tensor(self, "bias"),
            residual=extra,
            relu=self.relu,
            dataflow=self.dataflow,
            tuned=self.tuned,
        )

    def extra_repr(self) -> str:
        """Channels and geometry."""
        relation = self.relation
        text = f"{self.c_in}, {self.c_out}, kernel_size={relation.kernel_size}, stride={relation.stride}"
        if relation.dilation != (1, 1, 1):
            text += f", dilation={relation.dilation}"
        if relation.padding != (0, 0, 0):
            text += f", padding={relation.padding}"
        if self.offsets is not None:
            text += f", offsets={len(self.offsets)} of {relation.volume}"
        if self.groups > 1:
            text += f", groups={self.groups}"
        if self.voxels is not None:
            text += f", voxels={self.voxels}, rest={self.rest}"
        text += f", bias={self.bias is not None}"
        return text + ", relu=True" if self.relu else text


class SubmanifoldConv3d(SparseConv):
    """Convolution whose outputs are its inputs' voxels.

    With `voxels`, only a share of each cloud's rows is convolved, those with the largest features. The others
    pass through as they are, or, with rest="centre", are multiplied by the weights of the kernel's centre
    alone; their other pairs cost nothing. The choice of rows is not differentiable; gradients are those of
    the rows as they were chosen.

    Attributes:
        centre: which of the kept offsets is the kernel's centre; None where it was dropped.
        through_scale, through_shift: (c,) or None: what a norm that `nn.fuse` has folded in makes of rows
            that pass.

    Args:
        c_in: input channels.
        c_out: output channels.
        kernel_size: one int or (x, y, z).
        dilation: one int or (x, y, z).
        bias: whether to add a bias.
        offsets: kernel offsets to keep, see `coords.relation` for their order; all if None.
        dataflow: "auto" or a name.
        groups: blocks of output channels, each of which reads its block of inputs; c_in is depthwise.
        voxels: share of the rows that are convolved, in (0, 1], rounded up cloud by cloud; None for all.
            Needs one group.
        rest: "pass", which needs c_in = c_out, or "centre", which needs the centre among `offsets`.

    Raises:
        RangeError: `voxels` or `rest` is out of range, or the centre is no kept offset.
        ShapeError: rows cannot pass, as c_in and c_out differ.
        UnsupportedError: `voxels` with groups.

    Source: Graham et al., CVPR 2018 (arXiv 1711.10275). Voxels: SPSS-Conv of Liu et al., NeurIPS 2022 (arXiv
    2209.14201), without the factor sigmoid(importance) that its release puts on the features, so that all
    rows at once are the plain convolution. The centre is ours (docs/adr/0028).
    """

    through_scale: Tensor | None
    through_shift: Tensor | None

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel_size: int | Triple = 3,
        *,
        dilation: int | Triple = 1,
        bias: bool = False,
        offsets: Sequence[int] | None = None,
        dataflow: str = "auto",
        groups: int = 1,
        voxels: float | None = None,
        rest: Rest = "pass",
    ) -> None:
        super().__init__(c_in, c_out, Relation.of(kernel_size, 1, dilation), bias, offsets, dataflow, groups)
        self.voxels, self.rest = voxels, rest
        # found once: a graph that is compiled would break at the search
        self.centre = _centre_of(self)
        if voxels is not None:
            _check_voxels(self, voxels)
        self.register_buffer("through_scale", None)
        self.register_buffer("through_shift", None)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Also of modules that were pickled before rows could keep the centre."""
        super().__setstate__(state)
        self.centre = _centre_of(self)

    def forward(self, x: SparseTensor, *, residual: SparseTensor | None = None) -> SparseTensor:
        """(n, c_in) -> (n, c_out) at the same voxels.

        Args:
            x: (n, c_in).
            residual: (n, c_out) at the same voxels, added before the ReLU if there is one.

        Raises:
            ShapeError: `residual` has other voxels or channels.
        """
        if residual is not None:
            check_same_coords((x, residual))
        mask = self.important(x)
        if mask is not None:
            return x.replace(self._convolve_some(x, mask, residual))
        return x.replace(self._convolve(x, x.coords, x.coords, residual=residual))

    @property
    def kept_centre(self) -> int | None:
        """The offset whose pairs all rows keep; None where the others pass, or there are no others."""
        return self.centre if self.voxels is not None and self.rest == "centre" else None

    def important(self, x: SparseTensor) -> Tensor | None:
        """Which rows of `x` are convolved, (n,) bool; None where all are."""
        if self.voxels is None or self.voxels == 1.0:
            return None
        return important_rows(x.feats, x.cache.cloud_map(x.coords, x.batch_size), self.voxels)

    def _convolve_some(self, x: SparseTensor, mask: Tensor, residual: SparseTensor | None) -> Tensor:
        return partial_sparse_conv(
            x.feats,
            self.weight,
            self._map(x, x.coords, x.coords),
            mask,
            bias=self.bias,
            scale=self.through_scale,
            shift=self.through_shift,
            residual=None if residual is None else residual.feats,
            relu=self.relu,
            centre=self.kept_centre,
            dataflow=self.dataflow,
            tuned=self.tuned,
        )


def _as_box(box: Sequence[Sequence[int]]) -> tuple[Triple, Triple]:
    # a file gives lists, and levels are found by their box
    try:
        first, last = (tuple(map(index, cell)) for cell in box)
        (x, y, z), (x_end, y_end, z_end) = first, last
    except (TypeError, ValueError):
        first = last = ()
    if not first or any(low > high for low, high in zip(first, last, strict=True)):
        raise RangeError(f"box must be the first and the last cell, (x, y, z) each, got {box}")
    return (x, y, z), (x_end, y_end, z_end)


class SparseConv3d(SparseConv):
    """Convolution that writes every voxel it touches; with a stride it makes a coarser level.

    Args:
        c_in: input channels.
        c_out: output channels.
        kernel_size: one int or (x, y, z).
        stride: one int or (x, y, z).
        dilation: one int or (x, y, z).
        padding: as in the relation; odd kernels are centred at padding 0, so spconv's k = 3, padding = 1 is 0
            here.
        bias: whether to add a bias.
        coverage: "touched" writes the dense convolution's support (spconv), "floor" only floor(fine / stride)
            (MinkowskiEngine).
        box: first and last coarse cell; voxels beyond are not written, as a dense convolution and spconv end
            at their grids. None for no end.
        offsets: kernel offsets to keep; all if None. The output voxels stay those of the whole kernel.
        dataflow: "auto" or a name.
        groups: blocks of output channels, each of which reads its block of inputs; c_in is depthwise.

    Raises:
        RangeError: `box` is not two cells, the first before the last, or `coverage` none of its two words.
    """

    # of modules from before there was one, too
    box: tuple[Triple, Triple] | None = None

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel_size: int | Triple = 3,
        stride: int | Triple = 1,
        *,
        dilation: int | Triple = 1,
        padding: int | Triple = 0,
        bias: bool = False,
        coverage: str = "touched",
        box: Sequence[Sequence[int]] | None = None,
        offsets: Sequence[int] | None = None,
        dataflow: str = "auto",
        groups: int = 1,
    ) -> None:
        relation = Relation.of(kernel_size, stride, dilation, padding)
        super().__init__(c_in, c_out, relation, bias, offsets, dataflow, groups)
        self.box = None if box is None else _as_box(box)
        if coverage not in ("touched", "floor"):
            raise RangeError(f"coverage must be 'touched' or 'floor', got {coverage!r}")
        self.coverage = coverage

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(n_in, c_in) -> (n_out, c_out) at the coarser level."""
        coarse = x.cache.coarser(x.coords, self.relation, self.coverage, self.box, how=self._how)
        return x.at(self._convolve(x, x.coords, coarse), coarse, _times(x.stride, self.relation.stride))


class SparseInverseConv3d(SparseConv):
    """Transposed convolution back to the voxels from which a `SparseConv3d` of the same geometry came.

    The map is that of the strided convolution with its columns swapped: nothing is searched.

    Args:
        c_in: input channels.
        c_out: output channels.
        kernel_size: of the strided convolution.
        stride: of the strided convolution.
        dilation: of the strided convolution.
        padding: of the strided convolution.
        bias: whether to add a bias.
        offsets: kernel offsets to keep; all if None.
        dataflow: "auto" or a name.
        groups: blocks of output channels, each of which reads its block of inputs; c_in is depthwise.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel_size: int | Triple = 2,
        stride: int | Triple = 2,
        *,
        dilation: int | Triple = 1,
        padding: int | Triple = 0,
        bias: bool = False,
        offsets: Sequence[int] | None = None,
        dataflow: str = "auto",
        groups: int = 1,
    ) -> None:
        relation = Relation.of(kernel_size, stride, dilation, padding)
        super().__init__(c_in, c_out, relation, bias, offsets, dataflow, groups)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(n_in, c_in) -> (n_out, c_out) at the finer level.

        Raises:
            UnsupportedError: no convolution of this geometry made the voxels of `x`.
        """
        fine = x.cache.finer(x.coords, self.relation)
        if fine is None:
            raise UnsupportedError(
                f"no SparseConv3d with {self.relation} made these {len(x)} voxels of stride "
                f"{x.stride}, so there is no way back; use SparseConvTranspose3d, "
                "which makes new voxels or takes given ones"
            )
        return x.at(
            self._convolve(x, fine, x.coords, back=True), fine, _divided(x.stride, self.relation.stride)
        )


class SparseConvTranspose3d(SparseConv):
    """Transposed convolution that writes every voxel it touches, or those of a given tensor.

    Args:
        c_in: input channels.
        c_out: output channels.
        kernel_size: one int or (x, y, z).
        stride: one int or (x, y, z).
        dilation: one int or (x, y, z).
        padding: as in the relation.
        bias: whether to add a bias.
        offsets: kernel offsets to keep; all if None.
        dataflow: "auto" or a name.
        groups: blocks of output channels, each of which reads its block of inputs; c_in is depthwise.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel_size: int | Triple = 2,
        stride: int | Triple = 2,
        *,
        dilation: int | Triple = 1,
        padding: int | Triple = 0,
        bias: bool = False,
        offsets: Sequence[int] | None = None,
        dataflow: str = "auto",
        groups: int = 1,
    ) -> None:
        relation = Relation.of(kernel_size, stride, dilation, padding)
        super().__init__(c_in, c_out, relation, bias, offsets, dataflow, groups)

    def forward(self, x: SparseTensor, like: SparseTensor | None = None) -> SparseTensor:
        """(n_in, c_in) -> (n_out, c_out) at the finer level; at the voxels of `like` if given.

        Raises:
            ShapeError: `like` is not at the finer level, or has another batch size.
        """
        stride = _divided(x.stride, self.relation.stride)
        if like is not None and (like.stride, like.batch_size) != (stride, x.batch_size):
            raise ShapeError(
                f"like has stride {like.stride} and batch size {like.batch_size}, the output has "
                f"{stride} and {x.batch_size}; give a tensor of that level of the same clouds"
            )
        fine = x.cache.expanded(x.coords, self.relation) if like is None else like.coords
        return x.at(self._convolve(x, fine, x.coords, back=True), fine, stride)


def _centre_of(conv: SparseConv) -> int | None:
    """Which of the offsets that are kept leads from a voxel to itself; None where none does."""
    centre = conv.relation.centre
    kept = range(conv.relation.volume) if conv.offsets is None else conv.offsets
    return kept.index(centre) if centre in kept else None


def _check_voxels(conv: SubmanifoldConv3d, share: float) -> None:
    check_share(share)
    if conv.rest not in ("pass", "centre"):
        raise RangeError(f"rest must be 'pass' or 'centre', got {conv.rest!r}")
    if conv.rest == "pass" and conv.c_in != conv.c_out:
        raise ShapeError(
            f"rows that are not convolved pass as they are, so voxels={share} needs as many channels out as "
            f"in, got c_in={conv.c_in}, c_out={conv.c_out}; leave voxels=None, or set rest='centre'"
        )
    if conv.rest == "centre" and conv.centre is None:
        raise RangeError(
            f"rows that are not convolved keep the kernel's centre, offset {conv.relation.centre}, which is "
            f"not among offsets={conv.offsets}; keep it, leave voxels=None, or set rest='pass'"
        )
    if conv.groups > 1:
        raise UnsupportedError(f"voxels={share} does not go with groups={conv.groups}; leave voxels=None")


def _times(stride: Triple, factor: Triple) -> Triple:
    return stride[0] * factor[0], stride[1] * factor[1], stride[2] * factor[2]


def _divided(stride: Triple, factor: Triple) -> Triple:
    if any(a % b for a, b in zip(stride, factor, strict=True)):
        raise UnsupportedError(
            f"a level of stride {stride} has no finer level by {factor}: the finest has stride (1, 1, 1)"
        )
    return stride[0] // factor[0], stride[1] // factor[1], stride[2] // factor[2]
