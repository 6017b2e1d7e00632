"""kNN, ball query and farthest points: twins against scipy and Python, backends against twins."""

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from pcsparse.kernels import reference
from pcsparse.kernels.cpu import nearest
from pcsparse.kernels.cpu.cell_levels import Box
from pcsparse.kernels.cpu.point_tree import LEAF, PointTree, _halve
from pcsparse.kernels.select import backend_of
from tests.emulation import gpu_kernels


def _draw(rng, *shape):
    return torch.randn(*shape, generator=rng)


def _exponents(rng):
    return 60 * torch.rand(300, 1, generator=rng) - 30


def _shuffled(rng, points):
    return points[torch.randperm(len(points), generator=rng)]


def _like_a_sweep(rng):
    """Rings on the ground whose density falls by a thousand, a wall, and returns at the sensor itself."""
    angle = torch.rand(400, generator=rng) * 6.28
    radius = 2 * 1.4 ** torch.randint(10, (400,), generator=rng)
    ground = torch.stack([radius * angle.cos(), radius * angle.sin(), -1.7 + 0.01 * _draw(rng, 400)], dim=1)
    wall = torch.rand(100, 3, generator=rng) * torch.tensor([8.0, 0.05, 3.0]) + torch.tensor([3.0, 5.0, -1.5])
    return _shuffled(rng, torch.cat([ground, wall, torch.zeros(60, 3)]))


CLOUDS = {  # points, their clouds' sizes
    "none": lambda rng: (torch.zeros(0, 3), [0]),
    "one": lambda rng: (torch.tensor([[1.0, -2.0, 3.0]]), [1]),
    "all-equal": lambda rng: (torch.full((200, 3), 0.7), [200]),
    "grid": lambda rng: (_shuffled(rng, torch.cartesian_prod(*[torch.arange(6.0)] * 3)), [216]),
    "line": lambda rng: (_shuffled(rng, torch.arange(250.0)[:, None] * torch.tensor([0.1, 0.0, 0.0])), [250]),
    "diagonal": lambda rng: (torch.linspace(-1e3, 1e3, 333)[:, None].repeat(1, 3), [333]),
    "ball": lambda rng: (_draw(rng, 400, 3), [400]),
    "clustered": lambda rng: (
        _shuffled(rng, torch.cat([_draw(rng, 200, 3) * 1e-3, _draw(rng, 40, 3) * 1e3 + 1e4])), [240],
    ),
    "sweep": lambda rng: (_like_a_sweep(rng), [560]),
    "far-from-the-origin": lambda rng: (_draw(rng, 200, 3) + torch.tensor([6e5, -5.4e6, 300.0]), [200]),
    "all-sizes": lambda rng: (_draw(rng, 300, 3) * 10 ** _exponents(rng), [300]),
    # far beside a cloud a wall, nearer to itself than to the cloud, and one point beyond all
    "strays": lambda rng: (
        torch.cat([
            _draw(rng, 1600, 3), torch.tensor([3e5, 0, 0]) + 1e3 * _draw(rng, 30, 3),
            torch.tensor([[0, -3e30, 0]]),
        ]), [1631],
    ),
    "tight-then-wide": lambda rng: (
        torch.cat([_draw(rng, 8, 3) * 1e-3, torch.arange(8.0)[:, None] * torch.tensor([1.0, 0.0, 0.0])]),
        [8, 8],
    ),
    "clouds": lambda rng: (_draw(rng, 330, 3), [200, 0, 1, 5, 124]),
}  # fmt: skip


def test_stray_points_do_not_widen_the_cells_of_the_others(rng):
    points, _ = CLOUDS["strays"](rng)
    assert Box.around(points.numpy()).edge < 0.2
    assert Box.around(points[:1600].numpy()).edge < 1e-3


def test_queries_among_stray_points_match_twin(rng):
    wall = torch.tensor([3e5, 0, 0]) + 1e3 * _draw(rng, 300, 3)
    points = torch.cat([_draw(rng, 20_000, 3), wall])
    starts, asked = torch.tensor([0, 20_300]), torch.tensor([0, 300])
    found = backend_of(points).k_nearest(points, starts, wall, asked, 7, float("inf"))
    _compare(found, reference.k_nearest(points, starts, wall, asked, 7, float("inf")))


def _case(name, rng):
    points, sizes = CLOUDS[name](rng)
    return points, torch.tensor([0, *np.cumsum(sizes)])


def _asked(points, starts, rng):
    """Some of the points, places between them, at their borders and far beside; none for the last cloud."""
    queries, sizes = [], []
    for cloud in range(len(starts) - 1):
        own = points[starts[cloud] : starts[cloud + 1]]
        near = own[torch.randint(len(own), (16,), generator=rng)] if len(own) else torch.zeros(3, 3)
        scale = (own.amax(0) - own.amin(0)).max() if len(own) else torch.ones(())
        beside = near[:6] + scale * _draw(rng, len(near[:6]), 3) * 5
        corners = torch.stack([own.amin(0), own.amax(0)]) if len(own) else near[:0]
        some = torch.cat([near, near[::2] + 0.02 * scale * _draw(rng, len(near[::2]), 3), beside, corners])
        some = some if cloud + 2 < len(starts) or cloud == 0 else some[:0]
        queries.append(some)
        sizes.append(len(some))
    return torch.cat(queries), torch.tensor([0, *np.cumsum(sizes)])


def _spread(points):
    return float((points.amax(0) - points.amin(0)).max()) if len(points) else 1.0


@pytest.mark.parametrize("name", CLOUDS)
@pytest.mark.parametrize("k", [1, 9])
def test_twin_of_k_nearest(name, k, rng):
    points, starts = _case(name, rng)
    queries, query_starts = _asked(points, starts, rng)
    for radius in (float("inf"), 0.1 * _spread(points) + 1e-30):
        rows, squared = reference.k_nearest(points, starts, queries, query_starts, k, radius)

        assert rows.shape == squared.shape == (len(queries), k)
        for cloud in range(len(starts) - 1):
            own = points[starts[cloud] : starts[cloud + 1]].double().numpy()
            mine = slice(int(query_starts[cloud]), int(query_starts[cloud + 1]))
            _check_against_tree(own, queries[mine].double().numpy(), rows[mine], squared[mine], k, radius,
                                int(starts[cloud]))  # fmt: skip


def _check_against_tree(own, queries, rows, squared, k, radius, begin):
    """Sets and order, where distances differ; scipy leaves the order of equal ones open."""
    if len(queries) == 0:
        return
    tree = cKDTree(own) if len(own) else None
    for query, found, distances in zip(queries, rows.tolist(), squared.tolist(), strict=True):
        expected = [] if tree is None else tree.query(query, k=range(1, min(k, len(own)) + 1))[0].tolist()
        expected = [d for d in expected if d * d < radius * radius]
        n = sum(row >= 0 for row in found)
        assert found[n:] == [-1] * (k - n)
        assert distances[n:] == [float("inf")] * (k - n)
        # a distance at the very radius may round to either side of it
        assert abs(n - len(expected)) <= sum(abs(d - radius) < 1e-9 * radius for d in expected)
        assert distances[:n] == sorted(distances[:n])
        assert np.allclose(np.sqrt(distances[:n]), expected[:n], rtol=1e-12, atol=0)
        assert len(set(found[:n])) == n
        for row, d in zip(found[:n], distances[:n], strict=True):
            assert np.isclose(((own[row - begin] - query) ** 2).sum(), d, rtol=1e-12, atol=0)
        # of equal ones the first row
        ranks = list(zip(distances[:n], found[:n], strict=True))
        assert ranks == sorted(ranks)


@pytest.mark.parametrize("k", [1, 7, 65])
@pytest.mark.parametrize("name", CLOUDS)
def test_k_nearest_matches_twin(device, name, k, rng):
    points, starts = _case(name, rng)
    asked, infinite = _asked(points, starts, rng), float("inf")
    for (queries, query_starts), radius in (
        ((points, starts), infinite), (asked, infinite), (asked, 0.05 * _spread(points) + 1e-30),
    ):  # fmt: skip
        inputs = [part.to(device) for part in (points, starts, queries, query_starts)]
        actual = backend_of(*inputs).k_nearest(*inputs, k, radius)
        _compare(actual, reference.k_nearest(*inputs, k, radius))


@pytest.mark.parametrize("name", CLOUDS)
def test_twin_of_first_in_ball(name, rng):
    points, starts = _case(name, rng)
    queries, query_starts = _asked(points, starts, rng)
    radius, limit = 0.2 * _spread(points) + 1e-30, 9
    rows, squared = reference.first_in_ball(points, starts, queries, query_starts, limit, radius)

    for cloud in range(len(starts) - 1):
        own = points[starts[cloud] : starts[cloud + 1]].double().numpy()
        for i in range(int(query_starts[cloud]), int(query_starts[cloud + 1])):
            query = queries[i].double().numpy()
            inside = [
                j for j, point in enumerate(own) if float(((point - query) ** 2).sum()) < radius * radius
            ]
            n = min(limit, len(inside))
            assert rows[i].tolist() == [j + int(starts[cloud]) for j in inside[:limit]] + [-1] * (limit - n)
            assert np.allclose(
                squared[i, :n], ((own[inside[:limit]] - query) ** 2).sum(1), rtol=1e-12, atol=0
            )
            assert torch.isinf(squared[i, n:]).all()


@pytest.mark.parametrize("limit", [1, 8, 70])
@pytest.mark.parametrize("name", CLOUDS)
def test_first_in_ball_matches_twin(device, name, limit, rng):
    points, starts = _case(name, rng)
    queries, query_starts = _asked(points, starts, rng)
    for share in (2.0, 0.05):
        radius = share * _spread(points) + 1e-30
        inputs = [part.to(device) for part in (points, starts, queries, query_starts)]
        actual = backend_of(*inputs).first_in_ball(*inputs, limit, radius)
        _compare(actual, reference.first_in_ball(*inputs, limit, radius))


@pytest.mark.parametrize("k", [4, 5, 9, 16, 17, 32, 33])
def test_lists_of_any_length(device, k, rng):
    points, starts = (part.to(device) for part in _case("sweep", rng))
    queries, asked = points[::7].contiguous(), torch.tensor([0, 80], device=device)
    inputs = points, starts, queries, asked
    backend, radius = backend_of(points), 0.1 * _spread(points)
    _compare(backend.k_nearest(*inputs, k, radius), reference.k_nearest(*inputs, k, radius))
    _compare(backend.first_in_ball(*inputs, k, radius), reference.first_in_ball(*inputs, k, radius))


def test_queries_may_be_sorted_first(device, rng, monkeypatch):
    points, starts = _case("clouds", rng)
    inputs = [part.to(device) for part in (points, starts, *_asked(points, starts, rng))]
    backend = backend_of(inputs[0])
    expected = backend.k_nearest(*inputs, 3, float("inf"))
    gpu_kernels()
    monkeypatch.setattr("pcsparse.kernels.gpu.neighbors._MANY", 2)
    _compare(backend.k_nearest(*inputs, 3, float("inf")), expected)


@pytest.mark.parametrize("k", [3, 80])
def test_queries_in_no_order_in_space_are_asked_leaf_after_leaf(k, rng):
    points, queries = _draw(rng, (1 << 14) + 900, 3), _draw(rng, 1300, 3)
    inputs = points, torch.tensor([0, 9000, 9000, len(points)]), queries, torch.tensor([0, 700, 800, 1300])
    tree = PointTree.over(points.numpy(), inputs[1].numpy())
    clouds = np.repeat(np.arange(3, dtype=np.int32), [700, 100, 500])
    order = nearest._in_order(tree, queries, clouds, same=False)
    assert order[:700].tolist() != list(range(700))
    assert sorted(order.tolist()) == list(range(1300))
    steps = (queries[order[1:]] - queries[order[:-1]]).norm(dim=1).median()
    assert steps < 0.5 * (queries[1:] - queries[:-1]).norm(dim=1).median()
    along = queries[order]
    assert nearest._in_order(tree, along, clouds[order], same=False).tolist() == list(range(1300))
    found = backend_of(points).k_nearest(*inputs, k, float("inf"))
    _compare(found, reference.k_nearest(*inputs, k, float("inf")))


def test_leaves_hold_all_points_in_boxes_that_fit(rng):
    points, starts = _case("sweep", rng)
    points = torch.cat([points, _draw(rng, 37, 3), torch.zeros(1, 3)])
    starts = torch.tensor([0, 560, 560, 597, 598])
    tree = PointTree.over(points.numpy(), starts.numpy())
    assert tree.depths.tolist() == [6, 0, 2, 0]
    assert np.array_equal(tree.xyz.T.astype(np.float32), points.numpy()[tree.rows])
    for cloud in (0, 2, 3):
        begin, n, depth = int(starts[cloud]), int(starts[cloud + 1] - starts[cloud]), int(tree.depths[cloud])
        assert sorted(tree.rows[begin : begin + n].tolist()) == list(range(begin, begin + n))
        for level in range(depth + 1):
            for part in range(1 << level):
                own = slice(begin + (n * part >> level), begin + (n * (part + 1) >> level))
                node = tree.nodes[cloud] + (1 << level) - 1 + part
                assert 0 < own.stop - own.start <= (LEAF if level == depth else n)
                assert tree.low[node].tolist() == tree.xyz[:, own].min(axis=1).tolist()
                assert tree.high[node].tolist() == tree.xyz[:, own].max(axis=1).tolist()
                assert tree.first[node] == tree.rows[own].min()


@pytest.mark.parametrize("shape", ["ring", "rising", "rising and falling", "equal"])
def test_points_in_any_order_are_halved_in_a_few_rounds(shape):
    n = 20_000
    along = {
        "ring": np.cos(np.linspace(-np.pi, np.pi, n)),
        "rising": np.arange(n),
        "rising and falling": np.minimum(np.arange(n), np.arange(n)[::-1]),
        "equal": np.ones(n),
    }[shape].astype(np.float64)
    xyz, rows = np.stack([along, along, along]), np.arange(n, dtype=np.int32)
    compared = _halve(xyz, rows, 0, 0, n, n // 2)
    assert compared < 10 * n
    wanted = np.lexsort((np.arange(n), along))
    assert set(rows[: n // 2].tolist()) == set(wanted[: n // 2].tolist())


def test_points_that_coincide_are_found_by_row_without_a_look_at_all(rng):
    # returns that a sensor left at its own place: each query asks for the first few of them
    points = torch.cat([torch.zeros(5000, 3), 10 + _draw(rng, 400, 3)])[torch.randperm(5400, generator=rng)]
    starts, queries = torch.tensor([0, 5400]), torch.zeros(4000, 3)
    found = backend_of(points).k_nearest(points, starts, queries, torch.tensor([0, 4000]), 5, float("inf"))
    first = (points == 0).all(dim=1).nonzero()[:5, 0].int()
    assert torch.equal(found[0], first.repeat(4000, 1))
    assert not found[1].any()
    tree = PointTree.over(points.numpy(), starts.numpy())
    # the walk leaves out a box as near as the farthest found whose rows are all higher: rows ascend by leaf
    zeros = [i for i in range(512) if not tree.high[511 + i].any() and not tree.low[511 + i].any()]
    lowest = tree.first[511 + np.array(zeros)]
    assert len(zeros) > 400
    assert (np.diff(lowest) > 0).all()


def _compare(actual, expected):
    assert [part.dtype for part in actual] == [torch.int32, torch.float64]
    assert torch.equal(actual[0], expected[0])
    assert torch.equal(actual[1], expected[1])


@pytest.mark.parametrize("radius", [0.5, 3.0])
def test_a_point_at_the_radius_is_outside(device, radius):
    points = torch.tensor(
        [
            [0.0, 0, 0],
            [radius, 0, 0],
            [0, -radius, 0],
            [0, 0, float(np.nextafter(np.float32(radius), np.float32(0)))],
        ]
    )
    given = points, torch.tensor([0, 4]), points[:1], torch.tensor([0, 1])
    inputs = [part.to(device) for part in given]
    for backend in (reference, backend_of(*inputs)):
        assert backend.k_nearest(*inputs, 4, radius)[0].tolist() == [[0, 3, -1, -1]]
        assert backend.first_in_ball(*inputs, 4, radius)[0].tolist() == [[0, 3, -1, -1]]


def _counts(starts, wanted):
    return starts.diff().clamp(max=wanted)


@pytest.mark.parametrize("name", CLOUDS)
def test_twin_of_farthest_points(name, rng):
    points, starts = _case(name, rng)
    counts = _counts(starts, 20)
    first = starts[:-1] + (counts > 3)
    chosen = reference.farthest_points(points, starts, first, counts).tolist()

    assert len(chosen) == counts.sum()
    for cloud, count in enumerate(counts.tolist()):
        mine, chosen = chosen[:count], chosen[count:]
        rows = range(int(starts[cloud]), int(starts[cloud + 1]))
        places = [point.double().numpy() for point in points]
        taken = [int(first[cloud])] if count else []
        while len(taken) < count:
            ways = {
                row: min(float(((places[row] - places[other]) ** 2).sum()) for other in taken)
                for row in rows if row not in taken
            }  # fmt: skip
            most = max(ways.values())
            following = mine[len(taken)]
            assert following in ways
            # Python may add three squares in another order than the contract
            assert ways[following] >= most * (1 - 1e-12)
            ties = [row for row, way in ways.items() if way == ways[following]]
            assert following == min(ties)
            taken.append(following)
        assert taken == mine


@pytest.mark.parametrize("wanted", [1, 70, 10_000])
@pytest.mark.parametrize("name", CLOUDS)
def test_farthest_points_matches_twin(device, name, wanted, rng):
    points, starts = _case(name, rng)
    counts = _counts(starts, wanted)
    first = torch.where(counts > 2, starts[1:] - 2, starts[:-1])
    inputs = [part.to(device) for part in (points, starts, first, counts)]
    actual = backend_of(points.to(device)).farthest_points(*inputs)

    assert actual.dtype == torch.int32
    assert torch.equal(actual, reference.farthest_points(*inputs))


def test_samples_of_long_runs(device, rng, monkeypatch):
    gpu_kernels()
    monkeypatch.setattr("pcsparse.kernels.gpu.farthest._MOST_RUNS", 3)
    points, starts = _case("clouds", rng)
    counts = _counts(starts, 40)
    inputs = [part.to(device) for part in (points, starts, starts[:-1], counts)]
    expected = reference.farthest_points(*inputs)
    assert torch.equal(backend_of(inputs[0]).farthest_points(*inputs), expected)


def test_two_thousand_clouds(device, rng):
    points = _draw(rng, 3 * 2047, 3).to(device)
    starts = torch.arange(0, 3 * 2048, 3, device=device)
    _compare(backend_of(points).k_nearest(points, starts, points, starts, 4, float("inf")),
             reference.k_nearest(points, starts, points, starts, 4, float("inf")))  # fmt: skip


def test_a_real_sweep_against_a_tree(device, real_data):
    points = torch.from_numpy(
        np.fromfile(real_data / "kitti/training/velodyne/000001.bin", np.float32).reshape(-1, 4)[:, :3].copy()
    )
    starts = torch.tensor([0, len(points)])
    inputs = points.to(device), starts.to(device), points.to(device), starts.to(device)
    rows, squared = backend_of(inputs[0]).k_nearest(*inputs, 16, float("inf"))
    tree = cKDTree(points.numpy())
    distances, expected = tree.query(points.numpy(), 16)

    assert np.allclose(np.sqrt(squared.cpu().numpy()), distances, rtol=1e-12, atol=0)
    differ = rows.cpu().numpy() != expected
    # only where two distances are equal
    assert differ.mean() < 1e-3
    assert set(np.unique(rows.cpu().numpy()[:, 0])) <= set(range(len(points)))
    names = tree.data[rows.cpu().numpy()[differ]], tree.data[expected[differ]]
    at = tree.data[np.nonzero(differ)[0]]
    assert np.allclose(*(((name - at) ** 2).sum(1) for name in names), rtol=1e-12, atol=0)
