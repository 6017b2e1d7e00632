"""The package itself, as one of the libraries: layers through its modules, maps as its layers build them."""

from typing import Any

import torch
from torch import Tensor, nn

from pcsparse.bench.cases import Layer, Way
from pcsparse.bench.library import Library, LibraryConv
from pcsparse.bench.scene import build_map
from pcsparse.coords.kernel_map import Pairs
from pcsparse.coords.relation import Relation
from pcsparse.nn import SparseConv3d, SparseInverseConv3d, SubmanifoldConv3d
from pcsparse.sparse_tensor import SparseTensor

OURS = "pcsparse"


class Ours(Library):
    """The package under test.

    Args:
        dataflow: that its layers run; the rule's, or one by name, which then is this library's name.
    """

    name = OURS

    def __init__(self, dataflow: str = "auto") -> None:
        super().__init__()
        self._dataflow = dataflow
        if dataflow != "auto":
            self.name = dataflow

    def refuses(self, *, backward: bool, dtype: torch.dtype) -> str | None:
        """Nothing."""
        return None

    def geometry(self, coords: Tensor) -> Tensor:
        """The coordinates."""
        return coords

    def tensor(self, geometry: Tensor, feats: Tensor) -> SparseTensor:
        """With an empty cache."""
        return SparseTensor(feats, geometry, batch_size=1)

    def feats(self, x: SparseTensor) -> Tensor:
        """(n, c)."""
        return x.feats

    def replace(self, x: SparseTensor, feats: Tensor) -> SparseTensor:
        """The same cache."""
        return x.replace(feats)

    def coords(self, x: SparseTensor, stride: int) -> Tensor:
        """Level indices already."""
        return x.coords

    def layer(self, layer: Layer, kernel: int, stride: int, c_in: int, c_out: int, level: int) -> LibraryConv:
        """Our order of offsets."""
        module: SubmanifoldConv3d | SparseConv3d | SparseInverseConv3d
        if layer == "submanifold":
            module = SubmanifoldConv3d(c_in, c_out, kernel, dataflow=self._dataflow)
        elif layer == "strided":
            module = SparseConv3d(c_in, c_out, kernel, stride, dataflow=self._dataflow)
        else:
            module = SparseInverseConv3d(c_in, c_out, kernel, stride, dataflow=self._dataflow)
        return LibraryConv(module, module.weight, lambda weight: weight, _finish)

    def conv(self, layer: Layer, kernel: int, stride: int, c_in: int, c_out: int, level: int) -> LibraryConv:
        """Nothing to probe: the order of offsets is `coords.relation`'s, and the twin holds us to it."""
        return self.layer(layer, kernel, stride, c_in, c_out, level)

    def make_map(self, geometry: Tensor, relation: Relation, way: Way = "down") -> object:
        """From int coordinates alone."""
        made, kmap = build_map(geometry, relation, way)
        return made, kmap.pairs

    def read_map(self, made: Any) -> tuple[Tensor, Pairs]:
        """As they are."""
        coords, pairs = made
        return coords, pairs


def _finish(inner: nn.Module, bias: Tensor, relu: bool) -> None:
    inner.bias = nn.Parameter(bias, requires_grad=False)
    inner.relu = relu  # type: ignore[assignment]
