"""A default device of torch says where layers are made, and nothing else: what is the host's stays there."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from pcsparse.coords.cache import CoordCache
from pcsparse.coords.padded_maps import PaddedMaps
from pcsparse.coords.relation import Relation
from pcsparse.coords.voxelize import voxelize
from pcsparse.engine.map_tuning import fitted
from pcsparse.nn import SparseConv3d, SubmanifoldConv3d
from pcsparse.packed.eie import pack_eie
from pcsparse.sparse_tensor import SparseTensor
from pcsparse.train.metrics import ConfusionMatrix
from tests.clouds import lidar_like

PACKAGE = Path(__file__).parent.parent / "pcsparse"
SWEEP = lidar_like(150, batch_size=2)
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
