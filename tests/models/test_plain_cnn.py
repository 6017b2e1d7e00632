"""PlainCNN: published sizes, what its blocks compute, and its Spec."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from pcsparse.errors import FormatError, RangeError
from pcsparse.models import PlainCNN, PlainCNNSpec
from pcsparse.models.plain_cnn import ConvSpec2d, PlainBlock, PlainBlockSpec


@pytest.mark.parametrize(
    ("make", "convolutions", "parameters"),
    [("plain20", 19, 269_722), ("resnet20", 19 + 2, 272_474), ("resnet56", 55 + 2, 855_770)],
)
def test_published_sizes(make, convolutions, parameters):
    # by hand: 9 c_in c_out a convolution, 2 c a norm; projections of 16 to 32 and of 32 to 64 beside them
    with torch.device("meta"):
        model = PlainCNN(getattr(PlainCNNSpec, make)())
    assert sum(isinstance(part, torch.nn.Conv2d) for part in model.modules()) == convolutions
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("shortcut", ["none", "identity", "projection"])
def test_a_block_is_what_the_paper_draws(rng, shortcut):
    stride = 2 if shortcut == "projection" else 1
    torch.manual_seed(0)
    block = PlainBlock(PlainBlockSpec(ConvSpec2d(3, 5), ConvSpec2d(5, 3), stride, shortcut)).double().eval()
    for part in block.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.uniform_(-0.5, 0.5)
            part.running_var.uniform_(0.5, 2.0)
    x = torch.randn(2, 3, 8, 8, generator=rng, dtype=torch.float64)

    def norm(y, part):
        scale = part.weight / (part.running_var + part.eps).sqrt()
        return (y - part.running_mean[:, None, None]) * scale[:, None, None] + part.bias[:, None, None]

    y = functional.conv2d(x, block.conv1.weight, stride=stride, padding=1)
    y = norm(functional.conv2d(norm(y, block.norm1).clamp(min=0), block.conv2.weight, padding=1), block.norm2)
    if shortcut == "identity":
        y = y + x
    elif shortcut == "projection":
        y = y + norm(functional.conv2d(x[:, :, ::2, ::2], block.shortcut[0].weight), block.shortcut[1])
    torch.testing.assert_close(block(x), y.clamp(min=0))


def test_images_go_in_and_logits_come_out(rng):
    model = PlainCNN(PlainCNNSpec.resnet20(in_channels=1, n_classes=4, width=0.25)).eval()
    images = torch.randn(3, 1, 16, 16, generator=rng)
    logits = model(images)
    assert logits.shape == (3, 4)
    # an image does not see the others
    torch.testing.assert_close(model(images[1:2]), logits[1:2])
    assert model.blocks(model.stem(images)).shape == (3, 16, 4, 4)
    assert model(model.example_input()).shape == (1, 4)


def test_one_batch_can_be_learnt():
    torch.manual_seed(0)
    model = PlainCNN(PlainCNNSpec.of(3, 4, width=0.25, blocks=(1, 1, 1), residual=False))
    images, labels = torch.randn(8, 3, 8, 8), torch.arange(8) % 4
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(30):
        loss = functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    assert bool((model(images).argmax(dim=1) == labels).all())


def test_a_spec_goes_through_json():
    spec = PlainCNNSpec.resnet20(width=0.5).with_classes(7)
    assert spec.n_classes == 7
    again = PlainCNNSpec.from_json(spec.to_json())
    assert again == spec
    PlainCNN(again).load_state_dict(PlainCNN(spec).state_dict())
    for text in ("{}", "[]", '{"stem": 1}'):
        with pytest.raises(FormatError, match="not a PlainCNNSpec"):
            PlainCNNSpec.from_json(text)


def test_a_spec_takes_other_channels():
    spec = PlainCNNSpec.resnet20(width=0.5)
    named = {"blocks.0.conv1": (8, 5), "blocks.0.conv2": (5, 8), "blocks.3.shortcut.0": (8, 16)}
    slim = spec.with_channels(named)
    assert slim.blocks[0] == replace(spec.blocks[0], conv1=ConvSpec2d(8, 5), conv2=ConvSpec2d(5, 8))
    assert slim.blocks[1:] == spec.blocks[1:]
    PlainCNN(slim)
    with pytest.raises(RangeError, match=r"has no layer blocks\.9\.conv1"):
        spec.with_channels({"blocks.9.conv1": (8, 8)})


def test_specs_that_do_not_fit_are_refused():
    spec = PlainCNNSpec.resnet20()
    with pytest.raises(RangeError, match=r"blocks\.0\.conv2 of the Spec reads 16 channels, but 5 arrive"):
        PlainCNN(spec.with_channels({"blocks.0.conv1": (16, 5)}))
    with pytest.raises(RangeError, match="an identity cannot be added"):
        PlainCNN(spec.with_channels({"blocks.0.conv2": (16, 5)}))
    with pytest.raises(RangeError, match="must be none, identity or projection, got 'sum'"):
        PlainCNN(replace(spec, blocks=(replace(spec.blocks[0], shortcut="sum"),)))
    with pytest.raises(RangeError, match="at least one block"):
        PlainCNN(replace(spec, blocks=()))
    with pytest.raises(RangeError, match="use a larger width"):
        PlainCNNSpec.plain20(width=0.01)
    with pytest.raises(RangeError, match="has 3 stages of at least one block"):
        PlainCNNSpec.of(blocks=(3, 0, 3), residual=True)
