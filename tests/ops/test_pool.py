"""Pools against loops over the map's pairs: forward and gradients in float64."""

import pytest
import torch

from pcsparse.coords.cache import CoordCache
from pcsparse.coords.kernel_map import KernelMap
from pcsparse.coords.relation import Relation
from pcsparse.errors import ShapeError
from pcsparse.ops import max_pool, mean_pool, sum_pool
from tests.clouds import CLOUDS, TWO_BATCHES, UNSORTED
from tests.engine.test_dataflows import on_device
from tests.tolerance import tolerance

POOLS = {"sum": sum_pool, "mean": mean_pool, "max": max_pool}


def _map(coords: torch.Tensor, relation: Relation) -> KernelMap:
    cache = CoordCache()
    return cache.kernel_map(coords, cache.coarser(coords, relation), relation)


MAPS = {
    "partition": _map(UNSORTED.coords, Relation.of(2, 2)),
    "overlapping": _map(TWO_BATCHES.coords, Relation.of(3, 2)),
    "with-outputs-of-no-pair": _map(UNSORTED.coords, Relation.of(3, 2)).keep_outputs(
        torch.arange(len(CoordCache().coarser(UNSORTED.coords, Relation.of(3, 2)))) % 2 == 0
    ),
    "groups": KernelMap.of_groups(torch.tensor([4, 4, 0, 2, 0, 4]), 6),
    "one": _map(CLOUDS["one"].coords, Relation.of(2, 2)),
    "empty": _map(CLOUDS["empty"].coords, Relation.of(2, 2)),
}


_FEW = _map(TWO_BATCHES.coords[::6].contiguous(), Relation.of(3, 2))
SMALL = {
    "overlapping": _FEW,
    "with-outputs-of-no-pair": _FEW.keep_outputs(torch.arange(_FEW.n_out) % 2 == 0),
    "groups": MAPS["groups"],
}


def _by_hand(how: str, feats: torch.Tensor, kmap: KernelMap) -> torch.Tensor:
    members: list[list[int]] = [[] for _ in range(kmap.n_out)]
    for i, j in zip(kmap.pairs.rows_in.tolist(), kmap.pairs.rows_out.tolist(), strict=True):
        members[j].append(i)
    reduce = {"sum": lambda x: x.sum(0), "mean": lambda x: x.mean(0), "max": lambda x: x.max(0).values}[how]
    rows = [reduce(feats[group]) if group else feats.new_zeros(feats.shape[1]) for group in members]
    return torch.stack(rows) if rows else feats.new_zeros(0, feats.shape[1])


@pytest.mark.parametrize("how", POOLS)
@pytest.mark.parametrize("kmap", MAPS.values(), ids=MAPS.keys())
@pytest.mark.parametrize("channels", [1, 5])
def test_forward_and_gradient_are_those_of_torch(device, rng, kmap, how, channels):
    feats = torch.randn(kmap.n_in, channels, generator=rng, dtype=torch.float64, requires_grad=True)
    grad_out = torch.randn(kmap.n_out, channels, generator=rng, dtype=torch.float64)
    moved = feats.detach().to(device, copy=True).requires_grad_()
    expected, actual = _by_hand(how, feats, kmap), POOLS[how](moved, on_device(kmap, device))

    close = tolerance(torch.float64, terms=27)
    torch.testing.assert_close(actual.cpu(), expected, **close)
    if kmap.n_pairs:
        wanted = torch.autograd.grad(expected, feats, grad_out)[0]
        (found,) = torch.autograd.grad(actual, moved, grad_out.to(device))
        torch.testing.assert_close(found.cpu(), wanted, **close)
    else:
        assert not torch.autograd.grad(actual.sum(), moved)[0].any()


@pytest.mark.parametrize("how", POOLS)
@pytest.mark.parametrize("name", SMALL)
def test_gradcheck(rng, how, name):
    kmap = SMALL[name]
    # distinct values, so that the maximum does not change under gradcheck's steps
    values = torch.randperm(kmap.n_in * 2, generator=rng).double().view(-1, 2) / 10
    assert torch.autograd.gradcheck(lambda feats: POOLS[how](feats, kmap), (values.requires_grad_(),))


@pytest.mark.parametrize("how", POOLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_dtype_is_kept_and_near_float64(rng, how, dtype):
    kmap = MAPS["overlapping"]
    feats = torch.randn(kmap.n_in, 5, generator=rng).to(dtype).requires_grad_()
    out = POOLS[how](feats, kmap)
    out.sum().backward()

    assert out.dtype == feats.grad.dtype == dtype
    expected = _by_hand(how, feats.detach().double(), kmap)
    torch.testing.assert_close(out, expected.to(dtype), **tolerance(dtype, terms=27, factor=32))


def test_a_mean_of_halves_overflows_neither_in_its_sum_nor_in_its_count():
    n = 70_000
    kmap = KernelMap.of_groups(torch.zeros(n, dtype=torch.int64), 1)
    assert mean_pool(torch.full((n, 1), 1000.0, dtype=torch.float16), kmap).item() == 1000
    # a bfloat16 holds no count of 257
    few = KernelMap.of_groups(torch.zeros(257, dtype=torch.int64), 1)
    ones = torch.ones(257, 1, dtype=torch.bfloat16)
    ones[:86] = 4
    assert mean_pool(ones, few).item() == torch.tensor((86 * 4 + 171) / 257).bfloat16().item()


def test_the_first_of_equal_maxima_takes_the_gradient():
    kmap = KernelMap.of_groups(torch.tensor([0, 0, 0]), 1)
    feats = torch.tensor([[1.0], [2.0], [2.0]], requires_grad=True)
    max_pool(feats, kmap).sum().backward()

    assert feats.grad.tolist() == [[0], [1], [0]]


def test_features_without_gradient_give_outputs_without():
    kmap = MAPS["partition"]
    for pool in POOLS.values():
        assert not pool(torch.zeros(kmap.n_in, 2), kmap).requires_grad


@pytest.mark.parametrize("how", POOLS)
def test_rows_that_do_not_fit_the_map(how):
    kmap = MAPS["groups"]
    for feats in (torch.zeros(5, 2), torch.zeros(6)):
        with pytest.raises(ShapeError, match=r"feats must be \(6, c\) for this kernel map, got \("):
            POOLS[how](feats, kmap)
