"""What neither Spec nor weights say stays with a network that is cut, along every axis."""

import copy

import pytest
import torch
from torch import nn

from pcsparse import SparseTensor
from pcsparse.compress.channels import choose_channels, mask_channels, slice_channels
from pcsparse.compress.graph import ChannelGraph
from pcsparse.compress.offset_scores import offset_scores
from pcsparse.compress.offsets import choose_offsets, kept_counts, mask_offsets, slice_offsets
from pcsparse.compress.shared_maps import SharedMaps
from pcsparse.compress.voxels import prune_voxels
from pcsparse.models import MinkUNet, MinkUNetSpec
from pcsparse.nn import BatchNorm
from tests.clouds import TWO_BATCHES


def _channels(network, x):
    graph = ChannelGraph.of(network)
    scores = {group.name: torch.arange(float(group.width)) for group in graph.free}
    chosen = choose_channels(scores, {name: len(score) // 2 for name, score in scores.items()})
    masked = copy.deepcopy(network)
    mask_channels(masked, graph, chosen)
    return slice_channels(network, graph, chosen), masked


def _offsets(network, x):
    maps = SharedMaps.of(network, [x])
    chosen = choose_offsets(maps, offset_scores(network, maps), kept_counts(maps, 0.5))
    masked = copy.deepcopy(network)
    mask_offsets(masked, maps, chosen)
    return slice_offsets(network, maps, chosen), masked


def _voxels(network, x):
    return prune_voxels(network, 1.0), network


@pytest.mark.parametrize("cut", [_channels, _offsets, _voxels])
def test_norms_keep_what_they_were_set_to_and_frozen_weights_stay_frozen(cut):
    torch.manual_seed(0)
    network = MinkUNet(MinkUNetSpec.minkunet14(in_channels=3, n_classes=5, width=1 / 8)).double()
    for part in network.modules():
        if isinstance(part, BatchNorm):
            nn.init.uniform_(part.running_var, 0.5, 2.0)
            part.eps, part.momentum = 0.1, 0.01
    network.eval().classifier.bias.requires_grad_(False)
    x = SparseTensor(torch.randn(len(TWO_BATCHES.coords), 3).double(), TWO_BATCHES.coords, batch_size=2)
    smaller, masked = cut(network, x)
    norms = [part for part in smaller.modules() if isinstance(part, BatchNorm)]
    assert norms
    assert {(norm.eps, norm.momentum) for norm in norms} == {(0.1, 0.01)}
    assert not smaller.classifier.bias.requires_grad
    assert smaller.classifier.weight.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(smaller(x).feats, masked(x).feats, rtol=1e-9, atol=1e-12)
