"""Point-level evaluation: voxel predictions go back to every point of every sweep."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pcsparse.data.collate import VoxelSettings
from pcsparse.errors import FormatError
from pcsparse.train.evaluation import evaluate, evaluating
from tests.streets import TinyStreets

CPU = torch.device("cpu")


class HighIsOne(nn.Module):
    """Class 1 above z = 0, class 0 below; sees the first point of a voxel. Counts its calls in each mode."""

    def __init__(self, n_classes=2):
        super().__init__()
        self.n_classes = n_classes
        self.modes = []

    def forward(self, x):
        self.modes.append((self.training, torch.is_grad_enabled()))
        logits = torch.zeros(len(x), self.n_classes)
        logits[torch.arange(len(x)), (x.feats[:, 2] > 0).long() * (self.n_classes - 1)] = 1.0
        return x.replace(logits)


class HighAndLow(TinyStreets):
    """Truth: class 1 above z = 0; the last sweep has no labels, some points are broken."""

    def __getitem__(self, index):
        sweep = super().__getitem__(index)
        targets = (sweep.points[:, 2] > 0).astype(np.int64)
        targets[::7] = -1
        points = sweep.points.copy()
        points[3] = np.nan
        bare = index == self.n - 1
        return replace(sweep, points=points, targets=None if bare else targets)


@pytest.mark.parametrize("workers", [0, 2])
def test_every_labelled_point_counts_once_with_the_class_of_its_voxel(workers):
    source = HighAndLow(3)
    seen = {}
    model = HighIsOne().train()
    voxels = VoxelSettings(0.5)
    confusion = evaluate(
        model, source, voxels, 2, device=CPU, workers=workers, on_sweep=lambda n, t: seen.update({n: t})
    )
    expected = torch.zeros(3, 3, dtype=torch.int64)
    for index in range(3):
        sweep = source[index]
        # the plainest way: the first finite point of each voxel decides for all of them
        first, predicted = {}, []
        for row in sweep.points:
            if not np.isfinite(row).all():
                predicted.append(-1)
                continue
            cell = tuple(np.floor(row.astype(np.float64) / 0.5))
            predicted.append(first.setdefault(cell, int(row[2] > 0)))
        assert seen[sweep.name].tolist() == predicted
        if sweep.targets is not None:
            for p, t in zip(predicted, sweep.targets, strict=True):
                expected[p + 1, t + 1] += 1
    assert torch.equal(confusion.counts, expected)
    assert expected[0].sum() > 0
    assert model.training
    assert set(model.modes) == {(False, False)}


def test_the_mode_comes_back_after_an_error():
    class Broken(TinyStreets):
        def __getitem__(self, index):
            raise FormatError("broken")

    model = HighIsOne().train()
    with pytest.raises(FormatError, match="broken"):
        evaluate(model, Broken(1), VoxelSettings(), 2, device=CPU)
    assert model.training


def test_norms_that_were_frozen_stay_so():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2)).train()
    model[0].eval()
    with evaluating(model):
        assert not any(part.training for part in model.modules())
    assert [part.training for part in (model, *model)] == [True, False, True]


def test_a_model_of_other_classes_is_an_error():
    with pytest.raises(FormatError, match="class 4 of 2"):
        evaluate(HighIsOne(5), TinyStreets(1), VoxelSettings(), 2, device=CPU)
