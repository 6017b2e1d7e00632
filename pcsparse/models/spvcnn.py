"""SPVCNN: MinkUNet with a branch of linear layers on points beside it, which keeps what coarse voxels lose.

At the coarsest level, half way up and at the end, the voxels' features are interpolated at the points and
added to a linear layer over the points' own; at the first two of these places the sum is brought back.

Source: Tang et al., ECCV 2020 (arXiv 2007.16100), figure 3. Layer table:
core/models/semantic_kitti/spvcnn.py of mit-han-lab/spvnas@5c53224. As there, a point is a voxel of the
input: points that share one were merged before. So the branch begins with the stem's output as it is.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from torch import nn

from pcsparse.errors import FormatError, RangeError
from pcsparse.models.minkunet import MinkUNet, MinkUNetSpec
from pcsparse.nn import BatchNormReLU, Dropout, Linear
from pcsparse.nn.point_voxel import PointsToVoxels, VoxelsToPoints
from pcsparse.sparse_tensor import SparseTensor, cat

_UNET = "unet."
_POINT_LAYERS = 3


@dataclass(frozen=True)
class SPVCNNSpec:
    """Every width of an SPVCNN, so that a sliced network is the same class with another Spec.

    Attributes:
        unet: the branch of voxels; those of the points follow from it.
        dropout: share of zeros in what comes from the points to the voxels.
    """

    unet: MinkUNetSpec
    dropout: float = 0.3

    @staticmethod
    def spvcnn18(in_channels: int = 4, n_classes: int = 19, width: float = 1.0) -> "SPVCNNSpec":
        """Beside a MinkUNet of two residual blocks a stage: 21.8 M parameters at width 1.0."""
        return SPVCNNSpec(MinkUNetSpec.minkunet18(in_channels, n_classes, width))

    @property
    def n_classes(self) -> int:
        """Outputs a voxel."""
        return self.unet.n_classes

    @property
    def points(self) -> tuple[tuple[int, int], ...]:
        """(c_in, c_out) of the points' linear layers: from each place where they meet voxels to the next."""
        stages = self.unet.encoder[-1], self.unet.decoder[1], self.unet.decoder[-1]
        widths = [self.unet.stem[-1].c_out, *(stage.blocks[-1].conv2.c_out for stage in stages)]
        return tuple((widths[i], widths[i + 1]) for i in range(_POINT_LAYERS))

    def to_json(self) -> str:
        """JSON text; `from_json` reads it back."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "SPVCNNSpec":
        """Inverse of `to_json`.

        Raises:
            FormatError: not the JSON of an SPVCNNSpec.
        """
        try:
            data = json.loads(text)
            return SPVCNNSpec(MinkUNetSpec.from_json(json.dumps(data["unet"])), float(data["dropout"]))
        except (FormatError, KeyError, TypeError, ValueError) as error:
            raise FormatError(f"not an SPVCNNSpec ({error!r}): {text[:200]}") from error

    def with_channels(self, channels: Mapping[str, tuple[int, int]]) -> "SPVCNNSpec":
        """The same network with other channels.

        Args:
            channels: c_in and c_out by the name that the layer has in `SPVCNN`, such as
                "unet.encoder.0.1.conv2"; convolutions that are not named stay as they are. The linear layers
                follow from them, whether they are named or not.

        Raises:
            RangeError: a name that is no layer of the network.
        """
        names = [name for name in channels if not _is_point_layer(name)]
        return replace(self, unet=self.unet.with_channels({_in_unet(n): channels[n] for n in names}))

    def with_offsets(self, offsets: Mapping[str, Sequence[int] | None]) -> "SPVCNNSpec":
        """The same network with other kernel offsets, see `MinkUNetSpec.with_offsets`.

        Raises:
            RangeError: see there.
        """
        unet = self.unet.with_offsets({_in_unet(name): kept for name, kept in offsets.items()})
        return replace(self, unet=unet)

    def with_classes(self, n_classes: int) -> "SPVCNNSpec":
        """The same network with another classifier."""
        return replace(self, unet=self.unet.with_classes(n_classes))


def _is_point_layer(name: str) -> bool:
    return name in {f"points.{i}.0" for i in range(_POINT_LAYERS)}


def _in_unet(name: str) -> str:
    if not name.startswith(_UNET):
        raise RangeError(
            f"this SPVCNN has no layer {name!r} whose size is free; its convolutions are in unet"
        )
    return name.removeprefix(_UNET)


class SPVCNN(nn.Module):
    """Logits for every voxel.

    Args:
        spec: every width; `SPVCNNSpec.spvcnn18()` gives the published ones.

    Raises:
        RangeError: neighbouring widths of the Spec do not fit each other.
    """

    def __init__(self, spec: SPVCNNSpec) -> None:
        super().__init__()
        self.spec = spec
        self.unet = MinkUNet(spec.unet)
        self.points = nn.ModuleList(
            nn.Sequential(Linear(c_in, c_out), BatchNormReLU(c_out)) for c_in, c_out in spec.points
        )
        self.to_points, self.to_voxels = VoxelsToPoints(), PointsToVoxels()
        self.dropout = Dropout(spec.dropout)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(n, in_channels) -> logits (n, n_classes) at the same voxels."""
        unet = self.unet
        x = unet.stem(x)
        points, skips = x, []
        for down, blocks in zip(unet.down, unet.encoder, strict=True):
            skips.append(x)
            x = blocks(down(x))
        for i, (up, blocks) in enumerate(zip(unet.up, unet.decoder, strict=True)):
            # where the decoder begins, and half way up
            if i % 2 == 0:
                points = self.to_points(x, points) + self.points[i // 2](points)
                x = self.dropout(self.to_voxels(points, x))
            x = blocks(cat([up(x), skips.pop()]))
        points = self.to_points(x, points) + self.points[-1](points)
        logits: SparseTensor = unet.classifier(points)
        return logits
