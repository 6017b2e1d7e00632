"""The peer must be right as well: its maps and convolutions against the twins."""

import pytest
import torch

from pcsparse.bench.peer import (
    PlainMap,
    plain_conv,
    plain_expanded_map,
    plain_map,
    plain_strided_map,
    plain_submanifold_map,
)
from pcsparse.bench.scene import build_map, twin_expanded, twin_map
from pcsparse.coords.relation import Relation
from pcsparse.errors import UnsupportedError
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
@pytest.mark.parametrize("dilation", [1, 2])
def test_submanifold_map_equals_the_twins(cloud, size, dilation):
    relation = Relation.of(size, 1, dilation)
    _same_pairs(plain_submanifold_map(cloud.coords, relation), twin_map(cloud.coords, relation)[1])


def _triples(coords_in, coords_out, pairs):
    """What a map says, whatever the order of its rows."""
    offset = torch.repeat_interleave(torch.arange(len(pairs.starts) - 1), pairs.starts.diff())
    ends = (coords_in[pairs.rows_in.long()], coords_out[pairs.rows_out.long()])
    both = torch.cat([offset[:, None], *ends], dim=1).tolist()
    return {tuple(row) for row in both}, len(both)


@pytest.mark.parametrize("cloud", CLOUDS.values(), ids=CLOUDS.keys())
def test_submanifold_map_of_rows_in_any_order_is_the_same_map(rng, cloud):
    relation = Relation.of(3)
    coords = cloud.coords[torch.randperm(len(cloud.coords), generator=rng)]
    pairs, (_, expected) = plain_submanifold_map(coords, relation), twin_map(cloud.coords, relation)
    assert _triples(coords, coords, pairs) == _triples(cloud.coords, cloud.coords, expected)


@pytest.mark.parametrize("cloud", CLOUDS.values(), ids=CLOUDS.keys())
@pytest.mark.parametrize("size", [2, 3, (1, 2, 4)], ids=str)
def test_expanded_map_is_the_twins_map(cloud, size):
    relation = Relation.of(size, size)
    fine, pairs = plain_expanded_map(cloud.coords, relation)
    wanted, expected = twin_expanded(cloud.coords, relation)
    assert fine.dtype == torch.int32
    assert _triples(cloud.coords, fine, pairs) == _triples(cloud.coords, wanted, expected)
    assert _triples(cloud.coords, fine, pairs)[1] == len(fine) == len(wanted)


def test_no_generative_map_for_overlapping_kernels():
    with pytest.raises(UnsupportedError, match="plain torch has no generative map"):
        plain_expanded_map(clouds.CLUMPED.coords, Relation.of(3, 2))


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

    plain = PlainMap.of(pairs, kmap.n_out, relation.is_symmetric)
    actual = plain_conv(feats, weight, plain)

    limits = tolerance(torch.float64, 5 * 27)
    torch.testing.assert_close(actual, expected, **limits)
    for found, wanted in zip(
        torch.autograd.grad(actual, (feats, weight), grad_out),
        torch.autograd.grad(expected, (feats, weight), grad_out),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted, **limits)


def test_bfloat16_is_added_up_in_float32(rng):
    # a solid block, and all products positive: 27 roundings of a growing sum would show
    block = torch.cartesian_prod(torch.zeros(1), *3 * [torch.arange(8.0)]).int()
    kmap = build_map(block, Relation.of(3))[1]
    feats = torch.rand(kmap.n_in, 32, generator=rng).bfloat16()
    weight = torch.rand(27, 32, 16, generator=rng).bfloat16()
    rows = kmap.pairs.rows_in, kmap.pairs.rows_out, kmap.pairs.starts
    expected = reference.output_stationary(feats.double(), weight.double(), *rows, kmap.n_out, 0)
    actual = plain_conv(feats, weight, PlainMap.of(kmap.pairs, kmap.n_out, True))
    assert actual.dtype == torch.bfloat16
    error = (actual.double() - expected).abs().max() / expected.abs().max()
    # half an eps for the result, a little for the products, which are rounded before they are added
    assert error < 0.75 * torch.finfo(torch.bfloat16).eps


def test_no_map_for_an_overlapping_strided_kernel():
    with pytest.raises(UnsupportedError, match="plain torch has no map"):
        plain_map(clouds.CLUMPED.coords, Relation.of(3, 2))
