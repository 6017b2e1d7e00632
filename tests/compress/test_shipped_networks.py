"""Sliced is masked, for every group of every network that is shipped, and of some that are not."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pcsparse import SparseTensor, models
from pcsparse.compress.channels import mask_channels, prune_channels, slice_channels
from pcsparse.compress.graph import ChannelGraph
from pcsparse.coords.pillars import PillarGrid
from pcsparse.models import (
    SPVCNN,
    MinkUNet,
    MinkUNetSpec,
    PillarBEV,
    PillarBEVSpec,
    PlainCNN,
    PlainCNNSpec,
    PointNet2,
    PointNet2Spec,
    SecondBackbone,
    SecondSpec,
    SPVCNNSpec,
)
from pcsparse.models.pointnet2 import AbstractionSpec, LayerSpec, ScaleSpec
from tests.compress.networks import BEVNet, FlatCNN, UpCNN
from tests.tolerance import tolerance


@dataclass(frozen=True)
class Case:
    """A network and what it is run on.

    Attributes:
        make: the network.
        arguments: of a run, from a generator.
        dtype: of the network; float64 where its points may be, too.
    """

    make: Callable[[], nn.Module]
    arguments: Callable[[torch.Generator], tuple[Any, ...]]
    dtype: torch.dtype = torch.float64

    @property
    def close(self) -> dict[str, float]:
        """How near equal outputs are."""
        return tolerance(self.dtype, terms=2000, factor=1000 if self.dtype == torch.float64 else 10)


def _images(*shape: int) -> Callable[[torch.Generator], tuple[Any, ...]]:
    return lambda rng: (torch.randn(*shape, generator=rng, dtype=torch.float64),)


def _plain(*, residual: bool) -> PlainCNNSpec:
    return PlainCNNSpec.of(3, 4, width=3 / 16, blocks=(2, 1, 2), residual=residual)


def _voxels(rng: torch.Generator) -> tuple[Any, ...]:
    cells = torch.randperm(2 * 8 * 6 * 6, generator=rng)[:90]
    coords = torch.stack([cells // 288, cells // 36 % 8, cells // 6 % 6 - 2, cells % 6], dim=1).int()
    return (SparseTensor(torch.randn(90, 2, generator=rng, dtype=torch.float64), coords, batch_size=2),)


def _voxels_in_a_grid(rng: torch.Generator) -> tuple[Any, ...]:
    (x,) = _voxels(rng)
    return (SparseTensor(x.feats, x.coords + torch.tensor([0, 3, 3, 5], dtype=torch.int32), batch_size=2),)


def _chain(*widths: int) -> tuple[LayerSpec, ...]:
    return tuple(LayerSpec(a, b) for a, b in pairwise(widths))


def _set_network(which: str) -> PointNet2Spec:
    """The shape of the published ones at two levels, with few points and narrow layers."""
    c = 0 if which == "single" else 2
    fine = [ScaleSpec(0.5, 4, _chain(3 + c, 4, 6))]
    coarse = [ScaleSpec(1.0, 4, _chain(3 + 6, 6, 5))]
    if which == "scales":
        fine.append(ScaleSpec(1.0, 6, _chain(3 + c, 3, 4)))
        coarse = [ScaleSpec(r, 4, _chain(3 + 10, w)) for r, w in ((1.0, 5), (2.0, 3))]
    levels = AbstractionSpec(12, tuple(fine)), AbstractionSpec(5, tuple(coarse))
    if which == "points":
        ways = _chain(5 + 6, 7, 6), _chain(6 + c, 5)
        return PointNet2Spec(c, levels, (), ways, _chain(5, 6, 3))
    width = 5 if which == "single" else 8
    return PointNet2Spec(c, levels, _chain(3 + width, 8), (), _chain(8, 6, 3))


def _points(channels: int) -> Callable[[torch.Generator], tuple[Any, ...]]:
    def arguments(rng: torch.Generator) -> tuple[Any, ...]:
        points, feats = torch.randn(40, 3, generator=rng), torch.randn(40, channels, generator=rng)
        return points, feats if channels else None, torch.arange(40) % 2

    return arguments


_SMALL_UNET = MinkUNetSpec.minkunet14(2, 3, width=1 / 8)
_GRID = PillarGrid((-4.0, 4.0), (-2.0, 2.0), (-2.0, 2.0), 0.5)
_PILLARS = PillarBEVSpec.of(_GRID, 3, channels=4, convs=(2, 1), head=(6,))


def _points_on_pillars(rng: torch.Generator) -> tuple[Any, ...]:
    points = (2 * torch.rand(60, 3, generator=rng) - 1) * torch.tensor([4.0, 2.0, 2.0])
    return points, torch.rand(60, generator=rng), torch.arange(60) % 2, 2


CASES = {
    # as many blocks as tell one stage from the next; the published sizes repeat them
    "plain": Case(lambda: PlainCNN(_plain(residual=False)), _images(2, 3, 8, 8)),
    "resnet": Case(lambda: PlainCNN(_plain(residual=True)), _images(2, 3, 8, 8)),
    "pillars": Case(lambda: PillarBEV(_PILLARS), _points_on_pillars, torch.float32),
    "spvcnn": Case(lambda: SPVCNN(SPVCNNSpec(_SMALL_UNET)), _voxels),
    "second": Case(
        lambda: SecondBackbone(SecondSpec.residual_voxel(2, (16, 16, 24), 1 / 8)), _voxels_in_a_grid
    ),
    "pointnet2": Case(lambda: PointNet2(_set_network("single")), _points(0), torch.float32),
    "pointnet2-scales": Case(lambda: PointNet2(_set_network("scales")), _points(2), torch.float32),
    "pointnet2-segmentation": Case(lambda: PointNet2(_set_network("points")), _points(2), torch.float32),
    "flat": Case(FlatCNN, _images(3, 3, 12, 12)),
    "up": Case(UpCNN, _images(2, 2, 8, 4)),
    "bev": Case(BEVNet, _voxels),
}


def _network(case: Case) -> nn.Module:
    """In evaluation mode; norms change what they are given and leave no channel dead."""
    torch.manual_seed(0)
    network = case.make().to(case.dtype)
    for part in network.modules():
        if isinstance(part, _BatchNorm):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, 0.5, 1.0)
            nn.init.uniform_(part.running_mean, -0.3, 0.3)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
            part.eps, part.momentum = 1e-2, 0.3
    return network.eval()


def _out(network: nn.Module, arguments: tuple[Any, ...]) -> Tensor:
    with torch.no_grad():
        found = network(*arguments)
    return found if isinstance(found, Tensor) else found.feats


def test_no_network_is_forgotten():
    classes = (found for found in vars(models).values() if isinstance(found, type))
    shipped = {found for found in classes if issubclass(found, nn.Module)}
    # its three sizes have tests of their own, in test_channels.py
    assert shipped - {MinkUNet} <= {type(case.make()) for case in CASES.values()}


@pytest.mark.parametrize("name", CASES)
def test_sliced_is_masked_for_every_group(rng, name):
    network, arguments = _network(CASES[name]), CASES[name].arguments(rng)
    graph = ChannelGraph.of(network)
    whole = _out(network, arguments)
    assert graph.free
    close = CASES[name].close
    for group in graph.free:
        # not the first channels: a slice by prefix would pass
        chosen = {group.name: tuple(i for i in range(group.width) if i % 3 != 1)}
        sliced, masked = slice_channels(network, graph, chosen), deepcopy(network)
        mask_channels(masked, graph, chosen)
        out = _out(sliced, arguments)
        torch.testing.assert_close(
            out, _out(masked, arguments), **close, msg=lambda text, g=group: f"{g.name}: {text}"
        )
        assert not torch.allclose(out, whole, **close), f"{group.name} did not matter"
        assert sum(p.numel() for p in sliced.parameters()) < sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("name", CASES)
def test_sliced_is_masked_for_all_groups_at_once(rng, name):
    network, arguments = _network(CASES[name]), CASES[name].arguments(rng)
    graph = ChannelGraph.of(network)
    chosen = {
        group.name: tuple(sorted(torch.randperm(group.width, generator=rng)[: 1 + group.width // 2].tolist()))
        for group in graph.free
    }
    sliced, masked = slice_channels(network, graph, chosen), deepcopy(network)
    mask_channels(masked, graph, chosen)
    close = CASES[name].close
    torch.testing.assert_close(_out(sliced, arguments), _out(masked, arguments), **close)
    # another graph of the sliced network has the same groups
    again = ChannelGraph.of(sliced)
    assert {g.name: g.width for g in again.free} == {n: len(kept) for n, kept in chosen.items()}
    norms = [part for part in sliced.modules() if isinstance(part, _BatchNorm)]
    assert all((norm.eps, norm.momentum) == (1e-2, 0.3) for norm in norms)


@pytest.mark.parametrize("name", CASES)
def test_every_channel_of_every_layer_is_in_one_group(name):
    model = CASES[name].make()
    graph = ChannelGraph.of(model)
    seen: dict[tuple[str, str], list[int]] = {}
    for group in graph.groups:
        assert all(len(slot.channels) == group.width for slot in group.slots)
        for slot in group.slots:
            seen.setdefault((slot.layer, slot.side), []).extend(slot.positions())
    for layer in graph.layers:
        sides = {"norm": layer.c_out} if layer.kind == "norm" else {"in": layer.c_in, "out": layer.c_out}
        for side, width in sides.items():
            assert sorted(seen.pop((layer.name, side))) == list(range(width))
    assert not seen
    weighty = {name.removesuffix(".weight") for name, _ in model.named_parameters() if "weight" in name}
    assert {layer.name for layer in graph.layers} == weighty
    assert graph.unseen == ()


@pytest.mark.parametrize("name", CASES)
def test_pruning_is_one_call(rng, name):
    network, arguments = _network(CASES[name]), CASES[name].arguments(rng)
    slim = prune_channels(network, 0.5, multiple=1)
    assert _out(slim, arguments).shape == _out(network, arguments).shape
    widths = {group.name: group.width for group in ChannelGraph.of(network).free}
    assert {g.name: g.width for g in ChannelGraph.of(slim).free} == {n: -(-w // 2) for n, w in widths.items()}
