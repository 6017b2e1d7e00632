"""PlainCNN: the small convolutional networks for images of 32 x 32, with or without shortcuts.

A 3 x 3 convolution, three stages of blocks of two 3 x 3 convolutions, each at half the resolution and twice
the width, a mean over all places, a linear layer. Plain-20 is the network on which AMC was tried first.

Source: He et al., CVPR 2016 (arXiv 1512.03385), section 4.2. There a shortcut that changes width pads with
zeros; here it is a 1 x 1 convolution, as in the networks for ImageNet, which adds 2,752 parameters to
ResNet-20.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pcsparse.errors import FormatError, RangeError

_WIDTHS = (16, 32, 64)


@dataclass(frozen=True)
class ConvSpec2d:
    """Channels of one convolution."""

    c_in: int
    c_out: int


@dataclass(frozen=True)
class PlainBlockSpec:
    """Two 3 x 3 convolutions, and what is added to them.

    Attributes:
        conv1, conv2: the convolutions.
        stride: of the first one.
        shortcut: "none", "identity" or "projection", a 1 x 1 convolution.
    """

    conv1: ConvSpec2d
    conv2: ConvSpec2d
    stride: int = 1
    shortcut: str = "none"


@dataclass(frozen=True)
class PlainCNNSpec:
    """Every width of a PlainCNN, so that a sliced network is the same class with another Spec.

    Attributes:
        stem: the first convolution.
        blocks: of all stages, one after the other.
        n_classes: outputs an image.
    """

    stem: ConvSpec2d
    blocks: tuple[PlainBlockSpec, ...]
    n_classes: int

    @staticmethod
    def of(
        in_channels: int = 3,
        n_classes: int = 10,
        *,
        width: float = 1.0,
        blocks: tuple[int, int, int] = (3, 3, 3),
        residual: bool,
    ) -> "PlainCNNSpec":
        """The published widths, 16, 32 and 64, times `width`.

        Args:
            in_channels: of an image.
            n_classes: outputs an image.
            width: width ratio.
            blocks: of each stage.
            residual: whether blocks have shortcuts.

        Raises:
            RangeError: a width becomes 0, or a stage has no block.
        """
        widths = [int(width * channels) for channels in _WIDTHS]
        if min(*widths, in_channels, n_classes) < 1:
            raise RangeError(f"width={width} leaves a layer of {min(widths)} channels; use a larger width")
        if len(blocks) != len(_WIDTHS) or min(blocks) < 1:
            raise RangeError(f"a PlainCNN has {len(_WIDTHS)} stages of at least one block, got {blocks}")
        channels, made = widths[0], []
        for stage, (c_out, n) in enumerate(zip(widths, blocks, strict=True)):
            for i in range(n):
                stride = 2 if stage and not i else 1
                shortcut = "projection" if stride > 1 else "identity"
                convs = ConvSpec2d(channels, c_out), ConvSpec2d(c_out, c_out)
                made.append(PlainBlockSpec(*convs, stride, shortcut if residual else "none"))
                channels = c_out
        return PlainCNNSpec(ConvSpec2d(in_channels, widths[0]), tuple(made), n_classes)

    @staticmethod
    def plain20(in_channels: int = 3, n_classes: int = 10, width: float = 1.0) -> "PlainCNNSpec":
        """19 convolutions and a linear layer, without shortcuts: 0.27 M parameters at width 1.0."""
        return PlainCNNSpec.of(in_channels, n_classes, width=width, residual=False)

    @staticmethod
    def resnet20(in_channels: int = 3, n_classes: int = 10, width: float = 1.0) -> "PlainCNNSpec":
        """The same with shortcuts: 0.27 M parameters at width 1.0."""
        return PlainCNNSpec.of(in_channels, n_classes, width=width, residual=True)

    @staticmethod
    def resnet56(in_channels: int = 3, n_classes: int = 10, width: float = 1.0) -> "PlainCNNSpec":
        """Nine blocks a stage, with shortcuts: 0.86 M parameters at width 1.0."""
        return PlainCNNSpec.of(in_channels, n_classes, width=width, blocks=(9, 9, 9), residual=True)

    def to_json(self) -> str:
        """JSON text; `from_json` reads it back."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "PlainCNNSpec":
        """Inverse of `to_json`.

        Raises:
            FormatError: not the JSON of a PlainCNNSpec.
        """
        try:
            data = json.loads(text)
            blocks = tuple(_block(block) for block in data["blocks"])
            return PlainCNNSpec(ConvSpec2d(**data["stem"]), blocks, int(data["n_classes"]))
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"not a PlainCNNSpec ({error!r}): {text[:200]}") from error

    def with_channels(self, channels: Mapping[str, tuple[int, int]]) -> "PlainCNNSpec":
        """The same network with other channels.

        Args:
            channels: c_in and c_out by the name that the layer has in `PlainCNN`, such as "blocks.0.conv2";
                convolutions that are not named stay as they are. Projections and the classifier follow from
                the others, whether they are named or not.

        Raises:
            RangeError: a name that is no layer of the network.
        """
        left = dict(channels)
        left.pop("classifier", None)

        def sized(name: str, conv: ConvSpec2d) -> ConvSpec2d:
            return ConvSpec2d(*left.pop(name, (conv.c_in, conv.c_out)))

        def block(name: str, old: PlainBlockSpec) -> PlainBlockSpec:
            if old.shortcut == "projection":
                left.pop(f"{name}.shortcut.0", None)
            return replace(
                old, conv1=sized(f"{name}.conv1", old.conv1), conv2=sized(f"{name}.conv2", old.conv2)
            )

        blocks = tuple(block(f"blocks.{i}", old) for i, old in enumerate(self.blocks))
        spec = PlainCNNSpec(sized("stem.0", self.stem), blocks, self.n_classes)
        if left:
            raise RangeError(f"this PlainCNN has no layer {', '.join(sorted(left))}")
        return spec

    def with_classes(self, n_classes: int) -> "PlainCNNSpec":
        """The same network with another classifier."""
        return replace(self, n_classes=n_classes)


def _block(data: dict[str, Any]) -> PlainBlockSpec:
    return PlainBlockSpec(
        ConvSpec2d(**data["conv1"]), ConvSpec2d(**data["conv2"]), int(data["stride"]), str(data["shortcut"])
    )


class PlainBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norm; ReLU after the first, and after the sum with the shortcut.

    Args:
        spec: channels, stride and shortcut.
    """

    def __init__(self, spec: PlainBlockSpec) -> None:
        super().__init__()
        first, second = spec.conv1, spec.conv2
        self.conv1 = nn.Conv2d(first.c_in, first.c_out, 3, spec.stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(first.c_out)
        self.conv2 = nn.Conv2d(second.c_in, second.c_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(second.c_out)
        self.shortcut: nn.Module | None = None
        if spec.shortcut == "identity":
            self.shortcut = nn.Identity()
        elif spec.shortcut == "projection":
            projection = nn.Conv2d(first.c_in, second.c_out, 1, spec.stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(second.c_out))

    def forward(self, x: Tensor) -> Tensor:
        """(n, c_in, h, w) -> (n, c_out, h / stride, w / stride)."""
        y = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        if self.shortcut is not None:
            y = y + self.shortcut(x)
        return functional.relu(y)


class PlainCNN(nn.Module):
    """Logits for every image.

    Args:
        spec: every width; `PlainCNNSpec.plain20()` and its neighbours give the published ones.

    Raises:
        RangeError: neighbouring widths of the Spec do not fit each other, or an unknown shortcut.
    """

    def __init__(self, spec: PlainCNNSpec) -> None:
        super().__init__()
        _check(spec)
        self.spec = spec
        stem = spec.stem
        self.stem = nn.Sequential(
            nn.Conv2d(stem.c_in, stem.c_out, 3, padding=1, bias=False), nn.BatchNorm2d(stem.c_out), nn.ReLU()
        )
        self.blocks = nn.Sequential(*map(PlainBlock, spec.blocks))
        self.classifier = nn.Linear(spec.blocks[-1].conv2.c_out, spec.n_classes)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """(n, in_channels, h, w) -> logits (n, n_classes)."""
        logits: Tensor = self.classifier(self.blocks(self.stem(images)).mean(dim=(2, 3)))
        return logits

    def example_input(self) -> Tensor:
        """An image without content, of the published size, on the device of the parameters."""
        return torch.zeros(1, self.spec.stem.c_in, 32, 32, device=self.classifier.weight.device)


def _check(spec: PlainCNNSpec) -> None:
    """Walk through the channels as `forward` does."""
    if not spec.blocks:
        raise RangeError("a PlainCNNSpec needs at least one block")
    channels = spec.stem.c_out
    for i, block in enumerate(spec.blocks):
        pairs = (("conv1", channels, block.conv1.c_in), ("conv2", block.conv1.c_out, block.conv2.c_in))
        for name, have, want in pairs:
            if have != want:
                raise RangeError(f"blocks.{i}.{name} of the Spec reads {want} channels, but {have} arrive")
        if block.shortcut not in ("none", "identity", "projection"):
            raise RangeError(
                f"the shortcut of blocks.{i} must be none, identity or projection, got {block.shortcut!r}"
            )
        if block.shortcut == "identity" and (block.stride, channels) != (1, block.conv2.c_out):
            raise RangeError(
                f"blocks.{i} makes {block.conv2.c_out} channels of {channels} at stride {block.stride}; an "
                "identity cannot be added to them, use a projection"
            )
        channels = block.conv2.c_out
