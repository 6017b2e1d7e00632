"""One network pass of a training step, recorded or not."""

import pytest
import torch

from pcsparse.compress.finetune import Distillation
from pcsparse.data.collate import VoxelBatch, VoxelSettings, collate, voxel_batch
from pcsparse.errors import RangeError, UnsupportedError
from pcsparse.kernels import cpu
from pcsparse.nn import recorded_training
from pcsparse.train.passes import Passes
from pcsparse.train.settings import FitSettings
from tests.streets import tiny_model, tiny_street


@pytest.fixture
def batches() -> list[VoxelBatch]:
    """Of one sweep and of two."""
    sweeps = [voxel_batch(tiny_street(seed, 300), VoxelSettings(0.3)) for seed in range(3)]
    return [collate(sweeps[:1]), collate(sweeps[1:])]


def _passes(device, **changes) -> Passes:
    torch.manual_seed(0)
    model = tiny_model().to(device).train()
    return Passes(model, FitSettings(batch_size=2, device=str(device), **changes), None, None)


def test_only_whole_batches_are_recorded(device, batches, monkeypatch):
    passes, met = _passes(device), []

    class Recorded:
        def __call__(self, x, targets):
            met.append(x.batch_size)
            return torch.tensor(7.0)

    monkeypatch.setattr(passes, "_records", True)
    monkeypatch.setattr(passes, "_recording", lambda *given: Recorded())
    losses = [float(passes.run(batch, 1.0)) for batch in batches]
    assert met == [2]
    assert losses[1] == 7.0
    assert 0 < losses[0] < 6


def test_a_cpu_records_nothing_and_says_so_where_it_must(batches):
    passes = _passes("cpu")
    assert passes.run(batches[1], 1.0) > 0
    with pytest.raises(UnsupportedError, match="the run is on cpu"):
        _passes("cpu", record="always")


def test_a_class_that_the_network_has_not_is_named(device, batches):
    # the second one is recorded where that can be
    for batch in batches:
        batch.targets[0] = 40
        with pytest.raises(RangeError, match="targets reach 40"):
            _passes(device).run(batch, 1.0)


def test_recorded_and_plain_passes_train_alike(device, batches):
    if device.type != "cuda":
        pytest.skip("a CUDA graph needs a CUDA device")
    gradients = []
    for record in ("always", "never"):
        passes = _passes(device, record=record)
        for batch in (batches[1], batches[0], batches[1]):
            passes._model.zero_grad()
            passes.run(batch, 1.0)
        gradients.append([p.grad.clone() for p in passes._model.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=5e-3, atol=1e-5)


def test_a_recorded_pass_is_taught_as_a_plain_one(device, batches, monkeypatch):
    if device.type != "cuda":
        # a replay runs the pass again, into the same memory
        def record(run):
            loss, grads = run()

            def replay():
                with torch.enable_grad():
                    for ours, again in zip(
                        (loss, *grads), (lambda out: (out[0], *out[1]))(run()), strict=True
                    ):
                        ours.copy_(again)

            return (loss, grads), replay

        monkeypatch.setattr(cpu, "TABLES", True)
        monkeypatch.setattr(recorded_training, "check_device", lambda x: None)
        monkeypatch.setattr(recorded_training, "record", record)
    torch.manual_seed(1)
    teacher = tiny_model().eval()
    found = []
    for recorded in (True, False):
        torch.manual_seed(0)
        model = tiny_model().to(device).train()
        settings = FitSettings(batch_size=2, device=str(device), record="auto" if recorded else "never")
        passes = Passes(model, settings, None, Distillation(teacher, 3.0))
        monkeypatch.setattr(passes, "_records", recorded)
        losses = []
        for batch in (batches[1], collate([batches[0], batches[0]])):
            model.zero_grad()
            losses.append(float(passes.run(batch, 1.0)))
        found.append((losses, [p.grad.clone() for p in model.parameters()]))
        assert (passes._recorded is not None) == recorded
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)
    for ours, theirs in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=5e-3, atol=1e-5)
    # the term is there at all
    plain = _passes(device)
    assert abs(float(plain.run(batches[1], 1.0)) - found[0][0][0]) > 0.05


def test_an_extra_loss_of_another_kind_is_not_recorded():
    passes = Passes(tiny_model(), FitSettings(), None, lambda x, logits: logits.sum())
    passes._device = torch.device("cuda")
    assert passes._refusal() == "an extra loss may run what cannot be recorded"
    passes._extra_loss = Distillation(tiny_model(), 1.0)
    assert passes._refusal() is None
