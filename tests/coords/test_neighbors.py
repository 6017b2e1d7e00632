"""Neighbours of points in metres: against scipy and Python, batches, what is refused, threads."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from pcsparse.coords.neighbors import ball_query, farthest_points, nearest_neighbours
from pcsparse.errors import DeviceError, DtypeError, RangeError, ShapeError
from tests.emulation import emulate

# few values, so that points coincide, lie in one line and are equally far
_FEW = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 4.0, 1000.0])
_COORDINATE = _FEW | st.floats(-1e3, 1e3, width=32)
_POINTS = st.lists(st.tuples(_COORDINATE, _COORDINATE, _COORDINATE, st.integers(0, 3)), max_size=60)


def _split(rows):
    points = torch.tensor([row[:3] for row in rows], dtype=torch.float32).view(-1, 3)
    return points, torch.tensor([row[3] for row in rows], dtype=torch.int32)


def _ranks(points, batch, query, cloud):
    """(squared distance, row) of all points of a cloud, in Python's floats."""
    ranks = []
    for row, (point, other) in enumerate(zip(points.tolist(), batch.tolist(), strict=True)):
        if other == cloud:
            dx, dy, dz = (a - b for a, b in zip(point, query, strict=True))
            ranks.append((dx * dx + dy * dy + dz * dz, row))
    return ranks


@settings(deadline=None, max_examples=60)
@given(_POINTS, st.lists(st.tuples(*[_COORDINATE] * 3, st.integers(0, 4)), max_size=8), st.integers(1, 12))
def test_neighbours_of_any_points(given_points, given_queries, k):
    points, batch = _split(given_points)
    queries, query_batch = _split(given_queries)
    found = nearest_neighbours(points, k, queries=queries, batch=batch, query_batch=query_batch)
    ball, first = (
        ball_query(points, 1.5, k, queries=queries, batch=batch, query_batch=query_batch, order=order)
        for order in ("nearest", "index")
    )

    for i, (query, cloud) in enumerate(zip(queries.tolist(), query_batch.tolist(), strict=True)):
        ranks = sorted(_ranks(points, batch, query, cloud))
        inside = [rank for rank in ranks if rank[0] < 1.5 * 1.5]
        by_row = sorted(inside, key=lambda rank: rank[1])
        for result, expected in ((found, ranks), (ball, inside), (first, by_row)):
            n = min(k, len(expected))
            assert result.rows[i].tolist() == [row for _, row in expected[:n]] + [-1] * (k - n)
            assert result.squared[i].tolist() == [d for d, _ in expected[:n]] + [math.inf] * (k - n)
            assert result.counts[i] == n


@settings(deadline=None, max_examples=60)
@given(_POINTS, st.integers(1, 20))
def test_farthest_points_of_any_points(given_points, n_samples):
    points, batch = _split(given_points)
    chosen = farthest_points(points, n_samples, batch=batch).tolist()

    expected = []
    for cloud in range(int(batch.max()) + 1 if len(batch) else 0):
        rows = [row for row, other in enumerate(batch.tolist()) if other == cloud]
        ways = dict.fromkeys(rows, math.inf)
        for _ in range(min(n_samples, len(rows))):
            # the first row of the farthest ones: max keeps the first it meets
            row = max(ways, key=ways.__getitem__)
            del ways[row]
            expected.append(row)
            for d, other in _ranks(points, batch, points[row].tolist(), cloud):
                if other in ways:
                    ways[other] = min(ways[other], d)
    assert chosen == expected


def test_points_are_their_own_queries(rng):
    points = torch.randn(400, 3, generator=rng)
    rows = nearest_neighbours(points, 4).rows

    assert rows.dtype == torch.int32
    assert rows[:, 0].tolist() == list(range(400))
    assert np.array_equal(cKDTree(points.numpy()).query(points.numpy(), 4)[1], rows.numpy())
    assert torch.equal(nearest_neighbours(points, 4, queries=points).rows, rows)
    assert torch.equal(nearest_neighbours(points.requires_grad_(), 4).rows, rows)


@pytest.mark.parametrize("kind", [torch.int32, torch.int64], ids=str)
def test_a_batch_in_any_order_is_its_clouds_one_by_one(rng, kind):
    points, batch = torch.randn(500, 3, generator=rng), torch.randint(4, (500,), generator=rng, dtype=kind)
    batch[batch == 2] = 3
    queries, query_batch = torch.randn(90, 3, generator=rng), torch.arange(90).to(kind) % 4
    asked = {"queries": queries, "batch": batch, "query_batch": query_batch}
    together = (
        nearest_neighbours(points, 5, **asked), ball_query(points, 0.4, 7, **asked),
        ball_query(points, 0.4, 7, **asked, order="index"),
    )  # fmt: skip
    samples = farthest_points(points, 20, batch=batch).tolist()
    for cloud in range(4):
        mine, own = (torch.nonzero(part == cloud)[:, 0] for part in (query_batch, batch))
        alone = (
            nearest_neighbours(points[own], 5, queries=queries[mine]),
            ball_query(points[own], 0.4, 7, queries=queries[mine]),
            ball_query(points[own], 0.4, 7, queries=queries[mine], order="index"),
        )
        for many, one in zip(together, alone, strict=True):
            renamed = torch.where(one.rows < 0, -1, own[one.rows.long()] if len(own) else one.rows)
            assert torch.equal(many.rows[mine].long(), renamed.long())
            assert torch.equal(many.squared[mine], one.squared)
        if len(own):
            some, samples = samples[:20], samples[20:]
            assert some == own[farthest_points(points[own], 20)].tolist()
    assert samples == []


def test_samples_begin_where_they_are_told_to(rng):
    points = torch.randn(300, 3, generator=rng)
    batch = torch.arange(300) % 2
    chosen = farthest_points(points, 9, batch=batch, first=torch.tensor([40, 7]))

    assert (chosen[0], chosen[9]) == (40, 7)
    assert farthest_points(points, 9, first=torch.tensor([3], dtype=torch.int32))[0] == 3
    # a permutation that carries the beginning along carries all along
    shuffle = torch.randperm(300, generator=rng)
    place = shuffle.argsort()
    again = farthest_points(points[shuffle], 9, batch=batch[shuffle], first=place[torch.tensor([40, 7])])
    assert torch.equal(shuffle[again], chosen)


def test_free_places_are_filled_with_the_first_neighbour():
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [5, 0, 0]])
    ball = ball_query(points, 1.5, 4, queries=torch.tensor([[0.9, 0, 0], [9, 9, 9]]))

    assert ball.rows.tolist() == [[1, 0, -1, -1], [-1] * 4]
    assert ball.counts.tolist() == [2, 0]
    assert ball.filled().tolist() == [[1, 0, 1, 1], [-1] * 4]


def test_more_samples_than_points_take_all_of_them_once():
    points = torch.tensor([[0.0, 0, 0], [0, 0, 0], [3, 0, 0], [0, 0, 0]])

    assert farthest_points(points, 9).tolist() == [0, 2, 1, 3]
    assert farthest_points(torch.zeros(0, 3), 9).tolist() == []
    empty = torch.zeros(0, dtype=torch.int64)
    assert farthest_points(torch.zeros(0, 3), 9, batch=empty, first=empty).tolist() == []


def test_no_points_and_no_queries():
    nothing = torch.zeros(0, 3)
    assert nearest_neighbours(nothing, 3).rows.shape == (0, 3)
    assert nearest_neighbours(torch.zeros(4, 3), 3, queries=nothing).squared.shape == (0, 3)
    assert nearest_neighbours(nothing, 3, queries=torch.zeros(2, 3)).rows.tolist() == [[-1] * 3] * 2


SEARCHES = {
    "nearest": lambda points, **more: nearest_neighbours(points, 2, **more),
    "ball": lambda points, **more: ball_query(points, 0.5, 2, **more),
    "farthest": lambda points, **more: farthest_points(points, 2, **more),
}


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES.keys())
def test_points_that_are_refused(search):
    points = torch.zeros(5, 3)
    points[3, 1] = math.nan
    with pytest.raises(RangeError, match=r"1 of 5 points are not finite, first at row 3: \[0.0, nan, 0.0\]"):
        search(points)
    with pytest.raises(ShapeError, match=r"points must have shape \(\*, 3\), got \(4, 2\)"):
        search(torch.zeros(4, 2))
    with pytest.raises(DtypeError, match="points must be float32, got float64"):
        search(torch.zeros(4, 3, dtype=torch.float64))
    with pytest.raises(ShapeError, match=r"batch must have shape \(4\), got \(5\,\)"):
        search(torch.zeros(4, 3), batch=torch.zeros(5, dtype=torch.int64))
    with pytest.raises(DtypeError, match="batch must be int32, int64, got float32"):
        search(torch.zeros(4, 3), batch=torch.zeros(4))
    for wrong in (-1, 2047):
        with pytest.raises(RangeError, match=r"batch spans .*, but clouds are numbered 0 to 2046"):
            search(torch.zeros(2, 3), batch=torch.tensor([0, wrong]))


@pytest.mark.parametrize("name", ["nearest", "ball"])
def test_queries_that_are_refused(name):
    search, points = SEARCHES[name], torch.zeros(4, 3)
    with pytest.raises(RangeError, match="1 of 2 queries are not finite"):
        search(points, queries=torch.tensor([[0.0, 0, 0], [math.inf, 0, 0]]))
    with pytest.raises(RangeError, match="query_batch is given without queries"):
        search(points, query_batch=torch.zeros(4, dtype=torch.int64))
    with pytest.raises(RangeError, match="must both have a batch or neither, got only batch"):
        search(points, queries=points, batch=torch.zeros(4, dtype=torch.int64))
    with pytest.raises(DeviceError, match="points on cpu, queries on meta"):
        search(points, queries=_on_meta(points))


def _on_meta(points):
    class Elsewhere(torch.Tensor):
        device = torch.device("meta")

    return points.as_subclass(Elsewhere)


def test_numbers_that_are_refused():
    points = torch.zeros(4, 3)
    for k in (0, -1):
        with pytest.raises(RangeError, match=f"number of neighbours must be at least 1, got {k}"):
            nearest_neighbours(points, k)
        with pytest.raises(RangeError, match=f"n_samples must be at least 1, got {k}"):
            farthest_points(points, k)
    # at the ends a square is no more what it was
    for radius in (0.0, -1.0, math.nan, math.inf, 1e-323, 1e-170, 1e160):
        with pytest.raises(RangeError, match="radius must be positive and finite metres, and so must its"):
            ball_query(points, radius, 3)
    with pytest.raises(RangeError, match="order must be 'nearest' or 'index', got 'random'"):
        ball_query(points, 1.0, 3, order="random")  # type: ignore[arg-type]


def test_first_rows_that_are_refused():
    points, batch = torch.zeros(4, 3), torch.tensor([0, 0, 1, 1])
    for first in ([0, 1], [0, 4], [-1, 2]):
        wrong = 0 if first[0] else 1
        with pytest.raises(
            RangeError, match=rf"first\[{wrong}\] = {first[wrong]} is not a row of cloud {wrong}"
        ):
            farthest_points(points, 1, batch=batch, first=torch.tensor(first))
    with pytest.raises(ShapeError, match=r"first must have shape \(2\), got \(1,\)"):
        farthest_points(points, 1, batch=batch, first=torch.tensor([0]))
    with pytest.raises(DtypeError, match="first must be int32, int64, got float32"):
        farthest_points(points, 1, batch=batch, first=torch.zeros(2))


_PROGRAM = """
import hashlib, json, sys
import torch
from pcsparse.coords.neighbors import ball_query, farthest_points, nearest_neighbours

rng = torch.Generator().manual_seed(1)
points = torch.randn(20_000, 3, generator=rng) * 10 ** (torch.rand(20_000, 1, generator=rng) * 3)
batch = torch.randint(3, (20_000,), generator=rng)
answers = []
for threads in (1, 2, 4):
    torch.set_num_threads(threads)
    digest = hashlib.sha256()
    for found in (
        nearest_neighbours(points, 16, batch=batch), ball_query(points, 2.0, 32, batch=batch),
        ball_query(points, 2.0, 32, batch=batch, order="index"),
    ):
        digest.update(found.rows.numpy().tobytes() + found.squared.numpy().tobytes())
    digest.update(farthest_points(points, 500, batch=batch).numpy().tobytes())
    answers.append(digest.hexdigest())
json.dump(answers, sys.stdout)
"""


def test_neighbours_are_the_same_at_one_two_and_four_threads():
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env=os.environ | {"NUMBA_NUM_THREADS": "4", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert len(answers) == 3
    assert len(set(answers)) == 1


@pytest.mark.not_mocked("the twins ask, too")
@pytest.mark.parametrize("ascends", [False, True])
def test_a_gpu_gives_the_same_and_asks_once(device, ascends, rng, monkeypatch):
    points, queries = torch.randn(90, 3, generator=rng), torch.randn(20, 3, generator=rng)
    batch, query_batch = torch.randint(3, (90,), generator=rng), torch.randint(4, (20,), generator=rng)
    batch = batch.sort().values if ascends else batch
    searches = (
        lambda p, b, asked: nearest_neighbours(p, 5, batch=b, **asked).rows,
        lambda p, b, asked: nearest_neighbours(p, 5, batch=b).rows,
        lambda p, b, asked: ball_query(p, 0.7, 4, batch=b, **asked).rows,
        lambda p, b, asked: ball_query(p, 0.7, 4, order="index", batch=b, **asked).rows,
        lambda p, b, asked: farthest_points(p, 9, batch=b),
    )
    asked = {"queries": queries, "query_batch": query_batch}
    expected = [search(points, batch, asked) for search in searches]
    if device.type == "cpu":
        emulate(monkeypatch)
    asked = {name: part.to(device) for name, part in asked.items()}
    points, batch = points.to(device), batch.to(device)
    questions = []
    for name in ("__bool__", "__int__", "item", "tolist", "nonzero"):
        plain = getattr(torch.Tensor, name)

        def asks(*args, plain=plain):
            questions.append(plain)
            return plain(*args)

        monkeypatch.setattr(torch.Tensor, name, asks)
    # a sample also asks how large it is
    for search, same, most in zip(searches, expected, (1, 1, 1, 1, 2), strict=True):
        questions.clear()
        found = search(points, batch, asked)
        assert len(questions) == most
        assert torch.equal(found.cpu(), same)
