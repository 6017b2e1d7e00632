"""A training pass recorded once and replayed for other clouds; without a GPU, a replay runs it again."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from pcsparse.errors import DtypeError, RangeError, ShapeError, UnsupportedError
from pcsparse.kernels import cpu
from pcsparse.models import MinkUNet, MinkUNetSpec
from pcsparse.nn import (
    BatchNorm,
    RecordedTraining,
    SparseConv3d,
    SubmanifoldConv3d,
    ToBEV,
    recorded_training,
)
from pcsparse.sparse_tensor import SparseTensor
from tests.clouds import lidar_like
from tests.tolerance import tolerance

N_CLASSES = 5
# sums over rows in another order, through some forty layers
CLOSE = {"rtol": 2e-3, "atol": 2e-5}


def _cloud(n, seed, device):
    coords = lidar_like(n, seed=seed)
    rng = torch.Generator().manual_seed(seed)
    feats = torch.randn(len(coords), 4, generator=rng)
    targets = torch.randint(-1, N_CLASSES, (len(coords),), generator=rng)
    return SparseTensor(feats.to(device), coords.to(device), batch_size=1), targets.to(device)


def _loss(out, targets):
    rows = functional.cross_entropy(out.feats, targets.clamp(min=0), reduction="none")
    return (rows * (targets >= 0)).sum() / (targets >= 0).sum().clamp(min=1)


@pytest.fixture
def recordings(device, monkeypatch):
    """How often something was recorded. On a CPU a replay runs the pass again, into the same memory."""
    counted = []
    if device.type == "cuda":
        real = recorded_training.record
        monkeypatch.setattr(recorded_training, "record", lambda run: counted.append(1) or real(run))
        return counted

    def record(run):
        loss, grads = run()
        counted.append(1)

        def replay():
            with torch.enable_grad():
                again, others = run()
            loss.copy_(again)
            for grad, other in zip(grads, others, strict=True):
                grad.copy_(other)

        return (loss, grads), replay

    monkeypatch.setattr(cpu, "TABLES", True)
    monkeypatch.setattr(recorded_training, "check_device", lambda x: None)
    monkeypatch.setattr(recorded_training, "record", record)
    return counted


def _network(device):
    torch.manual_seed(3)
    return MinkUNet(MinkUNetSpec.minkunet18(4, N_CLASSES, 0.125)).to(device).train()


def _small(device):
    torch.manual_seed(4)
    layers = [
        SubmanifoldConv3d(4, 6),
        BatchNorm(6),
        SparseConv3d(6, 8, 2, 2, bias=True),
        BatchNorm(8),
        SubmanifoldConv3d(8, N_CLASSES, 1, bias=True),
    ]
    return nn.Sequential(*layers).to(device).train()


def _plain(model, x, targets):
    model.zero_grad(set_to_none=True)
    loss = _loss(model(x), targets)
    loss.backward()
    return loss.detach()


def _close(ours, theirs):
    for (name, a), (_, b) in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **CLOSE, msg=lambda text, name=name: f"{name}: {text}")


def _gradients(model):
    return [(name, p.grad) for name, p in model.named_parameters()]


def test_replays_are_the_pass(device, recordings):
    model, other = _network(device), _network(device)
    step = RecordedTraining(model, _loss, *_cloud(600, 1, device))
    _close(model.named_buffers(), _network(device).named_buffers())

    for seed, n in ((1, 600), (2, 400), (3, 90), (4, 600)):
        x, targets = _cloud(n, seed, device)
        loss = step(x, targets)
        again, wanted = _cloud(n, seed, device)
        torch.testing.assert_close(loss, _plain(other, again, wanted), **tolerance(torch.float32, 600))
        _close(_gradients(model), _gradients(other))
        _close(model.named_buffers(), other.named_buffers())
    assert len(recordings) == 1


def _halved(n, seed, device):
    """A cloud, and targets of the level that `_small` returns."""
    x, _ = _cloud(n, seed, device)
    coarse = torch.unique(
        torch.div(x.coords, x.coords.new_tensor([1, 2, 2, 2]), rounding_mode="floor"), dim=0
    )
    return x, (coarse[:, 1] % N_CLASSES).long()


def test_training_goes_on_with_the_weights_of_the_optimiser(device, recordings):
    model, other = _small(device), _small(device)
    step = RecordedTraining(model, _loss, *_halved(300, 1, device))
    losses = []
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.1) for net in (model, other)]
    for seed in range(4):
        optimizers[0].zero_grad()
        losses.append(step(*_halved(300, seed, device)))
        torch.testing.assert_close(losses[-1], _plain(other, *_halved(300, seed, device)), **CLOSE)
        for optimizer in optimizers:
            optimizer.step()
        _close(model.named_parameters(), other.named_parameters())
    # a result is the caller's own
    assert len({float(loss) for loss in losses}) == 4


def test_a_larger_cloud_is_recorded_anew(device, recordings):
    model, other = _network(device), _network(device)
    step = RecordedTraining(model, _loss, *_cloud(100, 1, device), room=1.0)
    _close([("loss", step(*_cloud(900, 2, device)))], [("loss", _plain(other, *_cloud(900, 2, device)))])
    _close(_gradients(model), _gradients(other))
    _close(model.named_buffers(), other.named_buffers())
    assert len(recordings) == 2


def test_a_level_too_small_for_a_norm_is_not_replayed(device, recordings):
    model, other = _small(device), _small(device)
    step = RecordedTraining(model, _loss, *_halved(300, 1, device))

    def point():
        one = torch.zeros(1, 4, dtype=torch.int32, device=device)
        return SparseTensor(torch.ones(1, 4, device=device), one, batch_size=1)

    target = torch.ones(1, dtype=torch.int64, device=device)
    torch.testing.assert_close(step(point(), target), _plain(other, point(), target), **CLOSE)
    _close(_gradients(model), _gradients(other))
    _close(model.named_buffers(), other.named_buffers())
    # the next one is replayed into the gradients of the graph
    step(*_halved(300, 5, device))
    _plain(other, *_halved(300, 5, device))
    _close(_gradients(model), _gradients(other))
    assert len(recordings) == 1


def test_autocast_is_as_it_was_recorded(device, recordings):
    model, (x, targets) = _network(device), _cloud(200, 1, device)
    with torch.autocast(device.type, torch.bfloat16):
        step = RecordedTraining(model, _loss, x, targets)
        loss = step(*_cloud(200, 1, device))
        expected = _plain(_network(device), *_cloud(200, 1, device))
    torch.testing.assert_close(loss, expected, rtol=0.05, atol=0.05)
    with pytest.raises(UnsupportedError, match=r"autocast to torch\.bfloat16, called with autocast disabled"):
        step(x, targets)


def test_versions_of_statistics_count(device, recordings):
    model, (x, targets) = _network(device), _cloud(200, 1, device)
    step = RecordedTraining(model, _loss, x, targets)
    before = [buffer._version for buffer in model.buffers()]
    step(*_cloud(200, 2, device))
    assert all(b._version > version for b, version in zip(model.buffers(), before, strict=True))


def test_gradients_are_replaced(device, recordings):
    model, (x, targets) = _network(device), _cloud(200, 1, device)
    first = next(iter(model.parameters()))
    first.grad = kept = torch.ones_like(first)
    step = RecordedTraining(model, _loss, x, targets)
    assert first.grad is kept
    assert bool((kept == 1).all())
    step(x, targets)
    once = first.grad.clone()
    step(x, targets)
    torch.testing.assert_close(first.grad, once)


@pytest.mark.not_mocked("its tensors have a class of their own, which the text names")
def test_what_is_refused(device, recordings):
    (x, targets), model = _cloud(60, 1, device), _network(device)
    with pytest.raises(RangeError, match=r"0\.5"):
        RecordedTraining(model, _loss, x, targets, room=0.5)
    with pytest.raises(ShapeError, match="targets"):
        RecordedTraining(model, _loss, x, targets[:-1])
    bev = nn.Sequential(SubmanifoldConv3d(4, 3), ToBEV((-32, -32, -8), (64, 64, 64))).to(device)
    with pytest.raises(UnsupportedError, match="returns one SparseTensor, not Tensor"):
        RecordedTraining(bev, _loss, x, targets)

    class _Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x):
            return x.replace(self.norm(x.feats))

    with pytest.raises(UnsupportedError, match=r"norm is a BatchNorm1d.*pcsparse\.nn\.BatchNorm"):
        RecordedTraining(_Counting().to(device), _loss, x, targets)
    step = RecordedTraining(model, _loss, x, targets)
    with pytest.raises(ShapeError, match="targets"):
        step(x, targets[:-1])
    with pytest.raises(DtypeError, match="int32"):
        step(x, targets.int())
