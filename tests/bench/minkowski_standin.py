"""What `bench.peer_minkowski` asks of MinkowskiEngine 0.5.4, slow and from the definitions.

Written from the library's sources: offsets run x fastest; the rows of a coarse level have an order of their
own; coordinates of every level are in cells of the finest; offsets without pairs are not in a map.
"""

import itertools

import torch
from torch import nn

__version__ = "0.5.4"


class CoordinateMapType:
    CPU = "cpu"


class CoordinateManager:
    def __init__(self, D, num_threads, coordinate_map_type):
        assert (D, coordinate_map_type) == (3, CoordinateMapType.CPU)
        self.num_threads = num_threads
        self.levels, self.maps, self.built = {}, {}, 0

    def insert_and_map(self, coordinates, tensor_stride):
        assert coordinates.dtype == torch.int32
        self.levels[tensor_stride] = coordinates
        nothing = torch.zeros(0, dtype=torch.int32)
        return tensor_stride, (torch.arange(len(coordinates)).int(), nothing)

    def stride(self, key, stride):
        made = key * stride[0]
        if made not in self.levels:
            cells = self.levels[key].clone()
            cells[:, 1:] = torch.div(cells[:, 1:], made, rounding_mode="floor") * made
            # as of a hash: any order, and not that of keys
            self.levels[made] = torch.unique(cells, dim=0).flip(0)
        return made

    def kernel_map(self, in_key, out_key, stride, kernel_size, dilation):
        (size, _, _), (step, _, _) = kernel_size, dilation
        known = in_key, out_key, size, step
        if known not in self.maps:
            self.built += 1
            rows = {tuple(cell): i for i, cell in enumerate(self.levels[in_key].tolist())}
            axis = range(size) if size % 2 == 0 else range(-(size // 2), size // 2 + 1)
            found = {}
            for position, (z, y, x) in enumerate(itertools.product(axis, axis, axis)):
                far = [at * step * in_key for at in (x, y, z)]
                pairs = [
                    (rows[wanted], j)
                    for j, (b, *cell) in enumerate(self.levels[out_key].tolist())
                    if (wanted := (b, *(a + d for a, d in zip(cell, far, strict=True)))) in rows
                ]
                if pairs:
                    found[position] = torch.tensor(pairs, dtype=torch.int32).T
            self.maps[known] = found
        return self.maps[known]

    def get_coordinates(self, key):
        return self.levels[key]


class SparseTensor:
    def __init__(self, features, coordinates=None, coordinate_map_key=None, coordinate_manager=None):
        if coordinates is not None:
            coordinate_map_key, _ = coordinate_manager.insert_and_map(coordinates, 1)
        self.F, self.coordinate_map_key = features, coordinate_map_key
        self.coordinate_manager = coordinate_manager

    @property
    def C(self):
        return self.coordinate_manager.get_coordinates(self.coordinate_map_key)


class MinkowskiConvolution(nn.Module):
    def __init__(self, in_channels, out_channels, kernel_size, stride, dimension):
        super().__init__()
        assert dimension == 3
        self.size, self.steps = [kernel_size] * 3, [stride] * 3
        self.kernel = nn.Parameter(torch.randn(kernel_size**3, in_channels, out_channels))

    def levels(self, x):
        fine = x.coordinate_map_key
        coarse = x.coordinate_manager.stride(fine, self.steps) if self.steps[0] > 1 else fine
        return fine, coarse, coarse

    def forward(self, x):
        fine, coarse, written = self.levels(x)
        manager = x.coordinate_manager
        out = torch.zeros(len(manager.get_coordinates(written)), self.kernel.shape[2])
        for position, pairs in manager.kernel_map(fine, coarse, self.steps, self.size, [1] * 3).items():
            rows_in, rows_out = pairs.long() if written == coarse else pairs.long().flip(0)
            out = out.index_add(0, rows_out, x.F[rows_in] @ self.kernel[position])
        return SparseTensor(out, coordinate_map_key=written, coordinate_manager=manager)


class MinkowskiConvolutionTranspose(MinkowskiConvolution):
    def levels(self, x):
        coarse = x.coordinate_map_key
        return coarse // self.steps[0], coarse, coarse // self.steps[0]
