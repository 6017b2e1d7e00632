"""A default device of torch says where layers are made, and nothing else: what is the host's stays there."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from pcsparse.compress.graph import ChannelGraph
from pcsparse.coords.cache import CoordCache
from pcsparse.coords.padded_maps import PaddedMaps
from pcsparse.coords.pillars import PillarGrid
from pcsparse.coords.relation import Relation
from pcsparse.coords.voxelize import voxelize
from pcsparse.engine.map_tuning import fitted
from pcsparse.models import PillarBEV, PillarBEVSpec, PlainCNN, PlainCNNSpec, PointNet2, PointNet2Spec
from pcsparse.nn import SparseConv3d, SubmanifoldConv3d
from pcsparse.nn.eie_linear import EIELinear
from pcsparse.nn.semi_structured_linear import SemiStructuredLinear
from pcsparse.packed.eie import pack_eie
from pcsparse.sparse_tensor import SparseTensor
from pcsparse.train.metrics import ConfusionMatrix
from tests.clouds import lidar_like

PACKAGE = Path(__file__).parent.parent / "pcsparse"
SWEEP = lidar_like(150, batch_size=2)
GRID = PillarGrid((-4.0, 4.0), (-2.0, 2.0), (-2.0, 2.0), 0.5)
# they have a process of their own, in which nobody sets a default
APART = ("bench", "programs")
# those that torch gives the default device, of the ones that the package calls
FACTORIES = {
    "arange", "as_tensor", "empty", "eye", "full", "linspace", "ones", "rand", "randint", "randn", "randperm",
    "scalar_tensor", "tensor", "zeros",
}  # fmt: skip


def _undecided(node: ast.AST, in_layer: bool) -> Iterator[ast.Call]:
    """Calls that leave the device to a default, other than those that make a layer."""
    for child in ast.iter_child_nodes(node):
        if in_layer and isinstance(child, ast.FunctionDef) and child.name == "__init__":
            continue
        yield from _undecided(child, in_layer)
        if isinstance(child, ast.Call) and isinstance(child.func, ast.Attribute):
            of_torch = isinstance(child.func.value, ast.Name) and child.func.value.id == "torch"
            named = any(keyword.arg == "device" for keyword in child.keywords)
            if of_torch and child.func.attr in FACTORIES and not named:
                yield child


def test_tensors_say_where_they_are():
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        part = file.relative_to(PACKAGE)
        if part.parts[0] not in APART:
            calls = _undecided(ast.parse(file.read_text()), part.parts[0] == "nn")
            found += [f"{part}:{call.lineno}: {ast.unparse(call)}" for call in calls]
    assert not found


@pytest.fixture
def elsewhere(gpu_or_emulated, monkeypatch) -> Iterator[torch.device]:
    """A default that no result survives."""
    from pcsparse.kernels.gpu import constants, mailbox, match

    # what was made before would not be made again
    monkeypatch.setattr(mailbox, "_HERE", mailbox._Boxes())
    monkeypatch.setattr(constants, "_KEPT", constants.Kept(constants.made))
    monkeypatch.setattr(match, "_OFFSETS", constants.Kept(match._made))
    with torch.device("meta"):
        yield gpu_or_emulated


def _network() -> nn.Module:
    return nn.Sequential(SubmanifoldConv3d(4, 8, 3), SparseConv3d(8, 8, 2, stride=2))


def test_a_network_runs_and_learns_under_any_default(elsewhere):
    coords = SWEEP.to(elsewhere)
    found = []
    for default in (elsewhere, torch.device("meta")):
        model = _network().to_empty(device="cpu")
        for i, parameter in enumerate(model.parameters()):
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(i))
        model.to(elsewhere)
        with default:
            out = model(SparseTensor(coords.float(), coords))
            out.feats.square().sum().backward()
        found.append([out.feats, out.coords, *(parameter.grad for parameter in model.parameters())])
    for one, other in zip(*found, strict=True):
        assert one.device == coords.device
        assert torch.equal(one, other)


def test_padded_maps_are_loaded_under_any_default(elsewhere):
    coords = SWEEP.to(elsewhere)
    cache, relation = CoordCache(), Relation.of(3)
    want = cache.kernel_map(coords, coords, relation).table
    plan = cache.plan()
    padded = PaddedMaps(plan, cache, [len(coords) + 5])
    fresh = CoordCache()
    padded.load(fresh, plan.fill_levels(fresh, {plan.given[0]: coords}))
    (kmap,) = padded.cache().maps().values()
    assert torch.equal(kmap.table[:, : len(coords)], want)
    assert padded._real[:, 0].tolist() == [len(coords)]


def test_what_is_fitted_counted_and_packed_is_the_hosts(elsewhere):
    costs, off = fitted([[1.0, 10.0], [1.0, 20.0], [1.0, 30.0]], [3.0, 5.0, 7.0])
    assert costs == pytest.approx((1.0, 0.2))
    assert off == pytest.approx(0.0, abs=1e-9)
    matrix = ConfusionMatrix(2)
    matrix.update([0, 1, 1], torch.tensor([0, 1, 0], device="cpu"))
    assert matrix.counts.tolist() == [[0, 0, 0], [0, 1, 0], [0, 1, 1]]
    points = torch.tensor([[0.1, 0.2, 0.3], [0.1, 0.2, 0.4]], device=elsewhere)
    assert voxelize(points, 0.1).inverse.tolist() == [0, 1]
    codes = torch.tensor([[1, 0, 2], [0, 0, 3]], dtype=torch.uint8, device="cpu")
    packed = pack_eie(codes, torch.arange(16.0, device="cpu")).checked()
    assert torch.equal(packed.unpack(), codes)


LAYERS = {
    "conv": lambda: SparseConv3d(4, 8, 2, stride=2, bias=True),
    "eie": lambda: EIELinear(8, 4),
    "two-four": lambda: SemiStructuredLinear(8, 4),
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS.keys())
def test_layers_are_made_on_the_default_device(make):
    with torch.device("meta"):
        layer = make()
    parts = dict([*layer.named_parameters(), *layer.named_buffers()])
    assert "bias" in parts
    assert {part.device.type for part in parts.values()} == {"meta"}


def test_a_layer_made_on_the_default_device_takes_a_state():
    packed = pack_eie(torch.eye(4, 8, dtype=torch.uint8), torch.arange(16.0))
    given = EIELinear.from_matrix(packed, torch.ones(4))
    with torch.device("meta"):
        layer = EIELinear(8, 4)
        kept = EIELinear.from_matrix(packed)
    layer.to_empty(device="cpu").load_state_dict(given.state_dict())
    x = torch.arange(8.0).view(1, 8)
    assert torch.equal(layer(x), given(x))
    # the tensors that are given stay where they are
    assert kept.codebook.device.type == "cpu"


MODELS = {
    "plain-cnn": lambda: PlainCNN(PlainCNNSpec.plain20()),
    "pointnet2": lambda: PointNet2(PointNet2Spec.classification(n_classes=3)),
    "pointnet2-feats": lambda: PointNet2(PointNet2Spec.classification_msg(in_channels=2)),
    "pillar-bev": lambda: PillarBEV(PillarBEVSpec.of(GRID, 3, channels=4, convs=(1, 1), head=(6,))),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_an_example_lies_where_the_network_does(device, make):
    model = make().to(device)
    example = model.example_input()
    tensors = [
        each for each in (example if isinstance(example, tuple) else (example,)) if torch.is_tensor(each)
    ]
    assert {each.device.type for each in tensors} == {device.type}


def test_a_network_of_shapes_alone_takes_its_example():
    with torch.device("meta"):
        model = PlainCNN(PlainCNNSpec.plain20())
        assert model(model.example_input()).is_meta


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_channels_of_a_network_of_shapes_alone_are_followed(make):
    want = ChannelGraph.of(make())
    with torch.device("meta"):
        model = make()
    assert ChannelGraph.of(model) == want
