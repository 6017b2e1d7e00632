"""Networks with other convolutions inside."""

import pytest
import torch

from pcsparse.bench.limits import conv_work
from pcsparse.bench.peer import PlainTorch
from pcsparse.bench.swap import network_work, swapped, twin_conv
from pcsparse.coords.relation import Relation
from pcsparse.errors import UnsupportedError
from pcsparse.models import MinkUNet, MinkUNetSpec
from pcsparse.nn import SparseConv3d, SparseInverseConv3d, SubmanifoldConv3d
from tests.bench.scenes import small_scene
from tests.tolerance import tolerance


@pytest.mark.parametrize("convolve", [PlainTorch(), twin_conv], ids=["plain", "twin"])
def test_a_swapped_network_computes_the_same(rng, convolve):
    scene = small_scene(300)
    model = MinkUNet(MinkUNetSpec.minkunet14(width=0.1)).double()
    other = swapped(model, convolve)
    inputs = scene.fresh().to(torch.float64)
    assert not any(isinstance(module, SubmanifoldConv3d) for module in other.stem)

    expected, actual = model(inputs), other(scene.fresh().to(torch.float64))

    assert torch.equal(actual.coords, expected.coords)
    assert actual.stride == expected.stride
    torch.testing.assert_close(actual.feats, expected.feats, **tolerance(torch.float64, 10_000))
    grad_out = torch.randn(expected.feats.shape, generator=rng).double()
    expected.feats.backward(grad_out)
    actual.feats.backward(grad_out)
    for wanted, found in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, **tolerance(torch.float64, 1_000_000))


def test_the_original_keeps_its_convolutions_and_weights():
    model = MinkUNet(MinkUNetSpec.minkunet14(width=0.1))
    other = swapped(model, twin_conv)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert isinstance(model.stem[0], SubmanifoldConv3d)
    assert model.stem[0].weight.abs().sum() > 0


def test_there_is_no_way_back_without_a_way_there():
    scene = small_scene(200)
    with pytest.raises(UnsupportedError, match="no way back"):
        swapped(torch.nn.Sequential(SparseInverseConv3d(4, 4)), twin_conv)(scene.fresh())


@pytest.mark.parametrize("training", [False, True])
def test_network_work_adds_up_its_convolutions(training):
    scene = small_scene(300)
    layers = torch.nn.Sequential(SubmanifoldConv3d(4, 6), SparseConv3d(6, 5, 2, 2), SparseInverseConv3d(5, 3))
    same, down = scene.kernel_map(Relation.of(3)), scene.kernel_map(Relation.of(2, 2))
    n, m = same.n_out, down.n_out

    works = network_work(layers, scene.fresh(), training=training)

    assert works == (
        conv_work(n, n, same.n_pairs, 27, 4, 6, training),
        conv_work(n, m, n, 8, 6, 5, training),
        conv_work(m, n, n, 8, 5, 3, training),
    )
