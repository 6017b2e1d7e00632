"""SparseTensor: construction, arithmetic, batches, dense grids, moving, errors with values."""

import copy
import pickle

import numpy as np
import pytest
import torch

import pcsparse
from pcsparse import DtypeError, RangeError, ShapeError, SparseTensor, UnsupportedError, cat, collate, nn
from pcsparse.coords.cache import CoordCache
from pcsparse.coords.relation import Relation
from tests import oracle
from tests.clouds import CLOUDS, CLUMPED, EMPTY, EMPTY_BETWEEN, TWO_BATCHES, UNSORTED, Cloud


def _tensor(cloud: Cloud, rng, channels: int = 3, **options) -> SparseTensor:
    feats = torch.randn(len(cloud.coords), channels, generator=rng)
    return SparseTensor(feats, cloud.coords, batch_size=cloud.batch_size, **options)


def test_fields(device, rng):
    feats, coords = torch.randn(120, 3, generator=rng), UNSORTED.coords[:120]
    feats = feats[: len(coords)].to(device)
    x = SparseTensor(feats, coords.to(device), stride=2)

    assert x.feats is feats
    assert (x.stride, x.batch_size, len(x)) == ((2, 2, 2), 1, len(coords))
    assert (x.device, x.dtype) == (feats.device, torch.float32)
    assert SparseTensor(feats, coords, stride=(1, 2, 4)).stride == (1, 2, 4)
    assert SparseTensor(feats, coords, batch_size=5).batch_size == 5
    with pytest.raises(AttributeError):
        x.features = feats


def test_the_batch_size_is_found_or_checked(rng):
    x = _tensor(EMPTY_BETWEEN, rng)
    assert SparseTensor(x.feats, x.coords).batch_size == 3
    assert SparseTensor(x.feats, x.coords, cache=CoordCache()).batch_size == 3
    assert SparseTensor(x.feats[:0], x.coords[:0]).batch_size == 0
    with pytest.raises(RangeError, match="batch indices span 0 to 2, but batch_size is 2"):
        SparseTensor(x.feats, x.coords, batch_size=2)
    with pytest.raises(
        RangeError, match="batch indices span -1 to 1, but batch_size is None; the first column is"
    ):
        SparseTensor(x.feats, x.coords - torch.tensor([1, 0, 0, 0], dtype=torch.int32))


@pytest.mark.parametrize(
    ("feats", "coords", "options", "error", "text"),
    [
        (
            torch.zeros(3),
            torch.zeros(3, 4).int(),
            {},
            ShapeError,
            r"feats must have shape \(\*, \*\), got \(3,\)",
        ),
        (
            torch.zeros(3, 1),
            torch.zeros(2, 4).int(),
            {},
            ShapeError,
            r"coords must have shape \(3, 4\), got \(2, 4\)",
        ),
        (torch.zeros(3, 1), torch.zeros(3, 3).int(), {}, ShapeError, r"\(3, 4\), got \(3, 3\)"),
        (torch.zeros(3, 1), torch.zeros(3, 4).long(), {}, DtypeError, "coords must be int32, got int64"),
        (torch.zeros(3, 1), torch.zeros(3, 4).int(), {"stride": 0}, ShapeError, "stride must be at least 1"),
        (
            torch.zeros(3, 1),
            torch.zeros(3, 4).int(),
            {"stride": (1, 2)},
            ShapeError,
            "stride must be one int or three",
        ),
    ],
)
def test_bad_parts(feats, coords, options, error, text):
    with pytest.raises(error, match=text):
        SparseTensor(feats, coords, **options)


def test_duplicated_voxels_are_named_when_a_map_is_built():
    coords = torch.tensor([[0, 1, 2, 3], [0, 0, 0, 0], [0, 1, 2, 3]], dtype=torch.int32)
    x = SparseTensor(torch.zeros(3, 4), coords)
    with pytest.raises(
        RangeError, match=r"1 of 3 coordinates are duplicates, first at row 2: \[0, 1, 2, 3\]"
    ):
        nn.SubmanifoldConv3d(4, 4)(x)


def test_repr_is_one_line_that_says_what_is_inside(rng):
    x = _tensor(TWO_BATCHES, rng, stride=(1, 2, 4))
    x.cache.kernel_map(x.coords, x.coords, Relation.of(3))
    low, high = x.coords.amin(0).tolist(), x.coords.amax(0).tolist()
    extent = " x ".join(f"[{a}, {b}]" for a, b in zip(low[1:], high[1:], strict=True))

    assert repr(x) == (
        f"SparseTensor({len(x)} voxels x 3 channels, float32, cpu, batch_size=2, stride=(1, 2, 4), "
        f"extent={extent}, maps=1)"
    )
    assert "0 voxels x 3 channels" in repr(_tensor(EMPTY, rng))
    assert "extent=empty" in repr(_tensor(EMPTY, rng))


def test_arithmetic(rng):
    x, row = _tensor(UNSORTED, rng), torch.tensor([1.0, 2.0, 3.0])
    y = SparseTensor(torch.randn(x.feats.shape, generator=rng), x.coords.clone(), batch_size=1)
    a, b = x.feats, y.feats

    for result, expected in (
        (x + y, a + b), (x - y, a - b), (x * y, a * b), (x / y, a / b), (-x, -a),
        (x + 1, a + 1), (1 + x, a + 1), (x - 2, a - 2), (2 - x, 2 - a), (x * 3, a * 3), (3 * x, a * 3),
        (x / 4, a / 4), (4 / x, 4 / a), (x * row, a * row), (x + row, a + row), (row + x, a + row),
        (row - x, row - a), (sum([x, y, x]), a + b + a),
    ):  # fmt: skip
        assert isinstance(result, SparseTensor)
        torch.testing.assert_close(result.feats, expected, rtol=0, atol=0)
        assert result.coords is x.coords
        assert result.cache is x.cache


def test_arithmetic_needs_the_same_voxels(rng):
    x = _tensor(UNSORTED, rng)
    moved = SparseTensor(x.feats, x.coords + 1)
    fewer = SparseTensor(x.feats[1:], x.coords[1:])
    coarser = SparseTensor(x.feats, x.coords, stride=2)

    for other in (moved, fewer):
        with pytest.raises(ShapeError, match=f"coordinates differ \\({len(x)} and {len(other)} voxels\\)"):
            x + other
    with pytest.raises(
        ShapeError, match=r"strides differ: \(1, 1, 1\) and \(2, 2, 2\); bring them to one level"
    ):
        x * coarser


def test_replace_and_at_share_the_cache(rng):
    x = _tensor(EMPTY_BETWEEN, rng)
    wide = x.replace(torch.zeros(len(x), 9))
    assert (wide.coords, wide.cache, wide.stride, wide.batch_size) == (x.coords, x.cache, x.stride, 3)
    there = x.at(torch.zeros(1, 2), torch.zeros(1, 4, dtype=torch.int32), (2, 2, 2))
    assert (there.cache, there.stride, there.batch_size) == (x.cache, (2, 2, 2), 3)
    with pytest.raises(ShapeError, match="coords must have shape"):
        x.replace(torch.zeros(len(x) + 1, 9))


def test_cat_joins_channels(rng):
    x = _tensor(UNSORTED, rng)
    y = x.replace(torch.randn(len(x), 5, generator=rng))
    joined = cat([x, y, x])

    assert torch.equal(joined.feats, torch.cat([x.feats, y.feats, x.feats], dim=1))
    assert joined.cache is x.cache
    with pytest.raises(ShapeError, match="cat needs at least one SparseTensor, got none"):
        cat([])
    with pytest.raises(ShapeError, match="coordinates differ"):
        cat([x, SparseTensor(x.feats, x.coords.flip(0))])


def test_collate_renumbers_clouds_in_order(rng):
    parts = [_tensor(cloud, rng) for cloud in (UNSORTED, EMPTY, TWO_BATCHES, EMPTY_BETWEEN)]
    batch = collate(parts)

    assert batch.batch_size == 1 + 1 + 2 + 3
    assert torch.equal(batch.feats, torch.cat([part.feats for part in parts]))
    assert torch.equal(batch.coords[:, 1:], torch.cat([part.coords[:, 1:] for part in parts]))
    assert batch.coords.dtype == torch.int32
    # slices give the clouds back
    for first, last, part in ((0, 1, parts[0]), (1, 2, parts[1]), (2, 4, parts[2]), (4, 7, parts[3])):
        again = batch[first:last]
        assert torch.equal(again.feats, part.feats)
        assert torch.equal(again.coords, part.coords)
        assert again.batch_size == part.batch_size


def test_collate_refuses_what_does_not_fit(rng):
    x = _tensor(UNSORTED, rng)
    with pytest.raises(ShapeError, match="collate needs at least one SparseTensor, got none"):
        collate([])
    with pytest.raises(
        ShapeError, match=r"must share stride and channels, got \[\(\(1, 1, 1\), 3\), \(\(1, 1, 1\), 4\)\]"
    ):
        collate([x, _tensor(UNSORTED, rng, 4)])
    with pytest.raises(ShapeError, match="must share stride and channels"):
        collate([x, _tensor(UNSORTED, rng, stride=2)])
    meta = x.replace(x.feats.to("meta"))
    with pytest.raises(pcsparse.DeviceError, match="tensor 0 on cpu, tensor 1 on meta"):
        collate([x, meta])


def test_slicing_by_cloud(rng):
    x = _tensor(EMPTY_BETWEEN, rng)
    for number in range(3):
        cloud = x[number]
        rows = x.coords[:, 0] == number
        assert torch.equal(cloud.feats, x.feats[rows])
        assert torch.equal(cloud.coords[:, 1:], x.coords[rows, 1:])
        assert not cloud.coords[:, 0].any()
        assert cloud.batch_size == 1
        assert torch.equal(x[number - 3].feats, cloud.feats)
    turned = x[::-1]
    assert turned.batch_size == 3
    assert torch.equal(turned[0].feats, x[2].feats)
    assert torch.equal(turned.coords[:, 0], 2 - x.coords[:, 0])
    assert (x[:0].batch_size, len(x[:0])) == (0, 0)
    assert x[1:].batch_size == 2
    assert x[0].cache is not x.cache
    for number in (3, -4):
        with pytest.raises(RangeError, match=f"cloud {number} of a batch of 3"):
            x[number]


def test_a_tensor_is_a_sequence_of_its_clouds(rng):
    x = _tensor(EMPTY_BETWEEN, rng)
    again = collate([x[i] for i in range(x.batch_size)])
    order = torch.argsort(x.coords[:, 0], stable=True)
    assert torch.equal(again.coords, x.coords[order])
    assert torch.equal(again.feats, x.feats[order])


def test_a_loop_meets_every_cloud_and_ends(rng):
    x = _tensor(EMPTY_BETWEEN, rng)
    clouds = list(x)
    assert len(clouds) == 3
    for number, cloud in enumerate(clouds):
        assert torch.equal(cloud.feats, x[number].feats)
        assert cloud.batch_size == 1


@pytest.mark.parametrize("number", [np.int64(2), np.array(2), torch.tensor(2)], ids=type)
def test_any_integer_numbers_a_cloud(rng, number):
    x = _tensor(EMPTY_BETWEEN, rng)
    assert torch.equal(x[number].coords, x[2].coords)


@pytest.mark.parametrize(
    ("index", "told"),
    [
        ([0, 2], r"got \[0, 2\]"),
        (1.0, r"got 1\.0"),
        (True, "got True"),
        (None, "got None"),
        (torch.tensor([True]), r"got a tensor \(1,\) of torch\.bool"),
        (torch.tensor([1]), r"got a tensor \(1,\) of torch\.int64"),
        (np.array([True, False]), r"got array"),
    ],
    ids=str,
)
def test_what_numbers_no_cloud_is_told_the_way(rng, index, told):
    x = _tensor(EMPTY_BETWEEN, rng)
    with pytest.raises(UnsupportedError, match=told) as error:
        x[index]
    assert "collate([x[i] for i in numbers])" in str(error.value)
    assert "x.coords[mask]" in str(error.value)


def test_scalars_of_numpy_stand_on_either_side(rng):
    x = _tensor(CLUMPED, rng)
    two = np.float32(2)
    for got, wanted in (
        (two * x, x.feats * 2),
        (two + x, x.feats + 2),
        (two - x, 2 - x.feats),
        (two / x, 2 / x.feats),
        (x * two, x.feats * 2),
    ):
        assert isinstance(got, SparseTensor)
        assert torch.equal(got.feats, wanted)
        assert got.feats.dtype == torch.float32


def test_from_points(rng):
    points = torch.randn(300, 3, generator=rng)
    feats = torch.randn(300, 4, generator=rng, requires_grad=True)
    x, voxels = SparseTensor.from_points(points, feats, 0.8, origin=(0.1, 0.2, 0.3))
    expected = oracle.voxelize(points.tolist(), 0.8, [0] * 300, (0.1, 0.2, 0.3))

    assert list(map(tuple, x.coords.tolist())) == list(expected)
    assert torch.equal(x.feats, feats[[members[0] for members in expected.values()]])
    assert x.coords is voxels.coords
    assert (x.batch_size, x.stride) == (1, (1, 1, 1))
    # rows come back to the points, gradients too
    x.feats[voxels.inverse].sum().backward()
    assert feats.grad.sum() == 300 * 4


def test_from_points_takes_a_size_an_axis(rng):
    points = torch.randn(300, 3, generator=rng)
    x, voxels = SparseTensor.from_points(points, points, (0.5, 0.25, 1.0))
    cells = torch.floor(points.double() / torch.tensor([0.5, 0.25, 1.0])).int()
    assert torch.equal(x.coords[voxels.inverse, 1:], cells)


def test_from_points_of_a_batch_and_of_nothing(rng):
    points, feats = torch.randn(50, 3, generator=rng), torch.randn(50, 2, generator=rng)
    batch = torch.randint(2, (50,), generator=rng) * 2
    x, _ = SparseTensor.from_points(points, feats, 1.0, batch=batch, batch_size=4)
    assert x.batch_size == 4
    assert [len(x[i]) > 0 for i in range(4)] == [True, False, True, False]

    nothing, voxels = SparseTensor.from_points(points[:0], feats[:0], 1.0)
    # a cloud without points is still a cloud: it keeps its place in a batch
    assert (len(nothing), nothing.batch_size, len(voxels.inverse)) == (0, 1, 0)
    joined = collate([nothing, x[0]])
    assert joined.batch_size == 2
    assert len(joined[0]) == 0

    with pytest.raises(ShapeError, match=r"feats must have shape \(50, \*\), got \(49, 2\)"):
        SparseTensor.from_points(points, feats[1:], 1.0)
    with pytest.raises(RangeError, match="batch indices span 0 to 2, but batch_size is 2"):
        SparseTensor.from_points(points, feats, 1.0, batch=batch, batch_size=2)
    points[7, 1] = float("nan")
    with pytest.raises(RangeError, match="1 of 50 points are not finite, first at row 7"):
        SparseTensor.from_points(points, feats, 1.0)


@pytest.mark.parametrize("name", CLOUDS)
def test_dense_holds_every_voxel_and_nothing_else(rng, name):
    cloud = CLOUDS[name]
    x = _tensor(cloud, rng)
    grid, lower = x.dense()

    assert grid.shape[:2] == (cloud.batch_size, 3)
    box = oracle.Box(lower, tuple(grid.shape[2:]))
    assert box == oracle.Box.around(cloud.coords)
    expected = oracle.to_grid(x.feats, x.coords, box, cloud.batch_size)
    assert torch.equal(grid.permute(0, 2, 3, 4, 1), expected)


@pytest.mark.parametrize("name", CLOUDS)
def test_dense_and_from_dense_are_a_round_trip(rng, name):
    x = _tensor(CLOUDS[name], rng, stride=2)
    grid, lower = x.dense()
    again = SparseTensor.from_dense(grid, lower=lower, stride=2)

    order = sorted(range(len(x)), key=lambda row: x.coords[row].tolist())
    assert torch.equal(again.coords, x.coords[order])
    assert torch.equal(again.feats, x.feats[order])
    assert (again.batch_size, again.stride) == (x.batch_size, x.stride)


def test_dense_in_a_given_box(rng):
    x = _tensor(CLUMPED, rng)
    grid, lower = x.dense(lower=(-20, -12, -10), upper=(12, 13, 14))
    assert lower == (-20, -12, -10)
    assert grid.shape == (1, 3, 33, 26, 25)
    assert torch.equal(
        grid[0, :, 20 + 6, 12 + 6, 10 + 6], x.dense()[0][0, :, *(6 - low for low in x.dense()[1])]
    )
    with pytest.raises(
        RangeError, match=r"\d+ of \d+ voxels lie outside the box \(0, 0, 0\) to .*; widen it"
    ):
        x.dense(lower=(0, 0, 0))
    with pytest.raises(RangeError, match=r"outside the box .* to \(3, 3, 3\)"):
        x.dense(upper=(3, 3, 3))


def test_dense_is_differentiable_both_ways(rng):
    feats = torch.randn(len(CLUMPED.coords), 2, generator=rng, dtype=torch.float64, requires_grad=True)
    x = SparseTensor(feats, CLUMPED.coords)
    grid, lower = x.dense()
    weight = torch.randn(grid.shape, generator=rng, dtype=torch.float64)
    (grid * weight).sum().backward()
    assert torch.equal(feats.grad, SparseTensor.from_dense(weight, lower=lower).dense(
        lower=lower, upper=tuple(a + b - 1 for a, b in zip(lower, grid.shape[2:], strict=True))
    )[0].permute(0, 2, 3, 4, 1)[oracle.Box(lower, tuple(grid.shape[2:])).index(x.coords)])  # fmt: skip

    leaf = grid.detach().requires_grad_()
    SparseTensor.from_dense(leaf, lower=lower).feats.sum().backward()
    assert torch.equal(leaf.grad, (grid != 0).any(dim=1, keepdim=True).expand_as(grid).double())


def test_dense_refuses_a_grid_that_no_memory_holds(rng):
    coords = torch.tensor([[0, 0, 0, 0], [0, 4000, 4000, 4000]], dtype=torch.int32)
    with pytest.raises(
        RangeError, match=r"a dense grid of \(4001, 4001, 4001\) cells needs 477\.2 GiB; give a smaller box"
    ):
        SparseTensor(torch.zeros(2, 2), coords).dense()
    with pytest.raises(ShapeError, match=r"dense must have shape \(\*, \*, \*, \*, \*\), got \(2, 3, 4\)"):
        SparseTensor.from_dense(torch.zeros(2, 3, 4))


def test_from_dense_keeps_cells_with_any_channel(rng):
    grid = torch.zeros(1, 2, 1, 1, 4)
    grid[0, 1, 0, 0, 1] = 5
    grid[0, 0, 0, 0, 3] = float("nan")
    x = SparseTensor.from_dense(grid, lower=(7, 8, 9))

    assert x.coords.tolist() == [[0, 7, 8, 10], [0, 7, 8, 12]]
    assert x.feats[0].tolist() == [0, 5]


def test_to_changes_the_features_only(rng):
    x = _tensor(UNSORTED, rng)
    half = x.to(torch.float16)

    assert (half.dtype, half.coords, half.cache) == (torch.float16, x.coords, x.cache)
    assert torch.equal(half.feats, x.feats.half())
    both = x.to("cpu", torch.float64)
    assert both.dtype == torch.float64
    assert both.cache is x.cache
    moved = x.to("meta")
    assert (moved.device.type, moved.coords.device.type) == ("meta", "meta")
    assert moved.cache is not x.cache
    assert (moved.stride, moved.batch_size) == (x.stride, x.batch_size)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"]
)
def test_a_copy_takes_its_maps_along(rng, copied):
    x = _tensor(EMPTY_BETWEEN, rng, stride=2)
    module = nn.SubmanifoldConv3d(3, 4)
    expected = module(x).feats
    y = copied(x)

    assert torch.equal(module(y).feats, expected)
    assert (len(y.cache), y.stride, y.batch_size) == (1, (2, 2, 2), 3)
    assert y.cache is not x.cache


def test_a_shared_cache_does_not_spare_the_check_of_the_batch_column():
    x = SparseTensor(torch.zeros(2, 1), torch.tensor([[0, 0, 0, 0], [7, 0, 0, 0]], dtype=torch.int32))
    with pytest.raises(RangeError, match="batch indices span 0 to 7, but batch_size is 2"):
        SparseTensor(x.feats, x.coords, batch_size=2, cache=x.cache)


def test_a_negative_batch_size_is_refused():
    with pytest.raises(RangeError, match="batch_size must be at least 0, got -5"):
        SparseTensor(torch.zeros(0, 1), torch.zeros(0, 4, dtype=torch.int32), batch_size=-5)


def test_dense_refuses_two_rows_in_one_cell():
    coords = torch.zeros(2, 4, dtype=torch.int32)
    with pytest.raises(RangeError, match="1 of 2 coordinates are duplicates"):
        SparseTensor(torch.ones(2, 1), coords).dense()


def test_arithmetic_refuses_other_batch_sizes():
    coords = torch.zeros(1, 4, dtype=torch.int32)
    one, three = (SparseTensor(torch.ones(1, 1), coords, batch_size=size) for size in (1, 3))
    with pytest.raises(ShapeError, match="batch sizes differ: 1 and 3"):
        one + three


def test_conversions_are_those_of_a_tensor():
    x = SparseTensor(torch.ones(1, 1, requires_grad=True), torch.zeros(1, 4, dtype=torch.int32))
    assert x.half().dtype == torch.float16
    assert x.to(dtype=torch.float64).dtype == torch.float64
    assert x.half().float().dtype == torch.float32
    assert not x.detach().feats.requires_grad
    assert x.cpu().cache is x.cache
