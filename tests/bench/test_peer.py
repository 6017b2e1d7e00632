"""The peer must be right as well: its maps and convolutions against the twins."""

import pytest
import torch

from pcsparse.bench.peer import PlainTorch, plain_strided_map, plain_submanifold_map
from pcsparse.bench.scene import build_map, twin_map
from pcsparse.coords.relation import Relation
from pcsparse.kernels import reference
from tests import clouds
from tests.tolerance import tolerance

CLOUDS = {
    "empty": clouds.EMPTY,
    "one": clouds.ONE,
    "line": clouds.LINE,
    "clumped": clouds.CLUMPED,
    "negative": clouds.NEGATIVE,
    "two-batches": clouds.TWO_BATCHES,
}


def _same_pairs(actual, expected):
    for field in ("rows_in", "rows_out", "starts"):
        assert torch.equal(getattr(actual, field), getattr(expected, field)), field


@pytest.mark.parametrize("cloud", CLOUDS.values(), ids=CLOUDS.keys())
@pytest.mark.parametrize("size", [3, 5, (1, 3, 5)], ids=str)
def test_submanifold_map_equals_the_twins(cloud, size):
    relation = Relation.of(size)
    _same_pairs(plain_submanifold_map(cloud.coords, relation), twin_map(cloud.coords, relation)[1])


@pytest.mark.parametrize("cloud", CLOUDS.values(), ids=CLOUDS.keys())
@pytest.mark.parametrize("size", [2, 3, (1, 2, 4)], ids=str)
def test_partition_map_equals_the_twins(cloud, size):
    # an odd kernel is centred: a cell then belongs to the coarse cell nearest to it, not to its floor
    relation = Relation.of(size, size)
    coarse, pairs = twin_map(cloud.coords, relation)
    ours = build_map(cloud.coords, relation)
    assert torch.equal(ours[0], coarse)
    _same_pairs(ours[1].pairs, pairs)
    made, found = plain_strided_map(cloud.coords, relation)
    assert torch.equal(made, coarse)
    _same_pairs(found, pairs)


MAPS = {"submanifold": (Relation.of(3), False), "strided": (Relation.of(2, 2), False),
        "inverse": (Relation.of(2, 2), True), "even": (Relation.of(2), False)}  # fmt: skip


@pytest.mark.parametrize(("relation", "back"), MAPS.values(), ids=MAPS.keys())
@pytest.mark.parametrize("cloud", [clouds.CLUMPED, clouds.ONE, clouds.EMPTY], ids=["clumped", "one", "empty"])
def test_forward_and_gradients_equal_the_twins(rng, relation, back, cloud):
    kmap = build_map(cloud.coords, relation)[1]
    kmap = kmap.transposed() if back else kmap
    feats, weight = (torch.randn(kmap.n_in, 5, generator=rng).double().requires_grad_(),
                     torch.randn(kmap.volume, 5, 7, generator=rng).double().requires_grad_())  # fmt: skip
    grad_out = torch.randn(kmap.n_out, 7, generator=rng).double()
    pairs = kmap.pairs
    expected = reference.output_stationary(
        feats, weight, pairs.rows_in, pairs.rows_out, pairs.starts, kmap.n_out, 0
    )

    actual = PlainTorch()(feats, weight, kmap)

    limits = tolerance(torch.float64, 5 * 27)
    torch.testing.assert_close(actual, expected, **limits)
    for found, wanted in zip(
        torch.autograd.grad(actual, (feats, weight), grad_out),
        torch.autograd.grad(expected, (feats, weight), grad_out),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted, **limits)
