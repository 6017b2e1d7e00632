"""An operator works on the very map it was given, so that what is derived of it is derived once."""

import copy
import gc
import pickle
import weakref

import torch

from pcsparse.coords import kernel_map
from pcsparse.coords.kernel_map import KernelMap
from pcsparse.coords.relation import Relation
from pcsparse.ops.conv import sparse_conv
from pcsparse.ops.pool import max_pool
from pcsparse.sparse_tensor import SparseTensor


def shuffled_map(rng):
    coords = torch.unique(torch.randint(-4, 4, (90, 3), generator=rng), dim=0).int()
    coords = torch.nn.functional.pad(coords, (1, 0))[torch.randperm(len(coords), generator=rng)]
    x = SparseTensor(torch.zeros(len(coords), 1), coords)
    return x.cache, x.cache.kernel_map(coords, coords, Relation.of(3))


def test_a_map_comes_back_from_its_tensors_as_itself(rng):
    _, kmap = shuffled_map(rng)
    assert KernelMap.from_tensors(kmap.tensors()) is kmap
    other = copy.deepcopy(kmap)
    assert KernelMap.from_tensors(other.tensors()) is not kmap


def test_copied_maps_still_come_back_whole(rng):
    _, kmap = shuffled_map(rng)
    kmap.transposed()
    for other in (copy.deepcopy(kmap), pickle.loads(pickle.dumps(kmap))):
        read = KernelMap.from_tensors(other.tensors())
        torch.testing.assert_close(read.table, kmap.table)
        torch.testing.assert_close(read.transposed().table, kmap.transposed().table)


def test_forward_and_backward_leave_their_forms_on_the_map(rng):
    _, kmap = shuffled_map(rng)
    feats = torch.randn(kmap.n_in, 3, generator=rng, requires_grad=True)
    weight = torch.randn(27, 3, 2, generator=rng)
    sparse_conv(feats, weight, kmap).sum().backward()
    assert "transposed" in kmap._derived
    max_pool(feats, kmap).sum().backward()
    assert {"by_output", "by_input"} <= set(kmap._derived)


def test_layers_share_what_keeps_a_map_and_only_their_graphs_keep_it(rng):
    cache, kmap = shuffled_map(rng)
    # no graph has it yet
    kmap.lasting_tensors()
    feats = torch.randn(kmap.n_in, 3, generator=rng, requires_grad=True)
    weight = torch.randn(27, 3, 3, generator=rng)
    out = sparse_conv(sparse_conv(feats, weight, kmap), weight, kmap)
    one, other = kmap.lasting_tensors()[0], kmap.lasting_tensors()[0]
    assert one is other
    assert one is not kmap.tensors()[0]
    # the weak reference in it is no part of a copy
    for copied in (copy.deepcopy(kmap), pickle.loads(pickle.dumps(kmap))):
        assert copied.lasting_tensors()[0] is not one
    ghost = weakref.ref(kmap)
    gc.disable()
    try:
        del cache, kmap, one, other, copied
        assert ghost() is not None
        del out
        assert ghost() is None
    finally:
        gc.enable()


def test_backward_reads_no_map_again_whose_cloud_is_gone(rng, monkeypatch):
    read = []
    monkeypatch.setattr(kernel_map, "check_map", lambda kmap: read.append(kmap))
    gc.disable()
    try:
        cache, kmap = shuffled_map(rng)
        feats = torch.randn(kmap.n_in, 3, generator=rng, requires_grad=True)
        out = sparse_conv(feats, torch.randn(27, 3, 2, generator=rng), kmap)
        ghost = weakref.ref(kmap)
        del cache, kmap
        out.sum().backward()
        assert not read
        # the result of a pass that is over keeps no map
        assert ghost() is None
    finally:
        gc.enable()


def test_a_dropped_map_leaves_no_cycle_behind(rng):
    gc.disable()
    try:
        cache, kmap = shuffled_map(rng)
        kmap.transposed()
        ghost = weakref.ref(kmap)
        del cache, kmap
        assert ghost() is None
    finally:
        gc.enable()
