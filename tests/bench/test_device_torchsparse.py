"""The adapter of TorchSparse++ 2.1, over a stand-in: the library itself runs on a GPU alone."""

import itertools
import sys

import pytest
import torch

from pcsparse.bench.device import layers, nets
from pcsparse.bench.device.cases import MAPS, DeviceLayer, DeviceNet
from pcsparse.bench.device.maps import run_map
from pcsparse.bench.device.peers import device_peers
from pcsparse.bench.device.precision import BF16, FP16, FP32
from pcsparse.coords.relation import Relation
from pcsparse.errors import UnsupportedError
from tests.bench import torchsparse_standin
from tests.bench.test_device import ONCE, SECOND, UNET, second_scene, unet_scene

CPU = torch.device("cpu")
NAMES = ("torchsparse", "torchsparse.nn", "torchsparse.nn.functional")


@pytest.fixture
def library(monkeypatch):
    for name in NAMES:
        monkeypatch.setitem(sys.modules, name, torchsparse_standin)
    monkeypatch.setattr(torchsparse_standin, "_DEFAULT", torchsparse_standin._DEFAULT.copy())
    (found,), absent = device_peers(["torchsparse"], CPU)
    assert not absent
    return found


def configs(net):
    convs = [module for module in net.modules() if isinstance(module, torchsparse_standin.Conv3d)]
    return {(conv._config.ifsort, conv._config.split_mask_num) for conv in convs}


@pytest.mark.parametrize(
    ("kind", "kernel", "backward"),
    [
        ("submanifold", 3, False),
        ("submanifold", 3, True),
        ("strided", 2, False),
        ("strided", 3, True),
        ("inverse", 2, False),
        ("inverse", 3, False),
    ],
)
def test_layers_agree_with_the_twins(library, monkeypatch, kind, kernel, backward):
    modes = []
    forward = torchsparse_standin.Conv3d.forward

    def spied(self, x):
        modes.append(self.training)
        return forward(self, x)

    library.offset_order(kind, kernel, 1 if kind == "submanifold" else 2)
    library.offset_order("strided", 2, 2)
    library.offset_order("strided", 3, 2)
    monkeypatch.setattr(torchsparse_standin.Conv3d, "forward", spied)
    stride = 1 if kind == "submanifold" else 2
    case = DeviceLayer(kind, kind, kernel, stride, 4, FP32, backward, with_map=not backward)
    ours, peer = layers.run_layer(case, unet_scene(CPU, n=60), [library], **ONCE).outcomes
    assert not ours.failed
    assert peer.name == "TorchSparse++ 2.1.0"
    # in the mode in which it is timed, maps for gradients are made or not
    assert set(modes) == {backward}
    assert not peer.failed, peer.failed
    assert peer.times is not None, peer.refusal


def test_its_coordinates_come_back_to_where_they_were(library):
    coords = unet_scene(CPU, n=60).coords
    assert coords.min() < 0
    x = library.tensor(library.geometry(coords), torch.ones(len(coords), 4))
    assert torch.equal(library.coords(x, 1), coords)
    y = library.conv("strided", 2, 2, 4, 4, 0).eval()(x)
    halved = torch.div(coords, torch.tensor([1, 2, 2, 2]), rounding_mode="floor")
    assert torch.equal(torch.unique(library.coords(y, 2), dim=0), torch.unique(halved, dim=0))


def test_the_order_of_its_offsets_is_found(library):
    ours = list(itertools.product(range(3), repeat=3))
    theirs = [ours.index((x, y, z)) for z, y, x in ours]
    for layer, stride in (("submanifold", 1), ("strided", 2), ("inverse", 2)):
        assert library.offset_order(layer, 3, stride).tolist() == theirs
    assert library.offset_order("inverse", 2, 2).tolist() == list(range(8))


def test_weights_that_reach_the_same_offset_are_refused(library, monkeypatch):
    def twice(self, x):
        return type(x)(torch.ones(len(x.coords), 32), x.coords, spatial_range=x.spatial_range)

    monkeypatch.setattr(torchsparse_standin.Conv3d, "forward", twice)
    with pytest.raises(UnsupportedError, match="reach offsets"):
        library.conv("submanifold", 3, 1, 4, 4, 0)


@pytest.mark.parametrize("form", ["fused", "training"])
@pytest.mark.parametrize("spec", [UNET, SECOND], ids=["unet", "second"])
def test_networks_agree_with_the_twins(library, spec, form):
    scene = unet_scene(CPU, n=60) if spec is UNET else second_scene(CPU)
    peer = nets.run_net(DeviceNet("n", spec, form, FP32), scene, [library], **ONCE).outcomes[1]
    assert not peer.failed, peer.failed
    assert peer.times is not None, peer.refusal


def test_a_step_in_sixteen_bits_computes_in_them(library, monkeypatch):
    kinds = set()
    forward = torchsparse_standin.Conv3d.forward

    def spied(self, x):
        kinds.add(x.feats.dtype)
        return forward(self, x)

    library.offset_order("submanifold", 3, 1)
    library.offset_order("strided", 2, 2)
    library.offset_order("inverse", 2, 2)
    monkeypatch.setattr(torchsparse_standin.Conv3d, "forward", spied)
    case = DeviceNet("u", UNET, "training", FP16, 2)
    peer = nets.run_net(case, unet_scene(CPU, 2, 150), [library], **ONCE).outcomes[1]
    assert not peer.failed, peer.failed
    assert peer.times is not None, peer.refusal
    assert kinds == {torch.float16}
    assert library.refuses(backward=False, dtype=BF16.dtype) == "no bfloat16"


def test_a_wrong_result_gets_no_time(library, monkeypatch):
    library.offset_order("submanifold", 3, 1)
    monkeypatch.setattr(type(library), "feats", lambda self, x: x.feats * 1.01)
    case = DeviceLayer("c", "submanifold", 3, 1, 4, FP32)
    peer = layers.run_layer(case, unet_scene(CPU, n=60), [library], **ONCE).outcomes[1]
    assert [check.what for check in peer.failed] == ["out"]
    assert peer.times is None


def test_layers_that_make_maps_go_through_its_tuner_once(library, monkeypatch):
    calls = []
    tune = torchsparse_standin.tune
    monkeypatch.setattr(torchsparse_standin, "tune", lambda *a, **o: (calls.append(a[0]), tune(*a, **o)))
    geometry = library.geometry(unet_scene(CPU, n=60).coords)
    feats = torch.ones(len(geometry[0]), 4)
    for _ in range(2):
        conv = library.conv("submanifold", 3, 1, 4, 4, 0).eval()
        library.tune(
            conv, lambda: library.tensor(geometry, feats), lambda x, c=conv: library.feats(c(x)), warm=False
        )
        assert configs(conv) == {(True, 2)}
    assert len(calls) == 1
    # the default that all its layers share is as it was
    assert torchsparse_standin._DEFAULT.ifsort is False
    assert configs(library.conv("submanifold", 3, 1, 4, 4, 0)) == {(False, 1)}


@pytest.mark.parametrize("training", [False, True])
def test_a_layer_with_its_map_ready_takes_the_fastest_settings(library, monkeypatch, training):
    from pcsparse.bench.device import torchsparse_tuning
    from pcsparse.bench.device.clock import Times
    from pcsparse.timing import Timing

    conv = library.conv("submanifold", 3, 1, 4, 4, 0).train(training)
    inner, built = conv.inner.conv, []

    def timed(named, device, **_):
        named[""]()
        config = inner._config
        built.append((config.ifsort, config.split_mask_num, config.split_mask_num_bwd))
        fast = built[-1] == (True, 3, 4 if training else 3)
        timing = Timing.of([1.0 if fast else 2.0])
        return {"": Times(timing, timing, timing)}

    monkeypatch.setattr(torchsparse_tuning, "time_candidates", timed)
    geometry = library.geometry(unet_scene(CPU, n=60).coords)
    feats = torch.ones(len(geometry[0]), 4)
    library.tune(conv, lambda: library.tensor(geometry, feats), lambda x: library.feats(conv(x)), warm=True)
    forwards = [(False, 1), (True, 1), (True, 2), (True, 3), (True, 4)]
    backwards = (1, 2, 3, 4) if training else (3,)
    assert built == [(*forward, splits) for forward in forwards for splits in backwards]
    assert configs(conv) == {(True, 3)}
    assert inner._config.split_mask_num_bwd == (4 if training else 3)
    assert inner.kernel.grad is None


def test_tuning_leaves_statistics_as_they_were(library):
    conv, norm = library.conv("submanifold", 3, 1, 4, 4, 0), torch.nn.BatchNorm1d(4)
    net = torch.nn.ModuleList([conv, norm]).train()
    geometry = library.geometry(unet_scene(CPU, n=60).coords)
    feats = torch.randn(len(geometry[0]), 4)
    library.tune(
        net, lambda: library.tensor(geometry, feats), lambda x: norm(library.feats(conv(x))), warm=False
    )
    assert not norm.running_mean.any()
    assert conv.inner.conv.kernel.grad is None


def test_maps_are_timed_and_what_it_cannot_is_refused(library):
    for case in MAPS[:3]:
        cold, _ = run_map(case, unet_scene(CPU, n=60), [library], **ONCE)
        assert cold.outcomes[1].times is not None, cold.outcomes[1]
    geometry = library.geometry(unet_scene(CPU, n=60).coords)
    with pytest.raises(UnsupportedError, match="inverse maps"):
        library.make_map(geometry, Relation.of(2, 2), "inverse")
    with pytest.raises(UnsupportedError, match="dilated"):
        library.make_map(geometry, Relation.of(3, dilation=2))
    case = DeviceLayer("g", "generative", 2, 2, 4, FP32)
    peer = layers.run_layer(case, unet_scene(CPU, n=60), [library], **ONCE).outcomes[1]
    assert "generative" in peer.refusal


def test_it_is_named_where_it_is_absent_or_of_another_version(monkeypatch):
    for name in NAMES:
        monkeypatch.setitem(sys.modules, name, torchsparse_standin)
    monkeypatch.setattr(torchsparse_standin, "__version__", "1.4.0")
    assert "2.1 is compared" in dict(device_peers(["torchsparse"], CPU)[1])["torchsparse"]
    monkeypatch.setitem(sys.modules, "torchsparse", None)
    assert "torchsparse" in dict(device_peers(["torchsparse"], CPU)[1])


def test_strided_kernels_that_overlap_get_a_larger_table(library, rng):
    # no two of them reach a cell together: 27 / 8 coarse voxels each
    cells = torch.unique(torch.randint(-60, 60, (300, 3), generator=rng).int() * 4, dim=0)
    cells += torch.randint(0, 2, cells.shape, generator=rng).int()
    coords = torch.nn.functional.pad(cells, (1, 0))
    geometry = library.geometry(coords)
    conv = library.conv("strided", 3, 2, 4, 4, 0).eval()
    y = conv(library.tensor(geometry, torch.ones(len(coords), 4)))
    assert len(y.coords) > 2 * len(coords) > 512
    library.make_map(geometry, Relation.of(3, 2))
    library.make_map(geometry, Relation.of(3))
    assert torchsparse_standin.backends.hash_rsv_ratio == 2


def test_tf32_is_passed_on(library):
    library.allow_tf32(False)
    assert torchsparse_standin.backends.allow_tf32 is False
    library.allow_tf32(True)
    assert torchsparse_standin.backends.allow_tf32 is True
