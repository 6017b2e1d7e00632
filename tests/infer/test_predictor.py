"""One cloud in, one target a point out."""

import numpy as np
import pytest
import torch

from pcsparse.data.collate import VoxelSettings, voxel_batch
from pcsparse.data.datasets.semantic_kitti import Sweep
from pcsparse.errors import FormatError, RangeError
from pcsparse.infer.predictor import Predictor
from tests.streets import tiny_model, tiny_street


@pytest.fixture
def predictor():
    torch.manual_seed(0)
    return Predictor(tiny_model().train(), VoxelSettings(0.3))


def test_every_point_gets_the_class_that_the_network_gives_its_voxel(predictor):
    sweep = tiny_street(2)
    prediction = predictor(sweep.points, sweep.intensity)
    assert not predictor.model.training
    assert prediction.targets.shape == (600,)
    assert prediction.targets.dtype == np.int64
    assert prediction.n_left_out == 0
    cells = np.floor(sweep.points.astype(np.float64) / 0.3)
    # a column of its own in numpy 2.0
    inverse = np.unique(cells, axis=0, return_inverse=True)[1].ravel()
    assert prediction.n_voxels == inverse.max() + 1 < 600
    for voxel in range(prediction.n_voxels):
        assert len(set(prediction.targets[inverse == voxel])) == 1
    assert len(set(prediction.targets)) > 1
    again = predictor(sweep.points, sweep.intensity)
    np.testing.assert_array_equal(again.targets, prediction.targets)


def test_predictions_follow_the_points_when_they_are_shuffled(predictor):
    sweep = tiny_street(2)
    # one point a voxel, for the first one speaks for its voxel
    cells = np.floor(sweep.points.astype(np.float64) / 0.3)
    _, rows = np.unique(cells, axis=0, return_index=True)
    order = np.random.default_rng(0).permutation(rows)
    straight = predictor(sweep.points[rows], sweep.intensity[rows]).targets
    shuffled = predictor(sweep.points[order], sweep.intensity[order]).targets
    back = dict(zip(order, shuffled, strict=True))
    assert [back[row] for row in rows] == straight.tolist()


def test_no_intensity_is_intensity_zero(predictor):
    sweep = tiny_street(2)
    without = predictor(sweep.points, None).targets
    np.testing.assert_array_equal(without, predictor(sweep.points, np.zeros(600, np.float32)).targets)
    assert (without != predictor(sweep.points, sweep.intensity).targets).any()


def test_broken_and_cropped_points_have_no_class(predictor):
    sweep = tiny_street(2)
    predictor.voxels = VoxelSettings(0.3, [-5.0, -50.0, -50.0, 5.0, 50.0, 50.0])
    points = sweep.points.copy()
    points[10] = np.nan
    prediction = predictor(points, sweep.intensity)
    outside = ~(np.abs(points[:, 0]) < 5)
    np.testing.assert_array_equal(prediction.targets == -1, outside)
    assert prediction.n_left_out == outside.sum() > 1


def test_confidence_is_the_share_of_the_class(predictor):
    sweep = tiny_street(2)
    points = sweep.points.copy()
    points[10] = np.nan
    prediction = predictor(points, sweep.intensity)
    batch = voxel_batch(Sweep(points, sweep.intensity, None, "cloud"), predictor.voxels)
    shares = predictor.model(batch.tensor("cpu")).feats.detach().double().softmax(dim=1).numpy()
    rows = shares[batch.inverse.numpy()]
    finite = np.arange(600) != 10
    expected = rows[np.arange(599), prediction.targets[finite]]
    assert prediction.confidence.dtype == np.float32
    np.testing.assert_allclose(prediction.confidence[finite], expected, rtol=1e-5)
    assert prediction.confidence[10] == 0
    assert 1 / 19 < prediction.confidence[finite].min() < prediction.confidence.max() < 1


def test_the_empty_cloud(predictor):
    prediction = predictor(np.zeros((0, 3), np.float32), None)
    assert prediction.targets.shape == (0,)
    assert prediction.confidence.shape == (0,)
    assert prediction.n_voxels == 0


def test_a_single_point(predictor):
    assert predictor(np.zeros((1, 3), np.float32), None).targets.shape == (1,)


def test_bad_input_is_named(predictor):
    points = np.zeros((3, 3), np.float32)
    with pytest.raises(FormatError, match="mine"):
        predictor(points, np.zeros(2, np.float32), "mine")
    points[1] = 1e7
    with pytest.raises(RangeError, match=r"mine: .*row 1"):
        predictor(points, None, "mine")
    with torch.no_grad():
        predictor.model.classifier.bias.fill_(float("nan"))
    with pytest.raises(RangeError, match="not finite"):
        predictor(np.zeros((3, 3), np.float32), None)
