"""MinkUNet: the residual U-Net of sparse convolutions for semantic segmentation.

Stem of two 3^3 convolutions, four times (2^3 stride-2 convolution, residual blocks), four times (2^3 inverse
convolution, concatenation with the encoder, residual blocks), a linear classifier.

Source: Choy et al., CVPR 2019 (arXiv 1904.08755). Layer table: core/models/semantic_kitti/minkunet.py of
mit-han-lab/spvnas@5c53224, which mmdetection3d configs/minkunet follows: 21.7 M parameters at 18 layers and
width 1.0.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from pcsparse.errors import FormatError, RangeError
from pcsparse.nn import (
    BatchNormReLU,
    Linear,
    ResidualBlock,
    SparseConv3d,
    SparseInverseConv3d,
    SubmanifoldConv3d,
)
from pcsparse.nn.conv import Rest
from pcsparse.nn.map_search import search_together
from pcsparse.sparse_tensor import SparseTensor, cat

_WIDTHS = (32, 32, 64, 128, 256, 256, 128, 96, 96)
_STAGES = 4
# offsets of a 3^3 kernel, and of one that changes the stride
_CUBE, _HALVING = 27, 8


@dataclass(frozen=True)
class ConvSpec:
    """One convolution.

    Attributes:
        c_in, c_out: channels.
        offsets: positions of the kept kernel offsets; all if None.
        voxels: share of the rows that are convolved; all if None. Only a submanifold convolution can have
            one.
        rest: what becomes of the other rows, see `SubmanifoldConv3d`; they can pass only where the channels
            are equal. "pass" in files from before there was a choice.
    """

    c_in: int
    c_out: int
    offsets: tuple[int, ...] | None = None
    voxels: float | None = None
    rest: Rest = "pass"


@dataclass(frozen=True)
class BlockSpec:
    """A residual block.

    Attributes:
        conv1, conv2: its two 3^3 convolutions.
        projected: whether the shortcut is a 1x1 convolution; None where that follows from the channels: it is
            one where they differ. A block that was sliced to equal channels keeps its convolution.
    """

    conv1: ConvSpec
    conv2: ConvSpec
    projected: bool | None = None


@dataclass(frozen=True)
class StageSpec:
    """One level: the convolution that changes the stride, then residual blocks."""

    resample: ConvSpec
    blocks: tuple[BlockSpec, ...]


@dataclass(frozen=True)
class MinkUNetSpec:
    """Every width of a MinkUNet, so that a sliced network is the same class with another Spec.

    Attributes:
        stem: the two 3^3 convolutions at full resolution.
        encoder: four stages, each halving the resolution.
        decoder: four stages, each doubling it; its first block reads up-sampled and encoder features side by
            side.
        n_classes: outputs a voxel.
    """

    stem: tuple[ConvSpec, ConvSpec]
    encoder: tuple[StageSpec, ...]
    decoder: tuple[StageSpec, ...]
    n_classes: int

    @staticmethod
    def of(
        in_channels: int,
        n_classes: int,
        *,
        width: float = 1.0,
        encoder_blocks: tuple[int, ...] = (2, 2, 2, 2),
        decoder_blocks: tuple[int, ...] = (2, 2, 2, 2),
    ) -> "MinkUNetSpec":
        """The published widths times `width`.

        Args:
            in_channels: features a voxel.
            n_classes: outputs a voxel.
            width: width ratio.
            encoder_blocks: residual blocks a stage.
            decoder_blocks: residual blocks a stage.

        Raises:
            RangeError: a width becomes 0, or not four stages are given.
        """
        widths = [int(width * channels) for channels in _WIDTHS]
        if min(*widths, in_channels, n_classes) < 1:
            raise RangeError(f"width={width} leaves a layer of {min(widths)} channels; use a larger width")
        if len(encoder_blocks) != _STAGES or len(decoder_blocks) != _STAGES:
            raise RangeError(
                f"MinkUNet has {_STAGES} stages a side, got {encoder_blocks} and {decoder_blocks}"
            )
        stem = (ConvSpec(in_channels, widths[0]), ConvSpec(widths[0], widths[0]))
        encoder, decoder = [], []
        for stage, blocks in enumerate(encoder_blocks):
            before, after = widths[stage], widths[stage + 1]
            encoder.append(StageSpec(ConvSpec(before, before), _blocks(before, after, blocks)))
        for stage, blocks in enumerate(decoder_blocks):
            before, after = widths[_STAGES + stage], widths[_STAGES + stage + 1]
            skip = widths[_STAGES - 1 - stage]
            decoder.append(StageSpec(ConvSpec(before, after), _blocks(after + skip, after, blocks)))
        return MinkUNetSpec(stem, tuple(encoder), tuple(decoder), n_classes)

    @staticmethod
    def minkunet14(in_channels: int = 4, n_classes: int = 19, width: float = 1.0) -> "MinkUNetSpec":
        """One residual block a stage."""
        once = (1,) * _STAGES
        return MinkUNetSpec.of(in_channels, n_classes, width=width, encoder_blocks=once, decoder_blocks=once)

    @staticmethod
    def minkunet18(in_channels: int = 4, n_classes: int = 19, width: float = 1.0) -> "MinkUNetSpec":
        """Two residual blocks a stage: 21.7 M parameters at width 1.0."""
        return MinkUNetSpec.of(in_channels, n_classes, width=width)

    @staticmethod
    def minkunet34(in_channels: int = 4, n_classes: int = 19, width: float = 1.0) -> "MinkUNetSpec":
        """2, 3, 4 and 6 residual blocks in the encoder, two a stage in the decoder."""
        return MinkUNetSpec.of(in_channels, n_classes, width=width, encoder_blocks=(2, 3, 4, 6))

    def to_json(self) -> str:
        """JSON text; `from_json` reads it back."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "MinkUNetSpec":
        """Inverse of `to_json`.

        Raises:
            FormatError: not the JSON of a MinkUNetSpec.
        """
        try:
            data = json.loads(text)
            first, second = map(_conv, data["stem"])
            encoder, decoder = (tuple(map(_stage, data[side])) for side in ("encoder", "decoder"))
            return MinkUNetSpec((first, second), encoder, decoder, int(data["n_classes"]))
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"not a MinkUNetSpec ({error!r}): {text[:200]}") from error

    def with_channels(self, channels: Mapping[str, tuple[int, int]]) -> "MinkUNetSpec":
        """The same network with other channels; a block that has a 1x1 shortcut keeps it, whatever they are.

        Args:
            channels: c_in and c_out by the name that the layer has in `MinkUNet`, such as
                "encoder.0.1.conv2"; convolutions that are not named stay as they are. Shortcuts and the
                classifier follow from the others, whether they are named or not.

        Raises:
            RangeError: a name that is no layer of the network.
        """
        left = dict(channels)
        left.pop("classifier", None)

        def sized(name: str, conv: ConvSpec) -> ConvSpec:
            c_in, c_out = left.pop(name, (conv.c_in, conv.c_out))
            return replace(conv, c_in=c_in, c_out=c_out)

        def block(name: str, old: BlockSpec) -> BlockSpec:
            projects = old.projected or old.conv1.c_in != old.conv2.c_out
            projected = True if projects else old.projected
            if projects:
                left.pop(f"{name}.shortcut.0", None)
            return BlockSpec(sized(f"{name}.conv1", old.conv1), sized(f"{name}.conv2", old.conv2), projected)

        def stage(way: str, name: str, old: StageSpec) -> StageSpec:
            blocks = (block(f"{name}.{i}", b) for i, b in enumerate(old.blocks))
            return StageSpec(sized(f"{way}.0", old.resample), tuple(blocks))

        spec = MinkUNetSpec(
            (sized("stem.0", self.stem[0]), sized("stem.2", self.stem[1])),
            tuple(stage(f"down.{i}", f"encoder.{i}", old) for i, old in enumerate(self.encoder)),
            tuple(stage(f"up.{i}", f"decoder.{i}", old) for i, old in enumerate(self.decoder)),
            self.n_classes,
        )
        if left:
            raise RangeError(f"this MinkUNet has no layer {', '.join(sorted(left))}")
        return spec

    def with_offsets(self, offsets: Mapping[str, Sequence[int] | None]) -> "MinkUNetSpec":
        """The same network with other kernel offsets.

        Args:
            offsets: kept positions in the whole kernel, ascending, by the name that the layer has in
                `MinkUNet`, such as "encoder.0.1.conv2"; None, or all of them, is the whole kernel.
                Convolutions that are not named stay as they are. Shortcuts have one offset, and no name here.

        Raises:
            RangeError: a name that is no convolution of several offsets, or positions that do not ascend
                within its kernel.
        """
        left = dict(offsets)

        def sparser(name: str, conv: ConvSpec, volume: int = _CUBE) -> ConvSpec:
            kept = left.pop(name, conv.offsets)
            return replace(conv, offsets=None if kept is None else _positions(name, kept, volume))

        def block(name: str, old: BlockSpec) -> BlockSpec:
            conv1, conv2 = sparser(f"{name}.conv1", old.conv1), sparser(f"{name}.conv2", old.conv2)
            return replace(old, conv1=conv1, conv2=conv2)

        def stage(way: str, name: str, old: StageSpec) -> StageSpec:
            blocks = (block(f"{name}.{i}", b) for i, b in enumerate(old.blocks))
            return StageSpec(sparser(f"{way}.0", old.resample, _HALVING), tuple(blocks))

        spec = MinkUNetSpec(
            (sparser("stem.0", self.stem[0]), sparser("stem.2", self.stem[1])),
            tuple(stage(f"down.{i}", f"encoder.{i}", old) for i, old in enumerate(self.encoder)),
            tuple(stage(f"up.{i}", f"decoder.{i}", old) for i, old in enumerate(self.decoder)),
            self.n_classes,
        )
        if left:
            raise RangeError(f"this MinkUNet has no convolution {', '.join(sorted(left))} of several offsets")
        return spec

    def with_voxels(self, shares: Mapping[str, float | None], rest: Rest = "pass") -> "MinkUNetSpec":
        """The same network with other shares of rows that are convolved.

        Args:
            shares: by the name that the convolution has in `MinkUNet`, see `with_channels`; None for all
                rows. Convolutions that are not named stay as they are.
            rest: what becomes of the other rows of those that are named, see `SubmanifoldConv3d`.

        Raises:
            RangeError: a name that is no 3^3 convolution of the network.
        """
        left = dict(shares)

        def shared(name: str, conv: ConvSpec) -> ConvSpec:
            if name not in left:
                return conv
            share = left.pop(name)
            return replace(conv, voxels=share, rest="pass" if share is None else rest)

        def stage(name: str, old: StageSpec) -> StageSpec:
            blocks = (
                replace(
                    block,
                    conv1=shared(f"{name}.{i}.conv1", block.conv1),
                    conv2=shared(f"{name}.{i}.conv2", block.conv2),
                )
                for i, block in enumerate(old.blocks)
            )
            return StageSpec(old.resample, tuple(blocks))

        spec = replace(
            self,
            stem=(shared("stem.0", self.stem[0]), shared("stem.2", self.stem[1])),
            encoder=tuple(stage(f"encoder.{i}", old) for i, old in enumerate(self.encoder)),
            decoder=tuple(stage(f"decoder.{i}", old) for i, old in enumerate(self.decoder)),
        )
        if left:
            raise RangeError(f"this MinkUNet has no 3^3 convolution {', '.join(sorted(left))}")
        return spec

    def with_classes(self, n_classes: int) -> "MinkUNetSpec":
        """The same network with another classifier."""
        return replace(self, n_classes=n_classes)


def _blocks(c_in: int, c_out: int, n: int) -> tuple[BlockSpec, ...]:
    inputs = (c_in, *(c_out for _ in range(n - 1)))
    return tuple(BlockSpec(ConvSpec(c, c_out), ConvSpec(c_out, c_out)) for c in inputs)


def _positions(name: str, kept: Sequence[int], volume: int) -> tuple[int, ...] | None:
    positions = tuple(kept)
    if (
        not positions
        or list(positions) != sorted(set(positions))
        or not 0 <= positions[0] <= positions[-1] < volume
    ):
        raise RangeError(f"the offsets of {name} must ascend within 0 ... {volume - 1}, got {positions}")
    # the whole kernel has one name, so that layers that have it share its map
    return None if len(positions) == volume else positions


def _conv(data: dict[str, object]) -> ConvSpec:
    # files from before there were shares have none
    spec = ConvSpec(**data)  # type: ignore[arg-type]
    offsets = None if spec.offsets is None else tuple(spec.offsets)
    return replace(spec, offsets=offsets, voxels=None if spec.voxels is None else float(spec.voxels))


def _stage(data: dict[str, object]) -> StageSpec:
    blocks: list[dict[str, Any]] = data["blocks"]  # type: ignore[assignment]
    resample: dict[str, object] = data["resample"]  # type: ignore[assignment]
    return StageSpec(_conv(resample), tuple(map(_block, blocks)))


def _block(data: dict[str, Any]) -> BlockSpec:
    # files from before there was a choice have none
    projected = data.get("projected")
    if projected not in (None, True, False):
        raise ValueError(f"projected={projected!r}")
    return BlockSpec(_conv(data["conv1"]), _conv(data["conv2"]), projected)


class MinkUNet(nn.Module):
    """Logits for every voxel.

    Args:
        spec: every width; `MinkUNetSpec.minkunet18()` and its neighbours give the published ones.

    Raises:
        RangeError: neighbouring widths of the Spec do not fit each other.
    """

    def __init__(self, spec: MinkUNetSpec) -> None:
        super().__init__()
        _check(spec)
        self.spec = spec
        self.stem = nn.Sequential(
            *(layer for conv in spec.stem for layer in _conv_and_norm(_submanifold(conv)))
        )
        self.down = nn.ModuleList(nn.Sequential(*_conv_and_norm(_down(stage))) for stage in spec.encoder)
        self.encoder = nn.ModuleList(_residual(stage) for stage in spec.encoder)
        self.up = nn.ModuleList(nn.Sequential(*_conv_and_norm(_up(stage))) for stage in spec.decoder)
        self.decoder = nn.ModuleList(_residual(stage) for stage in spec.decoder)
        self.classifier = Linear(spec.decoder[-1].blocks[-1].conv2.c_out, spec.n_classes)
        for level, blocks in enumerate((self.stem, *self.encoder)):
            # the coarsest level has no decoder stage
            decoder = [self.decoder[_STAGES - 1 - level]] if level < _STAGES else []
            search_together(_cubes(blocks, *decoder))

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(n, in_channels) -> logits (n, n_classes) at the same voxels."""
        x = self.stem(x)
        skips = []
        for down, blocks in zip(self.down, self.encoder, strict=True):
            skips.append(x)
            x = blocks(down(x))
        for up, blocks in zip(self.up, self.decoder, strict=True):
            x = blocks(cat([up(x), skips.pop()]))
        logits: SparseTensor = self.classifier(x)
        return logits


def _submanifold(spec: ConvSpec) -> SubmanifoldConv3d:
    return SubmanifoldConv3d(
        spec.c_in, spec.c_out, 3, offsets=spec.offsets, voxels=spec.voxels, rest=spec.rest
    )


def _cubes(*parts: nn.Module) -> list[SubmanifoldConv3d]:
    convs = [m for part in parts for m in part.modules() if isinstance(m, SubmanifoldConv3d)]
    return [conv for conv in convs if conv.relation.volume == _CUBE]


def _down(stage: StageSpec) -> SparseConv3d:
    spec = stage.resample
    return SparseConv3d(spec.c_in, spec.c_out, 2, 2, offsets=spec.offsets)


def _up(stage: StageSpec) -> SparseInverseConv3d:
    spec = stage.resample
    return SparseInverseConv3d(spec.c_in, spec.c_out, 2, 2, offsets=spec.offsets)


def _conv_and_norm(conv: SubmanifoldConv3d | SparseConv3d | SparseInverseConv3d) -> Iterator[nn.Module]:
    yield conv
    yield BatchNormReLU(conv.c_out)


def _residual(stage: StageSpec) -> nn.Sequential:
    return nn.Sequential(
        *(
            ResidualBlock(
                block.conv1.c_in,
                block.conv1.c_out,
                block.conv2.c_out,
                (block.conv1.offsets, block.conv2.offsets),
                projected=block.projected,
                voxels=(block.conv1.voxels, block.conv2.voxels),
                rest=(block.conv1.rest, block.conv2.rest),
            )
            for block in stage.blocks
        )
    )


def _check(spec: MinkUNetSpec) -> None:
    """Walk through the channels as `forward` does."""

    def meet(where: str, have: int, want: int) -> None:
        if have != want:
            raise RangeError(f"{where} of the Spec reads {want} channels, but {have} arrive")

    def walk(where: str, channels: int, blocks: tuple[BlockSpec, ...]) -> int:
        for i, block in enumerate(blocks):
            _check_voxels(f"{where}.{i}.conv1", block.conv1)
            _check_voxels(f"{where}.{i}.conv2", block.conv2)
            meet(f"{where}.{i}.conv1", channels, block.conv1.c_in)
            meet(f"{where}.{i}.conv2", block.conv1.c_out, block.conv2.c_in)
            channels = block.conv2.c_out
        return channels

    if not len(spec.encoder) == len(spec.decoder) == _STAGES:
        raise RangeError(
            f"MinkUNet has {_STAGES} stages a side, the Spec has {len(spec.encoder)} and {len(spec.decoder)}"
        )
    for i, conv in enumerate(spec.stem):
        _check_voxels(f"stem.{i}", conv)
    meet("stem.1", spec.stem[0].c_out, spec.stem[1].c_in)
    channels, skips = spec.stem[1].c_out, []
    for i, stage in enumerate(spec.encoder):
        skips.append(channels)
        _check_dilates(f"down.{i}", stage.resample)
        meet(f"down.{i}", channels, stage.resample.c_in)
        channels = walk(f"encoder.{i}", stage.resample.c_out, stage.blocks)
    for i, stage in enumerate(spec.decoder):
        _check_dilates(f"up.{i}", stage.resample)
        meet(f"up.{i}", channels, stage.resample.c_in)
        channels = walk(f"decoder.{i}", stage.resample.c_out + skips.pop(), stage.blocks)


def _check_voxels(where: str, conv: ConvSpec) -> None:
    if conv.rest not in ("pass", "centre"):
        raise RangeError(f"{where} of the Spec has rest={conv.rest!r}; it must be 'pass' or 'centre'")
    if conv.voxels is not None and conv.rest == "pass" and conv.c_in != conv.c_out:
        raise RangeError(
            f"{where} of the Spec has voxels={conv.voxels}, but rows can pass only where as many channels go "
            f"out as in, not {conv.c_in} in and {conv.c_out} out; set voxels to None or rest to 'centre'"
        )


def _check_dilates(where: str, conv: ConvSpec) -> None:
    if conv.voxels is not None:
        raise RangeError(
            f"{where} of the Spec has voxels={conv.voxels}, but a 2^3 convolution of stride 2 leads each "
            "fine voxel to one coarse voxel: none dilates, and there is nothing to leave out; set voxels to "
            "None"
        )
