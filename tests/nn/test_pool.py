"""Pooling modules against loops over voxels."""

import pytest
import torch

from pcsparse import SparseTensor
from pcsparse.nn import AvgPool3d, GlobalAvgPool, GlobalMaxPool, MaxPool3d
from tests import oracle
from tests.clouds import CLOUDS, EMPTY_BETWEEN, TWO_BATCHES, UNSORTED
from tests.nn.test_conv import geometry_of, tensor_of
from tests.tolerance import tolerance

REDUCE = {MaxPool3d: lambda x: x.max(0).values, AvgPool3d: lambda x: x.mean(0)}


@pytest.mark.parametrize("kind", REDUCE)
@pytest.mark.parametrize("cloud", [UNSORTED, TWO_BATCHES, CLOUDS["one"]], ids=["unsorted", "two", "one"])
@pytest.mark.parametrize(
    "options",
    [{}, {"kernel_size": 3, "stride": 2, "padding": 1}, {"kernel_size": (1, 2, 3)},
     {"kernel_size": 3, "stride": 1, "dilation": 2}],
    ids=str,
)  # fmt: skip
def test_local_pools(rng, kind, cloud, options):
    x, module = tensor_of(cloud, rng), kind(**options)
    y = module(x)

    geometry = geometry_of(module)
    if "stride" not in options:
        assert geometry.stride == geometry.kernel_size
    assert y.stride == geometry.stride
    assert list(map(tuple, y.coords.tolist())) == sorted(oracle.touched(x.coords, geometry))
    members = [[] for _ in range(len(y))]
    for i, j, _ in sorted(oracle.kernel_map(x.coords, y.coords, geometry)):
        members[j].append(i)
    expected = torch.stack([REDUCE[kind](x.feats[group]) for group in members])
    grad_out = torch.randn(expected.shape, generator=rng, dtype=torch.float64)
    close = tolerance(torch.float64, terms=27)
    torch.testing.assert_close(y.feats, expected, **close)
    torch.testing.assert_close(
        torch.autograd.grad(y.feats, x.feats, grad_out),
        torch.autograd.grad(expected, x.feats, grad_out),
        **close,
    )


@pytest.mark.parametrize("kind", [GlobalMaxPool, GlobalAvgPool])
@pytest.mark.parametrize(
    "cloud", [UNSORTED, TWO_BATCHES, EMPTY_BETWEEN], ids=["unsorted", "two", "empty-between"]
)
def test_global_pools(rng, kind, cloud):
    x = tensor_of(cloud, rng)
    reduce = REDUCE[{GlobalMaxPool: MaxPool3d, GlobalAvgPool: AvgPool3d}[kind]]
    rows = [x.feats[x.coords[:, 0] == cloud_number] for cloud_number in range(cloud.batch_size)]
    expected = torch.stack([reduce(part) if len(part) else x.feats.new_zeros(3) for part in rows])
    pooled = kind()(x)
    grad_out = torch.randn(expected.shape, generator=rng, dtype=torch.float64)

    close = tolerance(torch.float64, terms=len(x))
    torch.testing.assert_close(pooled, expected, **close)
    torch.testing.assert_close(
        torch.autograd.grad(pooled, x.feats, grad_out),
        torch.autograd.grad(expected, x.feats, grad_out),
        **close,
    )


@pytest.mark.parametrize("kind", [GlobalMaxPool, GlobalAvgPool])
def test_a_batch_of_empty_clouds_pools_to_zero(kind):
    x = SparseTensor(
        torch.zeros(0, 3, requires_grad=True), torch.zeros(0, 4, dtype=torch.int32), batch_size=4
    )
    pooled = kind()(x)
    pooled.sum().backward()

    assert torch.equal(pooled, torch.zeros(4, 3))
    assert x.feats.grad.shape == (0, 3)


@pytest.mark.parametrize("kind", REDUCE)
def test_empty_clouds_pool_to_empty_clouds(rng, kind):
    x = tensor_of(CLOUDS["empty"], rng)
    y = kind()(x)
    y.feats.sum().backward()

    assert (len(y), y.stride, y.batch_size) == (0, (2, 2, 2), 1)
    assert "kernel_size=(2, 2, 2), stride=(2, 2, 2)" in repr(kind())


def test_global_average_of_many_halves():
    n = 70_000
    coords = torch.stack(
        [torch.arange(n) * 0, torch.arange(n), torch.arange(n) * 0, torch.arange(n) * 0], dim=1
    )
    x = SparseTensor(torch.full((n, 1), 1000.0, dtype=torch.float16), coords.int())
    assert GlobalAvgPool()(x).item() == 1000
