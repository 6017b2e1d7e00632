"""MinkowskiEngine 0.5.4, where a CPU build of it is installed.

This adapter was written from the library's sources and has run against a stand-in only
(`tests/bench/minkowski_standin.py`), never against the library itself. Its order of kernel offsets is probed
and its results are checked as any peer's are, so a wrong one is shown as WRONG and gets no time.

Source: NVIDIA/MinkowskiEngine 0.5.4, MinkowskiSparseTensor.py, MinkowskiConvolution.py,
MinkowskiCoordinateManager.py and src/coordinate_map_manager.hpp.
"""

from typing import Any

import torch
from torch import Tensor

from pcsparse.bench.cases import Layer, Way
from pcsparse.bench.library import Library, LibraryConv
from pcsparse.coords.kernel_map import Pairs
from pcsparse.coords.relation import Relation
from pcsparse.errors import UnsupportedError


class Minkowski(Library):
    """Maps of a hash, kept by a manager of coordinates; gather, one GEMM an offset, scatter."""

    def __init__(self) -> None:
        super().__init__()
        import MinkowskiEngine

        version = MinkowskiEngine.__version__
        if not version.startswith("0.5"):
            raise ImportError(f"MinkowskiEngine {version} has another interface; 0.5 is compared")
        self._engine = MinkowskiEngine
        self.name = f"MinkowskiEngine {version}"

    def _manager(self) -> Any:
        # without a number it would set OpenMP's threads to the number of cores, for the whole process
        engine, threads = self._engine, torch.get_num_threads()
        kind = engine.CoordinateMapType.CPU
        return engine.CoordinateManager(D=3, num_threads=threads, coordinate_map_type=kind)

    def geometry(self, coords: Tensor) -> Tensor:
        """The coordinates: batch, x, y, z as ours."""
        return coords.contiguous()

    def tensor(self, geometry: Tensor, feats: Tensor) -> Any:
        """With a new manager, which knows no map."""
        return self._engine.SparseTensor(feats, coordinates=geometry, coordinate_manager=self._manager())

    def feats(self, x: Any) -> Tensor:
        """(n, c)."""
        found: Tensor = x.F
        return found

    def replace(self, x: Any, feats: Tensor) -> Any:
        """The same level of the same manager."""
        return self._engine.SparseTensor(
            feats, coordinate_map_key=x.coordinate_map_key, coordinate_manager=x.coordinate_manager
        )

    def coords(self, x: Any, stride: int) -> Tensor:
        """Its coordinates stay in cells of the finest level."""
        return _level(x.C, (stride, stride, stride))

    def layer(self, layer: Layer, kernel: int, stride: int, c_in: int, c_out: int, level: int) -> LibraryConv:
        """Weights (k, c_in, c_out), of a single offset (c_in, c_out)."""
        engine = self._engine
        make = engine.MinkowskiConvolutionTranspose if layer == "inverse" else engine.MinkowskiConvolution
        module = make(c_in, c_out, kernel_size=kernel, stride=stride, dimension=3)
        return LibraryConv(module, module.kernel, lambda weight: weight.view(-1, c_in, c_out))

    def make_map(self, geometry: Tensor, relation: Relation, way: Way = "down") -> object:
        """What its layers ask of the manager; its transposed layers read the map of the way down backwards.

        Raises:
            UnsupportedError: a strided kernel whose outputs are not floor(fine / stride), its only rule, or
                the generative way, which it has within a convolution alone.
        """
        if way == "generative":
            raise UnsupportedError("MinkowskiEngine makes a generative map within its convolution alone")
        even = relation.is_partition and all(size % 2 == 0 for size in relation.kernel_size)
        if not (relation.is_symmetric or even):
            raise UnsupportedError(f"not compared: MinkowskiEngine writes other voxels of {relation}")
        manager = self._manager()
        fine, _ = manager.insert_and_map(geometry, 1)
        coarse = fine if relation.is_submanifold else manager.stride(fine, list(relation.stride))
        lists = manager.kernel_map(
            fine,
            coarse,
            stride=list(relation.stride),
            kernel_size=list(relation.kernel_size),
            dilation=list(relation.dilation),
        )
        return manager, coarse, lists, relation, way

    def read_map(self, made: Any) -> tuple[Tensor, Pairs]:
        """Offsets without pairs are left out of its table; the others are in the order of its weights."""
        manager, key, found, relation, way = made
        layer: Layer = "submanifold" if relation.is_submanifold else "strided"
        order = self.offset_order(layer, relation.kernel_size[0], relation.stride[0]).tolist()
        lists = [torch.zeros(2, 0, dtype=torch.int32)] * relation.volume
        for position, pairs in found.items():
            lists[order[position]] = pairs.int()
        starts = torch.tensor([0, *(part.shape[1] for part in lists)]).cumsum(0)
        both = torch.cat(lists, dim=1)
        rows_in, rows_out = both.flip(0) if way == "inverse" else both
        return _level(manager.get_coordinates(key), relation.stride), Pairs(rows_in, rows_out, starts)


def _level(coords: Tensor, stride: tuple[int, int, int]) -> Tensor:
    """Level indices of coordinates in cells of the finest level."""
    return torch.div(coords, coords.new_tensor([1, *stride]), rounding_mode="floor")
