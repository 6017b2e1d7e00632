"""What must hold for any network, whatever its numbers are."""

import pytest
import torch
from torch import nn as torch_nn

from pcsparse import SparseTensor, collate, nn
from pcsparse.coords.cache import CoordCache
from pcsparse.coords.relation import Relation
from pcsparse.models import MinkUNet, MinkUNetSpec
from pcsparse.ops import sparse_conv
from tests.clouds import CLOUDS, EMPTY, TWO_BATCHES, UNSORTED
from tests.tolerance import tolerance

NETWORKS = {
    "submanifold": (lambda: nn.SubmanifoldConv3d(3, 4, bias=True), 1),
    "even": (lambda: nn.SubmanifoldConv3d(3, 4, 2), 1),
    "dilated": (lambda: nn.SubmanifoldConv3d(3, 4, dilation=2), 1),
    "strided": (lambda: nn.SparseConv3d(3, 4, 3, 2), 2),
    "pooled": (lambda: nn.MaxPool3d(2), 2),
    "there-and-back": (
        lambda: torch_nn.Sequential(nn.SparseConv3d(3, 4, 3, 3), nn.SparseInverseConv3d(4, 4, 3, 3)), 3,
    ),
    "minkunet": (lambda: MinkUNet(MinkUNetSpec.minkunet14(3, 5, width=1 / 16)), 16),
}  # fmt: skip
named = pytest.mark.parametrize(("make", "step"), NETWORKS.values(), ids=NETWORKS.keys())


def _network(make):
    torch.manual_seed(2)
    return make().double().eval()


def _tensor(coords, rng, batch_size=1) -> SparseTensor:
    feats = torch.randn(len(coords), 3, generator=rng, dtype=torch.float64)
    return SparseTensor(feats, coords, batch_size=batch_size)


def _rows(x: SparseTensor) -> tuple[list[tuple[int, ...]], torch.Tensor]:
    """Coordinates and features in key order: outputs of strided layers may come in any."""
    keys = list(map(tuple, x.coords.tolist()))
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return [keys[i] for i in order], x.feats[order]


def _same(a: SparseTensor, b: SparseTensor) -> None:
    (coords_a, feats_a), (coords_b, feats_b) = _rows(a), _rows(b)
    assert coords_a == coords_b
    torch.testing.assert_close(feats_a, feats_b, **tolerance(torch.float64, 1000, factor=64))


@named
def test_permuting_voxels_permutes_rows(rng, make, step):
    network, x = _network(make), _tensor(TWO_BATCHES.coords, rng, 2)
    order = torch.randperm(len(x), generator=rng)
    permuted = SparseTensor(x.feats[order], x.coords[order], batch_size=2)
    y, z = network(x), network(permuted)

    _same(z, y)
    if y.coords is x.coords:
        # and the rows stay in the caller's order
        torch.testing.assert_close(z.feats, y.feats[order], **tolerance(torch.float64, 1000, factor=64))


@named
def test_translating_by_a_multiple_of_the_stride_changes_only_coordinates(rng, make, step):
    network, x = _network(make), _tensor(UNSORTED.coords, rng)
    shift = torch.tensor([0, 3 * step, -5 * step, 7 * step], dtype=torch.int32)
    moved = SparseTensor(x.feats, x.coords + shift, batch_size=1)
    y, z = network(x), network(moved)

    scale = torch.tensor([1, *y.stride], dtype=torch.int32)
    back = z.at(z.feats, z.coords - torch.div(shift, scale, rounding_mode="trunc"), z.stride)
    _same(back, y)


@named
def test_a_batch_of_two_is_two_batches_of_one(rng, make, step):
    network = _network(make)
    first, second = _tensor(UNSORTED.coords, rng), _tensor(CLOUDS["clumped"].coords, rng)
    nothing = _tensor(EMPTY.coords, rng)
    together = network(collate([first, nothing, second]))

    assert together.batch_size == 3
    for number, alone in enumerate((first, nothing, second)):
        _same(together[number], network(alone))


@pytest.mark.parametrize("relation", [Relation.of(3), Relation.of(2, 2), Relation.of(3, 2, 2, 1)], ids=str)
@pytest.mark.parametrize("dataflow", ["output_stationary", "gather_scatter"])
def test_convolution_is_linear_and_its_transpose_is_its_adjoint(rng, relation, dataflow):
    coords, cache = TWO_BATCHES.coords, CoordCache()
    coarse = coords if relation.is_submanifold else cache.coarser(coords, relation)
    kmap = cache.kernel_map(coords, coarse, relation)

    def random(*shape):
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    def conv(feats, weight, kmap=kmap):
        return sparse_conv(feats, weight, kmap, dataflow=dataflow)

    x1, x2 = random(kmap.n_in, 3), random(kmap.n_in, 3)
    w1, w2 = random(kmap.volume, 3, 4), random(kmap.volume, 3, 4)
    close = tolerance(torch.float64, 1000, factor=64)
    torch.testing.assert_close(conv(2 * x1 - x2, w1), 2 * conv(x1, w1) - conv(x2, w1), **close)
    torch.testing.assert_close(conv(x1, w1 + 3 * w2), conv(x1, w1) + 3 * conv(x1, w2), **close)

    y = random(kmap.n_out, 4)
    forward = (conv(x1, w1) * y).sum()
    adjoint = (x1 * conv(y, w1.transpose(1, 2), kmap.transposed())).sum()
    torch.testing.assert_close(forward, adjoint, **tolerance(torch.float64, kmap.n_pairs * 12, factor=64))
    # which ties the forward pass to the gradient
    leaf = x1.clone().requires_grad_()
    (grad,) = torch.autograd.grad(conv(leaf, w1), leaf, y)
    torch.testing.assert_close(grad, conv(y, w1.transpose(1, 2), kmap.transposed()), **close)
