"""Training on sweeps in the memory of the device: the batches of the loaders, a run that goes on."""

from dataclasses import replace

import pytest
import torch

from pcsparse.data.collate import TrainSamples, VoxelSettings, collate
from pcsparse.data.label_map import LabelMap
from pcsparse.data.transforms import Augmentation, Jitter, RandomDrop, RandomYaw, SectorMix
from pcsparse.train import fit as fit_module
from pcsparse.train import state_writer
from pcsparse.train.checkpoint import run_facts
from pcsparse.train.fit import fit
from pcsparse.train.order import BatchesFrom, SampleOrder
from pcsparse.train.resident import ResidentSweeps
from pcsparse.train.settings import FitSettings
from tests.streets import TinyStreets, tiny_model

AUGMENTATION = Augmentation((RandomYaw(), Jitter(), RandomDrop()), SectorMix(0.7))
ORDER = BatchesFrom(SampleOrder(6, 2, 1, 2, 5), 0)


@pytest.mark.parametrize("voxels", [VoxelSettings(0.3), VoxelSettings(0.3, [-5, -5, -2, 6, 6, 2], 3.0)])
def test_without_augmentation_batches_are_those_of_the_loaders(device, voxels):
    source = TinyStreets(6)
    samples = TrainSamples(source, voxels, Augmentation(), 5)
    resident = ResidentSweeps(source, voxels, Augmentation(), 5, device)
    for ids, found in zip(ORDER, resident.batches(ORDER), strict=True):
        wanted = collate([samples[sample] for sample in ids])
        for name in ("coords", "feats", "targets"):
            assert torch.equal(getattr(found, name).cpu(), getattr(wanted, name)), name
        assert (found.names, found.n_points) == (wanted.names, wanted.n_points)
        assert found.coords.device.type == device.type


def test_a_batch_depends_on_seed_and_epoch_alone(device):
    def made(seed, start=0):
        order = BatchesFrom(ORDER.order, start)
        resident = ResidentSweeps(TinyStreets(6), VoxelSettings(0.3), AUGMENTATION, seed, device)
        return [batch.feats for batch in resident.batches(order)]

    first = made(5)
    assert all(map(torch.equal, first[2:], made(5, 2)))
    assert not any(map(torch.equal, first, made(6)))
    # the same sweeps in another epoch
    sizes = [sum(len(feats) for feats in epoch) for epoch in (first[:3], first[3:])]
    assert sizes[0] != sizes[1]


def test_a_run_that_was_stopped_goes_on_with_the_same_bits(tmp_path, monkeypatch):
    settings = FitSettings(
        epochs=2, voxels=VoxelSettings(0.3), resident=True, workers=0, progress="none", checkpoint_every=1
    )

    def run(folder):
        torch.manual_seed(0)
        labels = LabelMap.load("semantickitti")
        fit(tiny_model(), TinyStreets(4), None, settings, folder, labels=labels, augmentation=AUGMENTATION)
        return [row.split(",")[:9] for row in (folder / "log.csv").read_text().splitlines()]

    whole = run(tmp_path / "whole")
    real, stored = state_writer.save_state, []

    def save(path, state):
        real(path, state)
        stored.append(1)
        if len(stored) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(state_writer, "save_state", save)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut")
    assert run(tmp_path / "cut") == whole
    assert len(whole) == 5


def test_every_end_of_an_epoch_stores_the_state_and_those_that_are_due_the_model(tmp_path, monkeypatch):
    steps = {"state": [], "model": []}
    monkeypatch.setattr(state_writer, "save_state", lambda path, state: steps["state"].append(state.step))
    monkeypatch.setattr(
        fit_module, "save_model", lambda path, model, card: steps["model"].append(int(card.metrics["step"]))
    )
    settings = FitSettings(
        epochs=5, voxels=VoxelSettings(0.3), workers=0, progress="none", validate_every=0,
        store_every=2, checkpoint_every=0, resident=True,
    )  # fmt: skip
    fit(tiny_model(), TinyStreets(2), None, settings, tmp_path, labels=LabelMap.load("semantickitti"))
    assert steps == {"state": [1, 2, 3, 4, 5], "model": [2, 4, 5]}


def test_runs_from_before_know_nothing_of_it():
    facts = run_facts(FitSettings())
    assert not {"resident", "store_every"} & facts.keys()
    assert run_facts(replace(FitSettings(), resident=True))["resident"] == "True"
