"""Sweeps to voxel batches: features, targets, the way back to points, and the same bytes in every process."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pcsparse.data.collate import (
    PlainSamples,
    SampleId,
    TrainSamples,
    VoxelSettings,
    collate,
    voxel_batch,
)
from pcsparse.data.datasets.semantic_kitti import Sweep
from pcsparse.data.sweep_parts import rows_of
from pcsparse.data.transforms import Augmentation, Jitter, RandomDrop, RandomYaw, SectorMix
from pcsparse.data.transforms_mix import InclinationMix
from pcsparse.data.transforms_sensor import BeamDrop, IntensityResponse
from pcsparse.errors import FormatError, RangeError
from tests.streets import TinyStreets, tiny_street

AUGMENTATION = Augmentation((RandomYaw(), Jitter(), RandomDrop()), SectorMix(probability=1.0))


def sweep_of(points, targets=None, intensity=None, name="s"):
    points = np.array(points, dtype=np.float32).reshape(-1, 3)
    if intensity is None:
        intensity = np.linspace(0, 1, len(points))
    targets = None if targets is None else np.array(targets, dtype=np.int64)
    return Sweep(points, np.array(intensity, dtype=np.float32), targets, name)


def assert_same(first, second):
    for field in fields(first):
        one, two = getattr(first, field.name), getattr(second, field.name)
        if isinstance(one, torch.Tensor):
            assert one.dtype == two.dtype
            assert torch.equal(one, two), field.name
        else:
            assert one == two, field.name


def test_a_voxel_takes_its_first_point_and_the_majority_of_its_labels():
    points = [[0.55, 0, 0], [0.05, 0.05, 0.05], [0.01, 0, 0], [0.02, 0, 0], [-0.01, 0, 0]]
    batch = voxel_batch(sweep_of(points, [5, 2, 7, 7, -1]), VoxelSettings(0.1))
    assert batch.coords.tolist() == [[0, -1, 0, 0], [0, 0, 0, 0], [0, 5, 0, 0]]
    expected = torch.tensor([[-0.01, 0, 0, 1.0], [0.05, 0.05, 0.05, 0.25], [0.55, 0, 0, 0.0]])
    torch.testing.assert_close(batch.feats, expected, rtol=0, atol=0)
    assert batch.targets.tolist() == [-1, 7, 5]
    assert batch.n_labelled == 2
    assert batch.to_points(torch.tensor([10, 11, 12]))[0].tolist() == [12, 11, 11, 11, 10]


def test_invalid_and_cropped_points_come_back_as_ignored():
    points = [[0, 0, 0], [np.nan, 0, 0], [1, 1, 1], [9, 0, 0], [0, np.inf, 0], [2, 2, 2]]
    intensity = [0.1, 0.2, np.nan, 0.4, 0.5, 0.6]
    crop = VoxelSettings(0.5, [-5.0, -5.0, -5.0, 5.0, 5.0, 5.0])
    batch = voxel_batch(sweep_of(points, [1, 2, 3, 4, 5, 6], intensity), crop)
    assert batch.kept.tolist() == [True, False, False, False, False, True]
    assert torch.isfinite(batch.feats).all()
    assert batch.to_points(batch.targets)[0].tolist() == [1, -1, -1, -1, -1, 6]
    assert batch.point_targets.tolist() == [1, 2, 3, 4, 5, 6]


def test_every_point_gets_the_prediction_of_its_own_voxel():
    sweep = tiny_street(5)
    batch = voxel_batch(sweep, VoxelSettings(0.3))
    numbers = torch.arange(len(batch.coords))
    rows = batch.to_points(numbers)[0].numpy()
    cells = np.floor(sweep.points.astype(np.float64) / 0.3)
    np.testing.assert_array_equal(batch.coords.numpy()[rows, 1:], cells)


def test_a_batch_of_two_is_two_batches_of_one():
    settings = VoxelSettings(0.3)
    first, second = (voxel_batch(tiny_street(seed, n), settings) for seed, n in ((1, 300), (2, 200)))
    both = collate([first, second])
    n = len(first.coords)
    assert torch.equal(both.coords[:n], first.coords)
    assert torch.equal(both.coords[n:, 1:], second.coords[:, 1:])
    assert both.coords[n:, 0].unique().tolist() == [1]
    assert torch.equal(both.targets, torch.cat([first.targets, second.targets]))
    back = both.to_points(both.targets)
    assert torch.equal(back[0], first.to_points(first.targets)[0])
    assert torch.equal(back[1], second.to_points(second.targets)[0])
    assert both.names == ("street/000001", "street/000002")
    assert both.tensor().batch_size == 2
    assert_same(collate([first]), first)


def test_an_empty_sweep_between_others_keeps_its_place():
    settings = VoxelSettings(0.3)
    full = voxel_batch(tiny_street(1, 50), settings)
    empty = voxel_batch(sweep_of([], []), settings)
    both = collate([full, empty, full])
    assert both.tensor().batch_size == 3
    assert sorted(both.coords[:, 0].unique().tolist()) == [0, 2]
    points = both.to_points(both.targets)
    assert [len(p) for p in points] == [50, 0, 50]
    assert collate([full, empty]).tensor().batch_size == 2


def test_an_empty_sweep_has_no_voxels():
    batch = voxel_batch(sweep_of([], []), VoxelSettings())
    assert batch.coords.shape == (0, 4)
    assert batch.feats.shape == (0, 4)
    assert batch.n_labelled == 0
    assert len(batch.tensor()) == 0


def test_labels_that_do_not_match_the_points_are_an_error():
    with pytest.raises(FormatError, match=r"08/000001.*'points': 2, 'intensity': 2, 'targets': 3"):
        voxel_batch(sweep_of([[0, 0, 0], [1, 1, 1]], [1, 2, 3], name="08/000001"), VoxelSettings())


def test_a_point_beyond_the_key_names_the_sweep():
    with pytest.raises(RangeError, match=r"far/away: .*beyond"):
        voxel_batch(sweep_of([[1e6, 0, 0]], name="far/away"), VoxelSettings(0.05))


def test_mixed_labels_in_a_batch_are_an_error():
    labelled, bare = tiny_street(1, 20), replace(tiny_street(2, 20), targets=None)
    with pytest.raises(FormatError, match="street/000002"):
        collate([voxel_batch(s, VoxelSettings()) for s in (labelled, bare)])


def test_points_of_the_own_vehicle_come_back_as_ignored():
    points = [(1.0, 0.0, -1.0), (1.5, -1.5, -1.5), (0.0, 0.0, 2.5), (np.nan, 0.0, 0.0), (9.0, 0.0, -1.7)]
    batch = voxel_batch(sweep_of(points, [1, 2, 3, 4, 5], [0.5] * 5), VoxelSettings(0.5, min_range=2.5))
    assert batch.kept.tolist() == [False, True, True, False, True]
    assert batch.to_points(torch.full((len(batch.coords),), 3))[0].tolist() == [-1, 3, 3, -1, 3]


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_senseless_least_range_is_refused(value):
    with pytest.raises(RangeError, match="min_range"):
        VoxelSettings(0.1, min_range=value)


@pytest.mark.parametrize("crop", [[0.0] * 6, [0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0, 1.0, 1.0]])
def test_a_senseless_crop_is_refused(crop):
    with pytest.raises(RangeError, match="crop"):
        VoxelSettings(0.1, crop)


def test_a_sample_is_a_function_of_seed_epoch_and_sweep():
    def sample(seed, epoch, sweep):
        samples = TrainSamples(TinyStreets(4), VoxelSettings(0.3), AUGMENTATION, seed)
        return samples[SampleId(epoch, sweep)]

    assert_same(sample(0, 1, 2), sample(0, 1, 2))
    for other in (sample(1, 1, 2), sample(0, 2, 2), sample(0, 1, 3)):
        assert not torch.equal(sample(0, 1, 2).feats[:20], other.feats[:20])


def test_loader_processes_give_the_bytes_of_this_one():
    samples = TrainSamples(TinyStreets(4), VoxelSettings(0.3), AUGMENTATION, 7)
    batches = [[SampleId(epoch, i), SampleId(epoch, i + 1)] for epoch in range(2) for i in (0, 2)]
    here = [collate([samples[sample] for sample in batch]) for batch in batches]
    there = list(
        DataLoader(samples, batch_sampler=batches, collate_fn=collate, num_workers=2, prefetch_factor=1)
    )
    for one, two in zip(here, there, strict=True):
        assert_same(one, two)


def test_a_training_sample_holds_no_points():
    samples = TrainSamples(TinyStreets(2), VoxelSettings(0.3), Augmentation(), 7)
    whole = voxel_batch(TinyStreets(2)[1], VoxelSettings(0.3))
    for batch in (samples[SampleId(0, 1)], collate([samples[SampleId(0, 1)], whole])):
        assert batch.point_targets is None
    lean = samples[SampleId(0, 1)]
    assert len(lean.inverse) == len(lean.kept) == lean.n_points[0] == 0
    for name in ("coords", "feats", "targets"):
        assert torch.equal(getattr(lean, name), getattr(whole, name))
    assert [len(part) for part in lean.to_points(torch.zeros(len(lean.coords), dtype=torch.int64))] == [0]


def test_training_needs_labels():
    class Bare(TinyStreets):
        def __getitem__(self, index):
            return replace(super().__getitem__(index), targets=None)

    with pytest.raises(FormatError, match="street/000001 has no labels"):
        TrainSamples(Bare(2), VoxelSettings(), Augmentation(), 0)[SampleId(0, 1)]
    assert PlainSamples(Bare(2), VoxelSettings())[1].targets is None


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation((BeamDrop(probability=1.0), IntensityResponse())),
        Augmentation((), InclinationMix(probability=1.0)),
    ],
    ids=["sensor", "bands"],
)
def test_rows_that_are_not_finite_change_no_augmented_sample(augmentation):
    class Spoiled(TinyStreets):
        def __getitem__(self, index):
            sweep = super().__getitem__(index)
            sweep.points[7, 1] = np.nan
            sweep.intensity[9] = np.nan
            return sweep

    class Without(Spoiled):
        def __getitem__(self, index):
            sweep = super().__getitem__(index)
            return rows_of(sweep, np.delete(np.arange(len(sweep.points)), [7, 9]))

    spoiled, without = (
        TrainSamples(source, VoxelSettings(0.3), augmentation, 7)[SampleId(0, 1)]
        for source in (Spoiled(3), Without(3))
    )
    assert_same(spoiled, without)
