"""Whole networks with the kernels of a GPU: the CPU's numbers, and how often the host waits for them."""

import copy

import pytest
import torch
from torch import Tensor, nn

from pcsparse import SparseTensor
from pcsparse.engine.plan import DATAFLOWS
from pcsparse.models import SPVCNN, MinkUNet, MinkUNetSpec, PillarBEV, SecondBackbone, SecondSpec, SPVCNNSpec
from pcsparse.nn import (
    BatchNorm,
    BatchNormReLU,
    MaxPool3d,
    ReLU,
    SparseConv3d,
    SparseInverseConv3d,
    SubmanifoldConv3d,
    fuse,
    prepare,
)
from tests.clouds import lidar_like
from tests.emulation import emulate
from tests.host_waits import host_waits
from tests.models.test_pillar_bev import SPEC as PILLARS
from tests.models.test_pillar_bev import cloud as points_of
from tests.tolerance import tolerance

UNET = MinkUNetSpec.minkunet14(4, 5, width=1 / 16)


@pytest.fixture
def start(device, monkeypatch):
    """Begins the use of GPU kernels, and gives the device: the CPU's numbers are made before."""

    def begin() -> torch.device:
        if device.type == "cpu":
            emulate(monkeypatch)
            # the dataflow of a GPU; what nobody computes may be planned as ever
            monkeypatch.setattr(type(DATAFLOWS["sorted_implicit_gemm"]), "devices", ("cpu", "cuda"))
            monkeypatch.setattr(type(DATAFLOWS["output_stationary"]), "devices", ("meta",))
        return device

    return begin


def _unet_input(n: int = 120, seed: int = 0, batch_size: int = 1) -> SparseTensor:
    # from cell 0 on, as a detector's grid is
    coords = lidar_like(n, seed=seed, batch_size=batch_size) + torch.tensor([0, 20, 20, 2], dtype=torch.int32)
    feats = torch.randn(len(coords), 4, generator=torch.Generator().manual_seed(seed))
    return SparseTensor(feats, coords, batch_size=batch_size)


def _parts(model: nn.Module, out: Tensor, up: Tensor) -> dict[str, Tensor]:
    """The output, the gradient of every parameter for `up`, and the running statistics."""
    grads = torch.autograd.grad(out, list(model.parameters()), up.to(out.device))
    names = [name for name, _ in model.named_parameters()]
    found = {"output": out.detach(), **dict(zip(names, grads, strict=True))}
    found |= {name: part for name, part in model.named_buffers() if part.is_floating_point()}
    return {name: part.cpu() for name, part in found.items()}


def _check(got: dict[str, Tensor], want: dict[str, Tensor], terms: int) -> None:
    assert got.keys() == want.keys()
    for name, part in want.items():
        scale = max(float(part.abs().max()), 1e-3)
        close = tolerance(torch.float32, terms)
        error = float((got[name] - part).abs().max())
        assert error <= (close["atol"] + close["rtol"]) * scale, name


def _small() -> nn.Module:
    """Each kind of layer of a U-Net, as few as there can be: an interpreter runs the kernels."""
    return nn.Sequential(
        SubmanifoldConv3d(4, 6), BatchNormReLU(6), SparseConv3d(6, 7, 2, 2), BatchNorm(7), ReLU(),
        MaxPool3d(3, 2), SparseInverseConv3d(7, 5, 3, 2), SparseInverseConv3d(5, 5, 2, 2),
    )  # fmt: skip


def _unet() -> nn.Module:
    return MinkUNet(UNET)


def _spvcnn() -> nn.Module:
    return SPVCNN(SPVCNNSpec(UNET))


def _second() -> nn.Module:
    return SecondBackbone(SecondSpec.voxel(4, (40, 40, 24), width=0.25))


def _tiny() -> nn.Module:
    return nn.Sequential(
        SubmanifoldConv3d(4, 6), BatchNormReLU(6), SparseConv3d(6, 7, 2, 2), SparseInverseConv3d(7, 5, 2, 2)
    )


@pytest.mark.parametrize(
    "network", [pytest.param(_small, id="small"), pytest.param(_unet, id="minkunet", marks=pytest.mark.slow)]
)
def test_a_training_step_has_the_numbers_of_the_cpu(start, network):
    torch.manual_seed(0)
    model, x = network().train(), _unet_input(batch_size=2)
    up = torch.randn(len(x), 5)
    reference = copy.deepcopy(model)
    want = _parts(reference, reference(x).feats, up)

    device = start()
    model, x = model.to(device), _unet_input(batch_size=2).to(device)
    _check(_parts(model, model(x).feats, up), want, 4000)


NETWORKS = {"minkunet": lambda: fuse(_unet()), "second": _second, "spvcnn": _spvcnn}
# of those, the ones that ask for no form of a map that `prepare` has not made
SILENT = ("minkunet", "second")


@pytest.mark.parametrize(
    "name", ["minkunet", *(pytest.param(name, marks=pytest.mark.slow) for name in ("second", "spvcnn"))]
)
@torch.no_grad()
def test_inference_on_a_prepared_cloud_has_the_numbers_of_the_cpu_and_does_not_wait(start, name):
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    want = _values(model(_unet_input(batch_size=2)))

    device = start()
    model = model.to(device)
    if device.type == "cuda":
        # compiles the kernels
        model(_unet_input(batch_size=2).to(device))
    x = prepare(model, _unet_input(batch_size=2).to(device))
    with host_waits(device) as waits:
        got = _values(model(x))
    assert waits.places == [] or name not in SILENT, waits.places
    assert waits.mixed == []
    assert got.shape == want.shape
    torch.testing.assert_close(got.cpu(), want, **tolerance(torch.float32, 4000))


def test_pillars_have_the_numbers_of_the_cpu(start, rng):
    torch.manual_seed(0)
    model = PillarBEV(PILLARS).train()
    points, intensity = points_of(rng, 150)
    inputs = points, intensity, torch.randint(2, (150,), generator=rng)
    reference = copy.deepcopy(model)
    out = reference(*inputs, 2)
    up = torch.randn(out.shape, generator=rng)
    want = _parts(reference, out, up)

    device = start()
    model = model.to(device)
    _check(_parts(model, model(*(part.to(device) for part in inputs), 2), up), want, 4000)


def _values(out: SparseTensor | Tensor) -> Tensor:
    return out if isinstance(out, Tensor) else out.feats


def test_a_training_step_on_a_prepared_cloud_does_not_wait(start):
    device = start()
    model = _tiny().to(device)
    if device.type == "cuda":
        _step(model, _unet_input().to(device))
    x = prepare(model, _unet_input().to(device))
    with host_waits(device) as waits:
        _step(model, x)
    assert waits.places == []
    assert waits.mixed == []


@torch.no_grad()
def test_a_convolution_of_some_rows_does_not_wait_either(start):
    torch.manual_seed(0)
    layer, x = SubmanifoldConv3d(4, 4, voxels=0.5), _unet_input(60, batch_size=2)
    want = layer(x).feats

    device = start()
    layer = layer.to(device)
    layer(_unet_input(60, batch_size=2).to(device))
    x = prepare(layer, _unet_input(60, batch_size=2).to(device))
    with host_waits(device) as waits:
        got = layer(x).feats
    assert waits.places == []
    assert waits.mixed == []
    torch.testing.assert_close(got.cpu(), want, **tolerance(torch.float32, 108))


def _step(model: nn.Module, x: SparseTensor) -> None:
    out = model.train()(x).feats
    out.backward(torch.ones_like(out))


@pytest.mark.not_mocked("letters of the kernels")
def test_maps_of_a_cloud_wait_once_for_its_extent_and_once_a_level(start):
    device = start()
    model = fuse(_unet()).to(device)
    # sends what is sent once a process
    prepare(model, _unet_input(seed=1).to(device))
    x = _unet_input().to(device)
    with host_waits(device) as waits:
        prepare(model, x)
    assert len(waits.places) == 1 + len(UNET.encoder), waits.places
    assert waits.mixed == []


@pytest.mark.not_mocked("letters of the kernels")
def test_points_become_a_tensor_with_few_waits(start, rng):
    device = start()
    points, feats = (
        torch.randn(200, 3, generator=rng).to(device),
        torch.randn(200, 4, generator=rng).to(device),
    )
    SparseTensor.from_points(points, feats, 0.5)
    with host_waits(device) as waits:
        SparseTensor.from_points(points, feats, 0.5)
    # whether all are in range, their extent, the number of voxels
    assert len(waits.places) == 3, waits.places
    assert waits.mixed == []


@pytest.mark.not_mocked("letters of the kernels")
@torch.no_grad()
def test_pillars_ask_six_questions(start, rng):
    device = start()
    model = PillarBEV(PILLARS).eval().to(device)
    points, intensity = points_of(rng, 150)
    inputs = [part.to(device) for part in (points, intensity, torch.randint(2, (150,), generator=rng))]
    model(*inputs, 2)
    with host_waits(device) as waits:
        model(*inputs, 2)
    # clouds, grid, range, extent, how many pillars, and whose they are
    assert len(waits.places) == 6, waits.places
    assert waits.mixed == []
