"""Convolution modules against the dense oracle: voxels, strides, features, gradients."""

import pytest
import torch

from pcsparse import SparseTensor
from pcsparse.errors import RangeError, ShapeError, UnsupportedError
from pcsparse.nn import SparseConv3d, SparseConvTranspose3d, SparseInverseConv3d, SubmanifoldConv3d
from tests import oracle
from tests.clouds import CLOUDS, TWO_BATCHES, UNSORTED, Cloud
from tests.oracle import Geometry
from tests.tolerance import tolerance

C_IN, C_OUT = 3, 4


def tensor_of(cloud: Cloud, rng, channels: int = C_IN, **options) -> SparseTensor:
    feats = torch.randn(len(cloud.coords), channels, generator=rng, dtype=torch.float64, requires_grad=True)
    return SparseTensor(feats, cloud.coords, batch_size=cloud.batch_size, **options)


def geometry_of(module) -> Geometry:
    relation = module.relation
    return Geometry(relation.kernel_size, relation.stride, relation.dilation, relation.padding)


def check(module, x: SparseTensor, y: SparseTensor, rng, *, transposed: bool = False) -> None:
    """Features of y and all gradients, against the oracle between the coordinates of x and y."""
    weight = module.weight
    if module.offsets is not None:
        weight = weight.new_zeros(module.relation.volume, *weight.shape[1:]).index_put(
            (torch.tensor(module.offsets),), weight
        )
    expected = oracle.sparse_conv(
        x.feats, x.coords, weight, y.coords, geometry_of(module), batch=x.batch_size, transposed=transposed
    )
    if module.bias is not None:
        expected = expected + module.bias
    grad_out = torch.randn(expected.shape, generator=rng, dtype=torch.float64)
    leaves = [x.feats, *module.parameters()]
    wanted = torch.autograd.grad(expected, leaves, grad_out)
    got = torch.autograd.grad(y.feats, leaves, grad_out)

    close = tolerance(torch.float64, terms=len(expected) + 27 * C_IN, factor=64)
    torch.testing.assert_close(y.feats, expected, **close)
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, **close)


CLOUDS_HERE = pytest.mark.parametrize(
    "cloud", [UNSORTED, TWO_BATCHES, CLOUDS["one"]], ids=["unsorted", "two", "one"]
)


@CLOUDS_HERE
@pytest.mark.parametrize(
    "options",
    [{}, {"bias": True}, {"kernel_size": 2}, {"kernel_size": (1, 3, 5), "dilation": (1, 2, 1)},
     {"kernel_size": 1}, {"offsets": [0, 4, 13, 26], "bias": True}, {"dataflow": "gather_scatter"}],
    ids=str,
)  # fmt: skip
def test_submanifold(rng, cloud, options):
    x, module = tensor_of(cloud, rng), SubmanifoldConv3d(C_IN, C_OUT, **options).double()
    y = module(x)

    assert y.coords is x.coords
    assert (y.stride, y.batch_size, y.cache) == (x.stride, x.batch_size, x.cache)
    check(module, x, y, rng)


@CLOUDS_HERE
@pytest.mark.parametrize(
    "options",
    [{"kernel_size": 2, "stride": 2}, {"stride": 2, "bias": True},
     {"stride": (1, 2, 3), "padding": (0, 1, 2)},
     {"stride": 1}, {"stride": 2, "dilation": 2}, {"kernel_size": 3, "stride": 2, "coverage": "floor"},
     {"kernel_size": 2, "stride": 2, "offsets": [1, 6]}],
    ids=str,
)  # fmt: skip
def test_strided(rng, cloud, options):
    x, module = tensor_of(cloud, rng, stride=2), SparseConv3d(C_IN, C_OUT, **options).double()
    y = module(x)

    stride = module.relation.stride
    assert y.stride == tuple(2 * s for s in stride)
    assert y.batch_size == x.batch_size
    rows = list(map(tuple, y.coords.tolist()))
    if options.get("coverage") == "floor":
        assert rows == sorted({(b, x // 2, y // 2, z // 2) for b, x, y, z in x.coords.tolist()})
    else:
        assert rows == sorted(oracle.touched(x.coords, geometry_of(module)))
    check(module, x, y, rng)


@CLOUDS_HERE
@pytest.mark.parametrize(
    "geometry",
    [{"kernel_size": 2, "stride": 2}, {"kernel_size": 3, "stride": 2, "padding": 1},
     {"kernel_size": 3, "stride": (1, 2, 3), "dilation": 2}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("options", [{}, {"bias": True, "offsets": [0, 5]}], ids=str)
def test_inverse_returns_to_the_voxels_it_came_from(rng, cloud, geometry, options):
    x = tensor_of(cloud, rng)
    coarse = SparseConv3d(C_IN, C_IN, **geometry).double()(x)
    coarse = coarse.replace(coarse.feats.detach().requires_grad_())
    maps = len(x.cache)
    module = SparseInverseConv3d(C_IN, C_OUT, **geometry, **options).double()
    y = module(coarse)

    assert y.coords is x.coords
    assert y.stride == x.stride
    # nothing is searched: at most the subset of the kept offsets is new
    assert len(x.cache) == maps + ("offsets" in options)
    check(module, coarse, y, rng, transposed=True)


def test_inverse_without_a_way_back_says_what_to_do(rng):
    x = tensor_of(UNSORTED, rng, stride=2)
    with pytest.raises(
        UnsupportedError, match=r"no SparseConv3d with .* made these .* voxels.*use SparseConvTranspose3d"
    ):
        SparseInverseConv3d(C_IN, C_OUT).double()(x)
    coarse = SparseConv3d(C_IN, C_IN, 2, 2).double()(x)
    with pytest.raises(UnsupportedError, match="there is no way back"):
        SparseInverseConv3d(C_IN, C_OUT, 3, 2).double()(coarse)


@CLOUDS_HERE
@pytest.mark.parametrize(
    "options",
    [{}, {"kernel_size": 3, "stride": 2, "padding": 1, "bias": True}, {"kernel_size": 3, "stride": 1},
     {"kernel_size": (1, 2, 3), "stride": (1, 2, 2), "dilation": (1, 1, 2)}, {"offsets": [0, 7]}],
    ids=str,
)  # fmt: skip
def test_transposed_writes_every_voxel_it_touches(rng, cloud, options):
    x, module = tensor_of(cloud, rng, stride=2), SparseConvTranspose3d(C_IN, C_OUT, **options).double()
    y = module(x)

    assert list(map(tuple, y.coords.tolist())) == sorted(oracle.written(x.coords, geometry_of(module)))
    assert y.stride == tuple(2 // s for s in module.relation.stride)
    check(module, x, y, rng, transposed=True)


def test_transposed_onto_given_voxels(rng):
    x, like = tensor_of(UNSORTED, rng, stride=2), tensor_of(TWO_BATCHES, rng)
    x = SparseTensor(x.feats, x.coords, stride=2, batch_size=2)
    module = SparseConvTranspose3d(C_IN, C_OUT, 3, 2, bias=True).double()
    y = module(x, like)

    assert y.coords is like.coords
    check(module, SparseTensor(x.feats, x.coords, batch_size=2), y, rng, transposed=True)


def test_transposed_onto_voxels_of_another_level_or_batch_is_refused(rng):
    x = tensor_of(UNSORTED, rng, stride=4)
    module = SparseConvTranspose3d(C_IN, C_OUT, 3, 2).double()
    with pytest.raises(ShapeError, match=r"like has stride \(1, 1, 1\) .* the output has \(2, 2, 2\)"):
        module(x, tensor_of(UNSORTED, rng, stride=1))
    with pytest.raises(ShapeError, match=r"batch size 2, the output has \(2, 2, 2\) and 1"):
        module(x, tensor_of(TWO_BATCHES, rng, stride=2))


def test_transposed_below_the_finest_level_is_refused(rng):
    with pytest.raises(UnsupportedError, match=r"stride \(1, 1, 1\) has no finer level by \(2, 2, 2\)"):
        SparseConvTranspose3d(C_IN, C_OUT).double()(tensor_of(UNSORTED, rng))


def test_one_module_on_two_clouds_of_equal_size(rng):
    module = SubmanifoldConv3d(C_IN, C_OUT).double()
    first = tensor_of(UNSORTED, rng)
    moved = UNSORTED.coords.clone()
    moved[:, 3] *= 2
    second = SparseTensor(first.feats, moved, batch_size=1)

    check(module, first, module(first), rng)
    check(module, second, module(second), rng)


@pytest.mark.parametrize(
    "kind", [SubmanifoldConv3d, SparseConv3d, SparseInverseConv3d, SparseConvTranspose3d]
)
def test_parameters_start_like_torchs_dense_convolution(kind):
    torch.manual_seed(0)
    module = kind(16, 32, 3, bias=True)
    bound = (27 * 16) ** -0.5

    assert module.weight.shape == (27, 16, 32)
    assert module.bias.shape == (32,)
    dense = torch.nn.Conv3d(16, 32, 3).weight.abs().max()
    assert 0.99 * bound < module.weight.abs().max() <= bound
    assert 0.99 * bound < dense <= bound
    assert module.weight.detach().std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert kind(16, 32, 3, offsets=[1, 2]).weight.shape == (2, 16, 32)


def test_bad_arguments_name_their_values(rng):
    with pytest.raises(ShapeError, match="channels must be at least 1, got c_in=0, c_out=4"):
        SubmanifoldConv3d(0, 4)
    for offsets in ([], [3, 3], [3, 2], [-1, 2], [26, 27]):
        with pytest.raises(RangeError, match=r"offsets must ascend within 0 \.\.\. 26, got"):
            SubmanifoldConv3d(3, 4, 3, offsets=offsets)
    with pytest.raises(RangeError, match="coverage must be 'touched' or 'floor', got 'both'"):
        SparseConv3d(3, 4, coverage="both")
    with pytest.raises(ShapeError, match=r"weight \(27, 3, 4\) does not take feats with 5 channels"):
        SubmanifoldConv3d(3, 4).double()(tensor_of(UNSORTED, rng, 5))
    with pytest.raises(UnsupportedError, match="no dataflow 'fastest'"):
        SubmanifoldConv3d(3, 4, dataflow="fastest").double()(tensor_of(UNSORTED, rng))


def test_repr_tells_the_geometry():
    text = repr(SparseConv3d(3, 4, (1, 3, 5), 2, dilation=2, padding=1, bias=True, offsets=[0, 7]))
    for part in ("SparseConv3d(3, 4", "kernel_size=(1, 3, 5)", "stride=(2, 2, 2)", "dilation=(2, 2, 2)",
                 "padding=(1, 1, 1)", "offsets=2 of 15", "bias=True"):  # fmt: skip
        assert part in text
    assert repr(SubmanifoldConv3d(3, 4)) == (
        "SubmanifoldConv3d(3, 4, kernel_size=(3, 3, 3), stride=(1, 1, 1), bias=False)"
    )


def test_inference_mode_and_training_may_share_a_tensor(rng):
    module = torch.nn.Sequential(SparseConv3d(C_IN, C_OUT, 2, 2), SparseInverseConv3d(C_OUT, C_OUT)).double()
    x = tensor_of(UNSORTED, rng)
    with torch.inference_mode():
        quiet = module(x).feats.clone()
    trained = module(x).feats
    trained.sum().backward()

    assert torch.equal(quiet, trained)
    assert module[0].weight.grad.any()
    with torch.inference_mode():
        made_inside = SparseTensor(torch.randn(len(UNSORTED.coords), C_IN).double(), UNSORTED.coords.clone())
        assert module(made_inside).feats.isfinite().all()


def test_a_box_may_be_lists_as_a_file_gives_them():
    x = SparseTensor(torch.randn(len(UNSORTED.coords), 2), UNSORTED.coords)
    listed = SparseConv3d(2, 3, 3, 2, box=[[0, 0, 0], [9, 9, 9]])
    assert listed.box == ((0, 0, 0), (9, 9, 9))
    same = SparseConv3d(2, 3, 3, 2, box=((0, 0, 0), (9, 9, 9)))
    assert torch.equal(listed(x).coords, same(x).coords)


@pytest.mark.parametrize(
    "box",
    [
        ((0, 0), (9, 9)),
        ((0, 0, 0),),
        (0, 9),
        [[0, 0, 0], [9, 9, "x"]],
        ((0, 0, 0.5), (9, 9, 9)),
        ((0, 5, 0), (9, 4, 9)),
    ],
)
def test_a_box_that_is_none_is_refused_where_the_layer_is_made(box):
    with pytest.raises(RangeError, match="box must be the first and the last cell") as error:
        SparseConv3d(2, 3, 3, 2, box=box)
    assert str(box) in str(error.value)
