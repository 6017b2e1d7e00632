"""prepare fills exactly the maps that forward asks for, and changes nothing else."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import nn as torch_nn
from torch.nn.utils import prune

from pcsparse import SparseTensor, cat, nn
from pcsparse.compress.cost_run import calls_of
from pcsparse.compress.shared_maps import SharedMaps
from pcsparse.coords import cache as cache_module
from pcsparse.errors import UnsupportedError
from pcsparse.models import MinkUNet, MinkUNetSpec
from pcsparse.nn.copies import own_copy
from pcsparse.nn.tuning import conv_calls
from tests.clouds import CLOUDS, TWO_BATCHES, UNSORTED, Cloud, lidar_like
from tests.host_waits import host_waits


def _tensor(cloud: Cloud, channels: int = 4) -> SparseTensor:
    feats = torch.randn(len(cloud.coords), channels, generator=torch.Generator().manual_seed(0))
    return SparseTensor(feats, cloud.coords, batch_size=cloud.batch_size)


class Everything(torch_nn.Module):
    """Each kind of layer that asks for coordinates or maps, and a batch norm with a state to spoil."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch_nn.Sequential(nn.SubmanifoldConv3d(4, 8, 5, offsets=[0, 60, 62]), nn.BatchNorm(8))
        self.down = nn.SparseConv3d(8, 8, 3, 2, coverage="floor")
        self.avg, self.max = nn.AvgPool3d(2), nn.MaxPool3d(3, 1)
        self.dropout = nn.Dropout(0.5)
        self.up, self.grow = nn.SparseInverseConv3d(8, 8, 3, 2), nn.SparseConvTranspose3d(8, 8)
        self.heads = nn.GlobalAvgPool(), nn.GlobalMaxPool()
        self.scale = torch_nn.Parameter(torch.ones(8))

    def forward(self, x: SparseTensor) -> SparseTensor:
        x = self.dropout(self.stem(x)) * self.scale
        coarse = self.down(x)
        self.heads[0](coarse), self.heads[1](coarse)
        pooled = self.max(self.avg(x))
        return cat([self.up(coarse), self.grow(pooled, like=x)])


NETWORKS = {
    "everything": Everything,
    "minkunet": lambda: MinkUNet(MinkUNetSpec.minkunet14(width=1 / 16)),
    "generative": lambda: torch_nn.Sequential(
        nn.SparseConv3d(4, 4, 2, 2), nn.SparseConvTranspose3d(4, 4, 3, 2)
    ),
    "block": lambda: nn.ResidualBlock(4, 4, 6),
}
CLOUDS_HERE = {
    "unsorted": UNSORTED,
    "two-batches": TWO_BATCHES,
    "one": CLOUDS["one"],
    "empty": CLOUDS["empty"],
}


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS.keys())
@pytest.mark.parametrize("cloud", CLOUDS_HERE.values(), ids=CLOUDS_HERE.keys())
@pytest.mark.parametrize("training", [True, False])
def test_forward_finds_every_map_and_every_level(monkeypatch, make, cloud, training):
    network, x = make().train(training), _tensor(cloud)
    plain = _tensor(cloud)
    torch.manual_seed(5)
    expected = network(plain)

    assert nn.prepare(network, x) is x
    prepared = set(x.cache.maps())
    assert prepared == set(plain.cache.maps())
    assert len(prepared) > 0

    def no_more(*arguments, **options):
        raise AssertionError("forward built something that prepare had not")

    for name in ("build_kernel_map", "strided_levels", "expanded_level"):
        monkeypatch.setattr(cache_module, name, no_more)
    monkeypatch.setattr(cache_module.KernelMap, "of_groups", no_more)
    torch.manual_seed(5)
    actual = network(x)
    assert set(x.cache.maps()) == prepared
    if not training:
        assert torch.equal(actual.feats, expected.feats)
    actual.feats.sum().backward()


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS.keys())
@pytest.mark.parametrize("cloud", CLOUDS_HERE.values(), ids=CLOUDS_HERE.keys())
def test_what_another_cloud_was_asked_for_is_made_with_the_same_numbers(make, cloud):
    network, before, x, plain = make().eval(), _tensor(CLOUDS["clumped"]), _tensor(cloud), _tensor(cloud)
    nn.prepare(network, before)
    nn.prepare(network, plain)

    assert nn.prepare(network, x, like=before) is x
    assert x.cache.plan() == plain.cache.plan() == before.cache.plan()
    assert torch.equal(network(x).feats, network(plain).feats)
    # of which less is known, the rest is asked for
    less, other = nn.prepare(nn.SubmanifoldConv3d(4, 4), _tensor(CLOUDS["clumped"])), _tensor(cloud)
    nn.prepare(network, other, like=less)
    assert set(plain.cache.maps()) <= set(other.cache.maps())


def test_all_levels_that_another_cloud_had_are_waited_for_together(gpu_or_emulated):
    network = MinkUNet(MinkUNetSpec.minkunet14(width=1 / 16)).to(gpu_or_emulated)
    coords = lidar_like(300, batch_size=2).to(gpu_or_emulated)

    def cloud() -> SparseTensor:
        return SparseTensor(torch.zeros(len(coords), 4, device=gpu_or_emulated), coords, batch_size=2)

    before = nn.prepare(network, cloud())
    # small constants lie on the device from the first time on
    nn.prepare(network, cloud(), like=before)
    counts = []
    for like in (None, before):
        x = cloud()
        with host_waits(gpu_or_emulated) as seen:
            nn.prepare(network, x, like=like)
        assert not seen.mixed
        counts.append(len(seen.places))
    # for the cloud and for each of four levels; for all of them together
    assert counts == [5, 1]


def test_a_cache_that_reads_several_coordinate_sets_is_no_example():
    network, x = torch_nn.Sequential(nn.SubmanifoldConv3d(4, 4)), _tensor(TWO_BATCHES)
    other = _tensor(UNSORTED)
    x.cache.kernel_map(x.coords, other.coords, network[0].relation)
    with pytest.raises(UnsupportedError, match="2 coordinate sets that no layer has made"):
        nn.prepare(network, _tensor(UNSORTED), like=x)


def test_a_module_on_a_coarse_level_gets_what_was_asked_for_from_there_on():
    encoder = torch_nn.Sequential(
        nn.SubmanifoldConv3d(4, 4), nn.SparseConv3d(4, 4, 2, 2), nn.SubmanifoldConv3d(4, 4)
    )
    head = torch_nn.Sequential(nn.SparseConv3d(4, 4, 3, 2), nn.SparseInverseConv3d(4, 4, 3, 2))
    before = encoder(_tensor(CLOUDS["clumped"]))
    head(before)
    x, plain = encoder(_tensor(TWO_BATCHES)), encoder(_tensor(TWO_BATCHES))
    nn.prepare(head, plain)

    nn.prepare(head, x, like=before)
    assert x.cache.plan() == plain.cache.plan() == before.cache.plan()
    # what is left out stands for no set of another cloud
    alone = SparseTensor(x.feats, x.coords.clone(), batch_size=x.batch_size)
    nn.prepare(head, alone, like=before)
    assert alone.cache.plan().n_sets == 2
    assert torch.equal(head(alone).feats, head(plain).feats)


def test_coordinates_that_the_cache_was_not_asked_for_are_no_example():
    network, x = torch_nn.Sequential(nn.SubmanifoldConv3d(4, 4)), _tensor(TWO_BATCHES)
    before = nn.prepare(network, _tensor(UNSORTED))
    other = SparseTensor(before.feats, before.coords.clone(), cache=before.cache)
    nn.prepare(torch_nn.Identity(), x, like=other)
    assert not x.cache.maps()


def test_nothing_but_the_cache_changes():
    network, x = Everything(), _tensor(TWO_BATCHES)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    feats, version = x.feats.clone(), x.coords._version
    torch.manual_seed(7)
    random = torch.get_rng_state()
    nn.prepare(network, x)

    assert torch.equal(x.feats, feats)
    assert x.feats.device.type == "cpu"
    assert x.coords._version == version
    assert network.training
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert all(
        parameter.device.type == "cpu" and parameter.grad is None for parameter in network.parameters()
    )
    assert torch.equal(torch.get_rng_state(), random)


def test_prepare_takes_tied_weights_and_doubles():
    network = torch_nn.Sequential(nn.SubmanifoldConv3d(4, 4), nn.SubmanifoldConv3d(4, 4)).double()
    network[1].weight = network[0].weight
    x = _tensor(UNSORTED)
    x = x.replace(x.feats.double())
    nn.prepare(network, x)

    assert len(x.cache) == 1
    assert network(x).feats.isfinite().all()


def test_a_network_that_is_prepared_in_several_threads_keeps_its_weights(rng):
    from concurrent.futures import ThreadPoolExecutor

    net = MinkUNet(MinkUNetSpec.minkunet14(3, 5, width=0.25)).eval()
    coords = TWO_BATCHES.coords
    feats = torch.randn(len(coords), 3, generator=rng)
    with torch.no_grad():
        expected = net(SparseTensor(feats, coords)).feats

        def work(i):
            x = SparseTensor(feats, coords)
            return net(x).feats if i % 2 else nn.prepare(net, x)

        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(work, range(40)))
    assert {parameter.device.type for parameter in net.parameters()} == {"cpu"}
    assert all(torch.equal(y, expected) for y in found[1::2])


class _Recorder:
    """What a user hangs on layers: it takes real values, and can be copied no more than a lock can."""

    def __init__(self) -> None:
        self.lock, self.seen = threading.Lock(), []

    def __call__(self, part: torch_nn.Module, *arguments: object) -> None:
        for argument in arguments:
            if isinstance(argument, SparseTensor):
                self.seen.append(argument.feats.cpu().numpy())


HOOKS = {
    "forward": lambda part, hook: part.register_forward_hook(hook),
    "forward-keywords": lambda part, hook: part.register_forward_hook(
        lambda part, inputs, keywords, output: hook(part, output), with_kwargs=True, always_call=True
    ),
    "before": lambda part, hook: part.register_forward_pre_hook(lambda part, inputs: hook(part, *inputs)),
    "before-keywords": lambda part, hook: part.register_forward_pre_hook(
        lambda part, inputs, keywords: hook(part, *inputs), with_kwargs=True
    ),
    "backward": lambda part, hook: part.register_full_backward_hook(hook),
    "state": lambda part, hook: part.register_state_dict_post_hook(hook),
}


@pytest.mark.parametrize("hang", HOOKS.values(), ids=HOOKS.keys())
@pytest.mark.parametrize("use", [nn.prepare, conv_calls], ids=["prepare", "conv_calls"])
def test_hooks_of_the_module_do_not_run(use, hang):
    network = torch_nn.Sequential(nn.SubmanifoldConv3d(4, 4), nn.ReLU())
    x, hook = _tensor(UNSORTED), _Recorder()
    handles = [hang(part, hook) for part in network]
    use(network, x)
    assert hook.seen == []
    assert len(x.cache) == 1
    # and those of the module itself are still there
    hooks = [name for name in vars(network[0]) if name.endswith("_hooks") and vars(network[0])[name]]
    assert len(hooks) == 1
    for handle in handles:
        handle.remove()


# two that make the weight anew before each call, by a hook, and two that make it where it is read
NORMS = {
    "pruning-mask": lambda conv: prune.random_unstructured(conv, "weight", amount=0.5),
    "weight_norm": torch_nn.utils.weight_norm,
    "spectral_norm": torch_nn.utils.spectral_norm,
    "parametrized-weight_norm": torch_nn.utils.parametrizations.weight_norm,
    "parametrized-spectral_norm": torch_nn.utils.parametrizations.spectral_norm,
}


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS.keys())
@pytest.mark.parametrize("ran", [False, True], ids=["fresh", "after-a-call"])
def test_weights_that_are_made_from_others_are_there(norm, ran):
    network = torch_nn.Sequential(norm(nn.SubmanifoldConv3d(4, 4)), nn.BatchNorm(4))
    if ran:
        network(_tensor(UNSORTED))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    x = _tensor(UNSORTED)
    nn.prepare(network, x)
    assert len(x.cache) == 1
    assert len(conv_calls(network, _tensor(UNSORTED))) == 1
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network[0].weight.device.type == "cpu"
    network(x).feats.sum().backward()


class _Scaled(torch_nn.Module):
    """A tensor that is neither parameter nor buffer, and whose value says where the voxels are."""

    def __init__(self) -> None:
        super().__init__()
        self.factor, self.conv = torch.tensor(2.0), nn.SubmanifoldConv3d(4, 4)

    def forward(self, x: SparseTensor) -> SparseTensor:
        return self.conv(x.at(x.feats, x.coords * int(self.factor), x.stride))


def test_other_tensors_of_a_module_keep_their_values():
    x = _tensor(UNSORTED)
    nn.prepare(_Scaled(), x)
    [kmap] = x.cache.maps().values()
    assert kmap.n_pairs == len(x)


class _Weighs(torch_nn.Module):
    """Multiplies features by a tensor that is no buffer, so that no copy without values has it as a shape."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gain = nn.SubmanifoldConv3d(4, 4), torch.tensor([2.0])

    def forward(self, x: SparseTensor) -> SparseTensor:
        return self.conv(x.replace(x.feats * self.gain))


class _Decides(_Weighs):
    """Asks a feature for its value."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        return self.conv(x) if x.feats.sum().item() > 0 else x


class _Fails(_Weighs):
    def forward(self, x: SparseTensor) -> SparseTensor:
        raise RuntimeError("the user's own")


@pytest.mark.parametrize("look", [nn.prepare, conv_calls, lambda net, x: SharedMaps.of(net, [x]), calls_of])
def test_what_cannot_run_without_values_is_told_what_to_do(look):
    for network in (_Weighs(), _Decides()):
        with pytest.raises(UnsupportedError, match=r"(?s)(Weighs|Decides) does not run .* buffers "):
            look(network, _tensor(UNSORTED))
    with pytest.raises(RuntimeError, match=r"^the user's own$"):
        look(_Fails(), _tensor(UNSORTED))


@dataclass
class _Last:
    """A user's own class of results."""

    result: torch.Tensor


KEEPING = {
    "tensor": lambda y: y.feats,
    "sparse-tensor": lambda y: y,
    "dict": lambda y: {"logits": y.feats, "n": len(y)},
    "nested": lambda y: [("loss", {"of": (y.feats.sum(), y)})],
    "dataclass": lambda y: _Last(y.feats),
}


class _Remembers(torch_nn.Module):
    """Keeps a result of its last call, which torch does not copy: it has a history."""

    def __init__(self, keep: Callable[[SparseTensor], object]) -> None:
        super().__init__()
        self.conv, self.last, self.keep = nn.SubmanifoldConv3d(4, 4), None, keep

    def forward(self, x: SparseTensor) -> SparseTensor:
        y = self.conv(x)
        self.last = self.keep(y)
        return y


@pytest.mark.parametrize("keep", KEEPING.values(), ids=KEEPING.keys())
def test_a_module_that_keeps_a_result_is_prepared(keep):
    network, x = _Remembers(keep), _tensor(UNSORTED)
    y = network(_tensor(UNSORTED))
    last = network.last
    nn.prepare(network, x)
    assert len(x.cache) == 1
    assert len(conv_calls(network, x)) == 1
    assert network.last is last
    # the step that they are of goes on
    y.feats.sum().backward()
    assert network.conv.weight.grad is not None


@pytest.mark.parametrize("keep", KEEPING.values(), ids=KEEPING.keys())
def test_a_copy_keeps_results_without_their_history(keep):
    network, x = _Remembers(keep), _tensor(UNSORTED)
    y = network(x)
    for copied in (own_copy(network), nn.fuse(network)):
        found: list[torch.Tensor] = []
        for value in _floats(copied.last):
            assert not value.requires_grad
            found.append(value)
        assert found
        assert all(any(torch.equal(value, own) for own in _floats(network.last)) for value in found)
        assert not any(value is own for value in found for own in _floats(network.last))
        torch.testing.assert_close(copied(x).feats, y.feats)
    assert all(value.requires_grad for value in _floats(network.last))


def _floats(kept: object) -> Iterator[torch.Tensor]:
    """The results in what a network keeps."""
    if isinstance(kept, torch.Tensor):
        yield kept
    elif isinstance(kept, SparseTensor | _Last):
        yield kept.feats if isinstance(kept, SparseTensor) else kept.result
    elif isinstance(kept, dict | list | tuple):
        for value in kept.values() if isinstance(kept, dict) else kept:
            yield from _floats(value)
