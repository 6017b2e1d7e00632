"""A large cloud by tiles: the same answers as in one pass where a tile holds it, and rows that fit."""

import numpy as np
import pytest
import torch

from pcsparse.data.collate import VoxelSettings
from pcsparse.data.files import read_points
from pcsparse.data.files_tiles import cloud_tiles
from pcsparse.data.input_spec import CloudFacts, InputSpec
from pcsparse.infer.predictor import Predictor
from pcsparse.infer.tiling import Levelling, predict_tiles
from tests.streets import tiny_model, tiny_street


@pytest.fixture
def predictor():
    torch.manual_seed(0)
    return Predictor(tiny_model().train(), VoxelSettings(0.3))


@pytest.fixture
def cloud(tmp_path):
    sweep = tiny_street(2)
    rows = np.column_stack([sweep.points, sweep.intensity])
    rows[:, :2] += 50.0
    rows[7, 0] = np.nan
    np.save(tmp_path / "street.npy", rows)
    with pytest.warns(UserWarning, match="dropped"):
        return read_points(tmp_path / "street.npy")


def test_a_tile_that_holds_all_is_one_pass(predictor, cloud):
    # the square from 0 to 100 m, its middle where the street's was
    tiles = cloud_tiles(cloud, 100.0, 0.0)
    assert tiles.n_tiles == 1
    got = predict_tiles(predictor, tiles, lambda tile: tile.points)
    points = cloud.points - np.array([50, 50, 0], np.float32)
    expected = predictor(points, cloud.intensity)
    np.testing.assert_array_equal(got.targets, cloud.to_file_rows(expected.targets, -1))
    np.testing.assert_array_equal(got.confidence, cloud.to_file_rows(expected.confidence, 0))
    assert (got.targets.dtype, got.targets[7], got.confidence[7]) == (np.int16, -1, 0)
    assert (got.n_voxels, got.largest) == (expected.n_voxels, 599)


def test_each_square_decides_on_its_own_points(predictor, cloud):
    seen = []
    got = predict_tiles(
        predictor,
        cloud_tiles(cloud, 10.0, 10.0),
        lambda tile: tile.points,
        lambda tile, targets: seen.append((tile, targets)),
    )
    assert len(seen) > 4
    for tile, targets in seen:
        assert targets.shape == (len(tile),)
        alone = predictor(tile.points, tile.intensity)
        np.testing.assert_array_equal(got.targets[tile.rows[tile.inside]], alone.targets[tile.inside])
        np.testing.assert_array_equal(got.confidence[tile.rows[tile.inside]], alone.confidence[tile.inside])
    assert (got.targets == -1).nonzero()[0].tolist() == [7]
    assert got.largest == max(len(tile) for tile, _ in seen)


class TestLevelling:
    def tile(self, height, n=400):
        from pcsparse.data.files_tiles import Tile

        rng = np.random.default_rng(0)
        points = np.column_stack([rng.uniform(-9, 9, (n, 2)), np.full(n, height)]).astype(np.float32)
        return Tile(points, np.zeros(3), None, np.arange(n), np.ones(n, bool))

    def spec(self):
        return InputSpec.of([CloudFacts.of(self.tile(-1.73).points, None)])

    def test_ground_comes_to_where_the_model_knows_it(self):
        level = Levelling(self.spec())
        for height in (120.0, 125.5, -3.0):
            np.testing.assert_allclose(level(self.tile(height))[:, 2], -1.73, atol=1e-4)

    def test_a_tile_of_few_points_follows_the_one_before(self):
        level = Levelling(self.spec())
        np.testing.assert_allclose(level(self.tile(120.0))[:, 2], -1.73, atol=1e-4)
        np.testing.assert_allclose(level(self.tile(125.0, 20))[:, 2], 3.27, atol=1e-4)

    def test_few_points_before_any_ground_is_known_are_levelled_by_their_own_lowest(self):
        level = Levelling(self.spec())
        for height in (500.0, 520.0):
            sparse = self.tile(height, 20)
            # most of them on a crown
            sparse.points[3:, 2] += 8.0
            np.testing.assert_allclose(level(sparse)[:3, 2], -1.73, atol=1e-3)
        np.testing.assert_allclose(level(self.tile(510.0))[:, 2], -1.73, atol=1e-4)
        np.testing.assert_allclose(level(self.tile(500.0, 20))[:, 2], -11.73, atol=1e-4)

    def test_a_tile_at_the_edge_of_a_cloud_is_levelled_by_the_points_it_has(self):
        tile = self.tile(120.0)
        tile.points[:, :2] += 25.0
        np.testing.assert_allclose(Levelling(self.spec())(tile)[:, 2], -1.73, atol=1e-4)

    def test_a_given_offset_wins(self):
        level = Levelling(self.spec(), -100.0)
        np.testing.assert_allclose(level(self.tile(120.0))[:, 2], 20.0, atol=1e-4)
