"""Each ray caster against brute force, and the two against each other on a town."""

import numpy as np
import pytest

from pcsparse.data.synthetic.caster import CASTERS, MISS, make_caster, resolve_caster
from pcsparse.data.synthetic.materials import BUILDING, LEAVES, ROAD
from pcsparse.data.synthetic.mesh import EMPTY, Mesh, box, join, quads, triangles
from pcsparse.data.synthetic.scene import make_town
from pcsparse.data.synthetic.sensor import sensor_named
from pcsparse.data.synthetic.sweep import Drive
from pcsparse.errors import UnsupportedError


@pytest.fixture(params=CASTERS)
def name(request: pytest.FixtureRequest) -> str:
    if request.param == "embree":
        pytest.importorskip("open3d", reason="embree needs the sim extra")
    return str(request.param)


def brute_force(mesh: Mesh, origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First hits by solving origin + t d = a + u e1 + v e2 for every ray and triangle, in float64."""
    corners = mesh.corners
    best, found = np.full(len(origins), np.inf), np.full(len(origins), MISS)
    for ray, (o, d) in enumerate(zip(origins, directions, strict=True)):
        e1, e2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
        system = np.stack([np.broadcast_to(-d, e1.shape), e1, e2], -1)
        solvable = np.abs(np.linalg.det(system)) > 1e-12
        t, u, v = np.linalg.solve(system[solvable], (o - corners[solvable, 0])[..., None])[..., 0].T
        hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0)
        if hit.any():
            rows = np.flatnonzero(solvable)[hit]
            found[ray], best[ray] = rows[np.argmin(t[hit])], t[hit].min()
    return best, found


def rays(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return rng.uniform(-1, 1, (count, 3)).astype(np.float32), directions.astype(np.float32)


def test_hits_are_those_of_brute_force(name: str) -> None:
    rng = np.random.default_rng(7)
    soup = triangles(rng.uniform(-8, 8, (700, 1, 3)) + rng.normal(size=(700, 3, 3)), LEAVES)
    origins, directions = rays(rng, 400)
    distance, triangle = brute_force(soup, origins, directions)
    hits = make_caster(name, soup).cast(origins, directions)

    assert (triangle == MISS).sum() > 20
    assert (triangle != MISS).sum() > 200
    np.testing.assert_array_equal(hits.triangle, triangle)
    np.testing.assert_allclose(hits.distance, distance, atol=1e-4)


def test_axis_parallel_rays_and_flat_boxes(name: str) -> None:
    floor = quads(np.array([[[-9, -9, -2], [9, -9, -2], [9, 9, -2], [-9, 9, -2]]]), ROAD)
    mesh = join([floor, box((5.0, 0.1, 0.2), (2.0, 2.0, 2.0), BUILDING)])
    directions = np.array([[0, 0, -1], [1, 0, 0], [-1, 0, 0], [0, 0, 1], [0, 1, 0]], np.float32)
    hits = make_caster(name, mesh).cast(np.zeros((5, 3), np.float32), directions)

    np.testing.assert_allclose(hits.distance, [2.0, 4.0, np.inf, np.inf, np.inf], atol=1e-5)
    assert mesh.semantic[hits.triangle[:2]].tolist() == [40, 50]
    assert hits.triangle[2:].tolist() == [MISS] * 3


def test_neighbouring_triangles_leave_no_crack(name: str) -> None:
    rng = np.random.default_rng(3)
    x, y = np.meshgrid(np.linspace(-9, 9, 61), np.linspace(-9, 9, 61), indexing="ij")
    grid = np.stack([x, y, -1.0 + 0.02 * rng.normal(size=x.shape)], -1)
    cells = np.stack([grid[:-1, :-1], grid[1:, :-1], grid[1:, 1:], grid[:-1, 1:]], 2)
    mesh = quads(cells.reshape(-1, 4, 3), ROAD)
    # straight at the shared corners and along the shared edges
    aim = grid[15:-15, 15:-15].reshape(-1, 3)
    aim = np.concatenate([aim, 0.5 * (aim[1:] + aim[:-1])])
    aim = aim / np.linalg.norm(aim, axis=1, keepdims=True)
    hits = make_caster(name, mesh).cast(np.zeros((len(aim), 3), np.float32), aim.astype(np.float32))

    assert len(aim) > 1800
    # Embree loses 5 of the 1,921 rays that are aimed at corners and edges themselves
    assert (hits.triangle == MISS).sum() <= (0.005 * len(aim) if name == "embree" else 0)


@pytest.mark.parametrize("mesh", [EMPTY, triangles(np.eye(3)[None], ROAD)], ids=["empty", "one-triangle"])
def test_small_meshes_and_no_rays(name: str, mesh: Mesh) -> None:
    caster = make_caster(name, mesh)
    one = caster.cast(np.zeros((1, 3), np.float32), np.full((1, 3), 3**-0.5, np.float32))
    assert (one.triangle[0] == MISS) == (len(mesh) == 0)
    none = caster.cast(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32))
    assert none.distance.shape == none.triangle.shape == (0,)


def globe(centre: np.ndarray, radius: float, steps: int = 240) -> Mesh:
    """A sphere of small triangles, within radius * 1e-4 of round."""
    lat, lon = np.meshgrid(
        np.linspace(-np.pi / 2, np.pi / 2, steps // 2 + 1),
        np.linspace(0, 2 * np.pi, steps + 1),
        indexing="ij",
    )
    grid = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1)
    cells = np.stack([grid[:-1, :-1], grid[:-1, 1:], grid[1:, 1:], grid[1:, :-1]], 2)
    return quads(centre + radius * cells.reshape(-1, 4, 3), LEAVES)


def test_a_plane_a_box_and_a_sphere_are_where_geometry_says(name: str) -> None:
    low, high, centre, radius = np.array([6.0, -1, -2]), np.array([9.0, 2, 1]), np.array([-7.0, 3, 0.5]), 2.0
    floor = quads(np.array([[[-60, -60, -2], [60, -60, -2], [60, 60, -2], [-60, 60, -2]]]), ROAD)
    block = box(tuple((low + high) / 2), tuple(high - low), BUILDING)
    mesh = join([floor, block, globe(centre, radius)])
    origins, ways = rays(np.random.default_rng(5), 20000)
    # half of them nearly level, as a sensor's far rings are: they graze the floor
    ways[::2, 2] *= 0.03
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)

    o, d = origins.astype(np.float64), ways.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        plane = (-2.0 - o[:, 2]) / d[:, 2]
        reach = np.abs(o[:, :2] + plane[:, None] * d[:, :2]).max(1)
        plane = np.where((plane > 0) & (reach < 60), plane, np.inf)
        a, b = (low - o) / d, (high - o) / d
    near, far = np.minimum(a, b).max(1), np.maximum(a, b).min(1)
    cube = np.where((near <= far) & (near > 0), near, np.inf)
    towards = ((centre - o) * d).sum(1)
    beside = ((centre - o) ** 2).sum(1) - towards**2
    ball = np.where((beside < radius**2) & (towards > 0), towards, np.inf)
    ball = np.where(np.isfinite(ball), ball - np.sqrt(np.maximum(radius**2 - beside, 0)), np.inf)
    distances = np.stack([plane, cube, ball])
    expected, owner = distances.min(0), distances.argmin(0)

    hits = make_caster(name, mesh).cast(origins, ways)
    both = np.isfinite(expected) & np.isfinite(hits.distance)
    assert (np.isfinite(expected) != np.isfinite(hits.distance)).mean() < 5e-4
    assert both.mean() > 0.3
    # a rim of the sphere seen from the side is off by more than its facets are high
    close = np.abs(expected[both] - hits.distance[both]) < 2e-3 * np.maximum(1.0, expected[both] / 10)
    assert close.mean() > 0.998
    label = np.array([ROAD.semantic, BUILDING.semantic, LEAVES.semantic])[owner[both]]
    assert (mesh.semantic[hits.triangle[both]] == label).mean() > 0.999
    assert (np.bincount(owner[both], minlength=3) > 400).all()


@pytest.mark.parametrize(("seed", "sensor"), [(11, "hdl64e"), (4, "hdl32e")])
def test_the_two_casters_see_the_same_town(seed: int, sensor: str) -> None:
    pytest.importorskip("open3d", reason="embree needs the sim extra")
    drive = Drive(make_town(seed, 60.0), sensor_named(sensor), "bvh")
    mesh, bvh, origin = drive._static(20.0)
    pose, _ = drive.pose_of(2, 12.0)
    # the sensor's own rays, and as many that graze the road far away
    elevation = np.radians(np.concatenate([drive.sensor.elevations, np.linspace(-1.6, -0.4, 32)]))
    azimuth = drive.sensor.azimuths(0.3)[:: 2 if sensor == "hdl64e" else 1]
    elevation, azimuth = (grid.ravel() for grid in np.meshgrid(elevation, azimuth, indexing="ij"))
    local = [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)]
    directions = (np.stack(local, 1) @ pose[:3, :3].T).astype(np.float32)
    origins = np.broadcast_to((pose[:3, 3] - origin).astype(np.float32), directions.shape)

    ours, theirs = bvh.cast(origins, directions), make_caster("embree", mesh).cast(origins, directions)
    both = (ours.triangle != MISS) & (theirs.triangle != MISS)
    same = (ours.triangle == MISS) & (theirs.triangle == MISS)
    near = np.abs(np.where(both, ours.distance, 0) - np.where(both, theirs.distance, 0)) < 1e-3
    label = mesh.semantic[ours.triangle] == mesh.semantic[theirs.triangle]

    assert both.mean() > 0.7
    assert (same | (both & near & label)).mean() >= 0.999
    grazing = elevation > np.radians(-1.7)
    assert (same | (both & near & label))[grazing].mean() >= 0.999


def test_auto_names_a_caster_and_unknown_names_are_refused() -> None:
    assert resolve_caster("auto") in CASTERS
    with pytest.raises(UnsupportedError, match=r"'octree'.*embree, bvh"):
        resolve_caster("octree")
