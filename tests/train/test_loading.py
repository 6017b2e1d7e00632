"""Loader processes: the same batches with much shared memory and with little."""

from dataclasses import fields

import pytest
import torch

from pcsparse.data.collate import PlainSamples, TrainSamples, VoxelBatch, VoxelSettings
from pcsparse.data.transforms import Augmentation, RandomYaw
from pcsparse.errors import FormatError
from pcsparse.train import loading
from pcsparse.train.order import BatchesFrom, SampleOrder
from tests.streets import TinyStreets

SAMPLES = TrainSamples(TinyStreets(5), VoxelSettings(0.3), Augmentation((RandomYaw(),)), 7)


def batches(workers):
    order = BatchesFrom(SampleOrder(5, batch_size=2, accumulate=1, epochs=1, seed=0), 0)
    with loading.open_loader(SAMPLES, order, workers) as iterator:
        return list(iterator)


@pytest.mark.parametrize("small", [False, True], ids=["shared", "piped"])
def test_batches_are_the_same_through_memory_and_through_a_pipe(monkeypatch, small):
    sent = []
    monkeypatch.setattr(loading, "_shared_memory_is_small", lambda: small)
    monkeypatch.setattr(loading, "_unpiped", lambda content: sent.append(1) or unpiped(content))
    here, there = batches(0), batches(1)
    assert len(sent) == (3 if small else 0)
    assert len(here) == len(there) == 3
    for one, two in zip(here, there, strict=True):
        for field in fields(VoxelBatch):
            first, second = getattr(one, field.name), getattr(two, field.name)
            if isinstance(first, torch.Tensor):
                assert torch.equal(first, second)
                assert first.dtype == second.dtype
            else:
                assert first == second


unpiped = loading._unpiped


def test_little_shared_memory_is_told_from_much(monkeypatch, tmp_path):
    space = {"f_frsize": 4096, "f_bavail": (64 << 20) // 4096}
    monkeypatch.setattr(loading.os, "statvfs", lambda path: type("Space", (), space))
    monkeypatch.setattr(loading, "_SHARED", tmp_path)
    assert loading._shared_memory_is_small()
    space["f_bavail"] = (16 << 30) // 4096
    assert not loading._shared_memory_is_small()
    # other systems hand batches on in another way
    space["f_bavail"] = 0
    monkeypatch.setattr(loading, "_SHARED", tmp_path / "none")
    assert not loading._shared_memory_is_small()


class BrokenStreets(TinyStreets):
    """The third sweep cannot be read."""

    def __getitem__(self, index):
        if index == 2:
            raise FormatError("velodyne/000002.bin is truncated; fetch it again")
        return super().__getitem__(index)


@pytest.mark.parametrize("small", [False, True], ids=["shared", "piped"])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_an_error_of_ours_comes_as_it_was_raised(monkeypatch, small, workers):
    monkeypatch.setattr(loading, "_shared_memory_is_small", lambda: small)
    samples = TrainSamples(BrokenStreets(5), VoxelSettings(0.3), Augmentation(), 7)
    order = BatchesFrom(SampleOrder(5, batch_size=2, accumulate=1, epochs=1, seed=0), 0)
    with pytest.raises(FormatError) as caught, loading.open_loader(samples, order, workers) as iterator:
        list(iterator)
    assert str(caught.value) == "velodyne/000002.bin is truncated; fetch it again"


class CrashingStreets(TinyStreets):
    """A bug."""

    def __getitem__(self, index):
        raise ZeroDivisionError("of the data set's author")


def test_an_error_of_others_keeps_the_traceback_of_its_process():
    samples = PlainSamples(CrashingStreets(2), VoxelSettings(0.3))
    with (
        pytest.raises(ZeroDivisionError, match="Original Traceback") as caught,
        loading.open_loader(samples, None, 1) as iterator,
    ):
        list(iterator)
    assert "of the data set's author" in str(caught.value)
