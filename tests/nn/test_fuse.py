"""nn.fuse: fewer modules, the same function."""

import copy
import importlib

import pytest
import torch
from torch import nn as torch_nn

from pcsparse import nn
from pcsparse.errors import ShapeError
from pcsparse.models import MinkUNet, MinkUNetSpec
from pcsparse.sparse_tensor import SparseTensor
from tests.clouds import TWO_BATCHES
from tests.tolerance import tolerance


def _tensor(rng, channels, dtype=torch.float64):
    feats = torch.randn(len(TWO_BATCHES.coords), channels, generator=rng, dtype=torch.float64)
    return SparseTensor(feats.to(dtype), TWO_BATCHES.coords, batch_size=2)


def _lived(model: torch_nn.Module, rng) -> torch_nn.Module:
    """Running statistics and affine parameters as after training, not their first values."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm):
            for tensor in (module.weight, module.bias, module.running_mean):
                if tensor is not None:
                    tensor.data.copy_(torch.randn(tensor.shape, generator=rng))
            if module.running_var is not None:
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=rng) + 0.5)
    return model.eval()


MODELS = {
    "norm": lambda: torch_nn.Sequential(nn.SubmanifoldConv3d(3, 5, bias=True), nn.BatchNorm(5)),
    "norm-relu": lambda: torch_nn.Sequential(nn.SparseConv3d(3, 5, 2, 2), nn.BatchNormReLU(5)),
    "norm-then-relu": lambda: torch_nn.Sequential(
        nn.SubmanifoldConv3d(3, 5), nn.BatchNorm(5), nn.ReLU(), nn.SubmanifoldConv3d(5, 2)
    ),
    "relu-alone": lambda: torch_nn.Sequential(nn.SubmanifoldConv3d(3, 5, bias=True), nn.ReLU()),
    "not-affine": lambda: torch_nn.Sequential(nn.SubmanifoldConv3d(3, 5), nn.BatchNorm(5, affine=False)),
    "two-norms": lambda: torch_nn.Sequential(nn.SubmanifoldConv3d(3, 5), nn.BatchNorm(5), nn.BatchNorm(5)),
    "two-relus": lambda: torch_nn.Sequential(nn.SubmanifoldConv3d(3, 5), nn.BatchNormReLU(5), nn.ReLU()),
    "there-and-back": lambda: torch_nn.Sequential(
        nn.SparseConv3d(3, 5, 2, 2), nn.BatchNormReLU(5), nn.SparseInverseConv3d(5, 4), nn.BatchNormReLU(4)
    ),
    "block": lambda: nn.ResidualBlock(3, 4, 3),
    "block-with-shortcut": lambda: nn.ResidualBlock(3, 4, 6),
    "minkunet": lambda: MinkUNet(MinkUNetSpec.minkunet14(3, 5, width=0.25)),
}


# norms and activations that no convolution can take
LEFT = {"two-norms": 1, "two-relus": 1}


@pytest.mark.parametrize("name", MODELS)
def test_outputs_agree(rng, name):
    make, left = MODELS[name], LEFT.get(name, 0)
    model = _lived(make().double(), rng)
    x = _tensor(rng, 3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    fused = nn.fuse(model)
    actual, expected = fused(x), model(x)

    kinds = (nn.BatchNorm, nn.ReLU)
    assert sum(isinstance(module, kinds) for module in fused.modules()) == left
    assert expected.feats.abs().max() > 0.1
    torch.testing.assert_close(actual.feats, expected.feats, **tolerance(torch.float64, 1000, factor=512))
    # the given model is as it was
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_cannot_be_folded_is_kept(rng):
    model = torch_nn.Sequential(
        nn.SubmanifoldConv3d(3, 5), nn.BatchNorm(5, track_running_stats=False), nn.ReLU()
    ).double()
    x = _tensor(rng, 3)
    fused = nn.fuse(model)

    assert [type(layer) for layer in fused] == [nn.SubmanifoldConv3d, nn.BatchNorm, nn.ReLU]
    torch.testing.assert_close(fused(x).feats, model.eval()(x).feats)


def test_a_fused_network_runs_in_bfloat16(rng):
    model = _lived(nn.ResidualBlock(8, 8, 8), rng)
    x = _tensor(rng, 8, torch.float32)
    fused = nn.fuse(model).to(torch.bfloat16)
    actual = fused(x.to(torch.bfloat16)).feats

    assert actual.dtype == torch.bfloat16
    expected = model(x).feats
    error = (actual.float() - expected).norm() / expected.norm()
    assert 0 < error < 0.02


def test_the_residual_of_a_convolution_must_lie_at_its_voxels(rng):
    conv = nn.SubmanifoldConv3d(3, 3).double()
    x = _tensor(rng, 3)
    with pytest.raises(ShapeError, match="coordinates differ"):
        conv(x, residual=x[0])


def test_fused_says_so():
    fused = nn.fuse(torch_nn.Sequential(nn.SubmanifoldConv3d(3, 5), nn.BatchNormReLU(5)))
    assert "relu=True" in repr(fused)
    assert isinstance(fused, nn.SubmanifoldConv3d)


class _Mine(nn.ResidualBlock):
    def forward(self, x):
        y = super().forward(x)
        return y.replace(y.feats + 3)


class _Centred(nn.BatchNorm):
    def forward(self, x, *, residual=None, relu=False):
        return super().forward(x.replace(x.feats - 7), residual=residual, relu=relu)


def _twice():
    step = torch_nn.Sequential(nn.SubmanifoldConv3d(3, 3), nn.BatchNorm(3))
    return torch_nn.Sequential(step, step)


def _shared_block():
    block = nn.ResidualBlock(3, 4, 3)
    return torch_nn.Sequential(block, nn.ReLU(), block)


def _one_conv_two_norms():
    conv = nn.SubmanifoldConv3d(3, 3)
    return torch_nn.Sequential(conv, nn.BatchNorm(3), conv, nn.BatchNorm(3))


def _half_foldable():
    block = nn.ResidualBlock(3, 4, 3)
    block.norm2 = nn.BatchNormReLU(3, track_running_stats=False)
    return block


def _hooked_layer():
    model = torch_nn.Sequential(nn.SubmanifoldConv3d(3, 3), nn.BatchNorm(3), nn.ReLU())
    model[0].register_forward_hook(lambda module, inputs, y: y.replace(y.feats * 2))
    return model


def _hooked_sequence():
    model = torch_nn.Sequential(nn.SubmanifoldConv3d(3, 3), nn.BatchNorm(3))
    model.register_forward_hook(lambda module, inputs, y: y.replace(y.feats * 2))
    return torch_nn.Sequential(model)


def _parametrized():
    model = torch_nn.Sequential(nn.SubmanifoldConv3d(3, 3), nn.BatchNorm(3))
    torch_nn.utils.parametrizations.weight_norm(model[0])
    return model


UNUSUAL = {
    "twice": _twice, "shared-block": _shared_block, "one-conv-two-norms": _one_conv_two_norms,
    "half-foldable": _half_foldable, "own-block": lambda: _Mine(3, 4, 3), "hooked-layer": _hooked_layer,
    "own-norm": lambda: torch_nn.Sequential(nn.SubmanifoldConv3d(3, 3), _Centred(3)),
    "hooked-sequence": _hooked_sequence, "parametrized": _parametrized,
}  # fmt: skip


@pytest.mark.parametrize("make", UNUSUAL.values(), ids=UNUSUAL.keys())
def test_what_does_more_than_its_class_says_still_does_it(rng, make):
    model = _lived(make().double(), rng)
    x = _tensor(rng, 3)
    torch.testing.assert_close(
        nn.fuse(model)(x).feats, model(x).feats, **tolerance(torch.float64, 1000, factor=512)
    )


def test_weights_of_a_fused_network_are_laid_out_once(rng, monkeypatch):
    laid_out = []
    # the package has a function of that name
    kernel = importlib.import_module("pcsparse.kernels.cpu.output_stationary")
    real = kernel.pack_panels
    monkeypatch.setattr(
        kernel, "pack_panels", lambda weight, *rest: laid_out.append(1) or real(weight, *rest)
    )
    model = _lived(MODELS["minkunet"](), rng)
    fused, x = nn.fuse(model), _tensor(rng, 3, torch.float32)
    with torch.no_grad():
        first = fused(x).feats
        convolutions = len(laid_out)
        assert convolutions > 20
        assert torch.equal(fused(x).feats, first)
        # but for that of the classifier, a Linear, which hands its weight over turned
        assert len(laid_out) == convolutions + 1
        # a network that may be trained: in every call
        laid_out.clear()
        model(x)
        model(x)
    assert len(laid_out) == 2 * convolutions


@pytest.mark.parametrize("change", ["in place", "loaded", "half and back", "trained"])
def test_a_fused_network_follows_its_weights(rng, change):
    fused = nn.fuse(_lived(MODELS["minkunet"](), rng))
    x = _tensor(rng, 3, torch.float32)
    with torch.no_grad():
        before = fused(x).feats
    if change == "in place":
        with torch.no_grad():
            for parameter in fused.parameters():
                parameter.mul_(1.25)
    elif change == "loaded":
        fused.load_state_dict({name: 0.5 * tensor for name, tensor in fused.state_dict().items()})
    elif change == "half and back":
        fused.half().float()
    else:
        fused.requires_grad_(True)(x).feats.sum().backward()
        torch.optim.SGD(fused.parameters(), lr=0.1, fused=True).step()
    with torch.no_grad():
        after = fused(x).feats
        # a copy has promised nothing, and lays its weights out anew
        torch.testing.assert_close(after, copy.deepcopy(fused)(x).feats, rtol=0, atol=0)
    assert not torch.equal(before, after)
