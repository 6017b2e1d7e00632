"""TorchSparse 1.4, where a CPU build of it is installed.

As published its CPU loops run in parallel over the channels of one row, which is tens of times slower than
one thread, and its Python layer does not call them. What is meant here is a build with both mended: `omp
parallel for` over rows in `gather_cpu` and `scatter_cpu` (rows of one offset are distinct, so nothing races),
and `ConvolutionFunction` calling `convolution_forward_cpu` and `convolution_backward_cpu` on a CPU.

Source: mit-han-lab/torchsparse v1.4.0, torchsparse/nn/functional/conv.py and backend/convolution.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pcsparse.bench.cases import Layer, Way
from pcsparse.bench.library import Library, LibraryConv
from pcsparse.coords.kernel_map import Pairs
from pcsparse.coords.relation import Relation
from pcsparse.errors import UnsupportedError


class TorchSparse(Library):
    """Maps of a hash, gather, one GEMM an offset, scatter."""

    remark = "its CPU loops mended to run over rows"

    def __init__(self) -> None:
        super().__init__()
        import torchsparse
        import torchsparse.nn as modules
        from torchsparse.nn import functional
        from torchsparse.nn.utils import get_kernel_offsets

        if not torchsparse.__version__.startswith("1.4"):
            raise ImportError(f"TorchSparse {torchsparse.__version__} has no CPU convolution; 1.4 has")
        self._tensor, self._conv, self._functional = torchsparse.SparseTensor, modules.Conv3d, functional
        self._offsets = get_kernel_offsets
        self.name = f"TorchSparse {torchsparse.__version__} (mended)"

    def geometry(self, coords: Tensor) -> Tensor:
        """Columns x, y, z, batch."""
        return coords[:, [1, 2, 3, 0]].contiguous()

    def tensor(self, geometry: Tensor, feats: Tensor) -> Any:
        """Without maps."""
        x = self._tensor(feats, geometry)
        # its convolutions enter only the coordinates that they make
        x.cmaps[x.stride] = x.coords
        return x

    def feats(self, x: Any) -> Tensor:
        """(n, c)."""
        found: Tensor = x.feats
        return found

    def replace(self, x: Any, feats: Tensor) -> Any:
        """As its own `SparseTensor.__add__` does."""
        other = self._tensor(feats, x.coords, x.stride)
        other.cmaps, other.kmaps = x.cmaps, x.kmaps
        return other

    def coords(self, x: Any, stride: int) -> Tensor:
        """Its coordinates stay in cells of the finest level."""
        found: Tensor = x.coords[:, [3, 0, 1, 2]].clone()
        found[:, 1:] = torch.div(found[:, 1:], stride, rounding_mode="floor")
        return found

    def layer(self, layer: Layer, kernel: int, stride: int, c_in: int, c_out: int, level: int) -> LibraryConv:
        """Weights (k, c_in, c_out); its maps are found by stride."""
        module = self._conv(c_in, c_out, kernel, stride=stride, transposed=layer == "inverse")
        return LibraryConv(module, module.kernel, lambda weight: weight)

    def make_map(self, geometry: Tensor, relation: Relation, way: Way = "down") -> object:
        """The lines of its `conv3d` that build a map; transposed layers read that of the way down backwards.

        Raises:
            UnsupportedError: an overlapping strided kernel, whose outputs it clips, or the generative way.
        """
        if way == "generative":
            raise UnsupportedError("TorchSparse 1.4 has no generative convolution")
        if not (relation.is_symmetric or relation.is_partition):
            raise UnsupportedError(f"not compared: TorchSparse drops outputs of {relation} at the border")
        functional, coords = self._functional, geometry
        # its `conv3d` forgets to pass the dilation on
        offsets = self._offsets(relation.kernel_size, stride=1, dilation=relation.dilation)
        references = functional.sphash(coords)
        if not relation.is_submanifold:
            coords = functional.spdownsample(coords, relation.stride, relation.kernel_size, 1)
        results = functional.sphashquery(functional.sphash(coords, offsets), references)
        sizes = torch.sum(results != -1, dim=1)
        pairs = torch.nonzero(results != -1)
        pairs[:, 0] = results.view(-1)[pairs[:, 0] * results.size(1) + pairs[:, 1]]
        return coords, pairs, sizes, offsets, relation, way

    def read_map(self, made: Any) -> tuple[Tensor, Pairs]:
        """Its offsets, looked up among ours."""
        coords, pairs, sizes, offsets, relation, way = made
        bounds = [0, *sizes.cumsum(0).tolist()]
        theirs = {tuple(offset): pairs[a:b] for offset, (a, b) in
                  zip(offsets.tolist(), pairwise(bounds), strict=True)}  # fmt: skip
        lists = [theirs[step] for step in relation.steps()]
        starts = torch.tensor([0, *(len(part) for part in lists)]).cumsum(0)
        both = torch.cat(lists).int()
        level = coords[:, [3, 0, 1, 2]].clone()
        level[:, 1:] = torch.div(level[:, 1:], level.new_tensor(relation.stride), rounding_mode="floor")
        rows_in, rows_out = both.T.flip(0) if way == "inverse" else both.T
        return level, Pairs(rows_in, rows_out, starts)
