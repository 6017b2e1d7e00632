"""Submanifold convolutions of a share of the rows, against a simulation as SPS has one in its release."""

import math
import pickle

import pytest
import torch
from torch import nn as torch_nn
from torch._dynamo.testing import CompileCounterWithBackend

from pcsparse import SparseTensor, collate, nn
from pcsparse.coords.kept_outputs import kept_outputs
from pcsparse.errors import RangeError, ShapeError, UnsupportedError
from pcsparse.models import MinkUNet, MinkUNetSpec
from tests import oracle
from tests.clouds import CLOUDS, CLUMPED, EMPTY_BETWEEN, TWO_BATCHES, UNSORTED, lidar_like
from tests.nn.test_fuse import _lived
from tests.oracle import Geometry
from tests.tolerance import tolerance

C = 4


def _tensor(cloud, rng, dtype=torch.float64, channels: int = C) -> SparseTensor:
    feats = torch.randn(len(cloud.coords), channels, generator=rng, dtype=torch.float64).to(dtype)
    return SparseTensor(feats.requires_grad_(), cloud.coords, batch_size=cloud.batch_size)


def _important(feats, batch, share: float) -> torch.Tensor:
    """The rows by a plain sort, cloud by cloud."""
    mask = torch.zeros(len(feats), dtype=torch.bool)
    for cloud in batch.unique().tolist():
        rows = torch.nonzero(batch == cloud).squeeze(1).tolist()
        scores = feats.detach().double().abs().mean(dim=1).tolist()
        ranked = sorted(rows, key=lambda row: (-scores[row], row))
        mask[ranked[: math.ceil(share * len(rows) - 1e-9)]] = True
    return mask


def _simulated(module, x: SparseTensor) -> torch.Tensor:
    """All rows are convolved, then those that are left out are overwritten."""
    size = module.relation.kernel_size
    weight = module.weight
    if module.offsets is not None:
        weight = weight.new_zeros(module.relation.volume, *weight.shape[1:]).index_put(
            (torch.tensor(module.offsets),), weight
        )
    out = oracle.sparse_conv(x.feats, x.coords, weight, x.coords, Geometry(size), batch=x.batch_size)
    # of 3^3 the middle, of 2^3 the first
    rest = x.feats if module.rest == "pass" else x.feats @ weight[13 if size == (3, 3, 3) else 0]
    if module.bias is not None:
        out = out + module.bias
        rest = rest if module.rest == "pass" else rest + module.bias
    mask = _important(x.feats, x.coords[:, 0], module.voxels)
    return torch.where(mask[:, None], out, rest)


REST = ("pass", "centre")
HERE = {"unsorted": UNSORTED, "two": TWO_BATCHES, "mixed": EMPTY_BETWEEN, "one": CLOUDS["one"]}


@pytest.mark.parametrize("cloud", HERE.values(), ids=HERE.keys())
@pytest.mark.parametrize(
    "options",
    [{"voxels": 0.5}, {"voxels": 0.1, "bias": True}, {"voxels": 0.75, "kernel_size": 2},
     {"voxels": 0.3, "offsets": [0, 4, 13, 26]}, {"voxels": 0.5, "dataflow": "gather_scatter"},
     {"voxels": 0.5, "rest": "centre"}, {"voxels": 0.1, "rest": "centre", "bias": True, "c_out": 3},
     {"voxels": 0.75, "rest": "centre", "kernel_size": 2},
     {"voxels": 0.3, "rest": "centre", "offsets": [0, 4, 13, 26]}],
    ids=str,
)  # fmt: skip
def test_spatial_filtered_is_simulated_sps(rng, cloud, options):
    x, module = _tensor(cloud, rng), nn.SubmanifoldConv3d(**{"c_in": C, "c_out": C} | options).double()
    expected, y = _simulated(module, x), module(x)
    grad_out = torch.randn(expected.shape, generator=rng, dtype=torch.float64)
    leaves = [x.feats, *module.parameters()]

    assert y.coords is x.coords
    close = tolerance(torch.float64, terms=len(x) + 27 * C, factor=64)
    torch.testing.assert_close(y.feats, expected, **close)
    wanted = torch.autograd.grad(expected, leaves, grad_out)
    for mine, theirs in zip(torch.autograd.grad(y.feats, leaves, grad_out), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, **close)


@pytest.mark.parametrize("rest", REST)
def test_a_batch_of_two_is_two_batches_of_one(rng, rest):
    module = nn.SubmanifoldConv3d(C, C, voxels=0.3, rest=rest)
    alone = [_tensor(cloud, rng, torch.float32) for cloud in (UNSORTED, CLUMPED)]
    # one cloud's features are much larger: together they would be chosen first
    alone[1] = alone[1].replace(alone[1].feats * 10)
    together = module(collate(alone))
    assert torch.equal(together.feats, torch.cat([module(x).feats for x in alone]))


@pytest.mark.parametrize("rest", REST)
def test_all_rows_are_the_plain_convolution(rng, rest):
    x = _tensor(UNSORTED, rng, torch.float32)
    whole, plain = nn.SubmanifoldConv3d(C, C, voxels=1.0, rest=rest), nn.SubmanifoldConv3d(C, C)
    plain.load_state_dict(whole.state_dict())
    assert torch.equal(whole(x).feats, plain(x).feats)
    # and nothing is chosen or filtered for it
    assert whole.important(x) is None
    # nothing is stored that a network without shares has not
    assert set(nn.SubmanifoldConv3d(C, C, voxels=0.5).state_dict()) == set(plain.state_dict())


@pytest.mark.parametrize("rest", REST)
def test_no_voxels_and_an_empty_batch(rng, rest):
    module = nn.SubmanifoldConv3d(C, C, voxels=0.5, rest=rest).double()
    x = _tensor(CLOUDS["empty"], rng)
    y = module(x)
    y.feats.sum().backward()
    assert y.feats.shape == (0, C)
    assert not module.weight.grad.any()


def test_autocast_casts_what_passes_too(rng):
    x, module = _tensor(UNSORTED, rng, torch.float32), nn.SubmanifoldConv3d(C, C, voxels=0.4)
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x).feats
    assert y.dtype == torch.bfloat16
    mask = _important(x.feats, x.coords[:, 0], 0.4)
    assert torch.equal(y[~mask], x.feats[~mask].bfloat16())
    expected = _simulated(module, x)
    torch.testing.assert_close(y.float(), expected, **tolerance(torch.bfloat16, 27 * C, roundings=4))
    (grad,) = torch.autograd.grad(y.float().sum(), module.weight)
    assert grad.dtype == torch.float32


def test_what_cannot_pass_is_refused():
    with pytest.raises(ShapeError, match="as many channels out as in, got c_in=4, c_out=5"):
        nn.SubmanifoldConv3d(4, 5, voxels=0.5)
    with pytest.raises(UnsupportedError, match="does not go with groups=2"):
        nn.SubmanifoldConv3d(4, 4, groups=2, voxels=0.5)
    for share in (0.0, 1.5, float("nan")):
        with pytest.raises(RangeError, match=r"must be in \(0, 1\]"):
            nn.SubmanifoldConv3d(4, 4, voxels=share)
    for rest in ("pass", "centre"):
        assert f"voxels=0.5, rest={rest}" in repr(nn.SubmanifoldConv3d(4, 4, voxels=0.5, rest=rest))
    with pytest.raises(RangeError, match="rest must be 'pass' or 'centre', got 'drop'"):
        nn.SubmanifoldConv3d(4, 4, voxels=0.5, rest="drop")
    with pytest.raises(RangeError, match=r"keep the kernel's centre, offset 13, which is not among"):
        nn.SubmanifoldConv3d(4, 4, voxels=0.5, rest="centre", offsets=[0, 26])


def _block(**options) -> nn.ResidualBlock:
    return nn.ResidualBlock(C, C, C, voxels=(0.4, 0.6), **options)


FUSED = {
    "norm": lambda: torch_nn.Sequential(nn.SubmanifoldConv3d(C, C, bias=True, voxels=0.5), nn.BatchNorm(C)),
    "norm-relu": lambda: torch_nn.Sequential(nn.SubmanifoldConv3d(C, C, voxels=0.5), nn.BatchNormReLU(C)),
    "centre": lambda: torch_nn.Sequential(
        nn.SubmanifoldConv3d(C, C + 1, bias=True, voxels=0.5, rest="centre"), nn.BatchNormReLU(C + 1)
    ),
    "block-of-centres": lambda: _block(rest=("centre", "centre")),
    "relu-alone": lambda: torch_nn.Sequential(nn.SubmanifoldConv3d(C, C, bias=True, voxels=0.5), nn.ReLU()),
    "block": _block,
    "block-with-shortcut": lambda: _block(projected=True),
    "minkunet": lambda: MinkUNet(
        MinkUNetSpec.minkunet14(C, 5, width=0.25).with_voxels(
            {"stem.2": 0.5, "encoder.0.0.conv2": 0.3, "decoder.3.0.conv2": 0.5}
        )
    ),
}


@pytest.mark.parametrize("make", FUSED.values(), ids=FUSED.keys())
def test_a_folded_norm_reaches_the_rows_that_pass(rng, make):
    model = _lived(make().double(), rng)
    x = _tensor(TWO_BATCHES, rng)
    fused = nn.fuse(model)

    assert not any(isinstance(module, nn.BatchNorm | nn.ReLU) for module in fused.modules())
    close = tolerance(torch.float64, 1000, factor=512)
    torch.testing.assert_close(fused(x).feats, model(x).feats, **close)
    if isinstance(model, torch_nn.Sequential):
        # one layer, so the rows are those of the same features
        with torch.no_grad():
            narrow = fused.to(torch.bfloat16)(x.to(torch.bfloat16)).feats
            exact = model(x.to(torch.bfloat16).to(torch.float64)).feats
        assert float((narrow.double() - exact).norm() / exact.norm()) < 0.01


def test_a_network_that_is_fused_twice_is_the_same(rng):
    norms = [nn.BatchNorm(C) for _ in range(2)]
    for norm in norms:
        norm.running_mean.normal_(generator=rng)
        norm.running_var.uniform_(0.5, 2.0, generator=rng)
    network = torch_nn.Sequential(nn.SubmanifoldConv3d(C, C, voxels=0.3), *norms).double().eval()
    x = _tensor(TWO_BATCHES, rng)
    with torch.no_grad():
        expected = network(x).feats
        torch.testing.assert_close(nn.fuse(nn.fuse(network))(x).feats, expected)


def test_a_mask_of_inference_mode_may_be_changed_in_place(rng):
    x = _tensor(TWO_BATCHES, rng)
    kmap = x.cache.kernel_map(x.coords, x.coords, nn.SubmanifoldConv3d(C, C).relation)
    with torch.inference_mode():
        mask = torch.zeros(len(x), dtype=torch.bool)
        mask[:3] = True
        few = kept_outputs(kmap, mask).n_pairs
        mask[:] = True
        assert kept_outputs(kmap, mask).n_pairs == kmap.n_pairs > few


@pytest.mark.parametrize("rest", REST)
def test_maps_and_clouds_are_prepared(monkeypatch, rng, rest):
    from pcsparse.coords import cache as cache_module

    model, x = (
        torch_nn.Sequential(_block(), nn.SubmanifoldConv3d(C, C, voxels=0.2, rest=rest)).double(),
        _tensor(TWO_BATCHES, rng),
    )
    expected = model(_tensor(TWO_BATCHES, torch.Generator().manual_seed(20231))).feats
    nn.prepare(model, x)

    def no_more(*arguments, **options):
        raise AssertionError("forward built something that prepare had not")

    monkeypatch.setattr(cache_module, "build_kernel_map", no_more)
    monkeypatch.setattr(cache_module.KernelMap, "of_groups", no_more)
    assert torch.equal(model(x).feats, expected)


@pytest.mark.parametrize("rest", REST)
def test_one_graph_serves_clouds_of_every_size(rest):
    torch._dynamo.reset()
    torch.manual_seed(0)
    network = torch_nn.Sequential(nn.SubmanifoldConv3d(C, C, voxels=0.5, rest=rest), nn.BatchNorm(C)).eval()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(network, fullgraph=True, dynamic=True, backend=counter)
    for coords in (CLUMPED.coords, TWO_BATCHES.coords, lidar_like(300)):
        rng = torch.Generator().manual_seed(len(coords))
        feats = torch.randn(len(coords), C, generator=rng)
        x = nn.prepare(network, SparseTensor(feats, coords, batch_size=2))
        # the rows are chosen anew for the features of each call
        for factor in (1.0, torch.linspace(0, 2, len(coords))[:, None]):
            y = x.replace(x.feats * factor)
            torch.testing.assert_close(compiled(y).feats, network(y).feats)
    assert counter.frame_count <= 2
    parameters = list(network.parameters())
    wanted = torch.autograd.grad(network(x).feats.square().sum(), parameters)
    got = torch.autograd.grad(compiled(x).feats.square().sum(), parameters)
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))
    torch._dynamo.reset()


def test_a_module_from_before_there_was_a_centre_has_one():
    conv = nn.SubmanifoldConv3d(4, 4, 3, offsets=(0, 13, 26))
    # what an earlier release has pickled
    for name in ("centre", "rest"):
        del conv.__dict__[name]
    conv = pickle.loads(pickle.dumps(conv))
    assert conv.centre == 1
    assert conv.rest == "pass"
    assert nn.SubmanifoldConv3d(4, 4, 3, offsets=(0, 26)).centre is None
