"""A voxelised cloud with what the cases share: maps by the package and maps by the twins."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pcsparse.bench.cases import VOXEL_SIZE, Way
from pcsparse.bench.clouds import Cloud
from pcsparse.coords.cache import CoordCache
from pcsparse.coords.kernel_map import KernelMap, Pairs
from pcsparse.coords.keys import pack
from pcsparse.coords.relation import Relation
from pcsparse.kernels import map_ways, reference
from pcsparse.sparse_tensor import SparseTensor

_SEED = 20231


@dataclass(frozen=True, eq=False)
class Scene:
    """One cloud at one voxel size.

    Attributes:
        name: of the cloud.
        n_points: points before voxelisation.
        voxel_size: metres.
        tensor: coordinates ascending by key, features (n, 4).
    """

    name: str
    n_points: int
    voxel_size: float
    tensor: SparseTensor

    @staticmethod
    def of(cloud: Cloud, voxel_size: float = VOXEL_SIZE) -> "Scene":
        """Voxelise a cloud.

        Raises:
            RangeError: a point is not finite or beyond the range of a key.
        """
        tensor, _ = SparseTensor.from_points(cloud.points, cloud.feats, voxel_size)
        return Scene(cloud.name, len(cloud.points), voxel_size, tensor)

    @property
    def coords(self) -> Tensor:
        """(n, 4) int32."""
        return self.tensor.coords

    def fresh(self, feats: Tensor | None = None) -> SparseTensor:
        """The input of a network, without any map; with other features (n, c) if given."""
        return SparseTensor(self.tensor.feats if feats is None else feats, self.coords, batch_size=1)

    @cached_property
    def cache(self) -> CoordCache:
        """Maps that are built once, for cases that time the convolution alone."""
        return CoordCache()

    def coarse(self, relation: Relation) -> Tensor:
        """Coordinates of the outputs: those of the inputs for a submanifold relation."""
        return self.coords if relation.is_submanifold else self.cache.coarser(self.coords, relation)

    def kernel_map(self, relation: Relation) -> KernelMap:
        """The package's map from the cloud to `coarse(relation)`."""
        return self.cache.kernel_map(self.coords, self.coarse(relation), relation)


def build_map(
    coords: Tensor, relation: Relation, way: Way = "down", how: map_ways.Way = "search"
) -> tuple[Tensor, KernelMap]:
    """What is timed as "map": from int coordinates alone to the other level and pairs, as layers do it."""
    cache = CoordCache(how=how)
    if way == "generative":
        fine = cache.expanded(coords, relation)
        return fine, cache.kernel_map(fine, coords, relation).transposed()
    coarse = coords if relation.is_submanifold else cache.coarser(coords, relation)
    kmap = cache.kernel_map(coords, coarse, relation)
    return coarse, kmap.transposed() if way == "inverse" else kmap


def twin_map(coords: Tensor, relation: Relation) -> tuple[Tensor, Pairs]:
    """The way down by the twins: every offset searched, no symmetry; coarse cells by brute force.

    Args:
        coords: (n, 4) int32, ascending by key.
        relation: the equation.
    """
    if relation.is_submanifold:
        return coords, Pairs(*reference.match_keys(pack(coords), pack(coords), relation.key_deltas()))
    stride = coords.new_tensor([1, *relation.stride])
    cells = []
    for step in relation.steps():
        scaled = coords - coords.new_tensor([0, *step])
        cells.append((scaled // stride)[(scaled % stride == 0).all(dim=1)])
    coarse = torch.unique(torch.cat(cells), dim=0)
    return coarse, _matched(coords, coarse, relation)


def twin_expanded(coarse: Tensor, relation: Relation) -> tuple[Tensor, Pairs]:
    """The generative way by the twins: every voxel that a coarse one reaches, and the pairs to it.

    Args:
        coarse: (n, 4) int32, ascending by key.
        relation: of the way from fine to coarse.
    """
    scaled = coarse * coarse.new_tensor([1, *relation.stride])
    reached = [scaled + coarse.new_tensor([0, *step]) for step in relation.steps()]
    fine = torch.unique(torch.cat(reached), dim=0)
    pairs = _matched(fine, coarse, relation)
    return fine, Pairs(pairs.rows_out, pairs.rows_in, pairs.starts)


def _matched(fine: Tensor, coarse: Tensor, relation: Relation) -> Pairs:
    queries = pack(coarse * coarse.new_tensor([1, *relation.stride]))
    return Pairs(*reference.match_keys(pack(fine), queries, relation.key_deltas()))


def draw(*shape: int, scale: float = 1.0) -> Tensor:
    """The same normal numbers for the same shape, float32."""
    generator = torch.Generator().manual_seed(_SEED + sum(shape))
    return scale * torch.randn(*shape, generator=generator)
