"""The rules that all formats share: invalid points, origin, intensity."""

import warnings

import numpy as np
import pytest

from pcsparse.data.files import read_points
from pcsparse.errors import FormatError, RangeError
from tests.data.rows import street


@pytest.fixture
def save(tmp_path):
    def write(rows, **arrays):
        path = tmp_path / ("a.npz" if arrays else "a.npy")
        np.savez(path, points=rows, **arrays) if arrays else np.save(path, rows)
        return path

    return write


BAD = (3, 17, 40)


@pytest.fixture
def holed(save):
    rows = street(60)
    rows[BAD[0], 0], rows[BAD[1], 2], rows[BAD[2], 3] = np.nan, -np.inf, np.nan
    return rows, save(rows)


class TestInvalidPoints:
    def test_drop_warns_with_the_count_and_keeps_the_rows(self, holed):
        rows, path = holed
        with pytest.warns(
            UserWarning, match=r"a\.npy: 3 of 60 points are NaN or infinite \(first: row 3\): dropped"
        ):
            cloud = read_points(path)
        kept = np.setdiff1d(np.arange(60), BAD)
        np.testing.assert_array_equal(cloud.kept, kept)
        np.testing.assert_array_equal(cloud.points, rows[kept, :3])
        np.testing.assert_array_equal(cloud.intensity, rows[kept, 3])
        assert (len(cloud), cloud.n_file) == (57, 60)

    def test_predictions_align_with_the_file(self, holed):
        _, path = holed
        with pytest.warns(UserWarning, match="dropped"):
            cloud = read_points(path)
        predicted = (100 + cloud.kept).astype(np.uint32)
        labels = cloud.to_file_rows(predicted, fill=0)
        expected = np.arange(100, 160, dtype=np.uint32)
        expected[list(BAD)] = 0
        np.testing.assert_array_equal(labels, expected)
        assert labels.dtype == np.uint32
        with pytest.raises(RangeError, match="57 points need as many values"):
            cloud.to_file_rows(predicted[1:], fill=0)

    def test_raise(self, holed):
        with pytest.raises(FormatError, match=r"3 of 60 points .* invalid='drop' or 'keep'"):
            read_points(holed[1], invalid="raise")

    def test_keep(self, holed):
        rows, path = holed
        cloud = read_points(path, invalid="keep")
        np.testing.assert_array_equal(cloud.points, rows[:, :3])
        np.testing.assert_array_equal(cloud.intensity, rows[:, 3])
        np.testing.assert_array_equal(cloud.kept, np.arange(60))

    def test_unknown_policy(self, holed):
        with pytest.raises(RangeError, match="'drop', 'raise' or 'keep', got 'ignore'"):
            read_points(holed[1], invalid="ignore")

    def test_all_points_invalid_leaves_an_empty_cloud(self, save):
        path = save(np.full((5, 4), np.nan))
        with pytest.warns(UserWarning, match="5 of 5 points"):
            assert len(read_points(path)) == 0
        kept = read_points(path, invalid="keep")
        assert len(kept) == 5
        assert not kept.origin.any()


class TestOrigin:
    UTM = np.array([637_179.25, 849_498.75, 431.5])

    def test_world_coordinates_keep_their_millimetres(self, save):
        near = street(200)[:, :3].astype(np.float64)
        cloud = read_points(save(near + self.UTM))
        assert cloud.origin.dtype == np.float64
        np.testing.assert_array_equal(cloud.origin, np.round(cloud.origin))
        # z stays: only far axes are moved
        assert (np.abs(cloud.origin[:2] - self.UTM[:2]) < 80).all()
        assert cloud.origin[2] == 0
        np.testing.assert_allclose(cloud.world(), near + self.UTM, rtol=0, atol=2e-5)
        # float32 first would be off by up to 3 cm: the step is 6.25 cm there
        assert np.abs((near + self.UTM).astype(np.float32) - (near + self.UTM)).max() > 0.02

    def test_a_map_of_the_mountains_is_moved_down_too(self, save):
        near = street(200)[:, :3].astype(np.float64)
        world = near + np.array([637_179.25, 849_498.75, 1_698.5])
        cloud = read_points(save(world))
        assert abs(cloud.origin[2] - 1_698.5) < 10
        np.testing.assert_allclose(cloud.world(), world, rtol=0, atol=2e-5)

    def test_a_height_in_millimetres_is_left_alone(self, save):
        assert not read_points(save(1000 * street(200)[:, :3] - np.array([0, 0, 1_698.0]))).origin.any()

    def test_nor_that_of_a_sensor_that_looks_ahead(self, save):
        near = street(200)[:, :3]
        ahead = np.stack([2_000 + 140.0 * np.arange(200), 50.0 * near[:, 1], near[:, 2] - 1_730.0], 1)
        assert read_points(save(ahead)).origin[2] == 0

    def test_the_note_names_every_metre(self, save):
        x, y = 637_179, 5_849_499
        cloud = read_points(save(street(200)[:, :3] * 0.001 + np.array([x, y, 0.0])))
        assert f"world coordinates: origin ({x}, {y}, 0) m subtracted" in cloud.notes

    def test_one_stray_point_does_not_pull_the_origin(self, save):
        rows = street(200)[:, :3] + self.UTM
        rows[0] = 0
        cloud = read_points(save(rows))
        assert np.abs(cloud.points[1:, :2]).max() < 200

    def test_sensor_frames_are_left_alone(self, save):
        rows = street(200)
        rows[0, 0] = 2e4
        assert not read_points(save(rows)).origin.any()

    def test_non_finite_points_do_not_matter(self, save):
        rows = street(200)[:, :3] + self.UTM
        clean = read_points(save(rows)).origin
        rows[5] = np.nan
        np.testing.assert_allclose(read_points(save(rows), invalid="keep").origin, clean, atol=2)

    def test_real_airborne_file(self, real_data):
        cloud = read_points(real_data / "las" / "autzen_trim.laz")
        laspy = pytest.importorskip("laspy")
        # its header says feet
        feet = laspy.read(real_data / "las" / "autzen_trim.laz").xyz
        np.testing.assert_allclose(cloud.world(), feet * 0.3048, rtol=0, atol=1e-4)


class TestIntensity:
    @pytest.mark.parametrize(
        ("values", "scale"),
        [
            (np.linspace(0, 0.99, 60), 1),
            (np.linspace(0, 1.3, 60), 1),
            (np.linspace(0, 90, 60), 255),
            (np.linspace(0, 255, 60).astype(np.uint8), 255),
            (np.arange(60).astype(np.int64) % 2, 255),
            (np.linspace(0, 256, 60), 65535),
            (np.linspace(0, 65535, 60).astype(np.uint16), 65535),
        ],
        ids=["unit", "a little over", "float 255", "bytes", "dark integers", "float 16 bit", "16 bit"],
    )
    def test_scale_is_inferred(self, save, values, scale):
        cloud = read_points(save(street(60)[:, :3], intensity=values))
        np.testing.assert_allclose(cloud.intensity, np.clip(values / scale, 0, 1), rtol=1e-6)
        if scale > 1:
            assert any(f"divided by {scale}" in note for note in cloud.notes)
        if values.max() > scale:
            assert any("clipped to 1" in note for note in cloud.notes)

    @pytest.mark.parametrize(
        ("low", "high", "said"), [(-1, 1, "cannot be negative"), (0, 1e6, "no known scale")]
    )
    def test_no_scale_fits(self, save, low, high, said):
        path = save(street(60)[:, :3], intensity=np.linspace(low, high, 60))
        with pytest.raises(FormatError, match=said):
            read_points(path)

    def test_given_scale(self, save):
        values = np.linspace(0, 4095, 60)
        path = save(street(60)[:, :3], intensity=values)
        np.testing.assert_allclose(
            read_points(path, intensity_scale=4095).intensity, values / 4095, rtol=1e-6
        )
        with pytest.raises(FormatError, match="reaches 4095, full scale is 1 here"):
            read_points(path, intensity_scale=1)
        with pytest.raises(RangeError, match="positive and finite, got 0"):
            read_points(path, intensity_scale=0)

    def test_absent_intensity_is_none_and_dark_is_noted(self, save):
        cloud = read_points(save(street(60)[:, :3]))
        assert cloud.intensity is None
        assert "the file has no intensity" in cloud.notes
        rows = street(60)
        rows[:, 3] = 0
        assert "intensity is 0 throughout" in read_points(save(rows)).notes


def test_clean_files_do_not_warn(save):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_points(save(street(60)))
