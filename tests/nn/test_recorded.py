"""A network recorded once and replayed for other clouds; without a GPU, a replay runs it again."""

import contextlib
import gc
import itertools
import threading
import weakref

import pytest
import torch
from torch import nn

from pcsparse.errors import DeviceError, DtypeError, RangeError, ShapeError, UnsupportedError
from pcsparse.kernels import cpu
from pcsparse.models import MinkUNet, MinkUNetSpec, SecondBackbone, SecondSpec
from pcsparse.nn import RecordedForward, SparseConv3d, SubmanifoldConv3d, ToBEV, fuse, recorded, recording
from pcsparse.sparse_tensor import SparseTensor
from tests.clouds import lidar_like


def _cloud(n, seed, channels=4, device=None):
    coords = lidar_like(n, seed=seed)
    feats = torch.randn(len(coords), channels, generator=torch.Generator().manual_seed(seed))
    return SparseTensor(feats.to(device), coords.to(device), batch_size=1)


@pytest.fixture
def recordings(device, monkeypatch):
    """How often something was recorded. On a CPU a replay runs the network again, into the same memory."""
    counted = []
    if device.type == "cuda":
        real = recorded.record
        monkeypatch.setattr(recorded, "record", lambda run: counted.append(1) or real(run))
        return counted

    def record(run):
        out = run()
        counted.append(1)
        return out, lambda: out.feats.copy_(run().feats)

    monkeypatch.setattr(cpu, "TABLES", True)
    monkeypatch.setattr(recorded, "check_device", lambda x: None)
    monkeypatch.setattr(recorded, "record", record)
    return counted


def _network(device):
    torch.manual_seed(3)
    return fuse(MinkUNet(MinkUNetSpec.minkunet18(4, 5, 0.125))).to(device)


@torch.no_grad()
def test_replays_are_the_network(device, recordings):
    model = _network(device)
    forward = RecordedForward(model, _cloud(600, 1, device=device))

    for seed, n in ((1, 600), (2, 500), (3, 80), (4, 600)):
        x = _cloud(n, seed, device=device)
        out = forward(x)
        expected = model(_cloud(n, seed, device=device))
        torch.testing.assert_close(out.feats, expected.feats, rtol=1e-5, atol=1e-5)
        assert torch.equal(out.coords, expected.coords)
        assert (out.stride, out.batch_size) == (expected.stride, 1)
    assert len(recordings) == 1


@torch.no_grad()
def test_an_output_stays_when_the_next_cloud_is_replayed(device, recordings):
    forward = RecordedForward(_network(device), _cloud(300, 1, device=device))
    out = forward(_cloud(300, 1, device=device)).feats
    before = out.clone()
    forward(_cloud(300, 2, device=device))
    assert torch.equal(out, before)


@torch.no_grad()
def test_a_larger_cloud_is_recorded_anew(device, recordings):
    model = _network(device)
    forward = RecordedForward(model, _cloud(100, 1, device=device), room=1.0)
    x = _cloud(900, 2, device=device)
    torch.testing.assert_close(forward(x).feats, model(x).feats, rtol=1e-5, atol=1e-5)
    assert len(recordings) == 2


@torch.no_grad()
def test_an_output_at_a_coarser_level(device, recordings):
    model = nn.Sequential(SubmanifoldConv3d(4, 3), SparseConv3d(3, 6, 3, 2)).to(device).eval()
    forward = RecordedForward(model, _cloud(300, 1, device=device))
    x = _cloud(250, 2, device=device)
    out, expected = forward(x), model(x)
    torch.testing.assert_close(out.feats, expected.feats, rtol=1e-5, atol=1e-5)
    assert out.coords is expected.coords
    assert out.stride == (2, 2, 2)


@torch.no_grad()
def test_a_cloud_is_checked_before_it_is_replayed(device, recordings):
    backbone = SecondBackbone(SecondSpec.voxel(grid=(48, 48, 24), width=0.25)).to(device).eval()
    last = _LastLevel(backbone).eval()

    def cloud(seed):
        x = _cloud(200, seed, 5, device=device)
        coords = torch.unique(x.coords.abs().clamp_(max=20), dim=0)
        return SparseTensor(x.feats[: len(coords)], coords, batch_size=1)

    forward = RecordedForward(last, cloud(1), check=backbone.check_inside)
    out, expected = forward(cloud(2)), last(cloud(2))
    torch.testing.assert_close(out.feats, expected.feats, rtol=1e-5, atol=1e-5)
    assert torch.equal(out.coords, expected.coords)
    outside = cloud(3)
    outside.coords[0, 1] = 60
    with pytest.raises(RangeError, match="grid of"):
        forward(SparseTensor(outside.feats, outside.coords.clone(), batch_size=1))


class _LastLevel(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, x):
        return self.backbone.levels(x)[-1]


@torch.no_grad()
def test_clouds_of_two_kinds_are_recorded_once_each(device, recordings):
    def compact():
        coords = torch.tensor([(0, *p) for p in itertools.product(range(12), range(12), range(10))]).int()
        return SparseTensor(torch.randn(len(coords), 4).to(device), coords.to(device), batch_size=1)

    model = SparseConv3d(4, 2, 2, 2).to(device).eval()
    forward = RecordedForward(model, compact())
    for _ in range(2):
        for x in (_cloud(700, 2, device=device), compact()):
            torch.testing.assert_close(forward(x).feats, model(x).feats, rtol=1e-5, atol=1e-5)
    assert len(recordings) == 2


def test_a_recording_of_inference_mode_serves_outside_it(device, recordings):
    model = _network(device)
    with torch.inference_mode():
        forward = RecordedForward(model, _cloud(100, 1, device=device))
        forward(_cloud(900, 2, device=device))
    x = _cloud(80, 3, device=device)
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(forward(x).feats, expected.feats, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_autocast_is_as_it_was_recorded(device, recordings):
    model, x = SubmanifoldConv3d(4, 3).to(device).eval(), _cloud(60, 1, device=device)
    caching = []
    model.register_forward_hook(lambda *_: caching.append(torch.is_autocast_cache_enabled()))
    half = torch.autocast(device.type, torch.bfloat16)
    plain = RecordedForward(model, x)
    with half:
        with pytest.raises(UnsupportedError, match=r"autocast disabled, called with autocast to torch\.bfl"):
            plain(x)
        del caching[:]
        forward = RecordedForward(model, x)
        assert caching
        assert not any(caching)
        assert forward(x).feats.dtype == model(x).feats.dtype == torch.bfloat16
    with pytest.raises(UnsupportedError, match="another network"):
        forward(x)


@torch.no_grad()
def test_an_example_at_a_level_of_another_network(device, recordings):
    down, model = SparseConv3d(4, 4, 3, 2).to(device).eval(), SubmanifoldConv3d(4, 3).to(device).eval()
    forward = RecordedForward(model, down(_cloud(300, 1, device=device)))
    x = down(_cloud(250, 2, device=device))
    torch.testing.assert_close(forward(x).feats, model(x).feats, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_example_may_be_dropped(device, recordings):
    x = _cloud(60, 1, device=device)
    forward = RecordedForward(_network(device), x)
    ghosts = [weakref.ref(x.cache), weakref.ref(x.coords), weakref.ref(x.feats)]
    del x
    gc.collect()
    assert [ghost() for ghost in ghosts] == [None] * 3
    assert len(forward(_cloud(50, 2, device=device))) > 0


@torch.no_grad()
def test_every_module_is_asked_for_its_mode(device, recordings):
    model, x = nn.Sequential(SubmanifoldConv3d(4, 3)).to(device).eval(), _cloud(60, 1, device=device)
    forward = RecordedForward(model, x)
    model[0].train()
    with pytest.raises(UnsupportedError, match=r"model\.eval"):
        RecordedForward(model, x)
    with pytest.raises(UnsupportedError, match=r"model\.eval"):
        forward(_cloud(900, 2, device=device))
    model.eval()
    assert len(forward(_cloud(900, 2, device=device)))


class _Waits(nn.Module):
    def forward(self, x):
        x.feats.sum().item()
        if x.coords.is_meta:
            # what a GPU says of the line before
            raise RuntimeError("called a synchronizing CUDA operation")
        return x


@torch.no_grad()
def test_a_layer_that_waits_is_refused_and_the_process_goes_on(device, recordings):
    conv, x = SubmanifoldConv3d(4, 3).to(device).eval(), _cloud(60, 1, device=device)
    with pytest.raises(UnsupportedError, match="gather_scatter") as refused:
        RecordedForward(nn.Sequential(conv, _Waits()).eval(), x)
    assert "synchronizing" in str(refused.value.__cause__)
    assert torch.randn(3, device=device).sum().isfinite()
    torch.testing.assert_close(RecordedForward(conv, x)(x).feats, conv(x).feats, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_all_happens_on_the_device_of_the_cloud(device, recordings, monkeypatch):
    inside, seen = [], []

    @contextlib.contextmanager
    def on(of):
        inside.append(of)
        yield
        inside.pop()

    monkeypatch.setattr(recorded, "on_device", on)
    model = SubmanifoldConv3d(4, 3).to(device).eval()
    model.register_forward_hook(lambda *_: seen.append(list(inside)))
    x = _cloud(60, 1, device=device)
    forward = RecordedForward(model, x)
    real = forward._replay
    forward._replay = lambda: (seen.append(list(inside)), real())
    forward(x)
    assert len(seen) >= 3
    assert all(one == [x.device] for one in seen)


def test_what_reads_coordinates_is_refused(device, recordings):
    bev = nn.Sequential(SubmanifoldConv3d(4, 3), ToBEV((-32, -32, -8), (64, 64, 64))).to(device).eval()
    with pytest.raises(UnsupportedError, match="reads the coordinates"):
        RecordedForward(bev, _cloud(60, 1, device=device))


def test_what_is_not_like_the_example_is_refused(device, recordings):
    model, x = _network(device), _cloud(60, 1, device=device)
    with pytest.raises(UnsupportedError, match=r"model\.eval"):
        RecordedForward(SubmanifoldConv3d(4, 3).to(device), x)
    with pytest.raises(RangeError, match=r"0\.5"):
        RecordedForward(model, x, room=0.5)
    forward = RecordedForward(model, x)
    with pytest.raises(ShapeError, match=r"\(4, \(1, 1, 1\), 1\), got \(3, "):
        forward(_cloud(60, 1, 3, device=device))
    with pytest.raises(DtypeError, match="float16"):
        forward(x.half())


class _Node:
    """Garbage that only the collector finds."""

    def __init__(self, freed):
        self.itself = self
        self.freed = freed

    def __del__(self):
        self.freed.append(gc.isenabled())


class _Stream:
    def wait_stream(self, other):
        pass


@pytest.fixture
def looks(monkeypatch):
    """What is called within each graph, with its options; stand-ins take CUDA's part of the recording."""
    inside = []

    @contextlib.contextmanager
    def graph(graph, **options):
        for look in inside:
            look(options)
        yield

    for name, stand_in in {
        "current_stream": _Stream, "Stream": _Stream, "stream": lambda s: contextlib.nullcontext(),
        "CUDAGraph": lambda: type("Graph", (), {"replay": None})(), "graph": graph,
        "set_stream": lambda s: None, "get_sync_debug_mode": lambda: 0, "set_sync_debug_mode": lambda m: None,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return inside


def test_no_garbage_is_collected_while_a_graph_is_recorded(looks):
    seen, freed = [], []
    looks.append(lambda options: seen.append((gc.isenabled(), list(freed))))
    _Node(freed)
    assert recording.record(lambda: 5)[0] == 5
    assert seen == [(False, [True])]
    assert gc.isenabled()


def _elsewhere(call):
    """What another thread gets from it."""
    found = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join()
    return found[0]


def test_only_what_the_recording_thread_does_can_end_a_recording(looks):
    seen = []
    looks.append(lambda options: seen.append(options["capture_error_mode"]))
    recording.record(lambda: None)
    assert seen == ["thread_local"]


def test_threads_record_one_after_the_other(looks):
    free = []

    def ask():
        taken = recording._ALONE.acquire(blocking=False)
        if taken:
            recording._ALONE.release()
        return taken

    looks.append(lambda options: free.append(_elsewhere(ask)))
    recording.record(lambda: free.append(_elsewhere(ask)))
    assert len(free) == 4
    assert not any(free)
    assert _elsewhere(ask)


class _Pins(nn.Module):
    """Another thread pins memory while this is recorded, as those of data loaders do."""

    def __init__(self):
        super().__init__()
        self.pinned = []

    def forward(self, x):
        if x.coords.is_meta and torch.cuda.is_current_stream_capturing():
            # more than anyone has pinned before, so that there is none to take again
            _elsewhere(lambda: self.pinned.append(torch.empty(3 << 24, dtype=torch.uint8).pin_memory()))
        return x


@torch.no_grad()
def test_other_threads_may_pin_memory_meanwhile(device):
    if device.type != "cuda":
        pytest.skip("a CPU pins nothing; run with --device cuda")
    conv, pins = SubmanifoldConv3d(4, 3).to(device).eval(), _Pins()
    forward = RecordedForward(nn.Sequential(conv, pins).eval(), _cloud(60, 1, device=device))
    assert len(pins.pinned) == 1
    x = _cloud(60, 2, device=device)
    torch.testing.assert_close(forward(x).feats, conv(x).feats, rtol=1e-5, atol=1e-5)


def test_a_cpu_has_no_graphs():
    with pytest.raises(DeviceError, match="CUDA"):
        RecordedForward(_network(None), _cloud(60, 1))
